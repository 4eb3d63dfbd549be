//! What operators have laid down about spending, as one value: settings say it, the ledger decides by it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AgentName, BottleName, Budget, CutoffPolicy, Preflight, Preflights, Zone};

/// Which of the budgets on a chain bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precedence {
    /// The nearest that says something of the provider.
    #[default]
    Nearest,
    /// Each that does.
    Strict,
}

/// Whether input that a provider had cached is spending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheReads {
    /// As any other input.
    #[default]
    Count,
    /// Recorded, but no budget gets smaller by it.
    Ignore,
}

/// What becomes of the response that uses a budget up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrossingMode {
    /// It is delivered whole; the next request is refused.
    #[default]
    Finish,
    /// It ends where the budget does.
    Sever,
}

/// How sure what is recorded is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It survives the death of every process.
    #[default]
    Process,
    /// It survives the loss of power too.
    Power,
}

/// Parts of a budget, in percent, that are worth a word when they are used: from 1 to 99, rising.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds(pub Vec<u8>);

impl Default for Thresholds {
    fn default() -> Self {
        Self(vec![80, 90, 95, 99])
    }
}

/// What is laid down for one bottle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BottleRules {
    /// Its parent, which its spending counts for too.
    pub extends: Option<BottleName>,
    /// Its budget.
    pub budget: Budget,
    /// How its requests are looked at, when other than as usual.
    pub preflight: Option<Preflight>,
    /// What happens when its budget is gone, when other than as usual.
    pub shutdown: Option<CutoffPolicy>,
}

/// Everything decisions about spending go by, but for what is said at launch and run time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The host's budget.
    pub host: Budget,
    /// Budgets of agents, wherever they run.
    pub agents: BTreeMap<AgentName, Budget>,
    /// Bottles, whether they run or not.
    pub bottles: BTreeMap<BottleName, BottleRules>,
    /// Which budgets bind.
    pub precedence: Precedence,
    /// What counts.
    pub cache_reads: CacheReads,
    /// What happens at a crossing.
    pub crossing: CrossingMode,
    /// How requests are looked at before they are sent.
    pub preflight: Preflights,
    /// What happens to a bottle whose budget is gone.
    pub shutdown: CutoffPolicy,
    /// When to say how much is left.
    pub thresholds: Thresholds,
    /// Whose calendar windows follow.
    pub zone: Zone,
}

impl Rules {
    /// How requests of a bottle and its ancestors, nearest first, are looked at, if any of them says so.
    #[must_use]
    pub fn preflight_of(&self, lineage: &[BottleName]) -> Option<Preflight> {
        lineage.iter().find_map(|name| self.bottles.get(name)?.preflight)
    }

    /// What happens to a bottle whose budget is gone, if it or an ancestor says so, nearest first.
    #[must_use]
    pub fn shutdown_of(&self, lineage: &[BottleName]) -> Option<CutoffPolicy> {
        lineage.iter().find_map(|name| self.bottles.get(name)?.shutdown)
    }
}
