//! What one scope has spent with one provider: a row of `spend` as a value.
//!
//! Pure arithmetic; the database keeps it, the book caches it.

use crate::budget::window_end;
use crate::domain::{BottleName, CacheReads, Known, ProviderName, Scope, Tokens, UnixMillis, Usage, Window, Zone};

/// Whose spending is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// What a bottle spent itself.
    Own(BottleName),
    /// What everything in a scope spent.
    Scope(Scope),
}

/// Whose spend with whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AccountKey {
    /// Whose.
    pub(super) holder: Holder,
    /// With whom.
    pub(super) provider: ProviderName,
}

impl AccountKey {
    pub(super) fn of(scope: &Scope, provider: &ProviderName) -> Self {
        Self { holder: Holder::Scope(scope.clone()), provider: provider.clone() }
    }

    /// The holder as it stands in the ledger: its kind and its name.
    pub(super) fn columns(&self) -> (&'static str, &str) {
        match &self.holder {
            Holder::Own(name) => ("own", name.as_str()),
            Holder::Scope(scope) => scope_columns(scope),
        }
    }
}

/// A scope as it stands in the ledger: its kind and its name.
pub(super) fn scope_columns(scope: &Scope) -> (&'static str, &str) {
    match scope {
        Scope::Agent(name) => ("agent", name.as_str()),
        Scope::Bottle(name) => ("bottle", name.as_str()),
        Scope::Host => ("host", ""),
    }
}

/// Running totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Metered exchanges that were settled.
    pub(super) requests: u64,
    /// What they used.
    pub(super) usage: Usage,
    /// What is set aside for those in flight.
    pub(super) held: Tokens,
    /// What was used in the current windows, in the order of [`Window::ALL`].
    pub(super) windows: [WindowSum; Window::ALL.len()],
}

/// What was used in one calendar window, by when it was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WindowSum {
    /// Its end. A window once begun goes on to it, whatever becomes of the clock or the time zone.
    pub(super) end: UnixMillis,
    /// What was used in it, but for cache reads.
    pub(super) used: Tokens,
    /// Those.
    pub(super) cache_read: Tokens,
}

impl Default for WindowSum {
    /// A window that is over.
    fn default() -> Self {
        Self { end: UnixMillis(0), used: Tokens::ZERO, cache_read: Tokens::ZERO }
    }
}

impl WindowSum {
    fn after(self, window: Window, usage: &Usage, moment: &Moment<'_>) -> Self {
        let current = if self.is_over(moment.now) {
            Self { end: window_end(window, moment.now, moment.zone), ..Self::default() }
        } else {
            self
        };
        let used = current.used + usage.total().saturating_sub(usage.cache_read);
        Self { used, cache_read: current.cache_read + usage.cache_read, ..current }
    }

    fn is_over(&self, now: UnixMillis) -> bool {
        self.end <= now
    }

    fn counted(&self, cache_reads: CacheReads, now: UnixMillis) -> Tokens {
        match cache_reads {
            _ if self.is_over(now) => Tokens::ZERO,
            CacheReads::Count => self.used + self.cache_read,
            CacheReads::Ignore => self.used,
        }
    }
}

/// A time, and the zone whose calendar it is looked up in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment<'a> {
    pub(super) now: UnixMillis,
    pub(super) zone: &'a Zone,
}

/// A step from one account to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Posting {
    /// A reservation was made.
    Hold(Tokens),
    /// A reservation was replaced by what was used.
    Settle {
        /// What had been set aside.
        held: Tokens,
        /// What was used.
        usage: Usage,
        /// How that is known.
        known: Known,
    },
}

impl Account {
    pub(super) fn after(self, posting: Posting, moment: &Moment<'_>) -> Self {
        match posting {
            Posting::Hold(tokens) => Self { held: self.held + tokens, ..self },
            Posting::Settle { held, usage, known } => {
                let mut windows = self.windows;
                for (window, sum) in Window::ALL.into_iter().zip(&mut windows) {
                    *sum = sum.after(window, &usage, moment);
                }
                Self {
                    requests: self.requests + u64::from(known != Known::Unmetered),
                    usage: self.usage + usage,
                    held: self.held.saturating_sub(held),
                    windows,
                }
            }
        }
    }

    /// What counts of what was used: in the current window, or ever.
    pub(super) fn used(&self, window: Option<Window>, cache_reads: CacheReads, now: UnixMillis) -> Tokens {
        match window {
            Some(window) => self.window(window).counted(cache_reads, now),
            None => match cache_reads {
                CacheReads::Count => self.usage.total(),
                CacheReads::Ignore => self.usage.total().saturating_sub(self.usage.cache_read),
            },
        }
    }

    /// When the current window ends.
    pub(super) fn turns(&self, window: Window, moment: &Moment<'_>) -> UnixMillis {
        let sum = self.window(window);
        if sum.is_over(moment.now) { window_end(window, moment.now, moment.zone) } else { sum.end }
    }

    fn window(&self, window: Window) -> WindowSum {
        let mut windows = Window::ALL.into_iter().zip(self.windows);
        windows.find(|(known, _)| *known == window).map(|(_, sum)| sum).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn settled(account: Account, at: i64, input: u64, cache_read: u64) -> Account {
        let usage = Usage { input: Tokens(input), cache_read: Tokens(cache_read), ..Usage::default() };
        let posting = Posting::Settle { held: Tokens::ZERO, usage, known: Known::Reported };
        account.after(posting, &Moment { now: UnixMillis(at), zone: &Zone::utc() })
    }

    fn check(account: &Account, at: i64, window: Option<Window>, counted: u64, without_cache_reads: u64) {
        let used = |cache_reads| account.used(window, cache_reads, UnixMillis(at)).0;
        let found = (used(CacheReads::Count), used(CacheReads::Ignore));
        assert_eq!(found, (counted, without_cache_reads), "{window:?} at {at}");
    }

    #[test]
    fn each_window_begins_anew_when_it_turns() {
        let account = settled(Account::default(), 10, 5, 2);
        let account = settled(account, HOUR - 1, 1, 0);
        check(&account, HOUR - 1, Some(Window::Hour), 8, 6);
        check(&account, HOUR, Some(Window::Hour), 0, 0);
        check(&account, HOUR, Some(Window::Day), 8, 6);
        let account = settled(account, HOUR, 3, 0);
        check(&account, HOUR, Some(Window::Hour), 3, 3);
        check(&account, 24 * HOUR, Some(Window::Day), 0, 0);
        check(&account, 24 * HOUR, None, 11, 9);
    }

    #[test]
    fn a_window_once_begun_goes_on_to_its_end() {
        let account = settled(Account::default(), 24 * HOUR, 7, 0);
        check(&account, 23 * HOUR, Some(Window::Day), 7, 7);
        let account = settled(account, 23 * HOUR, 1, 0);
        check(&account, 47 * HOUR, Some(Window::Day), 8, 8);
        let elsewhere = "Asia/Tokyo".parse().unwrap();
        assert_eq!(account.turns(Window::Day, &Moment { now: UnixMillis(25 * HOUR), zone: &elsewhere }).0, 48 * HOUR);
    }

    #[test]
    fn what_is_held_counts_in_no_window() {
        let moment = Moment { now: UnixMillis(0), zone: &Zone::utc() };
        let account = Account::default().after(Posting::Hold(Tokens(9)), &moment);
        check(&account, 0, Some(Window::Hour), 0, 0);
        assert_eq!(account.held, Tokens(9));
    }
}
