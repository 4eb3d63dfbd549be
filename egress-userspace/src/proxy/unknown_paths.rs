//! Paths that no table names, each told of once. Identifiers in them are left out, so that it is once for all of a kind, and
//! so that nothing is told that was meant for the provider alone.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::domain::Host;

use super::limits::UNKNOWN_PATHS_MAX;

/// Longest part of a path that may be a word, in bytes.
const WORD_BYTES_MAX: usize = 32;
/// Digits that a word may have: `v1beta1`, `gemini-2.5-flash`.
const WORD_DIGITS_MAX: usize = 3;
/// From this length on, in bytes, what looks like a number of base 16 or 62 is one.
const IDENTIFIER_BYTES_MIN: usize = 8;
/// Parts of a path that are told.
const PARTS_MAX: usize = 8;

/// What has been told of. Bounded: what comes after the last is not told.
#[derive(Debug, Default)]
pub(super) struct UnknownPaths {
    seen: Mutex<HashSet<(Host, String)>>,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
    /// The path without what tells requests of its kind apart.
    pub(super) shape: String,
    /// Nothing more will be told.
    pub(super) is_last: bool,
}

impl UnknownPaths {
    /// A request to this path has come: is that news?
    pub(super) fn note(&self, host: &Host, path: &str) -> Option<News> {
        let shape = shape(path);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= UNKNOWN_PATHS_MAX || !seen.insert((host.clone(), shape.clone())) {
            return None;
        }
        Some(News { shape, is_last: seen.len() == UNKNOWN_PATHS_MAX })
    }
}

/// A path of words, `*` in place of the rest: `/v1/sessions/*/events`.
fn shape(path: &str) -> String {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let mut shape = String::new();
    for part in parts.by_ref().take(PARTS_MAX) {
        shape.push('/');
        shape.push_str(if is_word(part) { part } else { "*" });
    }
    match (shape.is_empty(), parts.next()) {
        (true, _) => "/".to_owned(),
        (false, None) => shape,
        (false, Some(_)) => shape + "/*",
    }
}

/// Not an identifier, nor anything that is written in escapes.
fn is_word(part: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'$');
    let has = |is: fn(&u8) -> bool| part.as_bytes().iter().any(is);
    let digits = part.bytes().filter(u8::is_ascii_digit).count();
    let is_base_16 = part.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let is_base_62 = part.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase);
    let is_identifier = digits > 0 && part.len() >= IDENTIFIER_BYTES_MIN && (is_base_16 || is_base_62);
    part.len() <= WORD_BYTES_MAX
        && part.bytes().all(is_plain)
        && digits <= WORD_DIGITS_MAX
        && digits < part.len()
        && !is_identifier
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &str) {
        assert_eq!(shape(path), expected, "{path}");
    }

    #[test]
    fn what_tells_requests_apart_is_left_out() {
        check("", "/");
        check("//", "/");
        check("/v1/completion", "/v1/completion");
        check("/v1beta/models/gemini-2.5-flash:thinkAloud", "/v1beta/models/gemini-2.5-flash:thinkAloud");
        check("/v1internal:thinkAloud", "/v1internal:thinkAloud");
        check("/v1/sessions/sess_01JABCDEF23456/events", "/v1/sessions/*/events");
        check("/v1/x/123", "/v1/x/*");
        check("/v1/x/deadbee5", "/v1/x/*");
        check("/v1/x/0b51f4a2-96a1-4b6e-8d3c-4f1f9f9e0a11/y", "/v1/x/*/y");
        check("/v1/x/aZbYcXdW9e", "/v1/x/*");
        check("/v1/x/sk-ant-0123456789", "/v1/x/*");
        check("/v1/x/%73ecret/a@b.c", "/v1/x/*/*");
        check(&format!("/{}", "x".repeat(WORD_BYTES_MAX)), &format!("/{}", "x".repeat(WORD_BYTES_MAX)));
        check(&format!("/{}", "x".repeat(WORD_BYTES_MAX + 1)), "/*");
        check("/a/b/c/d/e/f/g/h", "/a/b/c/d/e/f/g/h");
        check("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g/h/*");
    }

    #[test]
    fn each_shape_of_each_host_is_news_once() {
        let paths = UnknownPaths::default();
        let (one, other): (Host, Host) = ("one.example".parse().unwrap(), "other.example".parse().unwrap());
        let news = |host: &Host, path: &str| paths.note(host, path).map(|news| news.shape);
        assert_eq!(news(&one, "/v1/x/1/y").as_deref(), Some("/v1/x/*/y"));
        assert_eq!(news(&one, "/v1/x/2/y"), None);
        assert_eq!(news(&one, "/v1/x").as_deref(), Some("/v1/x"));
        assert_eq!(news(&other, "/v1/x/3/y").as_deref(), Some("/v1/x/*/y"));
    }

    #[test]
    fn whoever_makes_paths_up_is_not_told_of_for_ever() {
        let paths = UnknownPaths::default();
        let host: Host = "one.example".parse().unwrap();
        let name = |number: usize| {
            let letter = |digit: usize| char::from(b'a' + u8::try_from(digit % 26).unwrap());
            format!("/{}{}{}", letter(number / 676), letter(number / 26), letter(number))
        };
        let told: Vec<News> =
            (0..2 * UNKNOWN_PATHS_MAX).filter_map(|number| paths.note(&host, &name(number))).collect();
        assert_eq!(told.len(), UNKNOWN_PATHS_MAX);
        assert_eq!(told.iter().filter(|news| news.is_last).count(), 1);
        assert!(told.last().unwrap().is_last);
    }
}
