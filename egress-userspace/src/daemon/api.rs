//! What the control API's requests mean: each goes to the one that knows, and the answer is put together here.

use std::time::Duration;

use tokio::sync::mpsc;
use tracing::warn;

use crate::budget;
use crate::control::{
    ApiError, ApiReply, ApiRequest, BottleInfo, BottleRoutesReply, BottlesReply, BudgetChangeRequest, BudgetsReply,
    CutAllReply, ErrorCode, ExplainReply, GateReply, Peer, RowFilter, RunEvent, StatusReply, StopReply, UsageReply,
    WaitRequest,
};
use crate::domain::{
    BottleName, BottleState, CutCause, GateView, ProviderName, Scope, Stop, StopStep, UnixMillis, with_causes,
};
use crate::ledger::{BottleRow, BudgetChange, Forgotten, ListedBottle, UsageFilter};
use crate::metrics;

use super::approvals::Approvals;
use super::clock::now;
use super::controller::{Running, View};
use super::gating::GateError;
use super::launch::{Launcher, failed, hang_up, refused};
use super::lifeline::{Lifeline, RunEnd, Stopped};
use super::metrics::Metrics;
use super::stopping::Over;

/// How often it is looked whether the end of a run is on record.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Everything requests are answered from.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) launcher: Launcher,
    pub(super) pins: String,
    pub(super) approvals: Approvals,
    pub(super) metrics: Metrics,
    /// When the daemon was started, in seconds of Unix time.
    pub(super) started: u64,
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
            ApiRequest::Live => Ok(ApiReply::Live(self.follow_live().await?)),
            ApiRequest::BottleRoutes(name) => ApiReply::json(&self.routes(name).await?),
            ApiRequest::Explain(name) => ApiReply::json(&self.explain(name).await?),
            ApiRequest::Budgets => ApiReply::json(&self.budgets(None).await?),
            ApiRequest::ChangeBudget(request) => ApiReply::json(&self.change_budget(&peer, request).await?),
            ApiRequest::Resume(name, request) => {
                request.budget.iter().try_for_each(|(provider, _)| self.check_provider(provider))?;
                Ok(ApiReply::Events(self.launcher.resume(peer, name, request).await?))
            }
            ApiRequest::Attach(name, request) => {
                request.budget.iter().try_for_each(|(provider, _)| self.check_provider(provider))?;
                ApiReply::json(&self.launcher.attach(peer, name, request).await?)
            }
            ApiRequest::Detach(name) => ApiReply::json(&self.detach(&peer, name).await?),
            ApiRequest::Stop(name, stop) => ApiReply::json(&self.stop(name, stop).await?),
            ApiRequest::FollowStop(name) => Ok(ApiReply::Stopping(self.follow_stopping(&name).await?)),
            ApiRequest::Wait(name, request) => Ok(ApiReply::Events(self.wait(&name, request).await?)),
            ApiRequest::Signal(name, request) => {
                let signaller = self.running(&name).await?.signaller;
                let sent = signaller.map_or(Ok(()), |signaller| signaller.send(request.signal));
                sent.map_err(|error| failed(format!("the signal was not sent: {error}")))?;
                ApiReply::json(&())
            }
            ApiRequest::Cut(name) => ApiReply::json(&self.cut(name).await?),
            ApiRequest::CutAll => ApiReply::json(&self.cut_all().await?),
            ApiRequest::Restore(name) => ApiReply::json(&self.restore(name).await?),
            ApiRequest::Metrics => Ok(ApiReply::Text(metrics::CONTENT_TYPE, self.metrics().await?)),
            ApiRequest::Usage(filter) => ApiReply::json(&self.usage(filter).await?),
            ApiRequest::UsageRows(query) => ApiReply::long_json(&self.usage_rows(query).await?),
            ApiRequest::UsageSums(query) => ApiReply::json(&self.usage_sums(query).await?),
            ApiRequest::Audit(query) => ApiReply::json(&self.audit(query).await?),
            ApiRequest::FollowAudit(bottle, after) => Ok(ApiReply::Audit(self.follow_audit(bottle, after).await?)),
            ApiRequest::Kernel(bottle) => ApiReply::json(&self.kernel(bottle).await?),
            ApiRequest::Approvals(query) => ApiReply::json(&self.approvals(query).await?),
            ApiRequest::FollowApprovals(bottle) => Ok(ApiReply::Approvals(self.follow_approvals(bottle).await?)),
            ApiRequest::Decide(id, action, request) => self.decide(&peer, id, action, request).await,
            ApiRequest::ForgetApprovals(name) => ApiReply::json(&self.forget(&peer, Forgotten::Of(name)).await?),
            ApiRequest::VerifyAudit(tip) => ApiReply::json(&self.verify_audit(tip).await?),
        }
    }

    pub(super) async fn look(&self) -> Result<View, ApiError> {
        self.launcher.controller.look().await.ok_or_else(|| failed("the controller has stopped"))
    }

    pub(super) async fn running(&self, name: &BottleName) -> Result<Running, ApiError> {
        let found = self.look().await?.running.into_iter().find(|running| running.name == *name);
        found.ok_or_else(|| not_running(name))
    }

    async fn status(&self) -> Result<StatusReply, ApiError> {
        Ok(self.status_of(&self.look().await?, self.open_approvals().await?))
    }

    pub(super) fn status_of(&self, view: &View, open_approvals: u64) -> StatusReply {
        StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            proxy_pid: view.proxy_pid,
            enforcer: self.launcher.enforcer.backend().to_owned(),
            gateway: self.launcher.pool.gateway,
            pins: self.pins.clone(),
            not_enforcing: self.launcher.not_enforcing.clone(),
            settings_problem: self.launcher.in_force.problem(),
            open_approvals,
        }
    }

    async fn bottles(&self) -> Result<BottlesReply, ApiError> {
        let listed = self.launcher.ledger.listed_bottles().await.map_err(|error| refused(&error))?;
        let view = self.look().await?;
        let gates = self.launcher.gate_counters(&view.running).await;
        let counted = |bottle: ListedBottle| {
            let dropped = view.of(bottle.row.id).map_or(0, |running| gates.gate(running).dropped_packets);
            BottleInfo { dropped_packets: dropped, ..info(bottle, &view) }
        };
        Ok(BottlesReply {
            bottles: listed.into_iter().map(counted).collect(),
            enforcer: self.launcher.enforcer.backend().to_owned(),
            not_enforcing: self.launcher.not_enforcing.clone(),
            settings_problem: self.launcher.in_force.problem(),
            open_approvals: self.open_approvals().await?,
        })
    }

    async fn cut(&self, name: BottleName) -> Result<GateReply, ApiError> {
        let row = self.launcher.ledger.bottle(&name).await.map_err(|error| refused(&error))?;
        let was_already = self.launcher.controller.cut(row.id).await.map_err(|error| refused(&error))?;
        let gate = self.launcher.ledger.bottle(&name).await.map_or(GateView::Cut(CutCause::Operator), |row| row.gate);
        let note = match row.state() {
            BottleState::Running => None,
            BottleState::Frozen => {
                Some(format!("{name} is frozen; it cannot be resumed until `egress restore {name}`"))
            }
            BottleState::Ended => {
                Some(format!("{name} is not running; it cannot be run again until `egress restore {name}`"))
            }
        };
        Ok(GateReply { name, gate, was_already, note })
    }

    async fn cut_all(&self) -> Result<CutAllReply, ApiError> {
        let cut = self.launcher.controller.cut_all().await;
        let cut = cut.map_err(|error| {
            failed(format!("what runs is cut, but what is being started may not be ({})", with_causes(&error)))
        });
        Ok(CutAllReply { cut: cut? })
    }

    async fn restore(&self, name: BottleName) -> Result<GateReply, ApiError> {
        let row = self.launcher.ledger.bottle(&name).await.map_err(|error| refused(&error))?;
        let restored = self.launcher.controller.restore(row.id).await;
        let was_already = restored.map_err(|error| match error {
            GateError::Ledger(error) => refused(&error),
            GateError::Kernel(error) => failed(format!("the gate of {name} stays cut ({})", with_causes(&error))),
        })?;
        let held = self.let_go_on(&row).await;
        let budgets = self.launcher.ledger.budgets(row.id).await.map_err(|error| refused(&error))?;
        let gone = budgets.iter().find_map(|view| Some((view, budget::crossed(&view.chain)?)));
        let frozen = row.frozen.map(|_| format!("{name} is frozen: `egress resume {name}` continues it"));
        let note = gone.filter(|_| frozen.is_none()).map(|(view, crossing)| {
            format!(
                "the {} budget of {} is still used up ({} of {}): the next request is refused and {name} is cut again",
                view.provider, crossing.scope, crossing.used, crossing.budget
            )
        });
        Ok(GateReply { name, gate: GateView::Open, was_already, note: held.or(frozen).or(note) })
    }

    /// A freeze that failed may have left processes that stand still; the next start would freeze them. Says so if it must be.
    async fn let_go_on(&self, row: &BottleRow) -> Option<String> {
        let Launcher { runtime, stop_steps, .. } = &self.launcher;
        if row.ended.is_some() || stop_steps.is_at(row.id) || !runtime.is_held(&row.name) {
            return None;
        }
        let error = runtime.release(&row.name).await.err()?;
        let name = &row.name;
        Some(format!("its processes stand still ({}): `egress restore {name}` tries again", with_causes(&error)))
    }

    /// Freezes or kills, and waits until it is done.
    async fn stop(&self, name: BottleName, stop: Stop) -> Result<StopReply, ApiError> {
        let row = self.launcher.ledger.bottle(&name).await.map_err(|error| refused(&error))?;
        let done = |was_already| StopReply { name: name.clone(), stop, was_already, note: None };
        if let Some(Running { lifeline, .. }) = self.look().await?.of(row.id).filter(|_| row.ended.is_none()) {
            let end = self.stop_run(&row, stop, lifeline.clone()).await?;
            if end.stopped.as_ref().is_some_and(|stopped| stopped.stop == stop) {
                return told(end).map(|()| done(false));
            }
            // It ended by itself meanwhile, or somebody stopped it in the other way.
        }
        let turn = self.launcher.turns.take(row.id).await;
        let row = self.launcher.ledger.bottle(&name).await.map_err(|error| refused(&error))?;
        if row.ended.is_some() {
            return self.stop_ended(&row, stop).await.map(done);
        }
        // Something of it was left the last time.
        if row.stopping.is_some() && self.look().await?.of(row.id).is_none() {
            let over = Over::Stopped(stop, CutCause::Operator);
            return told(self.launcher.finish_in_turn(&turn, &row, over).await).map(|()| done(false));
        }
        let message = format!("bottle {name} is being started or taken down: try again");
        Err(ApiError { code: ErrorCode::Conflict, message })
    }

    /// Cuts a bottle that runs and has it frozen or killed. It may end otherwise first.
    async fn stop_run(&self, row: &BottleRow, stop: Stop, lifeline: Lifeline) -> Result<RunEnd, ApiError> {
        if stop == Stop::Freeze {
            self.launcher.stop_steps.at(row.id, StopStep::Holding);
            // Nothing that the network shows. The run comes back to it, behind the cut gate, when this fails.
            if let Err(error) = self.launcher.runtime.hold_at_once(&row.name) {
                warn!(bottle = %row.name, error = with_causes(&error), "its processes move on while it is being cut");
            }
        }
        let Lifeline { mut exit, remains, .. } = lifeline;
        self.launcher.controller.stop(row.id, stop).await;
        let mut remains = remains.subscribe();
        tokio::select! {
            end = exit.wait_for(Option::is_some) => {
                end.ok().and_then(|end| end.clone()).ok_or_else(|| failed("the controller has stopped"))
            }
            // A kill comes after a freeze that fails.
            what = remains.wait_for(Option::is_some), if stop == Stop::Freeze => {
                Err(failed(what.ok().and_then(|what| what.clone()).unwrap_or_default()))
            }
        }
    }

    /// Tells whether there was nothing to do.
    async fn stop_ended(&self, row: &BottleRow, stop: Stop) -> Result<bool, ApiError> {
        match stop {
            Stop::Freeze if row.frozen.is_some() => Ok(true),
            Stop::Freeze => Err(not_running(&row.name)),
            Stop::Kill if row.frozen.is_none() && !self.launcher.runtime.has_anything(&row.name) => Ok(true),
            Stop::Kill => self.launcher.kill_ended(row).await.map(|()| false),
        }
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
        if self.launcher.in_force.knows(provider) {
            return Ok(());
        }
        let known = self.launcher.in_force.providers();
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

    /// Where a bottle may go, or could if it ran.
    async fn routes(&self, name: BottleName) -> Result<BottleRoutesReply, ApiError> {
        let row = self.launcher.ledger.bottle(&name).await.map_err(|error| refused(&error))?;
        let lineage = match self.look().await?.of(row.id) {
            Some(running) => running.lineage.clone(),
            None => self.launcher.ledger.lineage(row.id).await.map_err(|error| refused(&error))?,
        };
        let routes = self.launcher.controller.allowlist(lineage).await;
        Ok(BottleRoutesReply { bottle: name, routes: routes.ok_or_else(|| failed("the controller has stopped"))? })
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
    async fn wait(&self, name: &BottleName, wanted: WaitRequest) -> Result<mpsc::Receiver<RunEvent>, ApiError> {
        let row = self.launcher.ledger.bottle(name).await.map_err(|error| refused(&error))?;
        if wanted.run.is_some_and(|run| run != row.started) {
            return Err(not_running(name));
        }
        if let (Some(_), Some(exit_code)) = (wanted.run, row.exit_code) {
            return Ok(one(RunEvent::Exited { exit_code }));
        }
        if let Some(cause) = row.frozen {
            return Ok(one(self.launcher.frozen(&row, cause).await.into()));
        }
        let Running { lifeline, signaller, .. } = match self.running(name).await {
            Ok(running) => running,
            // Nothing of it runs any more, and it is still being taken down: how it ended is written last.
            Err(_) if row.ended.is_none() && wanted.run.is_some() => return Ok(self.clone().when_recorded(row)),
            Err(error) => return Err(error),
        };
        let Lifeline { end, followed, mut exit, .. } = lifeline;
        followed.notify_one();
        let (events, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = exit.wait_for(Option::is_some) => ended.ok().and_then(|end| end.clone()),
                () = events.closed() => None,
            };
            match ended {
                // Nobody is left to hear it when this fails.
                Some(end) => drop(events.send(end.into()).await),
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

impl Desk {
    /// The end of a run that is being taken down.
    fn when_recorded(self, before: BottleRow) -> mpsc::Receiver<RunEvent> {
        let (events, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while !events.is_closed() {
                tokio::time::sleep(LOOK_EVERY).await;
                let Ok(row) = self.launcher.ledger.bottle(&before.name).await else { return };
                if row.started != before.started {
                    return;
                }
                let event = match (row.exit_code, row.frozen, row.ended) {
                    (Some(exit_code), ..) => RunEvent::Exited { exit_code },
                    (None, Some(cause), _) => self.launcher.frozen(&row, cause).await.into(),
                    (None, None, None) => continue,
                    // Killed: whoever asks again hears that it does not run.
                    (None, None, Some(_)) => return,
                };
                // Nobody is left to hear it when this fails.
                drop(events.send(event).await);
                return;
            }
        });
        receiver
    }
}

/// One bottle, as `egress list` shows it, but for what its gate has dropped.
pub(super) fn info(bottle: ListedBottle, view: &View) -> BottleInfo {
    let ListedBottle { row, budgets } = bottle;
    let (state, running) = (row.state(), view.of(row.id));
    BottleInfo {
        name: row.name,
        agent: row.agent,
        address: running.map(|running| running.address),
        interface: running.map(|running| running.interface_name.clone()),
        runtime: row.runtime,
        container: running.and_then(|running| running.container.clone()).or(row.container),
        pid: running.and_then(|running| running.init_pid),
        gate: row.gate,
        is_running: row.ended.is_none(),
        state,
        frozen: row.frozen,
        policy: row.policy,
        started: row.started,
        budgets,
        dropped_packets: 0,
    }
}

/// Events of which there is one.
fn one(event: RunEvent) -> mpsc::Receiver<RunEvent> {
    let (events, receiver) = mpsc::channel(1);
    // There is room for it.
    drop(events.try_send(event));
    receiver
}

pub(super) fn not_running(name: &BottleName) -> ApiError {
    let message = format!("bottle {name} is not running: `egress list` shows those that are");
    ApiError { code: ErrorCode::NotFound, message }
}

/// What the operator hears of a bottle that was stopped.
fn told(end: RunEnd) -> Result<(), ApiError> {
    match end.stopped {
        Some(Stopped { left: Some(_), message, .. }) => Err(failed(message)),
        Some(Stopped { left: None, .. }) | None => Ok(()),
    }
}
