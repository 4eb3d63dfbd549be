//! The meter of one response: bytes as they pass the wire → a reading at any time.

use std::io::Write;

use crate::domain::Ending;

use super::ask::Ask;
use super::body::Body;
use super::decode::Pipe;
use super::surface::Dialect;
use super::tally::{self, Circumstances, Tally};
use super::{Reading, ResponseHead};

/// Meters one response.
pub struct ResponseMeter {
    ask: Ask,
    circumstances: Circumstances,
    ends_itself: bool,
    eyes: Eyes,
}

/// Whether the bytes can be read.
enum Eyes {
    Reading(Box<Pipe<Body>>),
    /// They could not be decoded from some point on; what was understood before.
    Blind(Box<Tally>),
}

impl ResponseMeter {
    /// A meter for the response to `ask` that begins with `head`. With a default head (no status, nothing pushed), `finish`
    /// settles a request that was sent and never answered.
    #[must_use]
    pub fn new(ask: &Ask, head: &ResponseHead<'_>) -> Self {
        let body = Body::new(ask.dialect, head.counts);
        let eyes = Pipe::new(head.content_encoding, body).map_or_else(
            || Eyes::Blind(Box::new(Tally { family: ask.family, ..Tally::default() })),
            |pipe| Eyes::Reading(Box::new(pipe)),
        );
        let media_type = head.content_type.and_then(|value| value.split(';').next()).unwrap_or("").trim();
        Self {
            ask: ask.clone(),
            circumstances: Circumstances { status: head.status, ..Circumstances::default() },
            ends_itself: ends_itself(ask.dialect, media_type),
            eyes,
        }
    }

    /// A meter for a response to `ask` that comes as events, each whole: over a WebSocket.
    #[must_use]
    pub fn of_events(ask: &Ask) -> Self {
        Self { ends_itself: true, ..Self::new(ask, &ResponseHead::default()) }
    }

    /// Takes an event of such a response.
    pub fn event(&mut self, event: &[u8]) {
        match &mut self.eyes {
            Eyes::Reading(pipe) => pipe.writer_mut().event(event),
            Eyes::Blind(_) => self.miss(event.len()),
        }
    }

    /// Bytes of the response have passed that nobody could read.
    pub fn miss(&mut self, bytes: usize) {
        self.circumstances.opaque_bytes = self.circumstances.opaque_bytes.saturating_add(bytes as u64);
    }

    /// Takes bytes of the body as they pass, still encoded. All that they tell is in the next reading.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.ask.is_metered {
            return;
        }
        match &mut self.eyes {
            Eyes::Reading(pipe) => {
                if pipe.write_all(bytes).and_then(|()| pipe.flush()).is_err() {
                    self.go_blind(bytes.len());
                }
            }
            Eyes::Blind(_) => self.miss(bytes.len()),
        }
    }

    /// What the response would settle to, were it to end here.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let circumstances = self.circumstances;
        match &self.eyes {
            Eyes::Reading(pipe) => {
                let opaque_bytes = circumstances.opaque_bytes.saturating_add(pipe.writer().unread_bytes());
                tally::reading(
                    &self.ask,
                    &pipe.writer().tally(self.ask.family),
                    Circumstances { opaque_bytes, ..circumstances },
                )
            }
            Eyes::Blind(tally) => tally::reading(&self.ask, tally, circumstances),
        }
    }

    /// The response has ended: what it settles to.
    #[must_use]
    pub fn finish(mut self, ending: Ending) -> Reading {
        if let Eyes::Reading(pipe) = &mut self.eyes {
            // A stream cut inside its encoding keeps what it had.
            let _ = pipe.finish();
            pipe.writer_mut().finish();
        }
        self.circumstances.is_complete = ending == Ending::Complete;
        self.reading()
    }

    /// Only the transport knows where this body ends, or nobody can tell what is in it: its last frame must wait until the
    /// reading is settled. Most event streams say themselves when they are final.
    #[must_use]
    pub fn holds_back_last_frame(&self) -> bool {
        self.ask.is_metered && (!self.ends_itself || matches!(self.eyes, Eyes::Blind(_)))
    }

    fn go_blind(&mut self, missed_bytes: usize) {
        if let Eyes::Reading(pipe) = &mut self.eyes {
            pipe.writer_mut().finish();
            self.eyes = Eyes::Blind(Box::new(pipe.writer().tally(self.ask.family)));
        }
        self.miss(missed_bytes);
    }
}

/// Does a stream of this dialect say that it is final? Gemini's do not.
fn ends_itself(dialect: Option<Dialect>, media_type: &str) -> bool {
    let expected = match dialect {
        None | Some(Dialect::Gemini) => return false,
        Some(Dialect::Bedrock) => "application/vnd.amazon.eventstream",
        Some(Dialect::Ollama) => "application/x-ndjson",
        Some(
            Dialect::AnthropicMessages | Dialect::OpenAiChat | Dialect::OpenAiEmbeddings | Dialect::OpenAiResponses,
        ) => "text/event-stream",
    };
    media_type.eq_ignore_ascii_case(expected)
}

impl std::fmt::Debug for ResponseMeter {
    /// Never shows bytes of the exchange.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseMeter").field("ask", &self.ask).field("reading", &self.reading()).finish()
    }
}
