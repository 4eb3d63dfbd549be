//! Bottles that are frozen, resumed and killed, each change with its audit row in the same transaction.

use rusqlite::params;

use super::error::{Fault, LedgerError};
use super::writer::Desk;
use super::{AddressPool, BottleRow, report};
use crate::domain::{AuditKind, BottleId, BottleName, Budget, CutCause, GateView, ProviderName, Stop};

impl Desk {
    /// Says what has been begun; `None` when it has been taken back.
    pub(super) fn begin_stop(&mut self, id: BottleId, stop: Option<Stop>) -> Result<(), Fault> {
        self.bottle(id)?;
        self.connection
            .prepare_cached("UPDATE bottle SET stopping = ?2 WHERE id = ?1")?
            .execute(params![id.0, stop.map(Stop::as_str)])?;
        self.book.forget_bottles();
        Ok(())
    }

    /// The same for the files of a bottle that has ended: none runs in it from here on until they are gone.
    pub(super) fn begin_removal(&mut self, id: BottleId) -> Result<(), Fault> {
        let entry = self.bottle(id)?;
        if entry.is_running {
            return Err(LedgerError::AlreadyRunning(entry.name.clone()).into());
        }
        self.begin_stop(id, Some(Stop::Kill))
    }

    /// Says that it is done.
    pub(super) fn end_stop(&mut self, id: BottleId, stop: Stop, cause: CutCause) -> Result<(), Fault> {
        let before = report::bottle_by_id(&self.connection, id)?;
        let before = before.ok_or_else(|| LedgerError::NoBottle(format!("number {}", id.0)))?;
        let (frozen, kind) = match stop {
            Stop::Freeze => (Some(cause), AuditKind::BottleFrozen { cause }),
            Stop::Kill => (None, AuditKind::BottleKilled { cause }),
        };
        // The cut was part of the freeze, which is over: the next run of this name is another.
        let is_lifted = stop == Stop::Kill && before.frozen == Some(CutCause::Operator);
        self.connection
            .prepare_cached(
                "UPDATE bottle SET address = NULL, ended = ifnull(ended, ?2), stopping = NULL, frozen = ?3,
                    cut = CASE WHEN ?4 THEN NULL ELSE cut END
                 WHERE id = ?1",
            )?
            .execute(params![id.0, self.now.0, frozen.map(CutCause::as_str), is_lifted])?;
        self.book.forget_bottles();
        if is_lifted && before.gate != GateView::Open {
            self.audit(Some(id), &AuditKind::GateRestored)?;
        }
        self.audit(Some(id), &kind)
    }

    /// Starts a frozen run again. Whoever froze it may: an operator at any time, a budget once there is some of it.
    pub(super) fn resume_run(
        &mut self,
        name: &BottleName,
        more: &Budget,
        pool: AddressPool,
    ) -> Result<BottleRow, Fault> {
        let bottle = report::bottle(&self.connection, name)?;
        let bottle = bottle.ok_or_else(|| LedgerError::NoBottle(name.to_string()))?;
        let is_given = |provider: &ProviderName| more.iter().any(|(given, _)| given == provider);
        let kept = bottle.budget.iter().filter(|(provider, _)| !is_given(provider));
        let budget: Budget = more.iter().chain(kept).cloned().collect();
        let cause = may_resume(&bottle)?;
        let address = self.free_address(pool)?;
        self.connection
            .prepare_cached(
                "UPDATE bottle SET address = ?2, started = ?3, ended = NULL, frozen = NULL, stopping = NULL, cut = NULL,
                    container = NULL, exit_code = NULL
                 WHERE id = ?1",
            )?
            .execute(params![bottle.id.0, address.to_bits(), self.now.0])?;
        self.replace_budget(bottle.id, &budget)?;
        self.book.forget_bottles();
        if cause == CutCause::Budget
            && let Some((provider, crossing)) = self.used_up(bottle.id)?
        {
            return Err(LedgerError::StillUsedUp { name: bottle.name, provider, crossing }.into());
        }
        if bottle.gate != GateView::Open {
            self.audit(Some(bottle.id), &AuditKind::GateRestored)?;
        }
        self.audit(Some(bottle.id), &AuditKind::BottleResumed)?;
        let resumed = report::bottle_by_id(&self.connection, bottle.id)?;
        resumed.ok_or_else(|| LedgerError::NoBottle(name.to_string()).into())
    }
}

/// Who froze it, if it may be resumed as far as the bottle itself goes.
fn may_resume(bottle: &BottleRow) -> Result<CutCause, LedgerError> {
    let name = || bottle.name.clone();
    if bottle.ended.is_none() {
        return Err(LedgerError::AlreadyRunning(name()));
    }
    if bottle.stopping.is_some() {
        return Err(LedgerError::BeingKilled(name()));
    }
    let cause = bottle.frozen.ok_or_else(|| LedgerError::NotFrozen(name()))?;
    // An operator who froze it did so by the same word; one who cut it afterwards meant more than the budget did.
    if cause == CutCause::Budget && bottle.gate == GateView::Cut(CutCause::Operator) {
        return Err(LedgerError::StillCut { name: name(), cause: CutCause::Operator });
    }
    Ok(cause)
}
