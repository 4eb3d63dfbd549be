//! One text as it comes by: every place that looks like the beginning of something is noticed in one pass, and looked at once
//! enough of what follows is there. What is found depends on the text alone, not on the pieces in which it comes.

use std::ops::Range;

use aho_corasick::Anchored;
use aho_corasick::automaton::{Automaton, StateID};
use zeroize::Zeroizing;

use super::card::{self, Digits};
use super::detectors::{Detectors, LITERAL_BYTES_MAX};
use super::found::{Filler, Match, Piece};
use super::place::{LOOK_BACK_BYTES, Place, Verdict};
use super::shape::BEFORE_BYTES_MAX;

/// Bytes at the end of a text in which something may have begun unnoticed.
const UNNOTICED_BYTES: usize = LITERAL_BYTES_MAX + BEFORE_BYTES_MAX;

/// A text, and where in it something may be.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// What of the text is still needed, from `start`.
    text: Zeroizing<Vec<u8>>,
    start: usize,
    state: Option<StateID>,
    digits: Digits,
    candidates: Vec<Candidate>,
    /// No pattern matches before.
    searched: usize,
}

/// A place that looks like the beginning of something.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    at: usize,
    what: What,
    /// It is looked at again when the text is so long.
    look_at: usize,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// The number of an anchor.
    Anchor(usize),
    /// The detector of cards.
    Card(usize),
}

impl Lane {
    /// So much of the text is known.
    pub(super) fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// The known text from `at` on.
    pub(super) fn text_from(&self, at: usize) -> &[u8] {
        self.text.get(at.saturating_sub(self.start)..).unwrap_or_default()
    }

    /// What is written here is next in the text; [`Self::take`] reads it.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Reads the text from `from` on, where reading ended before.
    pub(super) fn take(&mut self, detectors: &Detectors, from: usize, is_end: bool, found: &mut Vec<Match>) {
        self.notice(detectors, from);
        self.look(detectors, is_end, found);
        self.search(detectors, is_end, found);
    }

    /// Nothing that will be found begins before.
    pub(super) fn safe_until(&self, detectors: &Detectors) -> usize {
        let end = self.end();
        let unnoticed = end.saturating_sub(UNNOTICED_BYTES.max(self.digits.bytes()));
        let patterns = detectors.patterns.as_ref().map_or(end, |_| self.searched);
        self.candidates.iter().map(|candidate| candidate.at).min().unwrap_or(end).min(unnoticed).min(patterns)
    }

    /// What stands before is not asked for again.
    pub(super) fn forget(&mut self, position: usize) {
        let until = position.saturating_sub(LOOK_BACK_BYTES).saturating_sub(self.start).min(self.text.len());
        self.text.drain(..until);
        self.start += until;
    }

    /// Begins another text.
    pub(super) fn reset(&mut self) {
        self.text.clear();
        self.candidates.clear();
        (self.start, self.state, self.digits, self.searched) = (0, None, Digits::default(), 0);
    }

    /// One pass over new text.
    fn notice(&mut self, detectors: &Detectors, from: usize) {
        let mut state = match (self.state, &detectors.automaton) {
            (Some(state), Some(_)) => state,
            (None, Some(automaton)) => match automaton.start_state(Anchored::No) {
                Ok(state) => state,
                Err(_) => return,
            },
            (_, None) => return,
        };
        let Some(automaton) = &detectors.automaton else { return };
        let new = self.text.get(from.saturating_sub(self.start)..).unwrap_or_default();
        for (at, byte) in (from..).zip(new) {
            state = automaton.next_state(Anchored::No, state, *byte);
            if automaton.is_special(state) && automaton.is_match(state) {
                for index in 0..automaton.match_len(state) {
                    let anchor = automaton.match_pattern(state, index).as_usize();
                    let back = detectors.anchors.get(anchor).map_or(0, |anchor| anchor.length);
                    if let Some(at) = (at + 1).checked_sub(back) {
                        self.candidates.push(Candidate { at, what: What::Anchor(anchor), look_at: 0 });
                    }
                }
            }
            if let Some(back) = self.digits.take(*byte)
                && let Some(card) = detectors.card
            {
                self.candidates.push(Candidate { at: at + 1 - back, what: What::Card(card), look_at: 0 });
            }
        }
        self.state = Some(state);
    }

    /// Looks at what was noticed, where there is enough to tell.
    fn look(&mut self, detectors: &Detectors, is_end: bool, found: &mut Vec<Match>) {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.retain_mut(|candidate| {
            if !is_end && self.end() < candidate.look_at {
                return true;
            }
            let place = Place { text: &self.text, at: candidate.at - self.start, is_end };
            let (detector, filler, verdict) = match candidate.what {
                What::Card(detector) => (detector, Filler::Stars, card::check(place)),
                What::Anchor(number) => match detectors.anchors.get(number) {
                    Some(anchor) => (anchor.detector, anchor.filler(), anchor.check(place)),
                    None => return false,
                },
            };
            match verdict {
                Verdict::No => {}
                Verdict::More => {
                    // Twice as much each time: what is looked at again and again is no more than what comes.
                    candidate.look_at = candidate.at + 2 * (self.end() - candidate.at);
                    return true;
                }
                Verdict::Found(range) => self.tell(detector, range, filler, found),
            }
            false
        });
        self.candidates = candidates;
    }

    /// Looks for patterns.
    fn search(&mut self, detectors: &Detectors, is_end: bool, found: &mut Vec<Match>) {
        let Some(patterns) = &detectors.patterns else { return };
        // A match that begins before has all its bytes here, and the one that follows.
        let decided = if is_end { self.end() } else { self.end().saturating_sub(patterns.length_max) };
        if decided <= self.searched || (!is_end && decided - self.searched < patterns.length_max) {
            return;
        }
        while self.searched < decided {
            let range = self.searched - self.start..decided - self.start;
            let matches = patterns.first(&self.text, range);
            let Some(end) = matches.iter().map(|(_, range)| range.end).max() else { break };
            for (detector, range) in matches {
                self.tell(detector, range, Filler::Stars, found);
            }
            self.searched = self.start + end;
        }
        self.searched = self.searched.max(decided);
    }

    fn tell(&self, detector: usize, range: Range<usize>, filler: Filler, found: &mut Vec<Match>) {
        let value = self.text.get(range.clone()).unwrap_or_default();
        let filler = match value.first() {
            Some(first) if filler == Filler::Stars && self.is_number(value, range.start) => {
                Filler::Digit(if *first == b'9' { b'1' } else { b'9' })
            }
            Some(_) | None => filler,
        };
        let range = self.start + range.start..self.start + range.end;
        let pieces = vec![Piece { range, filler }];
        found.push(Match { detector, pieces, value: Zeroizing::new(value.to_vec()) });
    }

    /// Digits that may be a number in JSON, outside quotes.
    fn is_number(&self, value: &[u8], at: usize) -> bool {
        let before = self.text.get(at.saturating_sub(LOOK_BACK_BYTES)..at).unwrap_or_default();
        let before = before.trim_ascii_end().last();
        value.iter().all(u8::is_ascii_digit) && before.is_some_and(|byte| b":,[".contains(byte))
    }
}
