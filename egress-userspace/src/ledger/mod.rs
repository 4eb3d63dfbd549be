//! The account of everything: reservations, usage, bottles, audit. SQLite behind a small repository API, one writer.
//!
//! The only place with SQL. A call returns when its transaction is committed. Decides with `budget` inside its transaction.

mod account;
mod address;
mod approvals;
mod audit;
mod book;
mod chain;
mod column;
mod error;
mod exchange;
mod export;
mod handle;
mod inspect;
mod live;
mod open;
mod overrides;
mod report;
mod run;
mod stop;
mod writer;

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::domain::{
    AgentName, Allowance, AuditRow, BottleId, BottleName, BottleState, Budget, Crossing, CutCause, CutoffPolicy,
    Durability, GateView, Limit, PermitId, ProviderName, Refusal, Rules, RuntimeKind, Scope, Settlement, SpendRequest,
    Stop, Tokens, UnixMillis, UsageCursor, UsageGroup, UsageRow,
};

pub use address::AddressPool;
pub use approvals::{ApprovalFilter, Asked, Decided, Decision, Forgotten};
pub use error::LedgerError;
pub use handle::Ledger;
pub use inspect::inspect;
pub use live::{ListedBottle, LiveLook, LiveStart, RequestNews};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

/// What a ledger is opened with.
#[derive(Clone)]
pub struct Terms {
    /// What decisions go by.
    pub rules: Rules,
    /// How sure a commit is.
    pub durability: Durability,
    /// The time.
    pub clock: Clock,
    /// Which boot of the host this is: reservations of another are nobody's.
    pub boot: String,
}

/// A bottle to launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRun {
    /// Its name.
    pub name: BottleName,
    /// The role that runs in it.
    pub agent: Option<AgentName>,
    /// `--extends`: its parent for this run.
    pub extends: Option<BottleName>,
    /// `--budget`: the bottle's scope for this run.
    pub budget: Budget,
    /// What is done with it when a budget is gone.
    pub policy: CutoffPolicy,
    /// What makes it.
    pub runtime: RuntimeKind,
    /// Which container it is, as far as that is known beforehand.
    pub container: Option<String>,
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
    /// `--extends` of its last run.
    pub extends: Option<BottleName>,
    /// `--budget` of its last run.
    pub budget: Budget,
    /// When its last run started.
    pub started: UnixMillis,
    /// When it ended; `None` while it runs.
    pub ended: Option<UnixMillis>,
    /// With which exit code, if it ended by itself.
    pub exit_code: Option<i32>,
    /// What is done with its last run when a budget is gone.
    pub policy: CutoffPolicy,
    /// Begun and not finished.
    pub stopping: Option<Stop>,
    /// Why its last run is frozen, if it is.
    pub frozen: Option<CutCause>,
    /// What made its last run.
    pub runtime: RuntimeKind,
    /// Which container that was, as its engine knows it.
    pub container: Option<String>,
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
    /// A budget that binds the bottle is used up.
    pub crossing: Option<Crossing>,
    /// Budgets on its chain that were used up with this, and bind only others.
    pub crossed_for_others: Vec<Crossing>,
    /// Budgets of which this used a part that is worth a word.
    pub passed: Vec<Passed>,
    /// What is left in each budget that binds.
    pub allowances: Vec<Allowance>,
}

impl Settled {
    /// Is there a budget to be enforced?
    #[must_use]
    pub fn crosses(&self) -> bool {
        self.crossing.is_some() || !self.crossed_for_others.is_empty()
    }
}

/// A budget that is used up to some part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Whose.
    pub scope: Scope,
    /// The part, in percent.
    pub percent: u8,
    /// How many tokens it allows.
    pub budget: Tokens,
    /// How many are used.
    pub used: Tokens,
}

/// A request that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The number of its reservation.
    pub permit: PermitId,
    /// What is left in each budget that binds.
    pub allowances: Vec<Allowance>,
}

/// A change of budgets at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BudgetChange {
    /// This limit in place of any other, for good.
    Set {
        /// Whose.
        scope: Scope,
        /// Of which provider.
        provider: ProviderName,
        /// From now on.
        limit: Limit,
    },
    /// So much more.
    Grant {
        /// Whose.
        scope: Scope,
        /// Of which provider.
        provider: ProviderName,
        /// How many.
        tokens: Tokens,
        /// Until then; for good when `None`.
        until: Option<UnixMillis>,
    },
    /// As settings and launch flags say.
    Clear {
        /// Whose.
        scope: Scope,
        /// Of which provider; of all when `None`.
        provider: Option<ProviderName>,
    },
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
    Admitted(Result<Result<Admitted, Refusal>, LedgerError>),
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

/// Which of the usage leaves, in the order in which it was settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageSlice {
    /// Of one bottle only.
    pub bottle: Option<BottleName>,
    /// What was settled then or later.
    pub since: Option<UnixMillis>,
    /// The newest so many of these, at most.
    pub last: Option<u32>,
    /// What comes after this, where a page before has ended.
    pub after: Option<UsageCursor>,
}

/// Requests one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsagePage {
    /// The one settled first comes first. Fewer than a page has room for where only one bottle's are wanted.
    pub rows: Vec<UsageRow>,
    /// Where the next page begins; `None` when this is the last.
    pub next: Option<UsageCursor>,
    /// How many requests all pages go through; counted with the first.
    pub total: Option<u64>,
}

/// Requests added up, page by page: what several pages have in common is to be added up again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageSums {
    /// With the quarter of an hour in which they were settled, where days are wanted.
    pub groups: Vec<(Option<UnixMillis>, UsageGroup)>,
    /// Where the next page begins; `None` when this is the last.
    pub next: Option<UsageCursor>,
    /// How many requests all pages go through; counted with the first.
    pub total: Option<u64>,
}

/// What to read of the audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Of one bottle only.
    pub bottle: Option<BottleName>,
    /// What happened then or later.
    pub since: Option<UnixMillis>,
    /// Rows with a lower number.
    pub before: Option<i64>,
    /// The last so many of these; all when `None`.
    pub last: Option<u32>,
}

/// What is to follow of the audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditTail {
    /// Of one bottle only.
    pub bottle: Option<BottleName>,
    /// Rows with a higher number.
    pub after: i64,
}

/// Rows of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditPage {
    /// Oldest first.
    pub rows: Vec<AuditRow>,
    /// The highest number that any row had at that moment.
    pub newest: i64,
}

/// Desired gate of a bottle, as a change to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateChange {
    /// Cut it.
    Cut(CutCause),
    /// Open it.
    Restore,
    /// Open it, unless an operator cut it: the budget that it was cut for is no longer used up.
    Lift,
}
