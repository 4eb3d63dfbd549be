//! Whether there is a daemon, and when it is looked for again.

use crate::domain::UnixMillis;

/// The first wait for a daemon that has gone, in milliseconds; doubled each time.
const FIRST_WAIT_MS: i64 = 250;
/// The longest.
const WAIT_MS_MAX: i64 = 5_000;
/// Where doubling has reached it.
const DOUBLINGS_MAX: u32 = 5;

/// The connection to the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) enum Link {
    /// Asked for, for the first time.
    Opening {
        /// Since when.
        since: UnixMillis,
    },
    /// Everything on the screen is as the daemon says.
    Live,
    /// There is none. What is on the screen was so.
    Lost {
        /// Since when.
        since: UnixMillis,
        /// Why, in words.
        why: String,
        /// How often it was looked for.
        attempts: u32,
        /// When it is looked for next.
        next: UnixMillis,
    },
}

impl Link {
    pub(in crate::tui) fn is_live(&self) -> bool {
        matches!(self, Self::Live)
    }

    /// It was lost, or looked for in vain. How long to wait, in milliseconds.
    pub(in crate::tui) fn lose(&mut self, why: String, now: UnixMillis) -> i64 {
        let (since, attempts) = match self {
            Self::Opening { since } => (*since, 0),
            Self::Live => (now, 0),
            Self::Lost { since, attempts, .. } => (*since, attempts.saturating_add(1)),
        };
        let wait = (FIRST_WAIT_MS << attempts.min(DOUBLINGS_MAX)).min(WAIT_MS_MAX);
        *self = Self::Lost { since, why, attempts, next: UnixMillis(now.0.saturating_add(wait)) };
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_looked_for_ever_less_often_and_at_last_every_five_seconds() {
        let mut link = Link::Live;
        let waits: Vec<i64> = (0..7).map(|at| link.lose("x".to_owned(), UnixMillis(at))).collect();
        assert_eq!(waits, [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000]);
        let Link::Lost { since, attempts, next, .. } = link else { panic!("not lost") };
        assert_eq!((since, attempts, next), (UnixMillis(0), 6, UnixMillis(5_006)), "since the first time");
        let mut link = Link::Live;
        assert_eq!(link.lose(String::new(), UnixMillis(9)), 250, "it came back in between");
    }
}
