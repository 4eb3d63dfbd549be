//! What one scope has spent with one provider: a row of `spend` as a value.
//!
//! Pure arithmetic; the database keeps it, the book caches it.

use crate::domain::{Known, ProviderName, Scope, Tokens, Usage};

/// Whose spend with whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AccountKey {
    /// Whose.
    pub(super) scope: Scope,
    /// With whom.
    pub(super) provider: ProviderName,
}

impl AccountKey {
    /// The scope as it stands in the ledger: its kind and its name.
    pub(super) fn columns(&self) -> (&'static str, &str) {
        match &self.scope {
            Scope::Agent(name) => ("agent", name.as_str()),
            Scope::Bottle(name) => ("bottle", name.as_str()),
            Scope::Host => ("host", ""),
        }
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
    pub(super) fn after(self, posting: Posting) -> Self {
        match posting {
            Posting::Hold(tokens) => Self { held: self.held + tokens, ..self },
            Posting::Settle { held, usage, known } => Self {
                requests: self.requests + u64::from(known != Known::Unmetered),
                usage: self.usage + usage,
                held: self.held.saturating_sub(held),
            },
        }
    }
}
