//! How many of what was measured were how large: a histogram as a value.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Most bounds of one scale.
pub const BOUNDS: usize = 16;

/// Where the buckets of a distribution end. The last bucket has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// What this host does, in seconds: from 10 µs to 1 s.
    Local,
    /// What providers do, in seconds: as OpenTelemetry's conventions for generative AI have it, up to ten minutes.
    Remote,
    /// Tokens of one request: as the same conventions have it.
    Tokens,
}

impl Scale {
    /// Upper ends, each inclusive, rising.
    #[must_use]
    pub fn bounds(self) -> &'static [f64] {
        match self {
            Self::Local => {
                &[1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]
            }
            Self::Remote => &[
                0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 655.36,
            ],
            Self::Tokens => &[
                1.0,
                4.0,
                16.0,
                64.0,
                256.0,
                1024.0,
                4096.0,
                16384.0,
                65536.0,
                262_144.0,
                1_048_576.0,
                4_194_304.0,
                16_777_216.0,
                67_108_864.0,
            ],
        }
    }
}

/// A histogram.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    scale: Scale,
    /// In each bucket alone; the last one is of what is beyond every bound.
    counts: [u64; BOUNDS + 1],
    sum: f64,
}

impl Distribution {
    /// Of nothing.
    #[must_use]
    pub fn new(scale: Scale) -> Self {
        Self { scale, counts: [0; BOUNDS + 1], sum: 0.0 }
    }

    /// One more.
    pub fn record(&mut self, value: f64) {
        let place = self.scale.bounds().partition_point(|bound| *bound < value);
        let place = if place < self.scale.bounds().len() { place } else { BOUNDS };
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.sum += value;
    }

    /// One more, on a scale of seconds.
    pub fn record_time(&mut self, time: Duration) {
        self.record(time.as_secs_f64());
    }

    /// All of another one, if it has the same scale.
    pub fn merge(&mut self, other: &Self) {
        if self.scale != other.scale {
            return;
        }
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count = count.saturating_add(more);
        }
        self.sum += other.sum;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |all, count| all.saturating_add(*count))
    }

    /// All together.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Each bucket's upper end and what is in it alone; the last one's end is infinite.
    #[must_use]
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let last = self.counts.last().copied().unwrap_or_default();
        let bounded = self.scale.bounds().iter().copied().zip(self.counts);
        bounded.chain([(f64::INFINITY, last)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scale: Scale, values: &[f64], expected: &[(f64, u64)]) {
        let mut distribution = Distribution::new(scale);
        values.iter().for_each(|value| distribution.record(*value));
        let filled: Vec<_> = distribution.buckets().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, expected);
        assert_eq!(distribution.count(), values.len() as u64);
    }

    #[test]
    fn a_value_is_in_the_first_bucket_that_reaches_it() {
        check(Scale::Local, &[0.0, 1e-5, 1.1e-5, 1.0, 1.1], &[(1e-5, 2), (2.5e-5, 1), (1.0, 1), (f64::INFINITY, 1)]);
        check(Scale::Remote, &[0.01, 655.36, 656.0], &[(0.01, 1), (655.36, 1), (f64::INFINITY, 1)]);
        check(Scale::Tokens, &[5.0, 1e9], &[(16.0, 1), (f64::INFINITY, 1)]);
    }

    #[test]
    fn bounds_rise_and_fit() {
        for scale in [Scale::Local, Scale::Remote, Scale::Tokens] {
            assert!(scale.bounds().len() <= BOUNDS && scale.bounds().is_sorted_by(|one, next| one < next), "{scale:?}");
        }
    }

    #[test]
    fn only_what_is_measured_alike_is_merged() {
        let mut one = Distribution::new(Scale::Local);
        one.record_time(Duration::from_millis(2));
        let mut two = one.clone();
        two.merge(&one);
        assert_eq!((two.count(), two.sum()), (2, 0.004));
        two.merge(&Distribution::new(Scale::Remote));
        assert_eq!(two.count(), 2);
    }

    #[test]
    fn it_survives_the_wire() {
        let mut one = Distribution::new(Scale::Tokens);
        one.record(77.0);
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Distribution>(&text).unwrap(), one);
    }
}
