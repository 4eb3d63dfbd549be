//! A decoded body → the dialect: tells JSON from server-sent events by the first byte, and frames it.

use std::io::{Result, Write};

use super::anthropic::{self, Messages};
use super::json::TopLevel;
use super::sse::Frames;
use super::surface::Dialect;
use super::tally::Tally;

/// A body being read. The default one reads nothing.
#[derive(Debug, Default)]
pub(super) struct Body {
    framing: Framing,
    speech: Speech,
    bytes: u64,
}

#[derive(Debug, Default)]
enum Framing {
    #[default]
    Unknown,
    Events(Frames),
    Json(TopLevel),
}

/// What a dialect has understood so far.
#[derive(Debug, Default)]
enum Speech {
    /// No dialect: nothing is understood.
    #[default]
    None,
    Anthropic(Messages),
}

impl Body {
    /// A body in this dialect.
    pub(super) fn new(dialect: Option<Dialect>) -> Self {
        let speech = match dialect {
            None => Speech::None,
            Some(Dialect::AnthropicMessages) => Speech::Anthropic(Messages::default()),
        };
        Self { speech, ..Self::default() }
    }

    /// What has been understood.
    pub(super) fn tally(&self) -> Tally {
        match &self.speech {
            Speech::None => Tally::default(),
            Speech::Anthropic(messages) => messages.tally(),
        }
    }

    /// No more bytes come: an event that nothing closed is taken as it is.
    pub(super) fn finish(&mut self) {
        let Self { framing, speech, .. } = self;
        if let Framing::Events(frames) = framing {
            frames.finish(&mut |data| speech.event(data));
        }
    }

    /// Bytes of the body that no dialect reads.
    pub(super) fn unread_bytes(&self) -> u64 {
        match self.speech {
            Speech::None => self.bytes,
            Speech::Anthropic(_) => 0,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        let Self { framing, speech, bytes: total } = self;
        let mut rest = bytes;
        if matches!(framing, Framing::Unknown) {
            rest = rest.get(rest.iter().position(|byte| !is_blank(*byte)).unwrap_or(rest.len())..).unwrap_or_default();
            match rest.first() {
                None => return,
                Some(b'{') => *framing = Framing::Json(TopLevel::new(speech.body_keys())),
                Some(_) => *framing = Framing::Events(Frames::default()),
            }
        }
        match framing {
            Framing::Unknown => {}
            Framing::Events(frames) => frames.push(rest, &mut |data| speech.event(data)),
            Framing::Json(object) => {
                object.push(rest, &mut |key, value| speech.field(key, value));
                speech.body(*total, object.is_closed());
            }
        }
    }
}

impl Speech {
    fn body_keys(&self) -> &'static [&'static str] {
        match self {
            Self::None => &[],
            Self::Anthropic(_) => anthropic::BODY_KEYS,
        }
    }

    fn event(&mut self, data: &[u8]) {
        match self {
            Self::None => {}
            Self::Anthropic(messages) => messages.event(data),
        }
    }

    fn field(&mut self, key: &str, value: &[u8]) {
        match self {
            Self::None => {}
            Self::Anthropic(messages) => messages.field(key, value),
        }
    }

    fn body(&mut self, bytes: u64, is_closed: bool) {
        match self {
            Self::None => {}
            Self::Anthropic(messages) => {
                messages.body_bytes(bytes);
                if is_closed {
                    messages.close();
                }
            }
        }
    }
}

/// White space and the bytes of a byte order mark, which neither framing begins with.
fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, 0xef | 0xbb | 0xbf)
}

impl Write for Body {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.take(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
