//! What the control API's requests mean: each goes to the one that knows, and the answer is put together here.

use std::collections::BTreeMap;

use egress_common::Outcome;
use tokio::sync::mpsc;

use crate::budget;
use crate::control::{
    ApiError, ApiReply, ApiRequest, BottleInfo, BottlesReply, BudgetChangeRequest, BudgetsReply, ErrorCode,
    ExplainReply, GateReply, Peer, RowFilter, RunEvent, StatusReply, UsageReply,
};
use crate::domain::{BottleId, BottleName, CutCause, GateView, ProviderName, Scope, UnixMillis};
use crate::ledger::{BottleRow, BudgetChange, UsageFilter};

use super::clock::now;
use super::controller::{Running, View};
use super::launch::{Launcher, failed, hang_up, refused};
use super::lifeline::Lifeline;
use super::reload::InForce;

/// Everything requests are answered from.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) launcher: Launcher,
    pub(super) pins: String,
    pub(super) in_force: InForce,
}

impl Desk {
    pub(super) async fn answer(self, peer: Peer, request: ApiRequest) -> Result<ApiReply, ApiError> {
        match request {
            ApiRequest::Status => ApiReply::json(&self.status().await?),
            ApiRequest::Bottles => ApiReply::json(&self.bottles().await?),
            ApiRequest::Run(name, request) => {
                request.budget.iter().try_for_each(|(provider, _)| self.check_provider(provider))?;
                Ok(ApiReply::Events(self.launcher.run(peer, name, request).await?))
            }
            ApiRequest::Explain(name) => ApiReply::json(&self.explain(name).await?),
            ApiRequest::Budgets => ApiReply::json(&self.budgets(None).await?),
            ApiRequest::ChangeBudget(request) => ApiReply::json(&self.change_budget(&peer, request).await?),
            ApiRequest::Wait(name) => Ok(ApiReply::Events(self.wait(&name).await?)),
            ApiRequest::Signal(name, request) => {
                let signaller = self.running(&name).await?.signaller;
                let sent = signaller.map_or(Ok(()), |signaller| signaller.send(request.signal));
                sent.map_err(|error| failed(format!("the signal was not sent: {error}")))?;
                ApiReply::json(&())
            }
            ApiRequest::Cut(name) => ApiReply::json(&self.cut(name).await?),
            ApiRequest::Restore(name) => ApiReply::json(&self.restore(name).await?),
            ApiRequest::Usage(filter) => ApiReply::json(&self.usage(filter).await?),
            ApiRequest::Audit(query) => ApiReply::json(&self.audit(query).await?),
            ApiRequest::FollowAudit(bottle, after) => Ok(ApiReply::Audit(self.follow_audit(bottle, after).await?)),
            ApiRequest::VerifyAudit(tip) => ApiReply::json(&self.verify_audit(tip).await?),
        }
    }

    pub(super) async fn look(&self) -> Result<View, ApiError> {
        self.launcher.controller.look().await.ok_or_else(|| failed("the controller has stopped"))
    }

    async fn running(&self, name: &BottleName) -> Result<Running, ApiError> {
        let found = self.look().await?.running.into_iter().find(|running| running.name == *name);
        found.ok_or_else(|| ApiError {
            code: ErrorCode::NotFound,
            message: format!("bottle {name} is not running: `egress list` shows those that are"),
        })
    }

    async fn status(&self) -> Result<StatusReply, ApiError> {
        Ok(StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            proxy_pid: self.look().await?.proxy_pid,
            enforcer: self.launcher.enforcer.backend().to_owned(),
            gateway: self.launcher.pool.gateway,
            pins: self.pins.clone(),
            settings_problem: self.in_force.problem(),
        })
    }

    /// Bottles whose run has not ended, taken down entirely, and ended ones whose gate stays cut.
    async fn bottles(&self) -> Result<BottlesReply, ApiError> {
        let rows = self.launcher.ledger.bottles().await.map_err(|error| refused(&error))?;
        let running: BTreeMap<BottleId, Running> =
            self.look().await?.running.into_iter().map(|running| (running.id, running)).collect();
        let mut bottles = Vec::new();
        for row in rows {
            let running = running.get(&row.id);
            if row.ended.is_none() || row.gate != GateView::Open {
                bottles.push(self.info(row, running).await?);
            }
        }
        Ok(BottlesReply { bottles, settings_problem: self.in_force.problem() })
    }

    async fn info(&self, row: BottleRow, running: Option<&Running>) -> Result<BottleInfo, ApiError> {
        let budgets = self.launcher.ledger.budgets(row.id).await.map_err(|error| refused(&error))?;
        let counters = match running {
            Some(running) => self.launcher.enforcer.counters(running.interface).unwrap_or_default(),
            None => Vec::new(),
        };
        let dropped = counters.iter().filter(|counter| counter.outcome != Outcome::Passed);
        Ok(BottleInfo {
            name: row.name,
            agent: row.agent,
            address: running.map(|running| running.address),
            interface: running.map(|running| running.interface_name.clone()),
            pid: running.and_then(|running| running.init_pid),
            gate: row.gate,
            is_running: row.ended.is_none(),
            started: row.started,
            budgets,
            dropped_packets: dropped.map(|counter| counter.packets).sum(),
        })
    }

    async fn cut(&self, name: BottleName) -> Result<GateReply, ApiError> {
        let row = self.launcher.ledger.bottle(&name).await.map_err(|error| refused(&error))?;
        let was_already = self.launcher.controller.cut(row.id).await.map_err(|error| refused(&error))?;
        let gate = self.launcher.ledger.bottle(&name).await.map_or(GateView::Cut(CutCause::Operator), |row| row.gate);
        let note =
            row.ended.map(|_| format!("{name} is not running; it cannot be run again until `egress restore {name}`"));
        Ok(GateReply { name, gate, was_already, note })
    }

    async fn restore(&self, name: BottleName) -> Result<GateReply, ApiError> {
        let row = self.launcher.ledger.bottle(&name).await.map_err(|error| refused(&error))?;
        let was_already = self.launcher.controller.restore(row.id).await.map_err(|error| refused(&error))?;
        let budgets = self.launcher.ledger.budgets(row.id).await.map_err(|error| refused(&error))?;
        let gone = budgets.iter().find_map(|view| Some((view, budget::crossed(&view.chain)?)));
        let note = gone.map(|(view, crossing)| {
            format!(
                "the {} budget of {} is still used up ({} of {}): the next request is refused and {name} is cut again",
                view.provider, crossing.scope, crossing.used, crossing.budget
            )
        });
        Ok(GateReply { name, gate: GateView::Open, was_already, note })
    }

    async fn usage(&self, filter: RowFilter) -> Result<UsageReply, ApiError> {
        let RowFilter { bottle, last } = filter;
        let sums = self.launcher.ledger.usage_sums(bottle.clone()).await.map_err(|error| refused(&error))?;
        let rows =
            self.launcher.ledger.usage_rows(UsageFilter { bottle, last }).await.map_err(|error| refused(&error))?;
        Ok(UsageReply { sums, rows })
    }

    /// A budget for a provider that nobody knows would never bind.
    fn check_provider(&self, provider: &ProviderName) -> Result<(), ApiError> {
        if self.in_force.knows(provider) {
            return Ok(());
        }
        let known = self.in_force.providers();
        let known: Vec<&str> = known.iter().map(ProviderName::as_str).collect();
        let message = format!("there is no provider {provider}: known are {}", known.join(", "));
        Err(ApiError { code: ErrorCode::Usage, message })
    }

    async fn explain(&self, name: BottleName) -> Result<ExplainReply, ApiError> {
        let ledger = &self.launcher.ledger;
        let row = ledger.bottle(&name).await.map_err(|error| refused(&error))?;
        let lineage = ledger.lineage(row.id).await.map_err(|error| refused(&error))?;
        let budgets = ledger.budgets(row.id).await.map_err(|error| refused(&error))?;
        let chain = budget::scopes(row.agent.as_ref(), lineage);
        Ok(ExplainReply { bottle: name, chain, precedence: ledger.rules().precedence, budgets })
    }

    async fn budgets(&self, of: Option<Scope>) -> Result<BudgetsReply, ApiError> {
        let mut scopes = self.launcher.ledger.scopes().await.map_err(|error| refused(&error))?;
        scopes.retain(|view| of.as_ref().is_none_or(|scope| view.state.scope == *scope));
        Ok(BudgetsReply { scopes })
    }

    /// What is changed is in force when this returns: bottles that may go on are open again, others on their way to be cut.
    async fn change_budget(&self, peer: &Peer, request: BudgetChangeRequest) -> Result<BudgetsReply, ApiError> {
        let (scope, change) = match request {
            BudgetChangeRequest::Set { scope, provider, limit } => {
                self.check_provider(&provider)?;
                (scope.clone(), BudgetChange::Set { scope, provider, limit })
            }
            BudgetChangeRequest::Grant { scope, provider, tokens, ttl_seconds } => {
                self.check_provider(&provider)?;
                let until = ttl_seconds.map(after);
                (scope.clone(), BudgetChange::Grant { scope, provider, tokens, until })
            }
            BudgetChangeRequest::Clear { scope, provider } => (scope.clone(), BudgetChange::Clear { scope, provider }),
        };
        self.launcher.ledger.change_budget(change, peer.uid).await.map_err(|error| refused(&error))?;
        self.launcher.controller.review().await;
        self.budgets(Some(scope)).await
    }

    /// The end of a run that another controller started. As with the connection that started it, closing this one ends the
    /// run: whoever wanted it has gone.
    async fn wait(&self, name: &BottleName) -> Result<mpsc::Receiver<RunEvent>, ApiError> {
        let Running { lifeline, signaller, .. } = self.running(name).await?;
        let Lifeline { end, followed, mut exit } = lifeline;
        followed.notify_one();
        let (events, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = exit.wait_for(Option::is_some) => ended.ok().and_then(|code| *code),
                () = events.closed() => None,
            };
            match ended {
                // Nobody is left to hear it when this fails.
                Some(exit_code) => drop(events.send(RunEvent::Exited { exit_code }).await),
                None => hang_up(signaller.as_ref(), &end).await,
            }
        });
        Ok(receiver)
    }
}

/// So many seconds from now.
fn after(seconds: u64) -> UnixMillis {
    let millis = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000);
    UnixMillis(now().0.saturating_add(millis))
}
