//! What was found, and what it is overwritten with.

use std::ops::Range;

use zeroize::Zeroizing;

/// Base64 of three stars.
const QUAD: &[u8; 4] = b"Kioq";

/// What something is overwritten with: as many bytes as there were, so that nothing around it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filler {
    /// Stars, which mean nothing in JSON, URLs, forms and headers.
    Stars,
    /// This digit, where a star would not be a number.
    Digit(u8),
    /// Base64 of stars, beginning so many letters into a group of four.
    Quads(usize),
    /// A letter, where base64 is written in escapes.
    Letter(u8),
}

/// A part of what was found, which is overwritten in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) range: Range<usize>,
    pub(super) filler: Filler,
}

/// Something that was found in a text.
#[derive(Clone)]
pub(super) struct Match {
    pub(super) detector: usize,
    pub(super) pieces: Vec<Piece>,
    pub(super) value: Zeroizing<Vec<u8>>,
}

impl Piece {
    /// Overwrites bytes that stand at `from`, as far as they are of this piece. Line breaks stay: protocols count lines.
    pub(super) fn overwrite(&self, bytes: &mut [u8], from: usize) {
        let start = self.range.start.max(from);
        let end = self.range.end.min(from + bytes.len()).max(start);
        for (at, byte) in (start..end).zip(bytes.get_mut(start - from..end - from).unwrap_or_default()) {
            if !matches!(byte, b'\r' | b'\n') {
                *byte = self.filler.at(at - self.range.start);
            }
        }
    }
}

impl Filler {
    fn at(self, index: usize) -> u8 {
        match self {
            Self::Stars => b'*',
            Self::Digit(byte) | Self::Letter(byte) => byte,
            Self::Quads(first) => QUAD.get((first + index) % QUAD.len()).copied().unwrap_or(b'A'),
        }
    }
}
