//! A body in whole events: bytes in any split → pieces, each of which ends where an event does.

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2};

use super::super::eventstream;
use super::super::sse::EVENT_BYTES_MAX;
use super::super::surface::Dialect;

/// How a body is framed, and where in it its last piece ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Framing {
    /// Too little has come to tell.
    #[default]
    Unknown,
    /// Server-sent events, which end their lines like this.
    Events { is_crlf: bool },
    /// One object a line.
    Lines,
    /// The elements of one array.
    Array { has_objects: bool, is_closed: bool },
    /// Amazon's event stream.
    Messages,
    /// None of these, or no more: it passes as it comes.
    Opaque,
}

/// The body on its way.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    dialect: Option<Dialect>,
    framing: Framing,
    held: BytesMut,
    /// How far it has been looked at.
    seen: usize,
    /// Where its last line begins.
    line: usize,
    nesting: Nesting,
}

/// How deep in a JSON text its last byte stands.
#[derive(Clone, Copy, Debug, Default)]
struct Nesting {
    depth: u32,
    is_in_string: bool,
    is_escaped: bool,
}

impl Pieces {
    /// Of a body in this dialect; without one it is opaque.
    pub(super) fn new(dialect: Option<Dialect>) -> Self {
        let framing = if dialect.is_some() { Framing::Unknown } else { Framing::Opaque };
        Self { dialect, framing, ..Self::default() }
    }

    /// How it is framed.
    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    /// Takes more of it.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next piece, if it is whole.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        if self.framing == Framing::Unknown {
            self.framing = self.told()?;
        }
        let end = match self.framing {
            Framing::Unknown => None,
            Framing::Events { .. } => self.end_of_event(),
            Framing::Lines => self.end_of_line(),
            Framing::Array { .. } => self.end_of_element(),
            Framing::Messages => self.end_of_message(),
            Framing::Opaque => Some(self.held.len()).filter(|held| *held > 0),
        };
        let Some(end) = end else {
            if self.held.len() <= EVENT_BYTES_MAX {
                return None;
            }
            // Too long to be held: no end is found in it any more.
            self.framing = Framing::Opaque;
            return Some(self.rest());
        };
        (self.seen, self.line) = (0, 0);
        Some(self.held.split_to(end).freeze())
    }

    /// All that is held.
    pub(super) fn rest(&mut self) -> Bytes {
        (self.seen, self.line) = (0, 0);
        self.held.split().freeze()
    }

    /// By the first byte that says something.
    fn told(&self) -> Option<Framing> {
        let first = self.held.iter().copied().find(|byte| !byte.is_ascii_whitespace())?;
        Some(match (self.dialect, first) {
            (Some(Dialect::Ollama), b'{') => Framing::Lines,
            (Some(Dialect::Gemini), b'[') => Framing::Array { has_objects: false, is_closed: false },
            (Some(Dialect::Bedrock), first) if first != b'{' => Framing::Messages,
            // A field's name, a comment, or the mark in front.
            (Some(_), b':' | 0xef | b'a'..=b'z' | b'A'..=b'Z') => Framing::Events { is_crlf: false },
            _ => Framing::Opaque,
        })
    }

    /// After a blank line.
    fn end_of_event(&mut self) -> Option<usize> {
        loop {
            let rest = self.held.get(self.seen..)?;
            let Some(at) = memchr2(b'\n', b'\r', rest) else {
                self.seen = self.held.len();
                return None;
            };
            let end = self.seen + at;
            let bytes = match rest.get(at..)? {
                [b'\r', b'\n', ..] => 2,
                // What follows may belong to it.
                [b'\r'] => {
                    self.seen = end;
                    return None;
                }
                _ => 1,
            };
            let is_blank = end == self.line;
            (self.seen, self.line) = (end + bytes, end + bytes);
            if is_blank {
                self.framing = Framing::Events { is_crlf: bytes == 2 };
                return Some(self.line);
            }
        }
    }

    fn end_of_line(&mut self) -> Option<usize> {
        let found = memchr(b'\n', self.held.get(self.seen..)?).map(|at| self.seen + at + 1);
        self.seen = self.held.len();
        found
    }

    /// After an object of the array.
    fn end_of_element(&mut self) -> Option<usize> {
        let Framing::Array { is_closed: false, .. } = self.framing else { return None };
        while let Some(byte) = self.held.get(self.seen) {
            self.seen += 1;
            let closed = self.nesting.take(*byte);
            match (closed, self.nesting.depth) {
                (true, 1) => {
                    self.framing = Framing::Array { has_objects: true, is_closed: false };
                    return Some(self.seen);
                }
                (true, 0) => {
                    self.framing = Framing::Array { has_objects: true, is_closed: true };
                    return Some(self.seen);
                }
                _ => {}
            }
        }
        None
    }

    fn end_of_message(&mut self) -> Option<usize> {
        match eventstream::message_bytes(&self.held) {
            Some(length) if length <= EVENT_BYTES_MAX => Some(length).filter(|length| *length <= self.held.len()),
            Some(_) => {
                self.framing = Framing::Opaque;
                Some(self.held.len())
            }
            None => None,
        }
    }
}

impl Nesting {
    /// Takes a byte; did it close something?
    fn take(&mut self, byte: u8) -> bool {
        if self.is_in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.is_in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.is_in_string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return true;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At every split the same pieces come out, and what is left.
    fn check(dialect: Dialect, pieces: &[&str], rest: &str) {
        let whole = [pieces.concat(), rest.to_owned()].concat();
        for at in 0..=whole.len() {
            let mut body = Pieces::new(Some(dialect));
            let mut found = Vec::new();
            let (head, tail) = whole.as_bytes().split_at(at);
            for part in [head, tail] {
                body.push(part);
                found.extend(std::iter::from_fn(|| body.next()));
            }
            assert_eq!(found, pieces, "{whole:?} split at {at}");
            assert_eq!(body.rest(), rest, "{whole:?} split at {at}");
        }
    }

    #[test]
    fn a_body_is_handed_on_in_whole_events() {
        check(Dialect::AnthropicMessages, &["event: a\ndata: 1\n\n", "data: 2\n\n", "\n", ": x\n\n"], "data: 3\n");
        check(Dialect::Gemini, &["data: 1\r\n\r\n", "data: 2\r\n\r\n"], "data: 3\r\n");
        check(Dialect::OpenAiChat, &["data: 1\r\r"], "data: 2\r\r");
        check(Dialect::Gemini, &["[{\"a\":[\"}\\\"\"]}", "\n,\r\n{\"b\":{}}", "\n]"], "\n");
        check(Dialect::Ollama, &["{\"a\":1}\n", "{\"b\":2}\r\n"], "{\"c\"");
    }

    #[test]
    fn what_is_no_stream_passes_as_it_comes() {
        for (dialect, text) in [(Some(Dialect::AnthropicMessages), "{\"a\":\n\n1}"), (None, "data: 1\n\n")] {
            let mut body = Pieces::new(dialect);
            for part in [&text[..4], &text[4..]] {
                body.push(part.as_bytes());
                assert_eq!(body.next().unwrap(), part);
                assert_eq!(body.next(), None);
            }
            assert_eq!(body.framing(), Framing::Opaque);
        }
        let mut body = Pieces::new(Some(Dialect::OpenAiChat));
        body.push(b"\x1f\x8b\x08\n\n");
        assert_eq!((body.next().unwrap().len(), body.framing()), (5, Framing::Opaque));
    }

    #[test]
    fn an_event_over_the_limit_is_not_held() {
        let mut body = Pieces::new(Some(Dialect::OpenAiChat));
        body.push(b"data: ");
        body.push(&vec![b'x'; EVENT_BYTES_MAX - 6]);
        assert_eq!(body.next(), None);
        body.push(b"x");
        assert_eq!(body.next().unwrap().len(), EVENT_BYTES_MAX + 1);
        assert_eq!(body.framing(), Framing::Opaque);
    }
}
