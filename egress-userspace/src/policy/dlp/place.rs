//! A place in a text that looks like the beginning of something, and what can be said of it.

use std::ops::Range;

/// Bytes in front of a place that may be looked at.
pub(super) const LOOK_BACK_BYTES: usize = 4;

/// Is it what it looks like?
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No.
    No,
    /// More of the text must be known.
    More,
    /// Yes: this is it.
    Found(Range<usize>),
}

/// A place in a text, of which more may follow.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
    /// Nothing follows the text.
    pub(super) is_end: bool,
}

/// Bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where it ends.
    pub(super) end: usize,
    /// It may go on in what has not come yet.
    pub(super) is_open: bool,
}

impl<'a> Place<'a> {
    /// The text from here.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// A byte of the text.
    pub(super) fn byte(&self, at: usize) -> Option<u8> {
        self.text.get(at).copied()
    }

    /// The same text, further on.
    pub(super) fn moved(self, at: usize) -> Self {
        Self { at, ..self }
    }

    /// Bytes of a kind from here, as many as there may be; one more is looked at.
    pub(super) fn run(&self, is_one: impl Fn(u8) -> bool, most: usize) -> Run {
        let length = self.rest().iter().take(most + 1).take_while(|byte| is_one(**byte)).count();
        let end = self.at + length;
        Run { end, is_open: length <= most && end == self.text.len() && !self.is_end }
    }

    /// Does a word begin here? What stands before may be an escape that is written twice, or that of a URL.
    pub(super) fn begins_word(&self) -> bool {
        let before = self.text.get(self.at.saturating_sub(LOOK_BACK_BYTES)..self.at).unwrap_or_default();
        match before {
            [.., b'\\', b'n' | b'r' | b't' | b'b' | b'f'] => true,
            [.., b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => true,
            [.., last] => !last.is_ascii_alphanumeric(),
            [] => true,
        }
    }
}

/// Kinds of bytes that tokens are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Letters {
    /// `0-9a-f`, and `A-F`.
    Hex,
    /// `A-Z0-9`
    Upper,
    /// `A-Za-z0-9`
    Alphanumeric,
    /// The same and `-`.
    Dashed,
    /// The same and `_`.
    Word,
    /// The same and `.`.
    Dotted,
    /// `A-Za-z0-9+/=`
    Base64,
    /// The same and `_~.-`.
    Any,
}

impl Letters {
    /// Is it one of them?
    pub(super) fn hold(self, byte: u8) -> bool {
        match self {
            Self::Hex => byte.is_ascii_hexdigit(),
            Self::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Self::Alphanumeric => byte.is_ascii_alphanumeric(),
            Self::Dashed => byte.is_ascii_alphanumeric() || byte == b'-',
            Self::Word => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
            Self::Dotted => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'),
            Self::Base64 => byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='),
            Self::Any => byte.is_ascii_alphanumeric() || b"+/=_~.-".contains(&byte),
        }
    }
}
