//! The controller's end of the broker: the proxy's questions and their answers.
//!
//! A thread of its own reads what has arrived, does all of it in one transaction of the ledger and writes the answers: two
//! changes of thread per question, where tasks and queues in between took eight. What takes longer (a crossing, a full
//! disk) goes on as a task, and its answer waits for it. What concerns gates goes to the
//! [`Controller`](super::controller).

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::broker::{
    Admission, BrokerError, FrameReader, FromController, FromProxy, LeafReply, Permit, RequestNumber,
    write_frames_blocking,
};
use crate::domain::{AuditKind, BottleId, Host, Refusal, RefusalReason, Settlement, with_causes};
use crate::ledger::{Admitted, Command, Done, Ledger, LedgerError, Passed, Settled};

use super::approvals::Approvals;
use super::authority::Authority;
use super::clock::now;
use super::controller::{ControllerHandle, with_advice};
use super::metrics::{LedgerCommand, Metrics};
use super::proxy_link::{SETTLE_RETRY_EVERY, announce};
use super::traffic::{Exchanged, News};

/// Longest text of the proxy's that is noted, in characters: what it says by itself is no longer.
const NOTED_CHARACTERS_MAX: usize = 512;
/// Notes on their way into the audit at once; the proxy waits to say more.
pub(super) const NOTES_MAX: usize = 256;

/// Everything answers are made of.
pub(super) struct Conversation {
    /// Each write is whole frames under the lock of `start`, so that answers and snapshots do not interleave.
    pub(super) socket: Arc<UnixStream>,
    /// For what is not answered at once.
    pub(super) outgoing: UnboundedSender<FromController>,
    pub(super) ledger: Ledger,
    pub(super) controller: ControllerHandle,
    pub(super) authority: Arc<Mutex<Authority>>,
    pub(super) exchanged: UnboundedSender<News>,
    pub(super) approvals: Approvals,
    pub(super) metrics: Metrics,
    pub(super) runtime: Handle,
    /// Questions whose answers take longer.
    pub(super) unfinished: JoinSet<()>,
    /// Room for [`NOTES_MAX`] notes.
    pub(super) notes: Arc<Semaphore>,
}

/// A question that the ledger answers.
enum Question {
    /// Also: would it spend?
    Admit(RequestNumber, BottleId, bool),
    Settle(RequestNumber, Box<Settlement>),
}

impl Conversation {
    /// Starts both directions. When the proxy has left, `ended` is given what is still being answered.
    pub(super) fn start(
        mut self,
        queue: UnboundedReceiver<FromController>,
        ended: oneshot::Sender<JoinSet<()>>,
    ) -> io::Result<()> {
        let writing = Arc::new(Mutex::new(()));
        let (socket, lock) = (Arc::clone(&self.socket), Arc::clone(&writing));
        thread::Builder::new().name("broker-out".to_owned()).spawn(move || push(&socket, &lock, queue))?;
        thread::Builder::new().name("broker".to_owned()).spawn(move || {
            if let Err(error) = self.answer_all(&writing) {
                warn!(error = with_causes(&error), "the conversation with the proxy broke");
            }
            // The supervisor gone means that the daemon stops.
            let _ = ended.send(self.unfinished);
        })?;
        Ok(())
    }

    fn answer_all(&mut self, writing: &Mutex<()>) -> Result<(), BrokerError> {
        let socket = Arc::clone(&self.socket);
        let mut reader = FrameReader::new(&*socket);
        let mut messages = Vec::new();
        while reader.read_blocking(&mut messages)? {
            while self.unfinished.try_join_next().is_some() {}
            let answers = self.answer(messages.drain(..));
            if !answers.is_empty() {
                write(&socket, writing, &answers)?;
            }
        }
        Ok(())
    }

    /// What can be said at once to what was said.
    fn answer(&mut self, messages: impl Iterator<Item = FromProxy>) -> Vec<FromController> {
        let start = Instant::now();
        let mut answers = Vec::new();
        let (mut questions, mut commands) = (Vec::new(), Vec::new());
        for message in messages {
            match message {
                FromProxy::Ready => info!("the proxy serves"),
                FromProxy::Admit { number, request } => {
                    questions.push(Question::Admit(number, request.bottle, request.is_metered));
                    commands.push(Command::Admit(request));
                }
                FromProxy::Settle { number, settlement } => {
                    questions.push(Question::Settle(number, settlement.clone()));
                    commands.push(Command::Settle(*settlement));
                }
                FromProxy::Delivered { bottle } => self.controller.delivered(bottle),
                FromProxy::RefusalDelivered { bottle } => self.controller.refusal_delivered(bottle),
                FromProxy::PathUnknown { bottle, host, target } => {
                    let target = shortened(&target);
                    self.note(bottle, AuditKind::PathUnknown { host, target });
                }
                FromProxy::Refused { bottle, reason, host, target, rule, count } => {
                    let (target, rule) = (shortened(&target), rule.as_deref().map(shortened));
                    self.note(bottle, AuditKind::RequestRefused { reason, host, target, rule, count });
                }
                FromProxy::Redacted { bottle, detector, host, target, is_outbound, count } => {
                    let (target, detector) = (shortened(&target), shortened(&detector));
                    self.note(bottle, AuditKind::DataRedacted { detector, host, target, is_outbound, count });
                }
                FromProxy::Measured { bottle, measured } => self.metrics.measured(bottle, measured),
                FromProxy::Budgets { number, bottle } => self.tell_budgets(number, bottle),
                FromProxy::Exchanged { bottle, from_bottle, to_bottle, connections } => {
                    let exchanged = Exchanged { bottle, from_bottle, to_bottle, connections };
                    // Nobody compares when the daemon stops.
                    let _ = self.exchanged.send(News::Exchanged(exchanged));
                }
                FromProxy::Supervise { number, question, timeout_ms } => {
                    let (patience, answers) = (Duration::from_millis(timeout_ms), self.outgoing.clone());
                    self.approvals.ask(number, question, patience, answers);
                }
                FromProxy::SuperviseOver { number } => self.approvals.over(number),
                FromProxy::MintLeaf { number, host } => {
                    answers.push(FromController::Leaf { number, leaf: self.mint(&host) });
                }
            }
        }
        if !commands.is_empty() {
            let done = self.ledger.write_together(commands);
            self.count(&questions, &done, start.elapsed());
            answers.extend(questions.into_iter().zip(done).filter_map(|(question, done)| self.resolve(question, done)));
        }
        answers
    }

    fn count(&self, questions: &[Question], done: &[Done], time: Duration) {
        for (question, done) in questions.iter().zip(done) {
            match (question, done) {
                (Question::Settle(_, settlement), Done::Settled(settled)) => {
                    self.metrics.answered(LedgerCommand::Settle, time);
                    if let Ok(settled) = settled {
                        self.metrics.settled(&settled.provider, &settlement.usage, settlement.known);
                    }
                }
                (Question::Settle(..) | Question::Admit(..), _) => self.metrics.answered(LedgerCommand::Admit, time),
            }
        }
    }

    /// The answer, or nothing when it comes later.
    fn resolve(&mut self, question: Question, done: Done) -> Option<FromController> {
        match (question, done) {
            (Question::Admit(number, bottle, is_work), Done::Admitted(admitted)) => {
                self.admission(number, bottle, is_work, admitted)
            }
            (Question::Settle(number, settlement), Done::Settled(settled)) => self.settled(number, settlement, settled),
            // Answers come in the order of commands.
            (Question::Admit(..), Done::Settled(_)) | (Question::Settle(..), Done::Admitted(_)) => None,
        }
    }

    fn admission(
        &mut self,
        number: RequestNumber,
        bottle: BottleId,
        is_work: bool,
        admitted: Result<Result<Admitted, Refusal>, LedgerError>,
    ) -> Option<FromController> {
        let admission = match admitted {
            Ok(Ok(Admitted { permit, allowances })) => Admission::Permit(Permit { id: permit, allowances }),
            Ok(Err(refusal)) if refusal.is_exhausted() => {
                let refusal = Refusal { message: with_advice(&refusal.message), ..refusal };
                let (controller, outgoing) = (self.controller.clone(), self.outgoing.clone());
                self.later(async move {
                    controller.exhausted(bottle, refusal.clone(), is_work).await;
                    let admission = Admission::Refused(refusal);
                    let _ = outgoing.send(FromController::Admitted { number, admission });
                });
                return None;
            }
            Ok(Err(refusal)) => Admission::Refused(refusal),
            Err(error) => {
                error!(error = with_causes(&error), "a request could not be admitted");
                Admission::Refused(Refusal::of(
                    RefusalReason::LedgerUnavailable,
                    "the ledger cannot record what this request would use, so it is not sent; ask the operator of this host",
                ))
            }
        };
        Some(FromController::Admitted { number, admission })
    }

    fn settled(
        &mut self,
        number: RequestNumber,
        settlement: Box<Settlement>,
        settled: Result<Settled, LedgerError>,
    ) -> Option<FromController> {
        let settled = match settled {
            Ok(settled) if !settled.crosses() => {
                warn_of_passed(&settled);
                return Some(FromController::Settled { number, crossed: false, allowances: settled.allowances });
            }
            settled => settled,
        };
        let (ledger, controller, outgoing) = (self.ledger.clone(), self.controller.clone(), self.outgoing.clone());
        self.later(async move {
            let (mut crossed, mut allowances) = (false, Vec::new());
            if let Some(mut settled) = settle_for_sure(&ledger, *settlement, settled).await {
                allowances = std::mem::take(&mut settled.allowances);
                warn_of_passed(&settled);
                crossed = announce(&controller, settled).await;
            }
            let _ = outgoing.send(FromController::Settled { number, crossed, allowances });
        });
        None
    }

    fn note(&mut self, bottle: BottleId, kind: AuditKind) {
        let ledger = self.ledger.clone();
        // Nobody closes it.
        let place = self.runtime.block_on(Arc::clone(&self.notes).acquire_owned());
        self.later(async move {
            let _place = place;
            if let Err(error) = ledger.audit(Some(bottle), kind).await {
                warn!(error = with_causes(&error), "what the proxy has seen is not in the audit");
            }
        });
    }

    fn tell_budgets(&mut self, number: RequestNumber, bottle: BottleId) {
        let (ledger, outgoing) = (self.ledger.clone(), self.outgoing.clone());
        self.later(async move {
            let budgets = ledger.budgets(bottle).await;
            if let Err(error) = &budgets {
                warn!(error = with_causes(error), "a bottle's budgets could not be read for it");
            }
            let _ = outgoing.send(FromController::Budgets { number, budgets: budgets.ok() });
        });
    }

    fn later(&mut self, answering: impl Future<Output = ()> + Send + 'static) {
        self.unfinished.spawn_on(answering, &self.runtime);
    }

    fn mint(&self, host: &Host) -> LeafReply {
        self.authority.lock().unwrap_or_else(PoisonError::into_inner).mint(host, now())
    }
}

/// Rows of the audit stay small, whatever the proxy has become.
fn shortened(text: &str) -> String {
    text.chars().take(NOTED_CHARACTERS_MAX).collect()
}

/// The operator hears when little is left.
fn warn_of_passed(settled: &Settled) {
    for Passed { scope, percent, budget, used } in &settled.passed {
        warn!(%scope, provider = %settled.provider, %budget, %used, "{percent} % of a budget are used");
    }
}

/// Says what nobody asked for, and what was answered late.
fn push(socket: &UnixStream, writing: &Mutex<()>, mut queue: UnboundedReceiver<FromController>) {
    while let Some(message) = queue.blocking_recv() {
        if let Err(error) = write(socket, writing, &[message]) {
            // The thread that reads sees the end as well, and says so.
            return tracing::debug!(%error, "the proxy was not told");
        }
    }
}

fn write(mut socket: &UnixStream, writing: &Mutex<()>, messages: &[FromController]) -> Result<(), BrokerError> {
    let _whole = writing.lock().unwrap_or_else(PoisonError::into_inner);
    write_frames_blocking(&mut socket, messages)
}

/// Writes a settlement, however long the disk refuses; the agent waits for its last byte as long. `tried` is what became of
/// the first attempt.
async fn settle_for_sure(
    ledger: &Ledger,
    settlement: Settlement,
    mut tried: Result<Settled, LedgerError>,
) -> Option<Settled> {
    loop {
        match tried {
            Ok(settled) => return Some(settled),
            Err(error @ (LedgerError::NoReservation(_) | LedgerError::Closed)) => {
                warn!(error = with_causes(&error), "a settlement had nothing to settle");
                return None;
            }
            Err(error) => {
                error!(
                    error = with_causes(&error),
                    permit = settlement.permit.0,
                    "a settlement is not written yet; trying again"
                );
                tokio::time::sleep(SETTLE_RETRY_EVERY).await;
            }
        }
        tried = ledger.settle(settlement.clone()).await;
    }
}
