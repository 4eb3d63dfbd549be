//! Runs and gates of bottles, each change with its audit row in the same transaction.

use std::net::Ipv4Addr;

use rusqlite::params;

use super::column::amount;
use super::error::{Fault, LedgerError};
use super::writer::Desk;
use super::{AddressPool, BottleRow, GateChange, NewRun, report};
use crate::budget;
use crate::domain::{AgentName, AuditKind, BottleId, BottleName, Crossing, CutCause, GateView, ProviderName, Tokens};

impl Desk {
    /// Starts a run: gives the bottle its number (the one it has always had) and an address.
    pub(super) fn begin_run(&mut self, run: &NewRun, pool: AddressPool) -> Result<BottleRow, Fault> {
        let known = report::bottle(&self.connection, &run.name)?;
        if let Some(bottle) = &known {
            self.may_run_again(bottle, &run.budget)?;
        }
        let address = self.free_address(pool)?;
        let id: u32 = self
            .connection
            .prepare_cached(
                "INSERT INTO bottle (name, agent, address, started, policy) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (name) DO UPDATE SET
                    agent = excluded.agent, address = excluded.address, cut = NULL, started = excluded.started, ended = NULL,
                    policy = excluded.policy, stopping = NULL
                 RETURNING id",
            )?
            .query_row(
                params![
                    run.name.as_str(),
                    run.agent.as_ref().map(AgentName::as_str),
                    address.to_bits(),
                    self.now.0,
                    run.policy.as_str()
                ],
                |row| row.get(0),
            )?;
        let id = BottleId(id);
        self.replace_budget(id, &run.budget)?;
        self.book.forget_bottle(id);
        if known.is_some_and(|bottle| bottle.gate != GateView::Open) {
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
            .prepare_cached("UPDATE bottle SET address = NULL, ended = ?2, stopping = NULL WHERE id = ?1")?
            .execute(params![id.0, self.now.0])?;
        self.book.forget_bottle(id);
        self.audit(Some(id), &AuditKind::BottleEnded { exit_code })
    }

    /// Changes a gate's desired state; returns whether it was so already. An operator's cut replaces a budget's, because
    /// only an operator lifts it; a budget's never replaces an operator's.
    pub(super) fn change_gate(&mut self, id: BottleId, change: GateChange) -> Result<bool, Fault> {
        let before = self.bottle(id)?.cut;
        let (after, kind, was_already) = match change {
            GateChange::Restore => (None, AuditKind::GateRestored, before.is_none()),
            GateChange::Cut(cause) => (Some(cause), AuditKind::GateCut { cause }, before.is_some()),
        };
        let is_stronger = before == Some(CutCause::Budget) && after == Some(CutCause::Operator);
        if was_already && !is_stronger {
            return Ok(true);
        }
        self.connection
            .prepare_cached("UPDATE bottle SET cut = ?2 WHERE id = ?1")?
            .execute(params![id.0, after.map(CutCause::as_str)])?;
        self.book.forget_bottle(id);
        self.audit(Some(id), &kind)?;
        Ok(was_already)
    }

    fn may_run_again(&mut self, bottle: &BottleRow, budget: &[(ProviderName, Tokens)]) -> Result<(), Fault> {
        if bottle.ended.is_none() {
            return Err(LedgerError::AlreadyRunning(bottle.name.clone()).into());
        }
        if bottle.stopping.is_some() {
            return Err(LedgerError::BeingKilled(bottle.name.clone()).into());
        }
        if bottle.frozen.is_some() {
            return Err(LedgerError::Frozen(bottle.name.clone()).into());
        }
        let still_cut = match bottle.gate {
            GateView::Open => None,
            GateView::Cut(CutCause::Operator) => Some(CutCause::Operator),
            GateView::Cut(CutCause::Budget) => self.used_up(&bottle.name, budget)?.map(|_| CutCause::Budget),
        };
        match still_cut {
            Some(cause) => Err(LedgerError::StillCut { name: bottle.name.clone(), cause }.into()),
            None => Ok(()),
        }
    }

    /// A governing budget that would be used up, if any. One that allows nothing and of which nothing was used forbids a
    /// provider; it has not run out.
    pub(super) fn used_up(
        &mut self,
        name: &BottleName,
        budget: &[(ProviderName, Tokens)],
    ) -> rusqlite::Result<Option<(ProviderName, Crossing)>> {
        let limits = self.limits.clone();
        for (provider, _) in budget.iter().chain(&limits.host) {
            let chain = self.book.chain(&self.connection, &limits, (name, budget), provider)?;
            if let Some(crossing) = budget::crossed(&chain).filter(|crossing| crossing.used > Tokens::ZERO) {
                return Ok(Some((provider.clone(), crossing)));
            }
        }
        Ok(None)
    }

    pub(super) fn free_address(&self, pool: AddressPool) -> Result<Ipv4Addr, Fault> {
        let in_use = report::addresses(&self.connection)?;
        Ok(pool.lowest_free(&in_use).ok_or(LedgerError::NoAddress)?)
    }

    pub(super) fn replace_budget(&self, id: BottleId, budget: &[(ProviderName, Tokens)]) -> rusqlite::Result<()> {
        self.connection.prepare_cached("DELETE FROM bottle_budget WHERE bottle = ?1")?.execute([id.0])?;
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO bottle_budget (bottle, provider, tokens) VALUES (?1, ?2, ?3)
             ON CONFLICT (bottle, provider) DO UPDATE SET tokens = excluded.tokens",
        )?;
        for (provider, tokens) in budget {
            statement.execute(params![id.0, provider.as_str(), amount(*tokens)])?;
        }
        Ok(())
    }
}
