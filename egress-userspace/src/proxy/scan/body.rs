//! The body of a request on its way: decoded, looked at, and passed on once it is decided that it may pass.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;
use zeroize::Zeroizing;

use crate::domain::{OutboundOnMatch, Refusal};
use crate::meter::Decoder;
use crate::policy::dlp::{Finding, Layers, Passing, Redactor, Scan};

use super::super::memory::Held;
use super::head::judge_fixed;
use super::{DECODED_BYTES_MAX, Screening, encoding, found_outbound, media_type, not_approved, unreadable};

/// What a finding takes that waits for an operator, about, in bytes.
const FINDING_BYTES: usize = 256;
/// Findings that an operator has approved, for one request.
const APPROVED_MAX: usize = 256;
/// Encodings in which a text stands as it is: the second is what S3 calls a body in signed chunks.
const PLAIN: [&str; 2] = ["identity", "aws-chunked"];

/// Why a body did not pass, for whoever answers the client.
pub(in super::super) type Verdict = Arc<OnceLock<Refusal>>;

/// A body on its way.
pub(in super::super) struct Screen {
    screening: Screening,
    decoder: Option<Decoder>,
    /// For what is compressed and does not say so: it passes as it is, and what is in it is looked at all the same.
    hidden: Hidden,
    redactor: Redactor,
    /// What passes when everything that was found has been approved.
    passing: BytesMut,
    /// For all that is held here.
    held: Held,
    found: VecDeque<Finding>,
    asking: Option<Asking>,
    approved: Vec<(usize, Zeroizing<Vec<u8>>)>,
    verdict: Verdict,
    is_finished: bool,
}

/// In a lock, for want of another proof that nobody shares it.
type Asking = (Finding, Mutex<Pin<Box<dyn Future<Output = bool> + Send>>>);

enum Hidden {
    /// So far it may be either.
    Unknown(Vec<u8>),
    No,
    Yes(Box<(Decoder, Scan)>),
}

impl Screen {
    /// For a body with these headers. Refused, when it cannot be decoded.
    pub(super) fn new(screening: Screening, headers: &HeaderMap) -> Result<Self, Refusal> {
        let decoder = match encoding(headers, &PLAIN, "a body")? {
            None => None,
            named => Some(Decoder::new(named).ok_or_else(|| unreadable("a body in this encoding"))?),
        };
        let is_form = media_type(headers).eq_ignore_ascii_case("application/x-www-form-urlencoded");
        let layers = if is_form { Layers::Form } else { Layers::Body };
        let redactor = match screening.on_match {
            OutboundOnMatch::Redact => Redactor::new(&screening.detectors, layers),
            OutboundOnMatch::Off | OutboundOnMatch::Block | OutboundOnMatch::Supervise => {
                Redactor::watching(&screening.detectors, layers)
            }
        };
        Ok(Self {
            held: screening.report.passage.memory.nothing(),
            screening,
            decoder,
            hidden: Hidden::Unknown(Vec::new()),
            redactor,
            passing: BytesMut::new(),
            found: VecDeque::new(),
            asking: None,
            approved: Vec::new(),
            verdict: Verdict::default(),
            is_finished: false,
        })
    }

    /// Does the body pass without its encoding?
    pub(in super::super) fn is_decoded(&self) -> bool {
        self.decoder.is_some()
    }

    /// Has everything been looked at?
    pub(in super::super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Is an operator being asked?
    pub(in super::super) fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// Bytes that are here and have not passed.
    pub(in super::super) fn held(&self) -> usize {
        self.redactor.held() + self.passing.len()
    }

    /// Where it will stand why the body did not pass.
    pub(in super::super) fn verdict(&self) -> Verdict {
        Arc::clone(&self.verdict)
    }

    /// Looks at more of the body.
    pub(in super::super) fn push(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let Some(mut decoder) = self.decoder.take() else {
            self.look(bytes)?;
            return self.charge();
        };
        let mut judged = Ok(());
        let most = self.passing.len() + DECODED_BYTES_MAX;
        let decoded = decoder.push(bytes, |bytes| {
            if judged.is_ok() {
                judged = self.look(bytes);
            }
            if judged.is_ok() && self.passing.len() > most {
                judged = Err(unreadable("a body that is so much larger than it looks"));
            }
        });
        self.decoder = Some(decoder);
        judged?;
        decoded.map_err(|_| unreadable("a body that is not encoded as it says"))?;
        self.charge()
    }

    /// Nothing follows.
    pub(in super::super) fn finish(&mut self) -> Result<(), Refusal> {
        self.is_finished = true;
        if let Some(mut decoder) = self.decoder.take() {
            let mut rest = Vec::new();
            let ended = decoder.finish(|bytes| rest.extend_from_slice(bytes));
            self.decoder = Some(decoder);
            ended.map_err(|_| unreadable("a body that is not encoded as it says"))?;
            self.look(&rest)?;
        }
        let passing = self.redactor.finish();
        self.judge(passing)?;
        let Hidden::Yes(hidden) = &mut self.hidden else { return Ok(()) };
        let (decoder, scan) = &mut **hidden;
        let mut found = Vec::new();
        // Cut short, it says what it said so far.
        let ended = decoder.finish(|bytes| found.extend(scan.push(bytes)));
        found.extend(scan.finish());
        self.refuse_hidden(&found, ended)
    }

    /// What may pass of what was looked at, when everything that was found in it has been decided on.
    pub(in super::super) fn poll_passing(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Refusal>> {
        loop {
            if let Some((finding, answer)) = &mut self.asking {
                let answer = answer.get_mut().unwrap_or_else(PoisonError::into_inner);
                let is_approved = ready!(answer.as_mut().poll(cx));
                let (detector, value) = (finding.detector, finding.value.clone());
                self.asking = None;
                if !is_approved {
                    return Poll::Ready(Err(not_approved(self.screening.detectors.name(detector), "body")));
                }
                self.approved.truncate(APPROVED_MAX - 1);
                self.approved.push((detector, value));
            }
            let Some(finding) = self.found.pop_front() else {
                let passing = self.passing.split().freeze();
                return Poll::Ready(self.charge().map(|()| passing));
            };
            let is_known = |(detector, value): &(usize, Zeroizing<Vec<u8>>)| {
                *detector == finding.detector && *value == finding.value
            };
            if !self.approved.iter().any(is_known) {
                let name = self.screening.detectors.name(finding.detector).to_owned();
                let answer: Pin<Box<dyn Future<Output = bool> + Send>> =
                    Box::pin(self.screening.supervisor.clone().approves(name, finding.value.clone()));
                self.asking = Some((finding, Mutex::new(answer)));
            }
        }
    }

    /// Says why nothing more passes.
    pub(in super::super) fn close(&self, refusal: Refusal) {
        // The first reason is the one that counts.
        let _ = self.verdict.set(refusal);
    }

    /// What comes after a body is looked at like any header; it cannot be changed any more.
    pub(in super::super) fn judge_trailers(&mut self, trailers: &HeaderMap) -> Result<(), Refusal> {
        for (name, value) in trailers {
            let line = [name.as_str().as_bytes(), b": ", value.as_bytes()].concat();
            judge_fixed(&self.screening.detectors, &line, "trailers")?;
        }
        Ok(())
    }

    fn judge(&mut self, passing: Passing) -> Result<(), Refusal> {
        let Passing { bytes, found } = passing;
        self.passing.extend_from_slice(&bytes);
        self.charge()?;
        let Some(first) = found.iter().min_by_key(|finding| finding.detector) else { return Ok(()) };
        match self.screening.on_match {
            OutboundOnMatch::Redact => self.screening.report.count(&self.screening.detectors, &found),
            OutboundOnMatch::Supervise => self.found.extend(found),
            OutboundOnMatch::Off | OutboundOnMatch::Block => {
                return Err(found_outbound(self.screening.detectors.name(first.detector), "body"));
            }
        }
        Ok(())
    }

    /// Looks at the text of the body.
    fn look(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.look_inside(bytes)?;
        let passing = self.redactor.push(bytes);
        self.judge(passing)
    }

    /// Charges what is held. Refused, when it is more than its bottle may make the proxy hold.
    fn charge(&mut self) -> Result<(), Refusal> {
        let hidden = if let Hidden::Yes(hidden) = &self.hidden { hidden.0.held() } else { 0 };
        let decoding = self.decoder.as_ref().map_or(0, Decoder::held) + hidden;
        let bytes = self.passing.len() + self.redactor.held() + self.found.len() * FINDING_BYTES + decoding;
        Ok(self.held.set(bytes)?)
    }

    fn look_inside(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let Hidden::Unknown(head) = &mut self.hidden else { return self.look_into(bytes) };
        head.extend_from_slice(bytes);
        let Poll::Ready(compression) = compression(head) else { return Ok(()) };
        let head = std::mem::take(head);
        self.hidden = match compression.and_then(|encoding| Decoder::new(Some(encoding))) {
            Some(decoder) => Hidden::Yes(Box::new((decoder, Scan::new(&self.screening.detectors, Layers::Body)))),
            None => Hidden::No,
        };
        self.look_into(&head)
    }

    fn look_into(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let Hidden::Yes(hidden) = &mut self.hidden else { return Ok(()) };
        let (decoder, scan) = &mut **hidden;
        let mut found = Vec::new();
        let decoded = decoder.push(bytes, |bytes| found.extend(scan.push(bytes)));
        self.refuse_hidden(&found, decoded)
    }

    /// What is found in a body that is not to be changed stops it, and so does what cannot be decoded to its end: whoever
    /// receives it may know how.
    fn refuse_hidden(&self, found: &[Finding], decoded: io::Result<()>) -> Result<(), Refusal> {
        if let Some(first) = found.iter().min_by_key(|finding| finding.detector) {
            return Err(found_outbound(self.screening.detectors.name(first.detector), "body"));
        }
        decoded.map_err(|_| unreadable("a compressed body that is broken, or so much larger than it looks,"))
    }
}

/// How something is compressed that begins so, whatever is said of it; pending while more is needed to tell.
///
/// Gzip with the one method that it has (RFC 1952 §2.3.1); frames of zstd, and those that its readers skip (RFC 8878 §3.1).
fn compression(head: &[u8]) -> Poll<Option<&'static str>> {
    match head {
        [0x1f, 0x8b, 0x08, ..] => Poll::Ready(Some("gzip")),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Poll::Ready(Some("zstd")),
        [] | [0x1f] | [0x1f, 0x8b] | [0x28] | [0x28, 0xb5] | [0x28, 0xb5, 0x2f] => Poll::Pending,
        [0x50..=0x5f] | [0x50..=0x5f, 0x2a] | [0x50..=0x5f, 0x2a, 0x4d] => Poll::Pending,
        [..] => Poll::Ready(None),
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_is_known_by_how_it_begins() {
        let check = |head: &[u8], expected: Option<&'static str>| {
            for end in 0..head.len() {
                assert_eq!(compression(&head[..end]), Poll::Pending, "{head:x?}");
            }
            assert_eq!(compression(head), Poll::Ready(expected), "{head:x?}");
        };
        check(b"\x1f\x8b\x08", Some("gzip"));
        check(b"\x28\xb5\x2f\xfd", Some("zstd"));
        for first in 0x50..=0x5f {
            check(&[first, 0x2a, 0x4d, 0x18], Some("zstd"));
        }
        check(b"{", None);
        check(b"[]", None);
        check(b"\x1f\x8b\x07", None);
        check(b"\x28\xb5\x2f\xfe", None);
        check(b"P*M ", None);
        check(b"\x60", None);
    }
}
