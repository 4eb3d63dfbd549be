//! What can go wrong with the ledger, and how a failure inside a transaction becomes one.

use std::path::PathBuf;

use thiserror::Error;

use crate::budget::Cycle;
use crate::domain::{ApprovalId, BottleName, Crossing, CutCause, PermitId, ProviderName, Scope, Verdict};

/// Why the ledger did not do it.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The database could not be opened.
    #[error("the ledger {path} could not be opened")]
    Open {
        /// Where.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// Written by a later version.
    #[error(
        "the ledger {path} has schema version {found}, this egress knows up to {known}: run the newer egress, or restore a backup"
    )]
    FromTheFuture {
        /// Where.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Another controller has it.
    #[error(
        "the ledger {path} is in use by another egress daemon: stop that one, or give this one a --home, --run-dir, \
         --bridge and --gateway of its own"
    )]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// Its directory, file or lock file could not be made.
    #[error("{path}, where the ledger is kept, could not be prepared")]
    File {
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A transaction failed; nothing of it was kept.
    #[error("the ledger could not {action}")]
    Transaction {
        /// What was being done.
        action: &'static str,
        /// What SQLite says: disk full, I/O error …
        #[source]
        source: rusqlite::Error,
    },
    /// There is no such bottle.
    #[error("there is no bottle {0}: `egress list` shows those there are")]
    NoBottle(String),
    /// The bottle's last run has not ended.
    #[error("bottle {0} is already running: `egress list` shows it")]
    AlreadyRunning(BottleName),
    /// Its gate is still cut.
    #[error(
        "bottle {name} is still cut ({}): `egress restore {name}` opens its gate{}",
        .cause.as_str(),
        match .cause { CutCause::Budget => ", or run it with a larger --budget", CutCause::Operator => "" }
    )]
    StillCut {
        /// Which.
        name: BottleName,
        /// Why it was cut.
        cause: CutCause,
    },
    /// Its last run is frozen.
    #[error(
        "bottle {0} is frozen: `egress resume {0}` continues it, `egress kill {0}` gives its files and its command up"
    )]
    Frozen(BottleName),
    /// Its last run is not frozen.
    #[error("bottle {0} is not frozen: `egress run {0} -- COMMAND` starts a command in it")]
    NotFrozen(BottleName),
    /// Its files are being removed.
    #[error("bottle {0} is being killed: try again")]
    BeingKilled(BottleName),
    /// The budget that froze it is still used up.
    #[error(
        "bottle {name} was frozen by a budget, and the {provider} budget of {} is still used up ({} of {} tokens): \
         `egress resume {name} --budget {provider}=TOKENS` continues it with a larger one, `egress kill {name}` gives it up",
        .crossing.scope, .crossing.used, .crossing.budget
    )]
    StillUsedUp {
        /// Which.
        name: BottleName,
        /// Whose tokens.
        provider: ProviderName,
        /// Whose budget.
        crossing: Crossing,
    },
    /// There is no such open reservation: it was settled before.
    #[error("reservation {} is not open", .0.0)]
    NoReservation(PermitId),
    /// A parent that neither the settings nor the ledger know.
    #[error("there is no bottle {0} to extend: name it under `bottles:` in settings.yml, or run it first")]
    NoParent(BottleName),
    /// A bottle would be its own ancestor.
    #[error(transparent)]
    Cycle(Cycle),
    /// There is no limit to add to.
    #[error("{scope} has no {provider} budget to add to: `egress budget set {provider}=AMOUNT` gives it one")]
    NoBudget {
        /// Whose.
        scope: Scope,
        /// Of which provider.
        provider: ProviderName,
    },
    /// Nothing was set or granted there.
    #[error("nothing was set or granted for {0} at run time: `egress budget show` shows what is in force")]
    NoOverride(Scope),
    /// There is no such question.
    #[error("there is no approval {0}: `egress approvals list` shows those that wait")]
    NoApproval(ApprovalId),
    /// It does not wait any more.
    #[error("approval {id} is settled already: {}", settled(*.verdict))]
    ApprovalSettled {
        /// Which.
        id: ApprovalId,
        /// As what.
        verdict: Verdict,
    },
    /// It was not decided for good, or that was taken back.
    #[error("approval {0} is not remembered: `egress approvals list --all` shows which are")]
    NotRemembered(ApprovalId),
    /// Nothing was decided for good.
    #[error(
        "nothing is remembered of what {0} may send: `egress approvals list --all --bottle {0}` shows what was asked"
    )]
    NothingRemembered(BottleName),
    /// Every address of the pool is taken.
    #[error("all bottle addresses are in use")]
    NoAddress,
    /// The writer has ended.
    #[error("the ledger is closed")]
    Closed,
}

fn settled(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Approved => "it was approved",
        Verdict::Denied => "it was denied",
        Verdict::Expired => "nobody answered in time, and the request was refused",
        Verdict::Abandoned => "the request that asked is gone",
    }
}

/// A failure inside a transaction, before it is known what the transaction was for.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite failed.
    Sql(rusqlite::Error),
    /// A rule of the ledger was broken.
    Rule(LedgerError),
}

impl Fault {
    pub(super) fn while_trying_to(self, action: &'static str) -> LedgerError {
        match self {
            Self::Sql(source) => LedgerError::Transaction { action, source },
            Self::Rule(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sql(source)
    }
}

impl From<LedgerError> for Fault {
    fn from(error: LedgerError) -> Self {
        Self::Rule(error)
    }
}

/// The same failure once more: every command of a batch that was not committed is told it.
pub(super) fn again(error: &rusqlite::Error) -> rusqlite::Error {
    let (code, message) = if let rusqlite::Error::SqliteFailure(code, message) = error {
        (*code, message.clone())
    } else {
        (rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR), Some(error.to_string()))
    };
    rusqlite::Error::SqliteFailure(code, message)
}
