//! What lies above the screen and takes the keys: help, questions, the filter.

use std::fmt;

use crate::domain::{BottleName, ProviderName, Scope, Stop};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) enum Overlay {
    /// All keys.
    Help,
    /// Is it meant?
    Confirm(Confirmation),
    /// How many, and to which budget?
    Grant(GrantForm),
    /// The filter is being typed; what it was before.
    Filter(String),
}

/// A bottle is to be frozen or killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) struct Confirmation {
    /// Which.
    pub(in crate::tui) bottle: BottleName,
    /// What.
    pub(in crate::tui) stop: Stop,
}

/// A budget that can be added to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) struct GrantTarget {
    /// Of which provider.
    pub(in crate::tui) provider: ProviderName,
    /// Whose.
    pub(in crate::tui) scope: Scope,
}

impl fmt::Display for GrantTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.provider, self.scope)
    }
}

/// A grant that is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) struct GrantForm {
    /// For the sake of which bottle.
    pub(in crate::tui) bottle: BottleName,
    /// Budgets to choose from, never none.
    pub(in crate::tui) targets: Vec<GrantTarget>,
    /// Which is chosen.
    pub(in crate::tui) chosen: usize,
    /// How many, as it was typed.
    pub(in crate::tui) amount: String,
    /// Why that is no amount.
    pub(in crate::tui) problem: Option<String>,
}
