//! Bytes as they come by → what is found in them, and up to where nothing more can be found.
//!
//! ```text
//! bytes ─ URL's escapes, where there are any ─ JSON's escapes, twice ─ text ┬ lane
//!                                                                         └ runs of base64, decoded ─ four lanes
//! ```
//!
//! Twice, because what agents send is JSON in strings of JSON: the arguments of a call, and what a tool answered.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::detectors::Detectors;
use super::found::{Filler, Match, Piece};
use super::lane::Lane;
use super::runs::Runs;
use super::unescape::{Unescape, Writing};

/// So much is looked at together, in bytes.
const PIECE_BYTES: usize = 32 << 10;

/// So many findings are remembered, so that none is told of twice.
const TOLD_MAX: usize = 8;

/// What kind of bytes they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    /// Text, JSON, or anything else.
    Body,
    /// A path and a query.
    Url,
    /// `application/x-www-form-urlencoded`
    Form,
}

/// Something that was found.
#[derive(Clone)]
pub struct Finding {
    /// By which detector.
    pub detector: usize,
    /// What it is, decoded: for the fingerprint, and for nobody to see.
    pub value: Zeroizing<Vec<u8>>,
    /// It was told of before, with less or more of what is around it.
    pub is_told: bool,
    pieces: Vec<Piece>,
}

impl std::fmt::Debug for Finding {
    /// Never shows what was found.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Finding({} at {:?})", self.detector, self.range())
    }
}

impl Finding {
    /// Where it stands among the bytes.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        let start = self.pieces.iter().map(|piece| piece.range.start).min().unwrap_or(0);
        let end = self.pieces.iter().map(|piece| piece.range.end).max().unwrap_or(start);
        start..end
    }

    /// Overwrites it in bytes that stand at `from`. Their number stays.
    pub fn overwrite(&self, bytes: &mut [u8], from: usize) {
        for piece in &self.pieces {
            piece.overwrite(bytes, from);
        }
    }
}

/// A scan of one stream of bytes.
#[derive(Debug)]
pub struct Scan {
    detectors: Arc<Detectors>,
    /// Outermost first; what comes out of the last is the text.
    layers: Vec<Unescape>,
    lane: Lane,
    runs: Runs,
    bytes: usize,
    is_over: bool,
    /// The latest findings.
    told: VecDeque<(usize, Range<usize>)>,
}

impl Scan {
    /// Of bytes of this kind.
    #[must_use]
    pub fn new(detectors: &Arc<Detectors>, layers: Layers) -> Self {
        let layers = match layers {
            Layers::Body => vec![Writing::Json, Writing::Json],
            Layers::Url => vec![Writing::Percent, Writing::Json, Writing::Json],
            Layers::Form => vec![Writing::Form, Writing::Json, Writing::Json],
        };
        Self {
            detectors: Arc::clone(detectors),
            layers: layers.into_iter().map(Unescape::new).collect(),
            lane: Lane::default(),
            runs: Runs::new(),
            bytes: 0,
            is_over: false,
            told: VecDeque::new(),
        }
    }

    /// All that is found in bytes of this kind, which are all there are.
    #[must_use]
    pub fn all(detectors: &Arc<Detectors>, layers: Layers, bytes: &[u8]) -> Vec<Finding> {
        let mut scan = Self::new(detectors, layers);
        let mut found = scan.push(bytes);
        found.extend(scan.finish());
        found
    }

    /// Reads on. Returns what is found, in whatever order it turns out.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Finding> {
        let mut found = Vec::new();
        for piece in bytes.chunks(PIECE_BYTES) {
            self.bytes += piece.len();
            if !self.detectors.is_empty() {
                found.extend(self.read(piece, false));
            }
        }
        found
    }

    /// Nothing follows.
    pub fn finish(&mut self) -> Vec<Finding> {
        self.is_over = true;
        if self.detectors.is_empty() { Vec::new() } else { self.read(&[], true) }
    }

    /// Nothing that will be found begins before this byte.
    #[must_use]
    pub fn safe_until(&self) -> usize {
        if self.is_over || self.detectors.is_empty() {
            return self.bytes;
        }
        self.layers.iter().rev().fold(self.safe_text(), |position, layer| layer.start_of(position))
    }

    fn safe_text(&self) -> usize {
        let lane = self.lane.safe_until(&self.detectors);
        lane.min(self.runs.safe_until(&self.detectors, self.lane.end()))
    }

    fn read(&mut self, piece: &[u8], is_end: bool) -> Vec<Finding> {
        let from = self.lane.end();
        self.unescape(piece, is_end);
        let mut matches = Vec::new();
        self.lane.take(&self.detectors, from, is_end, &mut matches);
        self.runs.take(&self.detectors, self.lane.text_from(from), from, &mut matches);
        if is_end {
            self.runs.finish(&self.detectors, &mut matches);
        }
        let found: Vec<Finding> = distinct(matches).into_iter().map(|found| self.locate(found)).collect();
        let mut safe = self.safe_text();
        self.lane.forget(safe);
        self.runs.forget(&self.detectors);
        for layer in self.layers.iter_mut().rev() {
            let before = layer.start_of(safe);
            layer.forget(safe);
            safe = before;
        }
        found
    }

    /// Takes the writing off, layer by layer; what is left is next in the lane's text.
    fn unescape(&mut self, piece: &[u8], is_end: bool) {
        let mut last = Zeroizing::new(Vec::new());
        let count = self.layers.len();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let input = std::mem::take(&mut *last);
            let bytes = if index == 0 { piece } else { &input };
            let into = if index + 1 == count { self.lane.tail() } else { &mut *last };
            layer.push(bytes, into);
            if is_end {
                layer.finish(into);
            }
        }
    }

    /// Where among the bytes something stands that was found in the text.
    fn locate(&mut self, found: Match) -> Finding {
        let Match { detector, pieces, value } = found;
        let pieces = pieces.into_iter().flat_map(|piece| self.came_from(piece)).collect();
        let mut finding = Finding { detector, value, pieces, is_told: false };
        let range = finding.range();
        let overlaps =
            |(by, told): &(usize, Range<usize>)| *by == detector && told.start < range.end && range.start < told.end;
        finding.is_told = self.told.iter().any(overlaps);
        self.told.truncate(TOLD_MAX - 1);
        self.told.push_front((detector, range));
        finding
    }

    fn came_from(&self, piece: Piece) -> Vec<Piece> {
        let back = |range: Range<usize>| self.layers.iter().rev().fold(range, |range, layer| layer.came_from(&range));
        let (range, length) = (back(piece.range.clone()), piece.range.len());
        let Filler::Quads(first) = piece.filler else { return vec![Piece { range, ..piece }] };
        if range.len() == length {
            return vec![Piece { range, ..piece }];
        }
        // A letter that is written as an escape cannot be one letter that takes as much room.
        let letters = piece.range.enumerate().map(|(index, at)| {
            let range = back(at..at + 1);
            let filler = if range.len() == 1 { Filler::Quads(first + index) } else { Filler::Letter(b'A') };
            Piece { range, filler }
        });
        letters.collect()
    }
}

/// What is found, without what lies within something that was found by a detector with a better name.
fn distinct(mut matches: Vec<Match>) -> Vec<Match> {
    let range = |found: &Match| {
        let start = found.pieces.iter().map(|piece| piece.range.start).min().unwrap_or(0);
        start..found.pieces.iter().map(|piece| piece.range.end).max().unwrap_or(start)
    };
    matches.sort_by_key(|found| (range(found).start, Reverse(range(found).end), found.detector));
    let mut kept: Vec<Match> = Vec::new();
    for found in matches {
        let lies_within =
            |kept: &Match| range(kept).end >= range(&found).end && range(kept).start <= range(&found).start;
        if !kept.iter().rev().take(8).any(lies_within) {
            kept.push(found);
        }
    }
    kept
}
