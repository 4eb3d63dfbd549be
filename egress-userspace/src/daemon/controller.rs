//! The one owner of which bottles run and how far each is on its way to being cut.
//!
//! A task that takes orders one by one. Cutting goes in a fixed order: kernel, exchanges in flight, audit, and then what the
//! bottle's policy or the operator wants besides.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::error;

use crate::bottle::Signaller;
use crate::broker::{BottleView, FromController, Phase, Snapshot};
use crate::domain::{
    AgentName, AuditKind, BottleId, BottleName, BudgetView, Crossing, CutCause, CutoffPolicy, Distribution,
    ListedRoute, ProviderName, Refusal, RefusalReason, Rules, Stop, Tokens, with_causes,
};
use crate::fault::{self, Point};
use crate::kernel::{Enforcer, Gate, IfIndex, KernelError};
use crate::ledger::{GateChange, Ledger, LedgerError, Settled};

use super::containers::{Process, Rewired};
use super::cutting::{Bounds, Moment, Stage};
use super::gating::GateError;
use super::lifeline::Lifeline;
use super::review::{REVIEW_EVERY, Review};
use super::secrets::Values;

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
    /// Itself and its ancestors.
    pub(super) lineage: Vec<BottleName>,
    pub(super) address: Ipv4Addr,
    pub(super) interface: IfIndex,
    pub(super) interface_name: String,
    pub(super) init_pid: Option<u32>,
    /// The engine's number of its container, if it is one.
    pub(super) container: Option<String>,
    pub(super) signaller: Option<Signaller>,
    pub(super) stage: Stage,
    /// What is done with it when a budget is gone.
    pub(super) policy: CutoffPolicy,
    pub(super) lifeline: Lifeline,
}

/// What the controller is told and asked. `done` is answered when everything that follows has been set in motion.
enum Order {
    Started { running: Box<Running>, done: oneshot::Sender<Result<(), GateError>> },
    Runs { bottle: BottleId, process: Process, signaller: Signaller },
    Rewired { rewired: Box<Rewired>, done: oneshot::Sender<Result<(), KernelError>> },
    Ended { bottle: BottleId, done: oneshot::Sender<()> },
    ProxyUp { outgoing: UnboundedSender<FromController>, pid: Option<u32>, done: oneshot::Sender<()> },
    ProxyDown { done: oneshot::Sender<()> },
    Crossed { settled: Settled, done: oneshot::Sender<()> },
    Exhausted { bottle: BottleId, refusal: Refusal, is_work: bool, done: oneshot::Sender<()> },
    Delivered { bottle: BottleId },
    RefusalDelivered { bottle: BottleId },
    Cut { bottle: BottleId, done: oneshot::Sender<Result<bool, LedgerError>> },
    CutAll { done: oneshot::Sender<Result<Vec<BottleName>, LedgerError>> },
    Stop { bottle: BottleId, stop: Stop, done: oneshot::Sender<bool> },
    Restore { bottle: BottleId, done: oneshot::Sender<Result<bool, GateError>> },
    Look { done: oneshot::Sender<View> },
    Allowlist { lineage: Vec<BottleName>, done: oneshot::Sender<Vec<ListedRoute>> },
    Secrets { secrets: Values, done: oneshot::Sender<()> },
    Policy { policy: Box<Snapshot>, bounds: Bounds, done: oneshot::Sender<()> },
    Review { done: oneshot::Sender<()> },
    Mend { gate: Box<Gate>, done: oneshot::Sender<Result<Mended, KernelError>> },
}

/// What came of a gate that was to be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mended {
    /// It is as it is to be.
    Yes,
    /// Its bottle has ended.
    NotRunning,
}

/// What there is at one moment.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) running: Vec<Running>,
    pub(super) proxy_pid: Option<u32>,
    pub(super) cut_times: CutTimes,
}

/// From when cuts were due to when the kernel held them.
pub(super) type CutTimes = BTreeMap<CutCause, Distribution>;

impl View {
    /// A bottle, if it runs.
    pub(super) fn of(&self, bottle: BottleId) -> Option<&Running> {
        self.running.iter().find(|running| running.id == bottle)
    }
}

/// How the rest of the daemon reaches the controller.
#[derive(Clone)]
pub(super) struct ControllerHandle {
    orders: UnboundedSender<(Instant, Order)>,
    changed: watch::Receiver<()>,
}

macro_rules! ask {
    ($self:ident, $order:ident { $($field:ident),* }) => {{
        let (done, answer) = oneshot::channel();
        $self.give(Order::$order { $($field,)* done });
        answer.await
    }};
}

impl ControllerHandle {
    /// A bottle is about to start, its interface down: its gate is made what the ledger wants by now, and the proxy is told who
    /// is behind its address. After an error the interface is not to be brought up.
    pub(super) async fn started(&self, running: Running) -> Result<(), GateError> {
        let running = Box::new(running);
        ask!(self, Started { running }).unwrap_or(Err(GateError::Ledger(LedgerError::Closed)))
    }

    /// Budgets have been changed: returns when every bottle is as they want it.
    pub(super) async fn review(&self) {
        let (done, answer) = oneshot::channel();
        self.give(Order::Review { done });
        let _ = answer.await;
    }

    /// New settings are in force: returns when the proxy has been told, and every bottle is as they want it.
    pub(super) async fn policy(&self, policy: Snapshot, bounds: Bounds) {
        let policy = Box::new(policy);
        let _ = ask!(self, Policy { policy, bounds });
    }

    /// These are the secrets that routes name: returns when the proxy has been told.
    pub(super) async fn secrets(&self, secrets: Values) {
        let _ = ask!(self, Secrets { secrets });
    }

    /// Its command has been started.
    pub(super) fn runs(&self, bottle: BottleId, process: Process, signaller: Signaller) {
        self.give(Order::Runs { bottle, process, signaller });
    }

    /// A bottle has a new interface, which is down: returns when it has the gate that the old one had. `None`: it has ended.
    pub(super) async fn rewired(&self, rewired: Rewired) -> Option<Result<(), KernelError>> {
        let rewired = Box::new(rewired);
        ask!(self, Rewired { rewired }).ok()
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
        self.give(Order::ProxyDown { done });
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
        self.give(Order::Delivered { bottle });
    }

    pub(super) fn refusal_delivered(&self, bottle: BottleId) {
        self.give(Order::RefusalDelivered { bottle });
    }

    /// Cuts at once; tells whether it was cut already.
    pub(super) async fn cut(&self, bottle: BottleId) -> Result<bool, LedgerError> {
        ask!(self, Cut { bottle }).unwrap_or(Err(LedgerError::Closed))
    }

    /// Cuts all that run or are being started and are not cut, at once; returns which. After an error those that run are cut.
    pub(super) async fn cut_all(&self) -> Result<Vec<BottleName>, LedgerError> {
        let (done, answer) = oneshot::channel();
        self.give(Order::CutAll { done });
        answer.await.unwrap_or(Err(LedgerError::Closed))
    }

    /// Cuts at once and has the bottle frozen or killed; tells whether it runs. How that ends is said on its lifeline.
    pub(super) async fn stop(&self, bottle: BottleId, stop: Stop) -> bool {
        ask!(self, Stop { bottle, stop }).unwrap_or(false)
    }

    /// Opens; tells whether it was open already.
    pub(super) async fn restore(&self, bottle: BottleId) -> Result<bool, GateError> {
        ask!(self, Restore { bottle }).unwrap_or(Err(LedgerError::Closed.into()))
    }

    /// Makes a running bottle's gate anew: open or cut as the bottle is. A bottle whose gate cannot be made is ended.
    pub(super) async fn mend(&self, gate: Gate) -> Result<Mended, KernelError> {
        let gate = Box::new(gate);
        ask!(self, Mend { gate }).unwrap_or(Ok(Mended::NotRunning))
    }

    /// When it was given is when a cut that it asks for is due.
    fn give(&self, order: Order) {
        // The controller gone means that the daemon stops.
        let _ = self.orders.send((Instant::now(), order));
    }

    /// Where bottles of this line may go.
    pub(super) async fn allowlist(&self, lineage: Vec<BottleName>) -> Option<Vec<ListedRoute>> {
        ask!(self, Allowlist { lineage }).ok()
    }

    /// Changes whenever a look shows something else: processes, interfaces, the proxy.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.clone()
    }

    pub(super) async fn look(&self) -> Option<View> {
        let (done, answer) = oneshot::channel();
        self.give(Order::Look { done });
        answer.await.ok()
    }
}

/// The state and what it acts on.
pub(super) struct Controller {
    pub(super) ledger: Ledger,
    pub(super) enforcer: Arc<dyn Enforcer>,
    /// What the proxy may know, but for the bottles.
    policy: Snapshot,
    secrets: Values,
    bounds: Bounds,
    born: Instant,
    pub(super) running: BTreeMap<BottleId, Running>,
    proxy: Option<UnboundedSender<FromController>>,
    proxy_pid: Option<u32>,
    changed: watch::Sender<()>,
    pub(super) unrecorded: VecDeque<Record>,
    /// When what is being done was asked for.
    pub(super) asked: Instant,
    pub(super) cut_times: CutTimes,
}

/// What happened and is not in the ledger yet.
#[derive(Clone)]
pub(super) enum Record {
    Cut(BottleId, CutCause),
    CutTogether(Vec<BottleId>, CutCause),
    Audit(Option<BottleId>, AuditKind),
}

/// Starts the controller's task.
pub(super) fn spawn(ledger: Ledger, enforcer: Arc<dyn Enforcer>, policy: Snapshot, bounds: Bounds) -> ControllerHandle {
    let (orders, queue) = mpsc::unbounded_channel();
    let (changed, changes) = watch::channel(());
    let controller = Controller {
        ledger,
        enforcer,
        policy,
        secrets: Values::new(),
        bounds,
        born: Instant::now(),
        running: BTreeMap::new(),
        proxy: None,
        proxy_pid: None,
        changed,
        unrecorded: VecDeque::new(),
        asked: Instant::now(),
        cut_times: CutTimes::new(),
    };
    tokio::spawn(controller.run(queue));
    ControllerHandle { orders, changed: changes }
}

impl Controller {
    async fn run(mut self, mut orders: UnboundedReceiver<(Instant, Order)>) {
        let mut review = tokio::time::interval(REVIEW_EVERY);
        review.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            // A failure is logged where it happens, and this loop comes back to it.
            let _ = self.write_unrecorded().await;
            let wake = self.wake();
            tokio::select! {
                order = orders.recv() => match order {
                    Some((asked, order)) => {
                        self.asked = asked;
                        self.obey(order).await;
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(wake) => self.advance_all(Stage::due).await,
                _ = review.tick() => {
                    self.asked = Instant::now();
                    self.review_clock().await;
                }
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
                let _ = done.send(self.introduce(*running).await);
            }
            Order::Runs { bottle, process, signaller } => self.runs(bottle, process, signaller),
            Order::Rewired { rewired, done } => {
                let _ = self.rewire(*rewired).map(|gated| done.send(gated));
            }
            Order::Ended { bottle, done } => {
                self.running.remove(&bottle);
                self.tell_everybody();
                let _ = done.send(());
            }
            Order::ProxyUp { outgoing, pid, done } => {
                self.greet(outgoing, pid);
                let _ = done.send(());
            }
            Order::ProxyDown { done } => {
                (self.proxy, self.proxy_pid) = (None, None);
                self.tell_everybody();
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
            Order::CutAll { done } => {
                let _ = done.send(self.cut_all().await);
            }
            Order::Stop { bottle, stop, done } => {
                let _ = done.send(self.stop_by_operator(bottle, stop).await);
            }
            Order::Restore { bottle, done } => {
                let _ = done.send(self.restore(bottle).await);
            }
            Order::Secrets { secrets, done } => {
                self.take_secrets(secrets);
                let _ = done.send(());
            }
            Order::Policy { policy, bounds, done } => {
                (self.policy, self.bounds) = (*policy, bounds);
                self.review(Review::Whole).await;
                self.tell_proxy();
                let _ = done.send(());
            }
            Order::Review { done } => {
                self.review(Review::Whole).await;
                let _ = done.send(());
            }
            Order::Mend { gate, done } => {
                let _ = done.send(self.mend(*gate).await);
            }
            Order::Allowlist { lineage, done } => {
                let _ = done.send(self.policy.routes.allowlist(&lineage, &self.policy.metered));
            }
            Order::Look { done } => drop(done.send(self.view())),
        }
    }

    fn view(&self) -> View {
        View {
            running: self.running.values().cloned().collect(),
            proxy_pid: self.proxy_pid,
            cut_times: self.cut_times.clone(),
        }
    }

    fn runs(&mut self, bottle: BottleId, process: Process, signaller: Signaller) {
        let Some(running) = self.running.get_mut(&bottle) else { return };
        (running.init_pid, running.signaller) = (process.pid, Some(signaller));
        running.container = process.container;
        self.changed.send_replace(());
    }

    /// Which bottles there are is of interest to the proxy and to whoever looks.
    pub(super) fn tell_everybody(&self) {
        self.tell_proxy();
        self.changed.send_replace(());
    }

    async fn advance_all(&mut self, step: impl Fn(Stage, Bounds, Moment) -> Stage) {
        let bottles: Vec<BottleId> = self.running.keys().copied().collect();
        for bottle in bottles {
            self.advance(bottle, &step).await;
        }
    }

    /// Moves one bottle along and does what its new stage means.
    pub(super) async fn advance(&mut self, bottle: BottleId, step: impl FnOnce(Stage, Bounds, Moment) -> Stage) {
        let now = self.born.elapsed();
        let Some(running) = self.running.get_mut(&bottle) else { return };
        let before = running.stage.clone();
        running.stage = step(before.clone(), self.bounds, now);
        if running.stage == before {
            return;
        }
        if let Stage::Cut(cause) = running.stage {
            let stop = running.policy.stop();
            let due = before.deadline().filter(|deadline| *deadline <= now);
            self.cut_gate(bottle, cause, due.map_or(self.asked, |due| self.born + due));
            self.unrecorded.push_back(Record::Cut(bottle, cause));
            if let Some(stop) = stop {
                self.order_stop(bottle, stop, cause).await;
            }
        } else {
            self.tell_proxy();
        }
    }

    /// The bottle is cut; the record of that comes before what follows, unless it cannot be written.
    pub(super) async fn order_stop(&mut self, bottle: BottleId, stop: Stop, cause: CutCause) {
        let _ = self.write_unrecorded().await;
        if let Some(running) = self.running.get(&bottle) {
            running.lifeline.remains.send_replace(None);
            running.lifeline.stop.send_replace(Some((stop, cause)));
        }
    }

    /// A killed bottle leaves no gate to be cut, so only of one that is frozen it is recorded.
    async fn stop_by_operator(&mut self, bottle: BottleId, stop: Stop) -> bool {
        let Some(running) = self.running.get(&bottle) else { return false };
        if !matches!(running.stage, Stage::Cut(_)) {
            self.cut_gate(bottle, CutCause::Operator, self.asked);
        }
        if stop == Stop::Freeze {
            self.unrecorded.push_back(Record::Cut(bottle, CutCause::Operator));
        }
        self.order_stop(bottle, stop, CutCause::Operator).await;
        true
    }

    /// There is a new proxy, which knows nothing.
    fn greet(&mut self, proxy: UnboundedSender<FromController>, pid: Option<u32>) {
        (self.proxy, self.proxy_pid) = (Some(proxy), pid);
        self.tell_secrets();
        self.tell_everybody();
    }

    fn take_secrets(&mut self, secrets: Values) {
        self.secrets = secrets;
        self.tell_secrets();
    }

    fn tell_secrets(&self) {
        let Some(proxy) = &self.proxy else { return };
        let _ = proxy.send(FromController::Secrets { secrets: self.secrets.clone() });
    }

    /// Pushes what the proxy may know.
    pub(super) fn tell_proxy(&self) {
        let Some(proxy) = &self.proxy else { return };
        let rules = self.ledger.rules();
        let bottles = self.running.values().map(|running| view(running, &rules)).collect();
        let _ = proxy.send(FromController::Snapshot(Snapshot { bottles, ..self.policy.clone() }));
    }

    /// Writes what the ledger does not know yet, in the order in which it happened; stops at the first failure.
    pub(super) async fn write_unrecorded(&mut self) -> Result<(), LedgerError> {
        while let Some(record) = self.unrecorded.front().cloned() {
            let written = match record.clone() {
                Record::Cut(bottle, cause) => self.ledger.change_gate(bottle, GateChange::Cut(cause)).await.map(|_| ()),
                Record::CutTogether(bottles, cause) => self.ledger.cut_gates(bottles, cause).await,
                Record::Audit(bottle, kind) => self.ledger.audit(bottle, kind).await,
            };
            if let Err(error) = written {
                error!(error = with_causes(&error), "what happened to a gate is not in the ledger yet; trying again");
                return Err(error);
            }
            if let Record::Cut(..) | Record::CutTogether(..) = record {
                fault::point(Point::CutRecorded);
            }
            self.unrecorded.pop_front();
        }
        Ok(())
    }
}

fn view(running: &Running, rules: &Rules) -> BottleView {
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
        lineage: running.lineage.clone(),
        preflight: rules.preflight_of(&running.lineage),
        phase,
    }
}

/// Has the bottle itself a part in what is used, or held?
pub(super) fn spends(view: &BudgetView) -> bool {
    view.own > Tokens::ZERO
}

/// What is wrong, and what to do about it, for whoever reads it in the bottle.
pub(super) fn with_advice(message: &str) -> String {
    format!("{message}. This bottle's network is being cut; ask the operator to raise the budget and restore it")
}

/// What a bottle hears once a budget is used up.
pub(super) fn refusal(crossing: &Crossing, provider: &ProviderName) -> Refusal {
    let Crossing { scope, budget, used, .. } = crossing;
    Refusal {
        reason: RefusalReason::BudgetExhausted,
        message: with_advice(&format!("the {provider} budget of {scope} is used up: {used} of {budget} tokens")),
        scope: Some(scope.clone()),
        budget: Some(*budget),
        used: Some(*used),
        rule: None,
    }
}
