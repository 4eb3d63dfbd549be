//! How fast tokens go: what settled requests used, in buckets of five seconds, for each bottle and each budget.
//!
//! A request's tokens are spread over the time it took, as a stream of a minute has not spent everything in its last second.

use std::collections::BTreeMap;

use crate::domain::{BottleName, ProviderName, Scope, Tokens, UnixMillis};

/// One bucket.
const BUCKET_MS: i64 = 5_000;
/// Buckets that are kept: five minutes.
pub(in crate::tui) const POINTS: usize = 60;
/// The same for arithmetic with times.
const BUCKETS: i64 = 60;
/// A rate is over this much at least; a single request would otherwise look like a flood.
const LEAST_MS: i64 = 60_000;

/// What a rate is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::tui) enum Whose {
    /// What a bottle itself spends.
    Bottle(BottleName),
    /// What counts for a budget.
    Budget(Scope, ProviderName),
}

/// Rates of everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::tui) struct Rates {
    series: BTreeMap<Whose, Series>,
}

/// Tokens by bucket, the bucket's number being its time divided by its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Series {
    buckets: BTreeMap<i64, u64>,
}

impl Rates {
    /// A request of theirs used `tokens`.
    pub(in crate::tui) fn add(&mut self, whose: Whose, (from, until): (UnixMillis, UnixMillis), tokens: Tokens) {
        self.series.entry(whose).or_default().add(from.0, until.0, tokens.0);
    }

    /// Forgets everything.
    pub(in crate::tui) fn clear(&mut self) {
        self.series.clear();
    }

    /// Tokens of the last five minutes, oldest bucket first.
    pub(in crate::tui) fn points(&self, whose: &Whose, now: UnixMillis) -> [u64; POINTS] {
        let mut points = [0; POINTS];
        if let Some(series) = self.series.get(whose) {
            let first = now.0.div_euclid(BUCKET_MS) - BUCKETS + 1;
            for (point, bucket) in points.iter_mut().zip(first..) {
                *point = series.buckets.get(&bucket).copied().unwrap_or(0);
            }
        }
        points
    }

    /// Tokens a minute: over the last five minutes, or since the first of them that something was spent in.
    pub(in crate::tui) fn per_minute(&self, whose: &Whose, now: UnixMillis) -> Tokens {
        let Some(series) = self.series.get(whose) else { return Tokens::ZERO };
        let last = now.0.div_euclid(BUCKET_MS);
        let recent = series.buckets.range(last - BUCKETS + 1..=last).filter(|(_, tokens)| **tokens > 0);
        let (mut first, mut sum) = (None, 0_u64);
        for (bucket, tokens) in recent {
            first = first.or(Some(*bucket));
            sum = sum.saturating_add(*tokens);
        }
        let Some(first) = first else { return Tokens::ZERO };
        let span_ms = (now.0 - first * BUCKET_MS).max(LEAST_MS).unsigned_abs();
        let per_minute = u128::from(sum) * 60_000 / u128::from(span_ms);
        Tokens(u64::try_from(per_minute).unwrap_or(u64::MAX))
    }
}

impl Series {
    fn add(&mut self, from: i64, until: i64, tokens: u64) {
        let last = until.div_euclid(BUCKET_MS);
        let first = from.min(until).div_euclid(BUCKET_MS).max(last - BUCKETS + 1);
        let took = u128::from((until - from.min(until)).max(1).unsigned_abs());
        // How much was spent up to a time; differences of it lose nothing to rounding.
        let spent_at = |time: i64| {
            let passed = u128::from((time.min(until) - from.min(until)).max(0).unsigned_abs());
            u64::try_from(u128::from(tokens) * passed / took).unwrap_or(u64::MAX)
        };
        for bucket in first..=last {
            let before = spent_at(bucket * BUCKET_MS);
            let after = if bucket == last { tokens } else { spent_at((bucket + 1) * BUCKET_MS) };
            let entry = self.buckets.entry(bucket).or_default();
            *entry = entry.saturating_add(after.saturating_sub(before));
        }
        let oldest = self.buckets.last_key_value().map_or(last, |(newest, _)| newest - BUCKETS);
        self.buckets = self.buckets.split_off(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn web() -> Whose {
        Whose::Bottle("web".parse().unwrap())
    }

    /// Requests as begin, end and tokens; what is left of them at a time, as rate, sum of all points and the newest.
    fn check(requests: &[(i64, i64, u64)], now: i64, expected: (u64, u64, u64)) {
        let mut rates = Rates::default();
        for (from, until, tokens) in requests {
            rates.add(web(), (UnixMillis(*from), UnixMillis(*until)), Tokens(*tokens));
        }
        let points = rates.points(&web(), UnixMillis(now));
        let rate = rates.per_minute(&web(), UnixMillis(now)).0;
        let found = (rate, points.iter().sum(), points[POINTS - 1]);
        assert_eq!(found, expected, "{requests:?} at {now}: {points:?}");
    }

    #[test]
    fn a_rate_is_of_the_last_five_minutes() {
        check(&[], MINUTE, (0, 0, 0));
        check(&[(MINUTE, MINUTE, 600)], MINUTE, (600, 600, 600));
        check(&[(MINUTE, MINUTE, 600)], 3 * MINUTE, (300, 600, 0));
        check(&[(MINUTE, MINUTE, 600)], 6 * MINUTE - 5_000, (122, 600, 0));
        check(&[(MINUTE, MINUTE, 600)], 6 * MINUTE, (0, 0, 0));
        check(&[(0, 0, 600), (20 * MINUTE, 20 * MINUTE, 60)], 20 * MINUTE, (60, 60, 60));
    }

    #[test]
    fn tokens_are_spread_over_the_time_a_request_took() {
        check(&[(0, 10_000, 1_001)], 9_999, (1_001, 1_001, 501));
        check(&[(0, 14_999, 3_000)], 14_999, (3_000, 3_000, 1_000));
        check(&[(10_000, 5_000, 50)], 10_000, (50, 50, 0));
        // Of ten minutes half is remembered.
        check(&[(0, 10 * MINUTE, 10_000)], 10 * MINUTE, (1_000, 4_917, 0));
        check(&[(0, 10_000, 1_000)], 5_000, (1_000, 1_000, 500));
        check(&[(0, 0, u64::MAX), (1, 1, 1)], 0, (u64::MAX, u64::MAX, u64::MAX));
    }
}
