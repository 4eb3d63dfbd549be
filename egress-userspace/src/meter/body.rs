//! A decoded body → the dialect's reader: tells the framing by the first byte, and frames it.

use std::io::{Result, Write};

use super::HeaderCounts;
use super::estimate::Family;
use super::eventstream::Messages;
use super::json::TopLevel;
use super::reader::{Reader, reader};
use super::sse::Frames;
use super::surface::Dialect;
use super::tally::Tally;
use super::values::Values;

/// A body being read. The default one reads nothing.
#[derive(Debug, Default)]
pub(super) struct Body {
    dialect: Option<Dialect>,
    framing: Framing,
    reader: Option<Box<dyn Reader>>,
    bytes: u64,
    /// Bytes that could not be framed, or of which there were too many in one piece.
    lost_bytes: u64,
}

#[derive(Debug, Default)]
enum Framing {
    #[default]
    Unknown,
    Events(Frames),
    Json(TopLevel),
    Values(Values),
    Messages(Messages),
}

impl Body {
    /// A body in this dialect, behind headers that count this.
    pub(super) fn new(dialect: Option<Dialect>, counts: HeaderCounts) -> Self {
        Self { dialect, reader: dialect.map(|dialect| reader(dialect, counts)), ..Self::default() }
    }

    /// What has been understood; `asked` is the family of the model that the request names.
    pub(super) fn tally(&self, asked: Family) -> Tally {
        let nothing = || Tally { family: asked, ..Tally::default() };
        self.reader.as_ref().map_or_else(nothing, |reader| reader.tally(asked))
    }

    /// No more bytes come: an event that nothing closed is taken as it is.
    pub(super) fn finish(&mut self) {
        let Self { framing, reader: Some(reader), .. } = self else { return };
        match framing {
            Framing::Events(frames) => frames.finish(&mut |data| reader.event(data)),
            Framing::Unknown | Framing::Json(_) | Framing::Values(_) | Framing::Messages(_) => {}
        }
    }

    /// Bytes of the body that nobody reads.
    pub(super) fn unread_bytes(&self) -> u64 {
        if self.reader.is_none() { self.bytes } else { self.lost_bytes }
    }

    /// Takes an event that some other framing has made whole.
    pub(super) fn event(&mut self, data: &[u8]) {
        if let Some(reader) = &mut self.reader {
            reader.event(data);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        let Self { dialect, framing, reader: Some(reader), bytes: total, lost_bytes } = self else { return };
        let mut rest = bytes;
        if matches!(framing, Framing::Unknown) {
            rest = rest.get(rest.iter().position(|byte| !is_blank(*byte)).unwrap_or(rest.len())..).unwrap_or_default();
            let Some(first) = rest.first() else { return };
            *framing = Framing::of(*dialect, *first, reader.as_ref());
        }
        match framing {
            Framing::Unknown => {}
            Framing::Events(frames) => *lost_bytes += frames.push(rest, &mut |data| reader.event(data)),
            Framing::Values(values) => *lost_bytes += values.push(rest, &mut |data| reader.event(data)),
            Framing::Messages(messages) => *lost_bytes += messages.push(rest, reader.as_mut()),
            Framing::Json(object) => {
                object.push(rest, &mut |key, value| reader.field(key, value));
                reader.body_bytes(*total);
                if object.is_closed() {
                    reader.close();
                }
            }
        }
    }
}

impl Framing {
    fn of(dialect: Option<Dialect>, first: u8, reader: &dyn Reader) -> Self {
        match (dialect, first) {
            // A response that is not streamed is one line of many.
            (Some(Dialect::Ollama), _) | (Some(Dialect::Gemini), b'[') => Self::Values(Values::default()),
            (_, b'{') => Self::Json(TopLevel::new(reader.body_keys())),
            (Some(Dialect::Bedrock), _) => Self::Messages(Messages::default()),
            _ => Self::Events(Frames::default()),
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
