//! What of a request's JSON is billed: its words, unescaped; what else there is, by count.
//!
//! One pass over bytes that may be cut anywhere. Trusts nothing: what is not JSON is text as far as it looks like it.

use crate::meter::glimpse::plain_bytes;

use super::field::{Field, Media};
use super::sample::Sample;

/// Longest string that may be a key, in bytes.
const KEY_BYTES_MAX: usize = 64;
/// A string without spaces is taken for base64 only if it is at least this long, in bytes, where one may stand.
const PAYLOAD_BYTES_MIN: usize = 256;
/// And this long where none is expected. What is being decided about is kept until then.
const UNDECIDED_BYTES_MAX: usize = 2048;

/// What is in a request.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Its words.
    pub(super) text: Sample,
    /// Messages.
    pub(super) messages: u64,
    /// Words of their schemas.
    pub(super) schema_words: u64,
    /// There are tools of any kind.
    pub(super) has_tools: bool,
    /// Pictures, and links to what may be one.
    pub(super) images: u64,
    /// Tokens of documents, sound and film, by their bytes.
    pub(super) media_tokens: u64,
    place: Place,
    depth: u32,
    is_closed: bool,
    is_after_literal: bool,
    /// In the list of tools.
    is_in_tools: bool,
    field: Field,
    /// The key before it.
    parent: Field,
    string: Text,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Outside,
    /// After a short string, which is a key if a colon follows.
    AfterString,
    InString,
    AfterBackslash,
    /// In an escaped character: digits left, the value so far.
    InEscape(u8, u16),
}

/// The string being read.
#[derive(Debug, Default)]
struct Text {
    kind: Kind,
    /// Its beginning, or all of it while undecided.
    head: Vec<u8>,
    bytes: u64,
    is_base64: bool,
    /// First half of a pair of escapes (UTF-16).
    surrogate: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Undecided,
    Words,
    Payload,
}

impl Content {
    /// It has begun as JSON does.
    pub(super) fn is_json(&self) -> bool {
        self.depth > 0 || self.is_closed
    }

    /// Takes more of the request.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let (Some((byte, tail)), false) = (rest.split_first(), self.is_closed) {
            rest = match self.place {
                Place::InString => self.in_string(rest),
                Place::Outside if is_literal(*byte) => self.literal(rest),
                Place::Outside => {
                    self.outside(*byte);
                    tail
                }
                Place::AfterString if byte.is_ascii_whitespace() => tail,
                Place::AfterString => {
                    self.place = Place::Outside;
                    if *byte == b':' {
                        self.end_key();
                    } else {
                        self.end_value();
                    }
                    self.outside(*byte);
                    tail
                }
                Place::AfterBackslash => {
                    self.escape(*byte);
                    tail
                }
                Place::InEscape(left, value) => {
                    if self.escape_digit(*byte, left, value) {
                        tail
                    } else {
                        rest
                    }
                }
            };
        }
    }

    /// No more comes: what was begun counts as far as it is there.
    pub(super) fn finish(&mut self) {
        if self.place != Place::Outside {
            self.place = Place::Outside;
            self.end_value();
        }
    }

    fn outside(&mut self, byte: u8) {
        if std::mem::take(&mut self.is_after_literal) {
            self.text.push(b",");
        }
        match byte {
            b'"' => {
                self.place = Place::InString;
                self.string.begin();
            }
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.is_closed = self.depth == 0;
            }
            _ => {}
        }
    }

    /// Numbers and such; at the top they are parameters.
    fn literal<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let end = rest.iter().position(|byte| !is_literal(*byte)).unwrap_or(rest.len());
        let (literal, tail) = rest.split_at(end);
        if self.depth > 1 {
            self.text.push(literal);
            self.is_after_literal = true;
        }
        tail
    }

    fn in_string<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let (run, tail) = rest.split_at(plain_bytes(rest));
        self.words(run);
        match tail.split_first() {
            Some((b'"', tail)) => {
                let may_be_key = self.string.kind == Kind::Undecided && self.string.head.len() <= KEY_BYTES_MAX;
                self.place = if may_be_key { Place::AfterString } else { Place::Outside };
                if !may_be_key {
                    self.end_value();
                }
                tail
            }
            Some((_, tail)) => {
                self.place = Place::AfterBackslash;
                tail
            }
            None => tail,
        }
    }

    fn escape(&mut self, byte: u8) {
        self.place = Place::InString;
        match byte {
            b'n' => self.words(b"\n"),
            b't' => self.words(b"\t"),
            b'r' => self.words(b"\r"),
            b'b' | b'f' => self.words(b" "),
            b'u' => self.place = Place::InEscape(4, 0),
            other => self.words(&[other]),
        }
    }

    /// `false` when the byte belongs to no escape.
    fn escape_digit(&mut self, byte: u8, left: u8, value: u16) -> bool {
        self.place = Place::InString;
        let Some(digit) = char::from(byte).to_digit(16).and_then(|digit| u16::try_from(digit).ok()) else {
            return false;
        };
        let value = value << 4 | digit;
        if left > 1 {
            self.place = Place::InEscape(left - 1, value);
        } else if let Some(character) = self.string.unit(value) {
            self.words(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        true
    }

    /// Takes more of the string, as it reads.
    fn words(&mut self, run: &[u8]) {
        self.string.bytes += run.len() as u64;
        match self.string.kind {
            Kind::Words => self.text.push(run),
            Kind::Payload => {}
            Kind::Undecided => {
                let room = UNDECIDED_BYTES_MAX.saturating_sub(self.string.head.len());
                let (near, far) = run.split_at(room.min(run.len()));
                self.string.is_base64 &= near.iter().all(|byte| is_base64(*byte));
                self.string.head.extend_from_slice(near);
                let may_be_key = self.string.head.len() <= KEY_BYTES_MAX;
                if may_be_key || (self.string.is_base64 && run.len() < room) {
                    return;
                }
                self.decide();
                if self.string.kind == Kind::Words {
                    self.text.push(far);
                }
            }
        }
    }

    /// The string is too long to wait for more of it.
    fn decide(&mut self) {
        let is_payload = match self.billed_as() {
            Field::Label | Field::Sealed => true,
            Field::Words => false,
            Field::Payload | Field::Url | Field::Part | Field::Foreign => self.string.is_base64,
        };
        self.string.kind = if is_payload { Kind::Payload } else { Kind::Words };
        if !is_payload {
            self.text.push(&self.string.head);
        }
    }

    fn billed_as(&self) -> Field {
        if self.is_in_tools && self.field != Field::Label { Field::Words } else { self.field }
    }

    fn end_key(&mut self) {
        let key = std::mem::take(&mut self.string.head);
        let field = Field::of(&key);
        if self.depth == 1 {
            self.is_in_tools = Field::is_tools(&key);
        }
        if self.is_in_tools {
            self.has_tools |= self.depth > 1;
            self.schema_words += u64::from(self.depth > 1 && Field::is_schema_word(&key));
        } else {
            self.messages += u64::from(key == b"role");
        }
        // What an API calls its own parts is not read to the model; what an agent calls its parameters is.
        let is_read = if self.is_in_tools { !Field::is_schema_word(&key) } else { field.is_none() };
        if self.depth > 1 && is_read {
            self.text.push(b"\"");
            self.text.push(&key);
            self.text.push(b"\":");
        }
        self.parent = self.field;
        self.field = field.unwrap_or_default();
        self.string.head = key;
    }

    fn end_value(&mut self) {
        let string = std::mem::take(&mut self.string);
        let head = string.head.as_slice();
        let field = self.billed_as();
        let is_link = matches!(field, Field::Url if self.parent.holds_links()) && is_link(head);
        let is_expected = matches!(field, Field::Payload | Field::Url)
            && (head.starts_with(b"data:") || (string.is_base64 && head.len() >= PAYLOAD_BYTES_MIN));
        match field {
            Field::Label => {}
            Field::Sealed => self.file(Media::Sealed, string.bytes),
            _ if is_expected || string.kind == Kind::Payload => self.file(Media::of(head), string.bytes),
            Field::Url if is_link => self.images += 1,
            Field::Words | Field::Payload | Field::Url | Field::Part | Field::Foreign => {
                if string.kind == Kind::Undecided {
                    self.text.push(head);
                }
                self.text.push(b"\n");
            }
        }
        self.string = Text { head: string.head, ..Text::default() };
    }

    fn file(&mut self, media: Media, bytes: u64) {
        self.images += u64::from(media == Media::Image);
        self.media_tokens = self.media_tokens.saturating_add(media.tokens(bytes));
    }
}

impl Text {
    fn begin(&mut self) {
        self.head.clear();
        *self = Self { head: std::mem::take(&mut self.head), is_base64: true, ..Self::default() };
    }

    /// An escaped unit of UTF-16: a character once it is whole.
    fn unit(&mut self, unit: u16) -> Option<char> {
        let before = self.surrogate.take();
        if (0xd800..0xdc00).contains(&unit) {
            self.surrogate = Some(unit);
            return None;
        }
        let units = before.into_iter().chain([unit]);
        char::decode_utf16(units).last().map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
    }
}

/// What base64 of either alphabet is written in, broken into lines or not, with the head of a `data:` URL.
fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=-_:;,.\r\n".contains(&byte)
}

/// Of a number, `true`, `false` or `null`.
fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

fn is_link(text: &[u8]) -> bool {
    [&b"http://"[..], b"https://", b"gs://", b"s3://"].iter().any(|scheme| text.starts_with(scheme))
}
