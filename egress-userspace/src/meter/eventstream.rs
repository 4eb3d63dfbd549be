//! AWS event stream (`application/vnd.amazon.eventstream`): bytes in any split → the payload of each message.
//!
//! A message is its length and that of its headers (both big-endian `u32`), a CRC-32 of those eight bytes, headers, payload, and a CRC-32 of
//! all before it. After a checksum that is wrong nothing can be framed any more.

use super::reader::Reader;
use super::sse::EVENT_BYTES_MAX;

/// Longest message the format allows, in bytes.
const MESSAGE_BYTES_MAX: usize = 24 * 1024 * 1024;
/// Longest message that is read, in bytes; a longer one is passed over.
const READ_BYTES_MAX: usize = EVENT_BYTES_MAX;
/// Lengths and their checksum, in bytes.
const PRELUDE_BYTES: usize = 12;
/// A checksum, in bytes.
const CRC_BYTES: usize = 4;
/// The kind of a header that is text.
const TEXT: u8 = 7;

/// The framing of one stream.
#[derive(Debug, Default)]
pub(super) struct Messages {
    message: Vec<u8>,
    /// Bytes to come of a message that is not read.
    passed_over_bytes: usize,
    is_broken: bool,
}

impl Messages {
    /// Takes more of the stream and hands whole messages on. Returns the bytes that were not read.
    pub(super) fn push(&mut self, bytes: &[u8], reader: &mut dyn Reader) -> u64 {
        let (passed_over, mut rest) = bytes.split_at(self.passed_over_bytes.min(bytes.len()));
        self.passed_over_bytes -= passed_over.len();
        let mut lost = passed_over.len();
        while !self.is_broken {
            let Some(missing) = self.missing_bytes() else {
                self.is_broken = true;
                break;
            };
            if missing == 0 {
                match Message::read(&self.message) {
                    Some(message) if message.is_failure => reader.failure(),
                    Some(message) => reader.event(message.payload),
                    None => self.is_broken = true,
                }
                if !self.is_broken {
                    self.message.clear();
                }
                continue;
            }
            if rest.is_empty() {
                return lost as u64;
            }
            let (piece, tail) = rest.split_at(missing.min(rest.len()));
            if self.message.len() + missing > READ_BYTES_MAX {
                self.passed_over_bytes = missing - piece.len();
                lost += self.message.len() + piece.len();
                self.message = Vec::new();
            } else {
                self.message.extend_from_slice(piece);
            }
            rest = tail;
        }
        let held = std::mem::take(&mut self.message);
        (lost + held.len() + rest.len()) as u64
    }

    /// How many bytes the prelude, and then the message, want yet. `None` when the prelude is none.
    fn missing_bytes(&self) -> Option<usize> {
        let Some((prelude, _)) = self.message.split_first_chunk::<PRELUDE_BYTES>() else {
            return Some(PRELUDE_BYTES - self.message.len());
        };
        let (lengths, crc) = prelude.split_last_chunk::<CRC_BYTES>()?;
        if crc32fast::hash(lengths) != u32::from_be_bytes(*crc) {
            return None;
        }
        let length = be_length(lengths)?;
        let is_sound = (PRELUDE_BYTES + CRC_BYTES..=MESSAGE_BYTES_MAX).contains(&length);
        is_sound.then(|| length.saturating_sub(self.message.len()))
    }
}

/// Length in bytes of the message that begins here, as it says; `None` while too little of it has come.
pub(super) fn message_bytes(bytes: &[u8]) -> Option<usize> {
    be_length(bytes).map(|length| length.max(PRELUDE_BYTES + CRC_BYTES))
}

/// The name and the payload of a message that is an event.
pub(super) fn event(message: &[u8]) -> Option<(&str, &[u8])> {
    let Message { is_failure: false, headers, payload } = Message::read(message)? else { return None };
    let (mut rest, mut event_type) = (headers, "");
    while let Some((name, value, after)) = header(rest) {
        if name == b":event-type" {
            event_type = std::str::from_utf8(value).ok()?;
        }
        rest = after;
    }
    Some((event_type, payload))
}

/// A message that is an event of this name, with a payload of JSON.
pub(super) fn message(event_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in
        [(":event-type", event_type), (":content-type", "application/json"), (":message-type", "event")]
    {
        // The names that are given here are short.
        headers.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        headers.extend_from_slice(name.as_bytes());
        headers.push(TEXT);
        headers.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    let whole = PRELUDE_BYTES + headers.len() + payload.len() + CRC_BYTES;
    let mut message = [length(whole), length(headers.len())].concat();
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.extend_from_slice(&headers);
    message.extend_from_slice(payload);
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message
}

/// One whole message.
struct Message<'a> {
    is_failure: bool,
    headers: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (content, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
        if crc32fast::hash(content) != u32::from_be_bytes(*crc) {
            return None;
        }
        let headers_bytes = be_length(content.get(4..)?)?;
        let (headers, payload) = content.get(PRELUDE_BYTES..)?.split_at_checked(headers_bytes)?;
        Some(Self { is_failure: is_failure(headers), headers, payload })
    }
}

fn be_length(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(*bytes.first_chunk()?)).ok()
}

/// Does `:message-type` say exception or error? Headers that cannot be read say nothing.
fn is_failure(mut headers: &[u8]) -> bool {
    while let Some((name, value, rest)) = header(headers) {
        if name == b":message-type" {
            return value == b"exception" || value == b"error";
        }
        headers = rest;
    }
    false
}

/// The first header: its name, its value, and what follows.
fn header(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name_bytes, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*name_bytes))?;
    let (kind, rest) = rest.split_first()?;
    let (value_bytes, rest) = match kind {
        // True, false.
        0 | 1 => (0, rest),
        // Integers of 1, 2, 4 and 8 bytes, a time stamp, a UUID.
        2 => (1, rest),
        3 => (2, rest),
        4 => (4, rest),
        5 | 8 => (8, rest),
        9 => (16, rest),
        // Bytes and text, behind their length.
        6 | 7 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(value_bytes)?;
    Some((name, value, rest))
}
