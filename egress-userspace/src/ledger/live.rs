//! For front-ends that show everything as it happens: how it all stands at one moment, and requests as they come and go.
//!
//! Requests are told by the writer after the commit, to whoever follows; nobody is waited for, and where nobody follows
//! nothing is made. Everything else has an audit row, and is read when that rings.

use rusqlite::{Connection, Row};
use tokio::sync::broadcast;

use super::book::{Book, BottleEntry};
use super::column::{bounded, tokens, word, word_or_null};
use super::error::{Fault, LedgerError};
use super::handle::Ledger;
use super::writer::Desk;
use super::{AuditFilter, AuditPage, AuditTail, BottleRow, approvals, audit, report};
use crate::domain::{
    ApprovalId, ApprovalRow, BudgetView, LiveRequest, PermitId, Rules, SpendRequest, Tokens, UnixMillis, UsageRow,
};

/// News that a follower may be behind before it misses some, and is told so.
pub(super) const FOLLOWED_NEWS_MAX: usize = 4096;

/// What became of a metered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestNews {
    /// It may go.
    Admitted(Box<LiveRequest>),
    /// It was settled.
    Settled(PermitId, Box<UsageRow>),
}

/// A bottle that people are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedBottle {
    /// The bottle.
    pub row: BottleRow,
    /// Its budgets, by provider.
    pub budgets: Vec<BudgetView>,
}

/// How everything stands at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveStart {
    /// By name.
    pub bottles: Vec<ListedBottle>,
    /// Metered requests that are not settled, oldest first.
    pub requests: Vec<LiveRequest>,
    /// Questions that wait for an operator, oldest first.
    pub approvals: Vec<ApprovalRow>,
    /// The highest number that any question had.
    pub newest_approval: ApprovalId,
    /// The newest rows of the audit.
    pub audit: AuditPage,
}

/// What may be different at a later moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveLook {
    /// All of them, by name.
    pub bottles: Vec<ListedBottle>,
    /// Questions from the one that was asked for on, oldest first.
    pub approvals: Vec<ApprovalRow>,
    /// Rows after the one that was asked for.
    pub audit: AuditPage,
}

impl Ledger {
    /// Metered requests as they come and go, from here on.
    #[must_use]
    pub fn requests(&self) -> broadcast::Receiver<RequestNews> {
        self.shared.followers.subscribe()
    }

    /// Bottles whose run has not ended, taken down entirely, frozen ones, and ended ones whose gate stays cut.
    ///
    /// # Errors
    /// When they could not be read.
    pub async fn listed_bottles(&self) -> Result<Vec<ListedBottle>, LedgerError> {
        let (rules, now) = (self.rules(), (self.shared.clock)());
        self.read("read the bottles", move |connection| listed(connection, &rules, now)).await
    }

    /// How everything stands, with so many rows of the audit.
    ///
    /// # Errors
    /// When it could not be read.
    pub async fn live_start(&self, audit_rows: u32) -> Result<LiveStart, LedgerError> {
        let (rules, now) = (self.rules(), (self.shared.clock)());
        self.read("read how everything stands", move |connection| {
            let (approvals, newest_approval) = approvals::open(connection)?;
            let filter = AuditFilter { last: Some(audit_rows), ..AuditFilter::default() };
            Ok(LiveStart {
                bottles: listed(connection, &rules, now)?,
                requests: open_requests(connection)?,
                approvals,
                newest_approval,
                audit: audit::rows(connection, None, &filter)?,
            })
        })
        .await
    }

    /// What may be different since: bottles, questions from `first` on, and rows of the audit after that one, at most so many.
    ///
    /// # Errors
    /// When it could not be read.
    pub async fn live_look(&self, first: ApprovalId, after: i64, rows_max: u32) -> Result<LiveLook, LedgerError> {
        let (rules, now) = (self.rules(), (self.shared.clock)());
        let tail = AuditTail { bottle: None, after };
        self.read("read how everything stands", move |connection| {
            Ok(LiveLook {
                bottles: listed(connection, &rules, now)?,
                approvals: approvals::from(connection, first)?,
                audit: audit::rows_after(connection, None, &tail, rows_max)?,
            })
        })
        .await
    }
}

impl Desk {
    pub(super) fn tell_admitted(
        &mut self,
        permit: PermitId,
        entry: &BottleEntry,
        request: &SpendRequest,
        held: Tokens,
    ) {
        if self.followers.receiver_count() == 0 {
            return;
        }
        self.news.push(RequestNews::Admitted(Box::new(LiveRequest {
            permit,
            bottle: entry.name.clone(),
            agent: entry.agent.clone(),
            provider: request.provider.clone(),
            host: request.host.clone(),
            target: bounded(&request.target).to_owned(),
            model: request.model.as_deref().map(|model| bounded(model).to_owned()),
            held,
            admitted: self.now,
        })));
    }

    pub(super) fn tell_settled(&mut self, permit: PermitId) -> Result<(), Fault> {
        if self.followers.receiver_count() > 0 {
            let usage = Box::new(report::usage_of(&self.connection, permit)?);
            self.news.push(RequestNews::Settled(permit, usage));
        }
        Ok(())
    }

    /// Says what was committed, or forgets what was not.
    pub(super) fn publish(&mut self, is_committed: bool) {
        for one in self.news.drain(..).filter(|_| is_committed) {
            // Whoever followed may have left meanwhile.
            self.followers.send(one).ok();
        }
    }
}

fn listed(connection: &Connection, rules: &Rules, now: UnixMillis) -> Result<Vec<ListedBottle>, Fault> {
    let mut book = Book::default();
    let rows = report::listed(connection)?.into_iter();
    rows.map(|row| {
        let entry = book.bottle(connection, rules, row.id)?;
        let entry = entry.ok_or_else(|| LedgerError::NoBottle(row.name.to_string()))?;
        let budgets = report::views(&mut book, connection, rules, now, &entry)?;
        Ok(ListedBottle { row, budgets })
    })
    .collect()
}

fn open_requests(connection: &Connection) -> rusqlite::Result<Vec<LiveRequest>> {
    connection
        .prepare_cached(
            "SELECT permit, bottle.name, reservation.agent, provider, host, target, model, held, admitted
             FROM reservation JOIN bottle ON bottle.id = reservation.bottle WHERE is_metered ORDER BY permit",
        )?
        .query_map([], open_request)?
        .collect()
}

fn open_request(row: &Row<'_>) -> rusqlite::Result<LiveRequest> {
    Ok(LiveRequest {
        permit: PermitId(row.get(0)?),
        bottle: word(row, 1)?,
        agent: word_or_null(row, 2)?,
        provider: word(row, 3)?,
        host: word(row, 4)?,
        target: row.get(5)?,
        model: row.get(6)?,
        held: tokens(row, 7)?,
        admitted: UnixMillis(row.get(8)?),
    })
}
