//! Base64 inside a text, decoded once: runs of its letters, also broken into lines, at each of the four places where a group
//! may begin. What stands before a run may look like a part of it, so no place is more likely than another.

use std::collections::VecDeque;
use std::ops::Range;

use super::detectors::Detectors;
use super::found::{Filler, Match, Piece};
use super::lane::Lane;

/// Shortest run that is decoded, in letters: twelve bytes, shorter than anything that is found by its shape.
const RUN_LETTERS_MIN: usize = 16;
/// Shortest line that another may follow, in letters; `base64 -w` and PEM write 64 or 76.
const LINE_LETTERS_MIN: usize = 16;
/// No letter of base64.
const NONE: u8 = 0xff;
/// What each byte stands for, in base64 and in base64url.
const SEXTETS: [u8; 256] = sextets();

/// Runs of one text.
#[derive(Debug)]
pub(super) struct Runs {
    /// Letters of the run that has begun.
    letters: usize,
    /// Those of its last line.
    line: usize,
    /// A line has ended; the next may follow.
    is_between_lines: bool,
    /// A line ends, if a line feed follows.
    has_returned: bool,
    /// The number of each line's first letter, and where it stands.
    lines: VecDeque<(usize, usize)>,
    /// The run, until it is long enough.
    head: Vec<u8>,
    is_decoded: bool,
    readings: [Reading; 4],
}

/// A run, decoded from one of its first letters on.
#[derive(Debug)]
struct Reading {
    offset: usize,
    lane: Lane,
    bits: u32,
    count: usize,
}

impl Runs {
    pub(super) fn new() -> Self {
        let readings = [0, 1, 2, 3].map(|offset| Reading { offset, lane: Lane::default(), bits: 0, count: 0 });
        let (lines, head) = (VecDeque::new(), Vec::new());
        Self {
            letters: 0,
            line: 0,
            is_between_lines: false,
            has_returned: false,
            lines,
            head,
            is_decoded: false,
            readings,
        }
    }

    /// Reads on in a text: `bytes` stand at `from`.
    pub(super) fn take(&mut self, detectors: &Detectors, mut bytes: &[u8], mut from: usize, found: &mut Vec<Match>) {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.has_returned) && *first != b'\n' {
                self.end(detectors, found);
            }
            let length = bytes.iter().take_while(|byte| sextet(**byte) != NONE).count();
            let (letters, rest) = bytes.split_at(length);
            let after = rest.first().copied();
            let is_short = length < RUN_LETTERS_MIN && after.is_some_and(|byte| !matches!(byte, b'\r' | b'\n'));
            if !(self.letters == 0 && is_short) {
                self.extend(detectors, letters, from, found);
            }
            match after {
                Some(b'\n') if self.is_joint() => self.is_between_lines = true,
                Some(b'\r') if self.is_joint() => self.has_returned = true,
                Some(_) => self.end(detectors, found),
                None => {}
            }
            bytes = rest.get(1..).unwrap_or_default();
            from += length + 1;
        }
    }

    /// The text has ended.
    pub(super) fn finish(&mut self, detectors: &Detectors, found: &mut Vec<Match>) {
        self.end(detectors, found);
    }

    /// Nothing that will be found begins before, in a text that is known up to `end`.
    pub(super) fn safe_until(&self, detectors: &Detectors, end: usize) -> usize {
        match self.lines.front() {
            None => end,
            Some((_, start)) if !self.is_decoded => *start,
            Some(_) => self.place_of(self.safe_letter(detectors)),
        }
    }

    /// What stands before what is safe is not asked for again.
    pub(super) fn forget(&mut self, detectors: &Detectors) {
        if !self.is_decoded {
            return;
        }
        let letter = self.safe_letter(detectors);
        while self.lines.get(1).is_some_and(|(first, _)| *first <= letter) {
            self.lines.pop_front();
        }
        for reading in &mut self.readings {
            let safe = reading.lane.safe_until(detectors);
            reading.lane.forget(safe);
        }
    }

    /// May the run go on in the next line?
    fn is_joint(&self) -> bool {
        !self.is_between_lines && self.line >= LINE_LETTERS_MIN
    }

    fn extend(&mut self, detectors: &Detectors, letters: &[u8], at: usize, found: &mut Vec<Match>) {
        if letters.is_empty() {
            return;
        }
        if self.letters == 0 || self.is_between_lines {
            self.lines.push_back((self.letters, at));
            self.line = 0;
        }
        self.is_between_lines = false;
        let before = self.letters;
        self.letters += letters.len();
        self.line += letters.len();
        if self.is_decoded {
            return self.decode(detectors, letters, before, found);
        }
        self.head.extend_from_slice(letters);
        if self.letters >= RUN_LETTERS_MIN {
            self.is_decoded = true;
            let head = std::mem::take(&mut self.head);
            self.decode(detectors, &head, 0, found);
            self.head = head;
        }
    }

    /// Decodes letters of which `first` stand before.
    fn decode(&mut self, detectors: &Detectors, letters: &[u8], first: usize, found: &mut Vec<Match>) {
        let mut matches = Vec::new();
        for reading in &mut self.readings {
            let from = reading.lane.end();
            reading.decode(letters.get(reading.offset.saturating_sub(first)..).unwrap_or_default());
            reading.lane.take(detectors, from, false, &mut matches);
            let offset = reading.offset;
            found.extend(matches.drain(..).map(|decoded| encoded(decoded, offset, self.letters, &self.lines)));
        }
    }

    /// The run is over.
    fn end(&mut self, detectors: &Detectors, found: &mut Vec<Match>) {
        if self.letters == 0 {
            return;
        }
        if self.is_decoded {
            let mut matches = Vec::new();
            for reading in &mut self.readings {
                let from = reading.lane.end();
                reading.finish();
                reading.lane.take(detectors, from, true, &mut matches);
                reading.lane.reset();
                let offset = reading.offset;
                found.extend(matches.drain(..).map(|decoded| encoded(decoded, offset, self.letters, &self.lines)));
            }
        }
        self.lines.clear();
        self.head.clear();
        (self.letters, self.line) = (0, 0);
        (self.is_between_lines, self.has_returned, self.is_decoded) = (false, false, false);
    }

    /// The letter before which nothing will be found.
    fn safe_letter(&self, detectors: &Detectors) -> usize {
        let letter = |reading: &Reading| reading.offset + reading.lane.safe_until(detectors) / 3 * 4;
        self.readings.iter().map(letter).min().unwrap_or(0).min(self.letters)
    }

    fn place_of(&self, letter: usize) -> usize {
        let line = self.lines.iter().rev().find(|(first, _)| *first <= letter).or(self.lines.front());
        line.map_or(0, |(first, at)| at + letter.saturating_sub(*first))
    }
}

impl Reading {
    fn decode(&mut self, letters: &[u8]) {
        let into = self.lane.tail();
        for letter in letters {
            self.bits = self.bits << 6 | u32::from(sextet(*letter));
            self.count += 1;
            if self.count == 4 {
                let [_, bytes @ ..] = self.bits.to_be_bytes();
                into.extend_from_slice(&bytes);
                (self.bits, self.count) = (0, 0);
            }
        }
    }

    /// What the last letters are, of which there are no four.
    fn finish(&mut self) {
        let bits = self.bits << (6 * (4 - self.count));
        let [_, bytes @ ..] = bits.to_be_bytes();
        self.lane.tail().extend_from_slice(bytes.get(..self.count.saturating_sub(1)).unwrap_or_default());
        (self.bits, self.count) = (0, 0);
    }
}

/// Where in the text something stands that was found in what it is decoded to: whole groups, line by line.
fn encoded(decoded: Match, offset: usize, letters: usize, lines: &VecDeque<(usize, usize)>) -> Match {
    let pieces = decoded.pieces.iter().flat_map(|piece| {
        let Range { start, end } = piece.range;
        let first = offset + start / 3 * 4;
        let after = (offset + end.div_ceil(3) * 4).min(letters);
        let ends = lines.iter().skip(1).map(|(first, _)| *first).chain([letters]);
        lines.iter().zip(ends).flat_map(move |((line, at), line_end)| {
            let (from, to) = (first.max(*line), after.min(line_end));
            let at = |letter: usize| at + (letter - line);
            let quads =
                (from < to).then(|| Piece { range: at(from)..at(to), filler: Filler::Quads((from - offset) % 4) });
            // Two letters that are the last leave four bits unused, which must not be set.
            let is_last = from < to && to == letters && (letters - offset) % 4 == 2;
            let last = is_last.then(|| Piece { range: at(to - 1)..at(to), filler: Filler::Letter(b'g') });
            quads.into_iter().chain(last)
        })
    });
    Match { pieces: pieces.collect(), ..decoded }
}

fn sextet(byte: u8) -> u8 {
    SEXTETS.get(usize::from(byte)).copied().unwrap_or(NONE)
}

#[expect(clippy::indexing_slicing, reason = "a table that the compiler makes")]
#[expect(clippy::cast_possible_truncation, reason = "64 values")]
const fn sextets() -> [u8; 256] {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut table = [NONE; 256];
    let mut value = 0;
    while value < letters.len() {
        table[letters[value] as usize] = value as u8;
        value += 1;
    }
    table[b'-' as usize] = 62;
    table[b'_' as usize] = 63;
    table
}
