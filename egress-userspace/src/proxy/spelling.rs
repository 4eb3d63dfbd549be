//! Names of headers as clients of HTTP/1 spell them. hyper sends them on so, and shows them to nobody: they are kept as `framing`
//! reads them, head by head, until hyper has made a request of each.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use hyper::http::HeaderName;
use hyper::{HeaderMap, Request};

/// The heads of one connection that hyper has been given and has made no request of.
#[derive(Debug, Default)]
pub(super) struct Heads(Mutex<VecDeque<Names>>);

/// The names of one head in their order, each with a line feed behind it. A request carries them among its extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names(Bytes);

impl Heads {
    /// A connection begins, perhaps inside another.
    pub(super) fn begin(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// hyper is given another head.
    pub(super) fn add(&self, names: Names) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(names);
    }

    /// A request is made of the next. It carries its names if they are its own.
    pub(super) fn spell<B>(&self, request: &mut Request<B>) {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        if let Some(names) = names.filter(|names| names.are_of(request.headers())) {
            request.extensions_mut().insert(names);
        }
    }
}

impl Names {
    /// Names, each with a line feed behind it.
    pub(super) fn new(lines: Vec<u8>) -> Self {
        Self(lines.into())
    }

    /// How the header is spelled that is the first with this name, or the second, and so on.
    pub(super) fn spelling(&self, name: &HeaderName, number: usize) -> Option<&[u8]> {
        self.iter().filter(|spelled| name.as_str().as_bytes().eq_ignore_ascii_case(spelled)).nth(number)
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split_inclusive(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\n").unwrap_or(line))
    }

    fn are_of(&self, headers: &HeaderMap) -> bool {
        let mut spelled: Vec<Vec<u8>> = self.iter().map(<[u8]>::to_ascii_lowercase).collect();
        let mut known: Vec<&[u8]> = headers.iter().map(|(name, _)| name.as_str().as_bytes()).collect();
        spelled.sort_unstable();
        known.sort_unstable();
        spelled == known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spelled: &str, headers: &[&str], are_carried: bool) {
        let heads = Heads::default();
        let names = Names::new(spelled.as_bytes().to_vec());
        heads.add(names.clone());
        let mut request = headers.iter().fold(Request::builder(), |request, name| request.header(*name, "x"));
        let mut request = std::mem::take(&mut request).body(()).unwrap();
        heads.spell(&mut request);
        assert_eq!(request.extensions().get(), are_carried.then_some(&names), "{spelled:?}");
    }

    #[test]
    fn a_request_carries_the_names_that_are_its_own() {
        check("", &[], true);
        check("Host\nX-Note\nx-NOTE\n", &["host", "x-note", "x-note"], true);
        check("Host\nX-Note\n", &["x-note", "host"], true);
        check("Host\nX-Note\n", &["host", "x-note", "x-note"], false);
        check("Host\nX-Note\n", &["host"], false);
        check("Host\n", &["hosts"], false);
        let (heads, mut request) = (Heads::default(), Request::new(()));
        heads.add(Names::default());
        heads.begin();
        heads.spell(&mut request);
        assert_eq!(request.extensions().get::<Names>(), None);
    }

    #[test]
    fn each_header_of_a_name_has_its_own_spelling() {
        let names = Names::new(b"X-Note\nHost\nx-NOTE\n".to_vec());
        let check = |number, expected: Option<&str>| {
            let spelled = names.spelling(&HeaderName::from_static("x-note"), number);
            assert_eq!(spelled, expected.map(str::as_bytes));
        };
        check(0, Some("X-Note"));
        check(1, Some("x-NOTE"));
        check(2, None);
    }
}
