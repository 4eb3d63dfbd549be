//! Asking an operator before a request goes: what was found leaves this process as a fingerprint, or not at all.

use std::sync::Arc;
use std::time::Duration;

use ring::hmac;

use crate::domain::{BottleId, Fingerprint, Host, Question, Secret, Supervised};

use super::exchange::Severed;
use super::link::Link;
use super::view::Passage;

/// Stands for a path in which something was found.
const WITHHELD: &str = "(path withheld)";

/// What a detector found in a request that is held.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    /// Where it is to go.
    pub(super) host: &'a Host,
    /// Method and path, without query.
    pub(super) target: &'a str,
    /// Which detector.
    pub(super) detector: &'a str,
    /// What it found.
    pub(super) value: &'a [u8],
}

/// Waits for an operator, `patience` long. A bottle that is cut meanwhile waits no longer.
pub(super) async fn supervise(
    link: &Arc<Link>,
    passage: &Passage,
    bottle: BottleId,
    found: Found<'_>,
    patience: Duration,
) -> Result<Supervised, Severed> {
    let question = Question {
        bottle,
        detector: found.detector.to_owned(),
        host: found.host.clone(),
        target: without(found.target, found.value),
        fingerprint: link.approval_key.fingerprint(found.detector, found.value),
    };
    tokio::select! {
        biased;
        () = passage.severed() => Err(Severed),
        answer = link.supervise(question, patience) => Ok(answer),
    }
}

/// Makes fingerprints.
#[derive(Debug)]
pub(super) struct ApprovalKey(hmac::Key);

impl ApprovalKey {
    pub(super) fn new(key: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.reveal().as_bytes()))
    }

    fn fingerprint(&self, detector: &str, value: &[u8]) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.0);
        // So that no two pairs of detector and value are the same bytes.
        context.update(&(detector.len() as u64).to_le_bytes());
        context.update(detector.as_bytes());
        context.update(value);
        let mut fingerprint = [0; 32];
        for (byte, tag) in fingerprint.iter_mut().zip(context.sign().as_ref()) {
            *byte = *tag;
        }
        Fingerprint(fingerprint)
    }
}

/// A target as it may be told: what was found in it is not.
fn without(target: &str, value: &[u8]) -> String {
    let holds = |text: &[u8]| !value.is_empty() && memchr::memmem::find(text, value).is_some();
    if !holds(target.as_bytes()) && !holds(&percent_decoded(target)) {
        return target.to_owned();
    }
    let method = target.split_once(' ').map_or("", |(method, _)| method);
    let method = if holds(method.as_bytes()) { "" } else { method };
    format!("{method} {WITHHELD}")
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| *first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::broker::{FromProxy, Phase};
    use crate::proxy::view::{PolicyView, SAMPLE_ADDRESS, sample};

    #[tokio::test]
    async fn a_cut_bottle_waits_no_longer_and_its_question_is_over() {
        let open = PolicyView::default().succeed(sample(&[(7, Phase::Open)]), &mpsc::unbounded_channel().0);
        let (link, mut said) = Link::new(&Secret::new("key".to_owned()));
        let host = "a.example".parse().unwrap();
        let found = Found { host: &host, target: "GET /AKIA42", detector: "aws_key", value: b"AKIA42" };
        let passage = &open.bottle(SAMPLE_ADDRESS).unwrap().passage;
        let cut = async {
            let Some(FromProxy::Supervise { number, question, timeout_ms }) = said.recv().await else { panic!() };
            assert_eq!(
                (question.bottle, question.target.as_str(), timeout_ms),
                (BottleId(7), "GET (path withheld)", 9_000)
            );
            open.sever_all();
            number
        };
        let held = supervise(&link, passage, BottleId(7), found, Duration::from_secs(9));
        let (held, number) = tokio::join!(held, cut);
        assert!(held.is_err());
        assert_eq!(said.recv().await, Some(FromProxy::SuperviseOver { number }));
    }

    #[test]
    fn a_target_does_not_tell_what_was_found_in_it() {
        let check = |target: &str, expected: &str| assert_eq!(without(target, b"AKIA42 x"), expected);
        check("POST /upload", "POST /upload");
        check("GET /AKIA42%20x/y", "GET (path withheld)");
        check("GET /%41KIA42%20%78", "GET (path withheld)");
        check("GET /AKIA42%2", "GET /AKIA42%2");
        check("AKIA42 x", "AKIA42 (path withheld)");
        check("XAKIA42 x /", "XAKIA42 (path withheld)");
        assert_eq!(without("AKIA /AKIA", b"AKIA"), " (path withheld)");
        assert_eq!(without("GET /%zz%", b""), "GET /%zz%");
    }

    #[test]
    fn fingerprints_tell_values_detectors_and_hosts_keys_apart() {
        let key = |text: &str| ApprovalKey::new(&Secret::new(text.to_owned()));
        let one = key("a").fingerprint("aws", b"value");
        assert_eq!(key("a").fingerprint("aws", b"value"), one);
        for other in [
            key("b").fingerprint("aws", b"value"),
            key("a").fingerprint("aw", b"svalue"),
            key("a").fingerprint("aws", b"value2"),
        ] {
            assert_ne!(other, one);
        }
    }
}
