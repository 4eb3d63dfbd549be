//! What the controller hears of refused requests: each of them, until a bottle has so many refused that one word must do for
//! several.
//!
//! Pure but for its lock: the time is given.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Something that may be done so often at once, and again after a while.
#[derive(Debug)]
pub(super) struct Allowance {
    most: u32,
    again: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    left: u32,
    /// When `left` last grew.
    grown: Option<Instant>,
    missed: u64,
}

impl Allowance {
    /// `most` times at once, and once more each time `again` has passed.
    pub(super) fn new(most: u32, again: Duration) -> Self {
        Self { most, again, state: Mutex::new(State { left: most, grown: None, missed: 0 }) }
    }

    /// Once, now. `None` when it may not be done; else how often this is, counting what might not be done before.
    pub(super) fn take(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = *state.grown.get_or_insert(now);
        let steps = now.saturating_duration_since(grown).as_nanos() / self.again.as_nanos().max(1);
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        if steps > 0 {
            state.left = state.left.saturating_add(steps).min(self.most);
            state.grown = Some(if state.left == self.most { now } else { grown + self.again * steps });
        }
        if state.left == 0 {
            state.missed += 1;
            return None;
        }
        state.left -= 1;
        Some(1 + std::mem::take(&mut state.missed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_might_not_be_done_is_counted_with_what_may() {
        let allowance = Allowance::new(2, Duration::from_secs(1));
        let start = Instant::now();
        let check = |after_ms, expected| {
            assert_eq!(allowance.take(start + Duration::from_millis(after_ms)), expected, "after {after_ms} ms");
        };
        check(0, Some(1));
        check(0, Some(1));
        check(0, None);
        check(999, None);
        check(1_000, Some(3));
        check(1_001, None);
        check(2_000, Some(2));
        check(9_000, Some(1));
        check(9_000, Some(1));
        check(9_000, None);
    }
}
