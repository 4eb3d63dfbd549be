//! Questions to operators: asked, settled, remembered and forgotten, each with its audit row in the same transaction.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::column::{bounded, word, word_or_null};
use super::error::{Fault, LedgerError};
use super::handle::Ledger;
use super::report;
use super::writer::Desk;
use crate::domain::{
    ApprovalId, ApprovalLimits, ApprovalPath, ApprovalRow, AuditKind, BottleId, BottleName, Question, UnixMillis,
    Verdict, approval_path,
};

/// How much one bottle may ask.
pub(super) const LIMITS: ApprovalLimits = ApprovalLimits { open_max: 16, asked_per_minute_max: 60 };

const MINUTE_MILLIS: i64 = 60_000;

const ROWS: &str =
    "SELECT approval.id, bottle.name, detector, host, target, asked, expires, decided, verdict, decided_by,
        is_always, forgotten, used
    FROM approval JOIN bottle ON bottle.id = approval.bottle";
const IS_REMEMBERED: &str = "is_always = 1 AND forgotten IS NULL";

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// An operator has decided for good.
    Remembered(Verdict),
    /// The bottle asks too much: nobody is asked.
    TooMany,
    /// The question waits under this number.
    Waits(ApprovalId),
}

/// What an operator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Let it pass?
    pub is_approved: bool,
    /// The same value of the same bottle to the same host, at any time.
    pub is_always: bool,
    /// The operator's user id.
    pub by: u32,
}

/// What came of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The question; expired, if the decision came too late.
    pub row: ApprovalRow,
    /// Every question that was settled with it: itself, and those that one for good answers as well.
    pub settled: Vec<ApprovalId>,
}

/// Which decisions are to be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// This one.
    One(ApprovalId),
    /// All of a bottle.
    Of(BottleName),
}

/// Which questions to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApprovalFilter {
    /// Of one bottle only.
    pub bottle: Option<BottleName>,
    /// Not only those that wait: the newest so many.
    pub last: Option<u32>,
}

impl Ledger {
    /// Asks an operator, unless one has decided for good. The question waits for so long.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be recorded: nobody is asked.
    pub async fn ask_approval(&self, question: Question, patience: Duration) -> Result<Asked, LedgerError> {
        self.write("ask for an approval", move |desk| desk.ask_approval(&question, patience)).await
    }

    /// Settles a question as an operator says; one for good settles all that it answers.
    ///
    /// # Errors
    /// When there is no such question, it does not wait any more, or it could not be recorded.
    pub async fn decide_approval(&self, id: ApprovalId, decision: Decision) -> Result<Decided, LedgerError> {
        self.write("decide on an approval", move |desk| desk.decide_approval(id, decision)).await
    }

    /// Settles those of these questions that wait without an operator.
    ///
    /// # Errors
    /// When it could not be recorded; all of them still wait.
    pub async fn close_approvals(&self, ids: Vec<ApprovalId>, verdict: Verdict) -> Result<(), LedgerError> {
        let close = move |desk: &mut Desk| {
            ids.iter().try_for_each(|id| match desk.waiting(*id)? {
                Some((bottle, _)) => desk.settle_approval(*id, bottle, verdict, None),
                None => Ok(()),
            })
        };
        self.write("settle approvals", close).await
    }

    /// Settles all questions that wait: the requests that asked are gone. Returns how many there were.
    ///
    /// # Errors
    /// When it could not be recorded; all of them still wait.
    pub async fn abandon_approvals(&self) -> Result<usize, LedgerError> {
        self.write("settle approvals that nobody waits for", Desk::abandon_approvals).await
    }

    /// Takes decisions for good back; returns them.
    ///
    /// # Errors
    /// When there is nothing to take back or it could not be recorded.
    pub async fn forget_approvals(&self, which: Forgotten, by: u32) -> Result<Vec<ApprovalRow>, LedgerError> {
        self.write("forget approvals", move |desk| desk.forget_approvals(&which, by)).await
    }

    /// Questions, oldest first.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be read.
    pub async fn approvals(&self, filter: ApprovalFilter) -> Result<Vec<ApprovalRow>, LedgerError> {
        self.read("read the approvals", move |connection| {
            let ApprovalFilter { bottle, last } = filter;
            if let Some(name) = &bottle {
                report::bottle(connection, name)?.ok_or_else(|| LedgerError::NoBottle(name.to_string()))?;
            }
            let bottle = bottle.as_ref().map(BottleName::as_str);
            let which = if last.is_some() { "" } else { "AND decided IS NULL" };
            let sql = format!(
                "{ROWS} WHERE (?1 IS NULL OR bottle.name = ?1) {which} ORDER BY approval.id DESC LIMIT ifnull(?2, -1)"
            );
            let mut rows = collect(connection, &sql, params![bottle, last])?;
            rows.reverse();
            Ok(rows)
        })
        .await
    }

    /// Questions with this number or a higher one, oldest first.
    ///
    /// # Errors
    /// When it could not be read.
    pub async fn approvals_from(&self, first: ApprovalId) -> Result<Vec<ApprovalRow>, LedgerError> {
        self.read("read the approvals", move |connection| Ok(from(connection, first)?)).await
    }
}

impl Desk {
    fn ask_approval(&mut self, question: &Question, patience: Duration) -> Result<Asked, Fault> {
        let Question { bottle, detector, host, target, fingerprint } = question;
        let fingerprint = fingerprint.to_string();
        let remembered = self
            .connection
            .prepare_cached(&format!(
                "UPDATE approval SET used = used + 1
                 WHERE bottle = ?1 AND host = ?2 AND fingerprint = ?3 AND {IS_REMEMBERED} RETURNING verdict"
            ))?
            .query_map(params![bottle.0, host.as_str(), fingerprint], |row| word(row, 0))?
            .next()
            .transpose()?;
        let count = |since: i64, which: &str| {
            self.connection
                .prepare_cached(&format!("SELECT count(*) FROM approval WHERE bottle = ?1 AND asked > ?2 {which}"))?
                .query_row(params![bottle.0, since], |row| row.get::<_, u32>(0))
        };
        let open = count(i64::MIN, "AND decided IS NULL")?;
        let asked_last_minute = count(self.now.0.saturating_sub(MINUTE_MILLIS), "")?;
        match approval_path(LIMITS, remembered, open, asked_last_minute) {
            ApprovalPath::Remembered(verdict) => return Ok(Asked::Remembered(verdict)),
            ApprovalPath::TooMany => return Ok(Asked::TooMany),
            ApprovalPath::Ask => {}
        }
        let (detector, target) = (bounded(detector), bounded(target));
        let patience = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
        let expires = self.now.0.saturating_add(patience);
        self.connection
            .prepare_cached(
                "INSERT INTO approval (bottle, detector, host, target, fingerprint, asked, expires)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![bottle.0, detector, host.as_str(), target, fingerprint, self.now.0, expires])?;
        let id = ApprovalId(self.connection.last_insert_rowid());
        let (detector, host, target) = (detector.to_owned(), host.clone(), target.to_owned());
        self.audit(Some(*bottle), &AuditKind::ApprovalAsked { id, detector, host, target })?;
        Ok(Asked::Waits(id))
    }

    fn decide_approval(&mut self, id: ApprovalId, decision: Decision) -> Result<Decided, Fault> {
        let row = self.approval(id)?;
        let Some((bottle, expires)) = self.waiting(id)? else {
            let verdict = row.verdict.unwrap_or(Verdict::Abandoned);
            return Err(LedgerError::ApprovalSettled { id, verdict }.into());
        };
        if self.now >= expires {
            self.settle_approval(id, bottle, Verdict::Expired, None)?;
            return Ok(Decided { row: self.approval(id)?, settled: vec![id] });
        }
        let mut settled = vec![id];
        if decision.is_always {
            settled.extend(self.alike(id)?);
        }
        let verdict = if decision.is_approved { Verdict::Approved } else { Verdict::Denied };
        for one in &settled {
            let decision = Decision { is_always: decision.is_always && *one == id, ..decision };
            self.settle_approval(*one, bottle, verdict, Some(decision))?;
        }
        Ok(Decided { row: self.approval(id)?, settled })
    }

    /// Others that wait with the same value of the same bottle to the same host.
    fn alike(&self, id: ApprovalId) -> Result<Vec<ApprovalId>, Fault> {
        let alike = self
            .connection
            .prepare_cached(
                "SELECT other.id FROM approval JOIN approval AS other
                    ON other.bottle = approval.bottle AND other.host = approval.host
                        AND other.fingerprint = approval.fingerprint
                 WHERE approval.id = ?1 AND other.id <> ?1 AND other.decided IS NULL AND other.expires > ?2",
            )?
            .query_map(params![id.0, self.now.0], |row| row.get(0).map(ApprovalId))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(alike)
    }

    fn abandon_approvals(&mut self) -> Result<usize, Fault> {
        let mut statement = self.connection.prepare_cached("SELECT id, bottle FROM approval WHERE decided IS NULL")?;
        let waiting: Vec<(ApprovalId, BottleId)> = statement
            .query_map([], |row| Ok((ApprovalId(row.get(0)?), BottleId(row.get(1)?))))?
            .collect::<rusqlite::Result<_>>()?;
        drop(statement);
        for (id, bottle) in &waiting {
            self.settle_approval(*id, *bottle, Verdict::Abandoned, None)?;
        }
        Ok(waiting.len())
    }

    fn forget_approvals(&mut self, which: &Forgotten, by: u32) -> Result<Vec<ApprovalRow>, Fault> {
        let (remembered, missing) = match which {
            Forgotten::One(id) => (vec![self.approval(*id)?], LedgerError::NotRemembered(*id)),
            Forgotten::Of(name) => {
                report::bottle(&self.connection, name)?.ok_or_else(|| LedgerError::NoBottle(name.to_string()))?;
                let sql = format!("{ROWS} WHERE bottle.name = ?1 AND {IS_REMEMBERED} ORDER BY approval.id");
                let rows = collect(&self.connection, &sql, params![name.as_str()])?;
                (rows, LedgerError::NothingRemembered(name.clone()))
            }
        };
        let remembered: Vec<ApprovalRow> = remembered.into_iter().filter(ApprovalRow::is_remembered).collect();
        if remembered.is_empty() {
            return Err(missing.into());
        }
        for row in &remembered {
            let bottle: u32 = self
                .connection
                .prepare_cached(
                    "UPDATE approval SET forgotten = ?2, fingerprint = NULL WHERE id = ?1 RETURNING bottle",
                )?
                .query_row(params![row.id.0, self.now.0], |row| row.get(0))?;
            self.audit(Some(BottleId(bottle)), &AuditKind::ApprovalForgotten { id: row.id, by })?;
        }
        remembered.into_iter().map(|row| self.approval(row.id)).collect()
    }

    /// The bottle of a question that waits, and until when.
    fn waiting(&self, id: ApprovalId) -> Result<Option<(BottleId, UnixMillis)>, Fault> {
        let mut statement =
            self.connection.prepare_cached("SELECT bottle, expires FROM approval WHERE id = ?1 AND decided IS NULL")?;
        let found = statement.query_row([id.0], |row| Ok((BottleId(row.get(0)?), UnixMillis(row.get(1)?))));
        Ok(found.optional()?)
    }

    /// Settles one that waits. What was found is told no more from anything else, unless it is to be remembered.
    fn settle_approval(
        &mut self,
        id: ApprovalId,
        bottle: BottleId,
        verdict: Verdict,
        decision: Option<Decision>,
    ) -> Result<(), Fault> {
        let is_always = decision.is_some_and(|decision| decision.is_always);
        let by = decision.map(|decision| decision.by);
        self.connection
            .prepare_cached(
                "UPDATE approval SET decided = ?2, verdict = ?3, is_always = ?4, decided_by = ?5,
                    fingerprint = CASE WHEN ?4 THEN fingerprint END
                 WHERE id = ?1",
            )?
            .execute(params![id.0, self.now.0, verdict.as_str(), is_always, by])?;
        self.audit(Some(bottle), &AuditKind::ApprovalDecided { id, verdict, is_always, by })
    }

    fn approval(&self, id: ApprovalId) -> Result<ApprovalRow, Fault> {
        let sql = format!("{ROWS} WHERE approval.id = ?1");
        let row = collect(&self.connection, &sql, params![id.0])?.pop();
        row.ok_or_else(|| LedgerError::NoApproval(id).into())
    }
}

/// Questions with this number or a higher one, oldest first.
pub(super) fn from(connection: &Connection, first: ApprovalId) -> rusqlite::Result<Vec<ApprovalRow>> {
    collect(connection, &format!("{ROWS} WHERE approval.id >= ?1 ORDER BY approval.id"), params![first.0])
}

/// Questions that wait, oldest first, and the highest number that any question had at that moment.
pub(super) fn open(connection: &Connection) -> rusqlite::Result<(Vec<ApprovalRow>, ApprovalId)> {
    let waiting = collect(connection, &format!("{ROWS} WHERE decided IS NULL ORDER BY approval.id"), [])?;
    let newest = connection
        .prepare_cached("SELECT ifnull(max(id), 0) FROM approval")?
        .query_row([], |row| row.get(0).map(ApprovalId))?;
    Ok((waiting, newest))
}

fn collect(connection: &Connection, sql: &str, terms: impl rusqlite::Params) -> rusqlite::Result<Vec<ApprovalRow>> {
    connection.prepare_cached(sql)?.query_map(terms, approval_row)?.collect()
}

fn approval_row(row: &Row<'_>) -> rusqlite::Result<ApprovalRow> {
    let time = |index| row.get::<_, Option<i64>>(index).map(|at| at.map(UnixMillis));
    Ok(ApprovalRow {
        id: ApprovalId(row.get(0)?),
        bottle: word(row, 1)?,
        detector: row.get(2)?,
        host: word(row, 3)?,
        target: row.get(4)?,
        asked: UnixMillis(row.get(5)?),
        expires: UnixMillis(row.get(6)?),
        decided: time(7)?,
        verdict: word_or_null(row, 8)?,
        by: row.get(9)?,
        is_always: row.get(10)?,
        forgotten: time(11)?,
        used: u64::try_from(row.get::<_, i64>(12)?).unwrap_or_default(),
    })
}
