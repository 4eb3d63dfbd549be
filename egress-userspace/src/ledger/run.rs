//! Runs and gates of bottles, each change with its audit row in the same transaction.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rusqlite::params;

use super::column::amount;
use super::error::{Fault, LedgerError};
use super::writer::Desk;
use super::{AddressPool, BottleRow, GateChange, NewRun, report};
use crate::budget;
use crate::domain::{
    AgentName, AuditKind, BottleId, BottleName, Budget, Crossing, CutCause, GateView, ProviderName, Rules, Tokens,
    Window,
};

impl Desk {
    /// Starts a run: gives the bottle its number (the one it has always had) and an address.
    pub(super) fn begin_run(&mut self, run: &NewRun, pool: AddressPool) -> Result<BottleRow, Fault> {
        let known = report::bottle(&self.connection, &run.name)?;
        if let Some(bottle) = known.as_ref().filter(|bottle| bottle.ended.is_none()) {
            return Err(LedgerError::AlreadyRunning(bottle.name.clone()).into());
        }
        if let Some(bottle) = &known {
            may_start(bottle)?;
        }
        self.check_parent(run)?;
        let address = self.free_address(pool)?;
        let id: u32 = self
            .connection
            .prepare_cached(
                "INSERT INTO bottle (name, agent, address, started, extends, policy, runtime, container)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (name) DO UPDATE SET
                    agent = excluded.agent, address = excluded.address, cut = NULL, started = excluded.started, ended = NULL,
                    extends = excluded.extends, policy = excluded.policy, stopping = NULL,
                    runtime = excluded.runtime, container = excluded.container, exit_code = NULL
                 RETURNING id",
            )?
            .query_row(
                params![
                    run.name.as_str(),
                    run.agent.as_ref().map(AgentName::as_str),
                    address.to_bits(),
                    self.now.0,
                    run.extends.as_ref().map(BottleName::as_str),
                    run.policy.as_str(),
                    run.runtime.as_str(),
                    run.container
                ],
                |row| row.get(0),
            )?;
        let id = BottleId(id);
        self.replace_budget(id, &run.budget)?;
        self.book.forget_bottles();
        self.check_lineage(&run.name)?;
        if let Some(GateView::Cut(cause)) = known.map(|bottle| bottle.gate) {
            self.check_cut_is_over(id, cause)?;
            self.audit(Some(id), &AuditKind::GateRestored)?;
        }
        self.audit(Some(id), &AuditKind::BottleStarted { agent: run.agent.clone() })?;
        let bottle = report::bottle_by_id(&self.connection, id)?;
        bottle.ok_or_else(|| LedgerError::NoBottle(run.name.to_string()).into())
    }

    /// Ends a run and gives its address back; the gate's desired state stays. A run that has ended stays ended.
    pub(super) fn end_run(&mut self, id: BottleId, exit_code: i32) -> Result<(), Fault> {
        let entry = self.bottle(id)?;
        if !entry.is_running {
            return Ok(());
        }
        self.connection
            .prepare_cached(
                "UPDATE bottle SET address = NULL, ended = ?2, stopping = NULL, exit_code = ?3 WHERE id = ?1",
            )?
            .execute(params![id.0, self.now.0, exit_code])?;
        self.book.forget_bottles();
        self.audit(Some(id), &AuditKind::BottleEnded { exit_code })
    }

    /// Changes a gate's desired state; returns whether it was so already. An operator's cut replaces a budget's, because
    /// only an operator lifts it; a budget's never replaces an operator's.
    pub(super) fn change_gate(&mut self, id: BottleId, change: GateChange) -> Result<bool, Fault> {
        let before = self.bottle(id)?.cut;
        let (after, kind, was_already) = match change {
            GateChange::Restore => (None, AuditKind::GateRestored, before.is_none()),
            GateChange::Lift if before == Some(CutCause::Operator) => return Ok(true),
            GateChange::Lift => (None, AuditKind::CutLifted, before.is_none()),
            GateChange::Cut(cause) => (Some(cause), AuditKind::GateCut { cause }, before.is_some()),
        };
        let is_stronger = before == Some(CutCause::Budget) && after == Some(CutCause::Operator);
        if was_already && !is_stronger {
            return Ok(true);
        }
        self.connection
            .prepare_cached("UPDATE bottle SET cut = ?2 WHERE id = ?1")?
            .execute(params![id.0, after.map(CutCause::as_str)])?;
        self.book.forget_bottles();
        self.audit(Some(id), &kind)?;
        Ok(was_already)
    }

    /// Decides by these rules from now on.
    pub(super) fn set_rules(&mut self, rules: Arc<Rules>) -> Result<(), Fault> {
        let before = std::mem::replace(&mut self.rules, rules);
        self.book.forget_bottles();
        let bottles = report::bottles(&self.connection)?;
        let mut running = bottles.iter().filter(|bottle| bottle.ended.is_none());
        let outcome = running.try_for_each(|bottle| self.check_lineage(&bottle.name));
        if outcome.is_err() {
            self.rules = before;
            self.book.forget_bottles();
        }
        outcome
    }

    /// A parent that nobody knows would be one whose budget is never looked at.
    fn check_parent(&self, run: &NewRun) -> Result<(), Fault> {
        let Some(parent) = &run.extends else { return Ok(()) };
        if self.rules.bottles.contains_key(parent) || report::bottle(&self.connection, parent)?.is_some() {
            return Ok(());
        }
        Err(LedgerError::NoParent(parent.clone()).into())
    }

    fn check_lineage(&mut self, bottle: &BottleName) -> Result<(), Fault> {
        let rules = Arc::clone(&self.rules);
        self.book.lineage(&self.connection, &rules, bottle)?.map_err(LedgerError::Cycle)?;
        Ok(())
    }

    /// A cut of an operator's is lifted by an operator only; a budget's by a budget that is not used up.
    fn check_cut_is_over(&mut self, id: BottleId, cause: CutCause) -> Result<(), Fault> {
        let name = self.bottle(id)?.name.clone();
        match cause {
            CutCause::Budget if self.used_up(id)?.is_none() => Ok(()),
            CutCause::Budget | CutCause::Operator => Err(LedgerError::StillCut { name, cause }.into()),
        }
    }

    /// A binding budget of a bottle that is used up, if any. One that allows nothing and of which nothing was used forbids a
    /// provider; it has not run out.
    pub(super) fn used_up(&mut self, id: BottleId) -> Result<Option<(ProviderName, Crossing)>, Fault> {
        let (entry, rules) = (self.bottle(id)?, Arc::clone(&self.rules));
        let views = report::views(&mut self.book, &self.connection, &rules, self.now, &entry)?;
        let mut crossed = views.into_iter().filter_map(|view| Some((view.provider, budget::crossed(&view.chain)?)));
        Ok(crossed.find(|(_, crossing)| crossing.used > Tokens::ZERO))
    }

    pub(super) fn free_address(&self, pool: AddressPool) -> Result<Ipv4Addr, Fault> {
        let in_use = report::addresses(&self.connection)?;
        Ok(pool.lowest_free(&in_use).ok_or(LedgerError::NoAddress)?)
    }

    pub(super) fn replace_budget(&self, id: BottleId, budget: &Budget) -> rusqlite::Result<()> {
        self.connection.prepare_cached("DELETE FROM bottle_budget WHERE bottle = ?1")?.execute([id.0])?;
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO bottle_budget (bottle, provider, tokens, window) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (bottle, provider) DO UPDATE SET tokens = excluded.tokens, window = excluded.window",
        )?;
        for (provider, limit) in budget {
            statement.execute(params![
                id.0,
                provider.as_str(),
                amount(limit.tokens),
                limit.window.map(Window::as_str)
            ])?;
        }
        Ok(())
    }
}

/// A run that goes on, is frozen or is being killed leaves no room for another of its name.
fn may_start(bottle: &BottleRow) -> Result<(), LedgerError> {
    let name = || bottle.name.clone();
    if bottle.ended.is_none() {
        return Err(LedgerError::AlreadyRunning(name()));
    }
    if bottle.stopping.is_some() {
        return Err(LedgerError::BeingKilled(name()));
    }
    if bottle.frozen.is_some() {
        return Err(LedgerError::Frozen(name()));
    }
    Ok(())
}
