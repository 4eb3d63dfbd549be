//! The account of everything: reservations, usage, bottles, audit. SQLite behind a small repository API, one writer.
//!
//! The only place with SQL. A call returns when its transaction is committed. Decides with `budget` inside its transaction.

mod account;
mod address;
mod audit;
mod book;
mod column;
mod error;
mod exchange;
mod handle;
mod open;
mod report;
mod run;
mod stop;
mod writer;

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use crate::domain::{
    AgentName, BottleId, BottleName, BottleState, Crossing, CutCause, CutoffPolicy, GateView, PermitId, Preflight,
    ProviderName, Refusal, Settlement, SpendRequest, Stop, Tokens, UnixMillis,
};

pub use address::AddressPool;
pub use error::LedgerError;
pub use handle::Ledger;

/// The limits in force, as `settings` and the launch flags give them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `budget:` of settings.yml.
    pub host: Vec<(ProviderName, Tokens)>,
    /// `preflight:` of settings.yml.
    pub preflight: Preflight,
}

/// A bottle to launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRun {
    /// Its name.
    pub name: BottleName,
    /// The role that runs in it.
    pub agent: Option<AgentName>,
    /// `--budget`: the bottle's scope for this run.
    pub budget: Vec<(ProviderName, Tokens)>,
    /// What is done with it when a budget is gone.
    pub policy: CutoffPolicy,
}

/// A bottle as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BottleRow {
    /// Its number, the same over all runs.
    pub id: BottleId,
    /// Its name.
    pub name: BottleName,
    /// The role of its last run.
    pub agent: Option<AgentName>,
    /// Its address, as long as it runs.
    pub address: Option<Ipv4Addr>,
    /// Desired state of its gate; kept over runs until restored.
    pub gate: GateView,
    /// `--budget` of its last run.
    pub budget: Vec<(ProviderName, Tokens)>,
    /// When its last run started.
    pub started: UnixMillis,
    /// When it ended; `None` while it runs.
    pub ended: Option<UnixMillis>,
    /// What is done with its last run when a budget is gone.
    pub policy: CutoffPolicy,
    /// Begun and not finished.
    pub stopping: Option<Stop>,
    /// Why its last run is frozen, if it is.
    pub frozen: Option<CutCause>,
}

impl BottleRow {
    /// What it is, as people see it.
    #[must_use]
    pub fn state(&self) -> BottleState {
        match (self.ended, self.frozen) {
            (None, _) => BottleState::Running,
            (Some(_), Some(_)) => BottleState::Frozen,
            (Some(_), None) => BottleState::Ended,
        }
    }
}

/// What a settlement did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Whose it was.
    pub bottle: BottleId,
    /// Whose budget.
    pub provider: ProviderName,
    /// The provider's id of the request.
    pub provider_request_id: Option<String>,
    /// The governing budget is used up.
    pub crossing: Option<Crossing>,
}

/// One of the two commands of every request, to be done together with others ([`Ledger::write_together`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// [`Ledger::admit`]
    Admit(SpendRequest),
    /// [`Ledger::settle`]
    Settle(Settlement),
}

/// What became of a command.
#[derive(Debug)]
pub enum Done {
    /// Of [`Command::Admit`].
    Admitted(Result<Result<PermitId, Refusal>, LedgerError>),
    /// Of [`Command::Settle`].
    Settled(Result<Settled, LedgerError>),
}

/// What to read of the usage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageFilter {
    /// Of one bottle only.
    pub bottle: Option<BottleName>,
    /// The last so many rows; all when `None`.
    pub last: Option<u32>,
}

/// What to read of the audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Of one bottle only.
    pub bottle: Option<BottleName>,
    /// The last so many rows; all when `None`.
    pub last: Option<u32>,
}

/// Desired gate of a bottle, as a change to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateChange {
    /// Cut it.
    Cut(CutCause),
    /// Open it.
    Restore,
}
