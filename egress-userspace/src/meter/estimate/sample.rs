//! A bounded sample of a long text: blocks spread evenly over all of it.

use super::family::Features;
use super::vocabulary::Vocabulary;

/// Bytes that stay together: long enough that the words cut at its ends do not matter, short enough that no text takes more
/// than a millisecond.
const BLOCK_BYTES: usize = 4 * 1024;
/// Bytes kept, and so the most that are ever tokenized for one request: about 0.5 ms of CPU, 8 ms for the worst text.
const SAMPLE_BYTES_MAX: usize = 8 * BLOCK_BYTES;

/// All of a short text, or every n-th block of a long one.
#[derive(Debug)]
pub(super) struct Sample {
    kept: Vec<u8>,
    bytes_total: u64,
    /// Of so many blocks the first is kept.
    stride: usize,
    /// In a block that is kept, or between two.
    is_keeping: bool,
    /// Bytes until that ends.
    bytes_left: usize,
}

impl Default for Sample {
    fn default() -> Self {
        Self { kept: Vec::new(), bytes_total: 0, stride: 1, is_keeping: true, bytes_left: BLOCK_BYTES }
    }
}

impl Sample {
    /// Takes more of the text.
    pub(super) fn push(&mut self, text: &[u8]) {
        let mut rest = text;
        while !rest.is_empty() {
            if self.bytes_left == 0 {
                self.turn();
            }
            let (now, later) = rest.split_at(rest.len().min(self.bytes_left));
            if self.is_keeping {
                self.kept.extend_from_slice(now);
            }
            self.bytes_left -= now.len();
            self.bytes_total += now.len() as u64;
            rest = later;
        }
    }

    /// A block or the gap after it has ended.
    fn turn(&mut self) {
        let is_gap_next = self.is_keeping && self.stride > 1;
        self.is_keeping = !is_gap_next;
        self.bytes_left = if is_gap_next { (self.stride - 1).saturating_mul(BLOCK_BYTES) } else { BLOCK_BYTES };
        if self.is_keeping && self.kept.len() >= SAMPLE_BYTES_MAX {
            self.thin_out();
        }
    }

    /// What is kept of it.
    #[cfg(test)]
    pub(super) fn kept(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }

    /// What the whole text has, as far as the sample shows.
    pub(super) fn features(&self, vocabulary: Vocabulary) -> Features {
        let text = String::from_utf8_lossy(&self.kept);
        let is_start = |pair: &[u8]| matches!(pair, [before, b'A'..=b'Z'] if !before.is_ascii_uppercase());
        let first = self.kept.first().is_some_and(u8::is_ascii_uppercase);
        let capitals = self.kept.windows(2).filter(|pair| is_start(pair)).count() + usize::from(first);
        let digits = self.kept.iter().filter(|byte| byte.is_ascii_digit()).count();
        Features {
            tokens: self.of_all(vocabulary.count(&text)),
            capitals: self.of_all(capitals as u64),
            digits: self.of_all(digits as u64),
        }
    }

    /// What so much in the sample is in the whole.
    fn of_all(&self, count: u64) -> u64 {
        let kept = (self.kept.len() as u128).max(1);
        u64::try_from((u128::from(count) * u128::from(self.bytes_total)).div_ceil(kept)).unwrap_or(u64::MAX)
    }

    /// Lets go of every second block. The next block to come is one to keep again.
    fn thin_out(&mut self) {
        let blocks = self.kept.chunks(BLOCK_BYTES).step_by(2);
        self.kept = blocks.flatten().copied().collect();
        self.stride *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(text: &[u8], pieces: usize) -> Sample {
        let mut sample = Sample::default();
        text.chunks(pieces).for_each(|piece| sample.push(piece));
        sample
    }

    fn check(bytes: usize, stride: usize, blocks: &[usize]) {
        let numbered: Vec<u8> = (0..bytes).map(|at| u8::try_from(at / BLOCK_BYTES % 251).unwrap()).collect();
        for pieces in [1, 1000, BLOCK_BYTES, usize::MAX] {
            let sample = sampled(&numbered, pieces);
            let kept: Vec<usize> = sample
                .kept
                .chunks(BLOCK_BYTES)
                .filter_map(|block| block.first().map(|first| (*first).into()))
                .collect();
            assert_eq!((kept.as_slice(), sample.stride, sample.bytes_total), (blocks, stride, bytes as u64));
        }
    }

    #[test]
    fn blocks_are_spread_evenly() {
        check(0, 1, &[]);
        check(8 * BLOCK_BYTES, 1, &[0, 1, 2, 3, 4, 5, 6, 7]);
        check(8 * BLOCK_BYTES + 1, 2, &[0, 2, 4, 6, 8]);
        check(100 * BLOCK_BYTES, 16, &[0, 16, 32, 48, 64, 80, 96]);
    }

    #[test]
    fn a_sample_tells_of_the_whole() {
        let line = "The quick brown Fox counts 12 TOKENS, again and again.\n";
        let count = |text: &str| sampled(text.as_bytes(), 777).features(Vocabulary::O200k);
        let (one, many) = (count(line), count(&line.repeat(40_000)));
        assert_eq!((one.capitals, one.digits), (3, 2));
        for (share, whole) in [(one.tokens, many.tokens), (one.capitals, many.capitals), (one.digits, many.digits)] {
            assert!(whole.abs_diff(share * 40_000) * 100 < whole, "{one:?} {many:?}");
        }
    }
}
