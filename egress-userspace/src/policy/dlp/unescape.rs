//! One layer of writing undone as bytes come by: JSON's escapes, or those of URLs, with the way back to where each byte came from.
//!
//! Text that is not written so passes as it is: what is no escape stays. So one look is enough for bodies of either kind.

use std::collections::VecDeque;
use std::ops::Range;

use memchr::{memchr, memchr2};

/// Longest escape, in bytes: a pair of surrogates, `\ud83d\ude00`.
const ESCAPE_BYTES_MAX: usize = 12;
/// Stands for half of a pair.
const REPLACEMENT: char = '\u{fffd}';

/// How something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    /// `\n`, `\u0041` …
    Json,
    /// `%41` …
    Percent,
    /// The same, and `+` for a space.
    Form,
}

/// Where an escape stood, and what it was for.
#[derive(Clone, Copy, Debug)]
struct Jump {
    to: usize,
    to_length: usize,
    from: usize,
    from_length: usize,
}

/// The bytes of one stream, unescaped.
#[derive(Debug)]
pub(super) struct Unescape {
    writing: Writing,
    /// An escape of which the end has not been seen.
    carry: Vec<u8>,
    /// Bytes read, without `carry`.
    from: usize,
    /// Bytes written.
    to: usize,
    /// The end of what is forgotten: before the first jump that is known, bytes lie as they lay here.
    origin: (usize, usize),
    jumps: VecDeque<Jump>,
}

/// What stands where an escape may.
enum Escape {
    /// So many bytes stand for this character.
    Char(usize, char),
    /// So many bytes stand for this byte.
    Byte(usize, u8),
    /// None: the byte stands for itself.
    Plain,
    /// More is needed to tell.
    Open,
}

impl Unescape {
    pub(super) fn new(writing: Writing) -> Self {
        Self { writing, carry: Vec::new(), from: 0, to: 0, origin: (0, 0), jumps: VecDeque::new() }
    }

    /// Reads on; what is written goes to the end of `into`.
    pub(super) fn push(&mut self, bytes: &[u8], into: &mut Vec<u8>) {
        if self.carry.is_empty() {
            return self.read(bytes, false, into);
        }
        let mut carried = std::mem::take(&mut self.carry);
        carried.extend_from_slice(bytes);
        self.read(&carried, false, into);
    }

    /// Nothing follows.
    pub(super) fn finish(&mut self, into: &mut Vec<u8>) {
        let carried = std::mem::take(&mut self.carry);
        self.read(&carried, true, into);
    }

    /// Where a range of what was written came from: whole escapes.
    pub(super) fn came_from(&self, range: &Range<usize>) -> Range<usize> {
        self.start_of(range.start)..range.end.checked_sub(1).map_or(0, |last| self.end_of(last))
    }

    /// Everything before this came from before the position that is returned.
    pub(super) fn start_of(&self, position: usize) -> usize {
        if position >= self.to {
            return self.from;
        }
        match self.jump_before(position) {
            None => position - self.origin.0 + self.origin.1,
            Some(jump) if position < jump.to + jump.to_length => jump.from,
            Some(jump) => jump.from + jump.from_length + (position - jump.to - jump.to_length),
        }
    }

    /// Positions before this one are not asked for again.
    pub(super) fn forget(&mut self, position: usize) {
        while let Some(jump) = self.jumps.front().filter(|jump| jump.to + jump.to_length <= position) {
            self.origin = (jump.to + jump.to_length, jump.from + jump.from_length);
            self.jumps.pop_front();
        }
    }

    fn end_of(&self, position: usize) -> usize {
        match self.jump_before(position) {
            Some(jump) if position < jump.to + jump.to_length => jump.from + jump.from_length,
            Some(_) | None => self.start_of(position) + 1,
        }
    }

    fn jump_before(&self, position: usize) -> Option<&Jump> {
        let after = self.jumps.partition_point(|jump| jump.to <= position);
        after.checked_sub(1).and_then(|index| self.jumps.get(index))
    }

    fn read(&mut self, mut bytes: &[u8], is_end: bool, into: &mut Vec<u8>) {
        while let Some(at) = self.find(bytes) {
            let (plain, rest) = bytes.split_at(at);
            self.keep(plain, into);
            bytes = rest;
            let before = into.len();
            let read = match self.escape(bytes) {
                Escape::Char(read, char) => {
                    into.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                    read
                }
                Escape::Byte(read, byte) => {
                    into.push(byte);
                    read
                }
                Escape::Open if !is_end && bytes.len() < ESCAPE_BYTES_MAX => {
                    self.carry = bytes.to_vec();
                    return;
                }
                Escape::Plain | Escape::Open => {
                    let (plain, rest) = bytes.split_at(1);
                    self.keep(plain, into);
                    bytes = rest;
                    continue;
                }
            };
            let written = into.len() - before;
            self.jumps.push_back(Jump { to: self.to, to_length: written, from: self.from, from_length: read });
            self.from += read;
            self.to += written;
            bytes = bytes.get(read..).unwrap_or_default();
        }
        self.keep(bytes, into);
    }

    fn keep(&mut self, plain: &[u8], into: &mut Vec<u8>) {
        into.extend_from_slice(plain);
        self.from += plain.len();
        self.to += plain.len();
    }

    fn find(&self, bytes: &[u8]) -> Option<usize> {
        match self.writing {
            Writing::Json => memchr(b'\\', bytes),
            Writing::Percent => memchr(b'%', bytes),
            Writing::Form => memchr2(b'%', b'+', bytes),
        }
    }

    fn escape(&self, bytes: &[u8]) -> Escape {
        match (self.writing, bytes) {
            (Writing::Json, _) => json_escape(bytes),
            (Writing::Form, [b'+', ..]) => Escape::Byte(1, b' '),
            (Writing::Percent | Writing::Form, [_, high, low, ..]) => match (nibble(*high), nibble(*low)) {
                (Some(high), Some(low)) => Escape::Byte(3, high << 4 | low),
                (None, _) | (_, None) => Escape::Plain,
            },
            (Writing::Percent | Writing::Form, _) => Escape::Open,
        }
    }
}

/// RFC 8259 §7.
fn json_escape(bytes: &[u8]) -> Escape {
    let char = match bytes {
        [_] | [] => return Escape::Open,
        [_, b'u', ..] => return unicode_escape(bytes),
        [_, byte @ (b'"' | b'\\' | b'/'), ..] => char::from(*byte),
        [_, b'b', ..] => '\u{8}',
        [_, b'f', ..] => '\u{c}',
        [_, b'n', ..] => '\n',
        [_, b'r', ..] => '\r',
        [_, b't', ..] => '\t',
        [..] => return Escape::Plain,
    };
    Escape::Char(2, char)
}

fn unicode_escape(bytes: &[u8]) -> Escape {
    let first = match code_unit(bytes) {
        Ok(Some(unit)) => unit,
        Ok(None) => return Escape::Open,
        Err(()) => return Escape::Plain,
    };
    if !(0xd800..0xdc00).contains(&first) {
        return Escape::Char(6, char::from_u32(first).unwrap_or(REPLACEMENT));
    }
    match code_unit(bytes.get(6..).unwrap_or_default()) {
        Ok(Some(second @ 0xdc00..0xe000)) => {
            let char = char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00));
            Escape::Char(12, char.unwrap_or(REPLACEMENT))
        }
        Ok(None) => Escape::Open,
        Ok(Some(_)) | Err(()) => Escape::Char(6, REPLACEMENT),
    }
}

/// The four digits after `\u`; `None` when more is needed.
fn code_unit(bytes: &[u8]) -> Result<Option<u32>, ()> {
    let mut unit = 0;
    for at in 0..6 {
        let Some(byte) = bytes.get(at) else { return Ok(None) };
        match (at, byte) {
            (0, b'\\') | (1, b'u') => {}
            (0 | 1, _) => return Err(()),
            _ => unit = unit << 4 | u32::from(nibble(*byte).ok_or(())?),
        }
    }
    Ok(Some(unit))
}

/// A hexadecimal digit.
pub(super) fn nibble(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(writing: Writing, text: &str, expected: &str) {
        for size in [1, 2, 3, 5, 64] {
            let (mut unescape, mut into) = (Unescape::new(writing), Vec::new());
            for chunk in text.as_bytes().chunks(size) {
                unescape.push(chunk, &mut into);
            }
            unescape.finish(&mut into);
            assert_eq!(String::from_utf8_lossy(&into), expected, "{text} by {size}");
            assert_eq!(unescape.came_from(&(0..into.len())), 0..text.len(), "{text} by {size}");
            assert_eq!(unescape.start_of(into.len()), text.len());
        }
    }

    #[test]
    fn escapes_are_undone_and_what_is_none_stays() {
        check(Writing::Json, r#"a\n\"b\" \u0041\/\\n"#, "a\n\"b\" A/\\n");
        check(Writing::Json, r"\ud83d\ude00\ud83dx\udc00", "\u{1f600}\u{fffd}x\u{fffd}");
        check(Writing::Json, r"C:\git \u00g0 \", "C:\\git \\u00g0 \\");
        check(Writing::Json, r"\u12", r"\u12");
        check(Writing::Percent, "%41%2b+100%%zz%4", "A++100%%zz%4");
        check(Writing::Form, "a=1+2%2B", "a=1 2+");
    }

    #[test]
    fn a_position_leads_back_to_where_it_came_from() {
        let (mut unescape, mut into) = (Unescape::new(Writing::Json), Vec::new());
        let text = br"ab\u0041cd\/e";
        unescape.push(text, &mut into);
        assert_eq!(into, b"abAcd/e");
        assert_eq!(unescape.came_from(&(2..3)), 2..8);
        assert_eq!(unescape.came_from(&(1..4)), 1..9);
        assert_eq!(unescape.came_from(&(5..7)), 10..13);
        unescape.forget(3);
        assert_eq!(unescape.came_from(&(4..6)), 9..12);
        unescape.push(b"x\\u00", &mut into);
        assert_eq!(unescape.start_of(into.len()), 14, "before the escape that is open");
    }
}
