//! Responses on their way, where a route asks that they be looked at.
//!
//! A stream of events is looked at event by event, each when it is whole, so that none waits for the next; anything else as it
//! comes.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;
use hyper::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use hyper::http::response;
use memchr::memchr;
use thiserror::Error;

use crate::domain::{InboundOnMatch, Refusal};
use crate::meter::Decoder;
use crate::policy::dlp::{Detectors, Layers, Passing, Redactor, Wanted};

use super::super::allowed::Allowed;
use super::super::exchange::Run;
use super::super::memory::{Held, TooMuch};
use super::{DECODED_BYTES_MAX, Report, encoding, media_type, unreadable};

/// Longest event that is held until it is whole, in bytes; what is longer is looked at as it comes.
const EVENT_BYTES_MAX: usize = 1 << 20;
/// Media types of streams whose events are lines.
const LINES: [&str; 4] = ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/json-seq"];

/// Why a response goes no further.
#[derive(Debug, Error)]
pub(in super::super) enum Screened {
    /// Something was found.
    #[error("the detector {0} found something in the response that may not come in")]
    Found(String),
    /// It is made to fill memory.
    #[error("the response becomes so much larger than it looks")]
    Bomb,
    /// There is no room for it.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    /// It cannot be looked at.
    #[error("the response is not encoded as it says")]
    Undecodable(#[from] io::Error),
}

/// A response's body on its way.
pub(in super::super) struct InboundScreen {
    detectors: Arc<Detectors>,
    blocks: bool,
    decoder: Option<Decoder>,
    events: Option<Events>,
    redactor: Redactor,
    /// For all that is held here.
    held: Held,
    report: Report,
}

/// Where events end.
struct Events {
    are_lines: bool,
    /// The event of which the end has not been seen.
    event: BytesMut,
    /// It is too long to be held, and its beginning has passed.
    is_passing: bool,
    /// The line of which the end has not been seen is not blank.
    is_in_line: bool,
}

impl InboundScreen {
    /// For a response with this head, of which what is decoded is taken out. Refused, when it cannot be decoded.
    fn new(
        detectors: Arc<Detectors>,
        on_match: InboundOnMatch,
        head: &mut response::Parts,
        report: Report,
    ) -> Result<Self, Refusal> {
        let decoder = match encoding(&head.headers, &["identity"], "a response")? {
            None => None,
            named => Some(Decoder::new(named).ok_or_else(|| unreadable("a response in this encoding"))?),
        };
        if decoder.is_some() {
            head.headers.remove(CONTENT_ENCODING);
            head.headers.remove(CONTENT_LENGTH);
        }
        if on_match == InboundOnMatch::Redact {
            super::DIGESTS.iter().for_each(|name| drop(head.headers.remove(name)));
        }
        let blocks = on_match == InboundOnMatch::Block || is_checked(&head.headers);
        let redactor = redactor(&detectors, blocks);
        let (events, held) = (Events::of(&head.headers), report.passage.memory.nothing());
        Ok(Self { events, detectors, blocks, decoder, redactor, held, report })
    }

    /// Is the body decoded on its way, and may it be of another length?
    pub(in super::super) fn is_decoded(&self) -> bool {
        self.decoder.is_some()
    }

    /// Bytes that are here and have not passed.
    pub(in super::super) fn held(&self) -> usize {
        self.redactor.held() + self.events.as_ref().map_or(0, |events| events.event.len())
    }

    /// Looks at more of the body. Returns what may pass.
    pub(in super::super) fn push(&mut self, bytes: &[u8]) -> Result<Bytes, Screened> {
        let mut passing = BytesMut::new();
        let Some(mut decoder) = self.decoder.take() else {
            self.look(bytes, &mut passing)?;
            return self.charged(passing);
        };
        let mut looked = Ok(());
        let decoded = decoder.push(bytes, |bytes| {
            if looked.is_ok() {
                looked = self.look(bytes, &mut passing).and_then(|()| self.charge(&passing));
            }
        });
        self.decoder = Some(decoder);
        looked?;
        decoded?;
        self.charged(passing)
    }

    /// The response has ended; what is left of it.
    pub(in super::super) fn finish(&mut self) -> Result<Bytes, Screened> {
        let mut passing = BytesMut::new();
        if let Some(mut decoder) = self.decoder.take() {
            let mut rest = Vec::new();
            // A stream cut inside its encoding passes what it had.
            let _ = decoder.finish(|bytes| rest.extend_from_slice(bytes));
            self.look(&rest, &mut passing)?;
        }
        if let Some(events) = &mut self.events {
            let rest = events.event.split();
            self.feed(&rest, &mut passing)?;
        }
        self.end(&mut passing)?;
        Ok(passing.freeze())
    }

    /// Charges what is held, here and in what is about to pass.
    fn charge(&mut self, passing: &[u8]) -> Result<(), Screened> {
        if passing.len() > DECODED_BYTES_MAX {
            return Err(Screened::Bomb);
        }
        let decoding = self.decoder.as_ref().map_or(0, Decoder::held);
        let held = InboundScreen::held(self) + decoding + passing.len();
        Ok(self.held.set(held)?)
    }

    /// What may pass is held until it has been sent.
    fn charged(&mut self, passing: BytesMut) -> Result<Bytes, Screened> {
        self.charge(&passing)?;
        Ok(self.held.split(passing.len()).keep(passing.freeze()))
    }

    fn look(&mut self, mut bytes: &[u8], passing: &mut BytesMut) -> Result<(), Screened> {
        let Some(mut events) = self.events.take() else { return self.feed(bytes, passing) };
        let mut looked = Ok(());
        while looked.is_ok() && !bytes.is_empty() {
            let end = events.end_in(bytes);
            let (event, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            events.event.extend_from_slice(event);
            bytes = rest;
            if end.is_some() || events.is_passing || events.event.len() > EVENT_BYTES_MAX {
                let event = events.event.split();
                looked = self.feed(&event, passing);
                events.is_passing = end.is_none();
            }
            if looked.is_ok() && end.is_some() {
                looked = self.end(passing);
            }
        }
        self.events = Some(events);
        looked
    }

    fn feed(&mut self, bytes: &[u8], passing: &mut BytesMut) -> Result<(), Screened> {
        let looked = self.redactor.push(bytes);
        self.judge(&looked, passing)
    }

    /// What comes next has nothing to do with what came before.
    fn end(&mut self, passing: &mut BytesMut) -> Result<(), Screened> {
        let next = redactor(&self.detectors, self.blocks);
        let looked = std::mem::replace(&mut self.redactor, next).finish();
        self.judge(&looked, passing)
    }

    fn judge(&mut self, looked: &Passing, passing: &mut BytesMut) -> Result<(), Screened> {
        let first = looked.found.iter().min_by_key(|finding| finding.detector);
        if let Some(first) = first.filter(|_| self.blocks) {
            let detector = self.detectors.name(first.detector);
            self.report.refused(detector);
            return Err(Screened::Found(detector.to_owned()));
        }
        self.report.count(&self.detectors, &looked.found);
        passing.extend_from_slice(&looked.bytes);
        Ok(())
    }
}

impl Events {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let media_type = media_type(headers);
        let are_lines = LINES.iter().any(|lines| media_type.eq_ignore_ascii_case(lines));
        (are_lines || media_type.eq_ignore_ascii_case("text/event-stream")).then(|| Self {
            are_lines,
            event: BytesMut::new(),
            is_passing: false,
            is_in_line: false,
        })
    }

    /// Where the event ends in the bytes that come next: with its line, or with a blank one.
    fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(length) = memchr(b'\n', bytes.get(at..).unwrap_or_default()) {
            let line = bytes.get(at..at + length).unwrap_or_default();
            let is_blank = !self.is_in_line && line.iter().all(|byte| *byte == b'\r');
            self.is_in_line = false;
            at += length + 1;
            if self.are_lines || is_blank {
                return Some(at);
            }
        }
        let rest = bytes.get(at..).unwrap_or_default();
        self.is_in_line |= rest.iter().any(|byte| *byte != b'\r');
        None
    }
}

impl Run<'_> {
    /// What looks at a response; `None` where nothing does.
    pub(in super::super) fn inbound(
        &self,
        allowed: &Allowed,
        head: &mut response::Parts,
    ) -> Result<Option<InboundScreen>, Refusal> {
        let on_match = allowed.way.inbound;
        let lineage = &self.bottle.view.lineage;
        let wanted = Wanted::inbound(on_match, &self.policy.routes, lineage, &self.policy.secrets);
        let detectors = self.exchange.sets.of(wanted).map_err(|error| unreadable(&error.to_string()))?;
        if detectors.is_empty() {
            return Ok(None);
        }
        let report = self.report(&allowed.target.host, false);
        InboundScreen::new(detectors, on_match, head, report).map(Some)
    }
}

fn redactor(detectors: &Arc<Detectors>, blocks: bool) -> Redactor {
    if blocks { Redactor::watching(detectors, Layers::Body) } else { Redactor::new(detectors, Layers::Body) }
}

/// Amazon's events carry check sums: nothing can be changed in them.
fn is_checked(headers: &HeaderMap) -> bool {
    media_type(headers).eq_ignore_ascii_case("application/vnd.amazon.eventstream")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hyper::Response;
    use tokio::sync::mpsc;

    use super::*;
    use crate::broker::Phase;
    use crate::domain::{BottleId, Secret};
    use crate::proxy::link::Link;
    use crate::proxy::view::{PolicyView, SAMPLE_ADDRESS, sample};

    /// What looks at a response in these encodings, for nothing.
    fn screen(encodings: &[&[u8]]) -> Result<InboundScreen, Refusal> {
        let policy = PolicyView::default().succeed(sample(&[(7, Phase::Open)]), &mpsc::unbounded_channel().0);
        let report = Report {
            link: Link::new(&Secret::new("key".to_owned())).0,
            bottle: BottleId(7),
            host: "a.example".parse().unwrap(),
            target: "GET /".to_owned(),
            passage: Arc::clone(&policy.bottle(SAMPLE_ADDRESS).unwrap().passage),
            is_outbound: false,
            counts: BTreeMap::new(),
        };
        let named = |head: response::Builder, one: &&[u8]| head.header(CONTENT_ENCODING, *one);
        let (mut head, ()) = encodings.iter().fold(Response::builder(), named).body(()).unwrap().into_parts();
        let detectors = Detectors::new(&Wanted::default()).unwrap();
        InboundScreen::new(Arc::new(detectors), InboundOnMatch::Redact, &mut head, report)
    }

    fn check(encodings: &[&[u8]], is_decoded: Option<bool>) {
        let found = screen(encodings).map(|screen| screen.is_decoded()).ok();
        assert_eq!(found, is_decoded, "{encodings:?}");
    }

    #[test]
    fn what_it_is_encoded_as_is_said_once_and_known() {
        check(&[], Some(false));
        check(&[b" Identity "], Some(false));
        check(&[b"gzip"], Some(true));
        check(&[b"gzip, br"], Some(true));
        check(&[b"lzw"], None);
        check(&[b"identity", b"gzip"], None);
        check(&[b"gzip", b"gzip"], None);
        check(&[b"gzip\xff"], None);
    }

    #[test]
    fn what_comes_at_once_becomes_so_much_and_no_more() {
        // Each piece that is decoded together becomes a little less than it may.
        let bomb = zstd::encode_all(&vec![b' '; 7 << 20][..], 3).unwrap();
        let skipped = u32::try_from((4 << 10) - bomb.len() - 8).unwrap();
        let skip = [&0x184d_2a50_u32.to_le_bytes()[..], &skipped.to_le_bytes(), &vec![0; skipped as usize]].concat();
        let piece = [bomb, skip].concat();
        let push = |pieces: usize| screen(&[b"zstd"]).unwrap().push(&piece.repeat(pieces)).map(|passing| passing.len());
        assert!(push(4).is_ok_and(|passing| passing > (27 << 20)));
        assert!(matches!(push(5), Err(Screened::Bomb)));
    }
}
