//! The one owner of which bottles run and how far each is on its way to being cut.
//!
//! A task that takes orders one by one. Cutting goes in a fixed order: kernel, exchanges in flight, audit.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use egress_common::CutReason;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info};

use crate::bottle::Signaller;
use crate::broker::{BottleView, FromController, Phase, Snapshot};
use crate::domain::{
    AgentName, AuditKind, BottleId, BottleName, BudgetView, Crossing, CutCause, ProviderName, Refusal, RefusalReason,
    Scope, Tokens, with_causes,
};
use crate::kernel::{Enforcer, GateStatus, IfIndex};
use crate::ledger::{GateChange, Ledger, LedgerError, Settled};

use super::cutting::{Bounds, Moment, Stage};
use super::lifeline::Lifeline;

/// Between two attempts to write what happened to a gate when the disk is full.
const RECORD_RETRY_EVERY: Duration = Duration::from_millis(500);

/// Longer than any controller lives.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A bottle that runs.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) id: BottleId,
    pub(super) name: BottleName,
    pub(super) agent: Option<AgentName>,
    pub(super) address: Ipv4Addr,
    pub(super) interface: IfIndex,
    pub(super) interface_name: String,
    pub(super) init_pid: Option<u32>,
    pub(super) signaller: Option<Signaller>,
    pub(super) stage: Stage,
    pub(super) lifeline: Lifeline,
}

/// What the controller is told and asked. `done` is answered when everything that follows has been set in motion.
enum Order {
    Started { running: Box<Running>, done: oneshot::Sender<()> },
    Runs { bottle: BottleId, init_pid: u32, signaller: Signaller },
    Ended { bottle: BottleId, done: oneshot::Sender<()> },
    ProxyUp { outgoing: UnboundedSender<FromController>, pid: Option<u32>, done: oneshot::Sender<()> },
    ProxyDown { done: oneshot::Sender<()> },
    Crossed { settled: Settled, done: oneshot::Sender<()> },
    Exhausted { bottle: BottleId, refusal: Refusal, is_work: bool, done: oneshot::Sender<()> },
    Delivered { bottle: BottleId },
    RefusalDelivered { bottle: BottleId },
    Cut { bottle: BottleId, done: oneshot::Sender<Result<bool, LedgerError>> },
    Restore { bottle: BottleId, done: oneshot::Sender<Result<bool, LedgerError>> },
    Look { done: oneshot::Sender<View> },
}

/// What there is at one moment.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) running: Vec<Running>,
    pub(super) proxy_pid: Option<u32>,
}

/// How the rest of the daemon reaches the controller.
#[derive(Clone)]
pub(super) struct ControllerHandle {
    orders: UnboundedSender<Order>,
}

macro_rules! ask {
    ($self:ident, $order:ident { $($field:ident),* }) => {{
        let (done, answer) = oneshot::channel();
        let _ = $self.orders.send(Order::$order { $($field,)* done });
        answer.await
    }};
}

impl ControllerHandle {
    /// A bottle is about to start: the proxy is told who is behind its address.
    pub(super) async fn started(&self, running: Running) {
        let running = Box::new(running);
        let _ = ask!(self, Started { running });
    }

    /// Its command has been started.
    pub(super) fn runs(&self, bottle: BottleId, init_pid: u32, signaller: Signaller) {
        let _ = self.orders.send(Order::Runs { bottle, init_pid, signaller });
    }

    /// A bottle has ended: its exchanges are severed.
    pub(super) async fn ended(&self, bottle: BottleId) {
        let _ = ask!(self, Ended { bottle });
    }

    pub(super) async fn proxy_up(&self, outgoing: UnboundedSender<FromController>, pid: Option<u32>) {
        let _ = ask!(self, ProxyUp { outgoing, pid });
    }

    pub(super) async fn proxy_down(&self) {
        let (done, answer) = oneshot::channel();
        let _ = self.orders.send(Order::ProxyDown { done });
        let _ = answer.await;
    }

    /// A settlement crossed a budget; returns when the proxy has been told to refuse.
    pub(super) async fn crossed(&self, settled: Settled) {
        let _ = ask!(self, Crossed { settled });
    }

    /// A request was refused because a budget is gone; returns when the proxy has been told so. `is_work`: it would have spent.
    pub(super) async fn exhausted(&self, bottle: BottleId, refusal: Refusal, is_work: bool) {
        let _ = ask!(self, Exhausted { bottle, refusal, is_work });
    }

    pub(super) fn delivered(&self, bottle: BottleId) {
        let _ = self.orders.send(Order::Delivered { bottle });
    }

    pub(super) fn refusal_delivered(&self, bottle: BottleId) {
        let _ = self.orders.send(Order::RefusalDelivered { bottle });
    }

    /// Cuts at once; tells whether it was cut already.
    pub(super) async fn cut(&self, bottle: BottleId) -> Result<bool, LedgerError> {
        ask!(self, Cut { bottle }).unwrap_or(Err(LedgerError::Closed))
    }

    /// Opens; tells whether it was open already.
    pub(super) async fn restore(&self, bottle: BottleId) -> Result<bool, LedgerError> {
        ask!(self, Restore { bottle }).unwrap_or(Err(LedgerError::Closed))
    }

    pub(super) async fn look(&self) -> Option<View> {
        let (done, answer) = oneshot::channel();
        let _ = self.orders.send(Order::Look { done });
        answer.await.ok()
    }
}

/// The state and what it acts on.
pub(super) struct Controller {
    ledger: Ledger,
    enforcer: Arc<dyn Enforcer>,
    /// What the proxy may know, but for the bottles.
    policy: Snapshot,
    bounds: Bounds,
    born: Instant,
    running: BTreeMap<BottleId, Running>,
    proxy: Option<UnboundedSender<FromController>>,
    proxy_pid: Option<u32>,
    unrecorded: VecDeque<Record>,
}

/// What happened and is not in the ledger yet.
#[derive(Clone)]
enum Record {
    Cut(BottleId, CutCause),
    Audit(Option<BottleId>, AuditKind),
}

/// Starts the controller's task.
pub(super) fn spawn(ledger: Ledger, enforcer: Arc<dyn Enforcer>, policy: Snapshot, bounds: Bounds) -> ControllerHandle {
    let (orders, queue) = mpsc::unbounded_channel();
    let controller = Controller {
        ledger,
        enforcer,
        policy,
        bounds,
        born: Instant::now(),
        running: BTreeMap::new(),
        proxy: None,
        proxy_pid: None,
        unrecorded: VecDeque::new(),
    };
    tokio::spawn(controller.run(queue));
    ControllerHandle { orders }
}

impl Controller {
    async fn run(mut self, mut orders: UnboundedReceiver<Order>) {
        loop {
            // A failure is logged where it happens, and this loop comes back to it.
            let _ = self.write_unrecorded().await;
            let wake = self.wake();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
                () = tokio::time::sleep_until(wake) => self.advance_all(Stage::due).await,
            }
        }
    }

    /// When to look again though nothing was said.
    fn wake(&self) -> Instant {
        let deadline = self.running.values().filter_map(|running| running.stage.deadline()).min();
        let wake = self.born + deadline.unwrap_or(FOREVER);
        if self.unrecorded.is_empty() { wake } else { wake.min(Instant::now() + RECORD_RETRY_EVERY) }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Started { running, done } => {
                self.running.insert(running.id, *running);
                self.tell_proxy();
                let _ = done.send(());
            }
            Order::Runs { bottle, init_pid, signaller } => {
                if let Some(running) = self.running.get_mut(&bottle) {
                    (running.init_pid, running.signaller) = (Some(init_pid), Some(signaller));
                }
            }
            Order::Ended { bottle, done } => {
                self.running.remove(&bottle);
                self.tell_proxy();
                let _ = done.send(());
            }
            Order::ProxyUp { outgoing, pid, done } => {
                (self.proxy, self.proxy_pid) = (Some(outgoing), pid);
                self.tell_proxy();
                let _ = done.send(());
            }
            Order::ProxyDown { done } => {
                (self.proxy, self.proxy_pid) = (None, None);
                let _ = done.send(());
            }
            Order::Crossed { settled, done } => {
                self.crossed(settled).await;
                let _ = done.send(());
            }
            Order::Exhausted { bottle, refusal, is_work, done } => {
                self.advance(bottle, |stage, bounds, now| stage.exhausted(refusal, is_work, bounds, now)).await;
                let _ = done.send(());
            }
            Order::Delivered { bottle } => self.advance(bottle, Stage::delivered).await,
            Order::RefusalDelivered { bottle } => {
                self.advance(bottle, |stage, _, now| stage.refusal_delivered(now)).await;
            }
            Order::Cut { bottle, done } => {
                let _ = done.send(self.cut_by_operator(bottle).await);
            }
            Order::Restore { bottle, done } => {
                let _ = done.send(self.restore(bottle).await);
            }
            Order::Look { done } => {
                let running = self.running.values().cloned().collect();
                let _ = done.send(View { running, proxy_pid: self.proxy_pid });
            }
        }
    }

    /// A budget is used up: everything its scope governs is on its way to being cut.
    async fn crossed(&mut self, settled: Settled) {
        let Some(crossing) = settled.crossing else { return };
        let is_first = self.running.get(&settled.bottle).is_some_and(|running| running.stage == Stage::Open);
        let refusal = refusal(&crossing, &settled.provider);
        let governed = self.governed(settled.bottle, &crossing, &settled.provider).await;
        // Noted first, as the cut that may follow at once is told after its cause.
        if is_first {
            let Crossing { scope, budget, used } = crossing;
            let (provider, request) = (settled.provider, settled.provider_request_id);
            let kind = AuditKind::BudgetCrossed { scope, provider, budget, used, request };
            self.unrecorded.push_back(Record::Audit(Some(settled.bottle), kind));
        }
        for bottle in governed {
            let refusal = refusal.clone();
            self.advance(bottle, |stage, bounds, now| stage.crossed(refusal, bounds, now)).await;
        }
    }

    /// The bottle that crossed, and every other that spends from the same budget.
    async fn governed(&self, bottle: BottleId, crossing: &Crossing, provider: &ProviderName) -> Vec<BottleId> {
        let mut governed = vec![bottle];
        if matches!(crossing.scope, Scope::Bottle(_)) {
            return governed;
        }
        for id in self.running.keys().copied().filter(|id| *id != bottle) {
            let budgets = self.ledger.budgets(id).await.unwrap_or_default();
            let spends = budgets.iter().filter(|view| view.provider == *provider).any(|view| {
                let governing = crate::budget::governing(&view.chain);
                governing.is_some_and(|state| state.scope == crossing.scope) && spends(view)
            });
            if spends {
                governed.push(id);
            }
        }
        governed
    }

    async fn advance_all(&mut self, step: impl Fn(Stage, Bounds, Moment) -> Stage) {
        let bottles: Vec<BottleId> = self.running.keys().copied().collect();
        for bottle in bottles {
            self.advance(bottle, &step).await;
        }
    }

    /// Moves one bottle along and does what its new stage means.
    async fn advance(&mut self, bottle: BottleId, step: impl FnOnce(Stage, Bounds, Moment) -> Stage) {
        let now = self.born.elapsed();
        let Some(running) = self.running.get_mut(&bottle) else { return };
        let before = running.stage.clone();
        running.stage = step(before.clone(), self.bounds, now);
        if running.stage == before {
            return;
        }
        if let Stage::Cut(cause) = running.stage {
            self.cut_gate(bottle, cause);
        } else {
            self.tell_proxy();
        }
    }

    /// Kernel first, then the exchanges in flight, then the record of it.
    fn cut_gate(&mut self, bottle: BottleId, cause: CutCause) {
        let Some(running) = self.running.get_mut(&bottle) else { return };
        let reason = match cause {
            CutCause::Budget => CutReason::Budget,
            CutCause::Operator => CutReason::Operator,
        };
        let start = Instant::now();
        if let Err(error) = self.enforcer.set(running.interface, GateStatus::Cut(reason)) {
            error!(bottle = %running.name, error = with_causes(&error), "the gate could not be cut; the bottle is ended instead");
            running.lifeline.end.notify_one();
        }
        running.stage = Stage::Cut(cause);
        // Said when the kernel holds it: `cargo xtask bench` takes the moment and the duration from here.
        info!(bottle = %running.name, cause = cause.as_str(), write_us = start.elapsed().as_micros(), "cut");
        self.tell_proxy();
        self.unrecorded.push_back(Record::Cut(bottle, cause));
    }

    async fn cut_by_operator(&mut self, bottle: BottleId) -> Result<bool, LedgerError> {
        let was_cut = self.running.get(&bottle).is_some_and(|running| matches!(running.stage, Stage::Cut(_)));
        if self.running.contains_key(&bottle) && !was_cut {
            self.cut_gate(bottle, CutCause::Operator);
            // The kernel holds the cut; a record that fails is written later.
            let _ = self.write_unrecorded().await;
            return Ok(false);
        }
        self.ledger.change_gate(bottle, GateChange::Cut(CutCause::Operator)).await
    }

    /// The record first: a gate is never open that the ledger wants cut.
    async fn restore(&mut self, bottle: BottleId) -> Result<bool, LedgerError> {
        self.write_unrecorded().await?;
        let was_open = self.ledger.change_gate(bottle, GateChange::Restore).await?;
        let Some(running) = self.running.get_mut(&bottle) else { return Ok(was_open) };
        if let Err(error) = self.enforcer.set(running.interface, GateStatus::Open) {
            error!(bottle = %running.name, error = with_causes(&error), "the gate could not be opened");
            return Ok(was_open);
        }
        running.stage = Stage::Open;
        info!(bottle = %running.name, "restored");
        self.tell_proxy();
        Ok(was_open)
    }

    /// Pushes what the proxy may know.
    fn tell_proxy(&self) {
        let Some(proxy) = &self.proxy else { return };
        let bottles = self.running.values().map(view).collect();
        let _ = proxy.send(FromController::Snapshot(Snapshot { bottles, ..self.policy.clone() }));
    }

    /// Writes what the ledger does not know yet, in the order in which it happened; stops at the first failure.
    async fn write_unrecorded(&mut self) -> Result<(), LedgerError> {
        while let Some(record) = self.unrecorded.front().cloned() {
            let written = match record {
                Record::Cut(bottle, cause) => self.ledger.change_gate(bottle, GateChange::Cut(cause)).await.map(|_| ()),
                Record::Audit(bottle, kind) => self.ledger.audit(bottle, kind).await,
            };
            if let Err(error) = written {
                error!(error = with_causes(&error), "what happened to a gate is not in the ledger yet; trying again");
                return Err(error);
            }
            self.unrecorded.pop_front();
        }
        Ok(())
    }
}

fn view(running: &Running) -> BottleView {
    let phase = match &running.stage {
        Stage::Open => Phase::Open,
        Stage::Draining { refusal, .. } | Stage::LastWord { refusal, .. } => Phase::LastWord(refusal.clone()),
        Stage::Cut(_) => Phase::Cut,
    };
    BottleView {
        id: running.id,
        name: running.name.clone(),
        agent: running.agent.clone(),
        address: running.address,
        phase,
    }
}

/// Has the bottle itself a part in what is used, or held?
pub(super) fn spends(view: &BudgetView) -> bool {
    let own = view.chain.iter().find(|state| matches!(state.scope, Scope::Bottle(_)));
    own.is_some_and(|state| state.used + state.held > Tokens::ZERO)
}

/// What is wrong, and what to do about it, for whoever reads it in the bottle.
pub(super) fn with_advice(message: &str) -> String {
    format!("{message}. This bottle's network is being cut; ask the operator to raise the budget and restore it")
}

/// What a bottle hears once a budget is used up.
pub(super) fn refusal(crossing: &Crossing, provider: &ProviderName) -> Refusal {
    let Crossing { scope, budget, used } = crossing;
    Refusal {
        reason: RefusalReason::BudgetExhausted,
        message: with_advice(&format!("the {provider} budget of {scope} is used up: {used} of {budget} tokens")),
        scope: Some(scope.clone()),
        budget: Some(*budget),
        used: Some(*used),
    }
}
