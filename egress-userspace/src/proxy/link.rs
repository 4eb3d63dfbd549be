//! The proxy's end of the broker: questions and their answers, permits, and the snapshot as it changes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::broker::{
    Admission, BrokerError, FrameReader, FrameWriter, FromController, FromProxy, LeafReply, Permit, RequestNumber,
};
use crate::domain::{
    Allowance, BottleId, BudgetView, CacheReads, CrossingMode, Ending, Host, Known, PermitId, ProviderName,
    ProviderNotes, Question, Refusal, RefusalReason, Secret, Settlement, SpendRequest, Supervised, Tokens, Usage,
    UsageDetails,
};

use super::approval::ApprovalKey;
use super::in_flight::InFlight;
use super::limits::{CONTROLLER_TIME_MAX, SETTLED_TIME_MAX};
use super::view::{Bottle, PolicyView};

/// The controller did not answer: it is gone, or too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the controller does not answer")]
pub(super) struct NoAnswer;

/// Asks the controller. Shared by all exchanges.
///
/// Questions wait in an unbounded channel, because a settlement must never be lost for want of room; what it can hold is
/// bounded by the exchanges in flight, and those by connections per bottle.
#[derive(Debug)]
pub(super) struct Link {
    sender: mpsc::UnboundedSender<FromProxy>,
    waiting: Mutex<Waiting>,
    next_number: AtomicU64,
    is_ready: AtomicBool,
    policy: watch::Sender<Arc<PolicyView>>,
    in_flight: Mutex<InFlight>,
    /// Makes of what was found what may be told of it.
    pub(super) approval_key: ApprovalKey,
}

/// Who waits for what.
#[derive(Debug, Default)]
struct Waiting {
    is_lost: bool,
    answers: HashMap<RequestNumber, Waiter>,
}

#[derive(Debug)]
enum Waiter {
    Admit(Expected, oneshot::Sender<Result<LivePermit, Refusal>>),
    Settle(PermitId, oneshot::Sender<Committed>),
    Budgets(oneshot::Sender<Option<Vec<BudgetView>>>),
    Leaf(oneshot::Sender<LeafReply>),
    Supervise(oneshot::Sender<Supervised>),
}

/// What a request is expected to use.
#[derive(Debug)]
struct Expected {
    provider: ProviderName,
    /// `None` for what uses nothing.
    tokens: Option<Tokens>,
}

/// A settlement stands in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Committed {
    /// A budget is used up with it.
    pub(super) crossed: bool,
}

/// A reservation that nobody has settled yet. Dropped, it settles as never sent.
#[derive(Debug)]
pub(super) struct LivePermit {
    link: Arc<Link>,
    permit: Option<Permit>,
    /// It ends when its budget does, which counts so.
    ends_with_budget: Option<CacheReads>,
}

impl Link {
    /// A link and what is still to be sent over it.
    pub(super) fn new(approval_key: &Secret) -> (Arc<Self>, mpsc::UnboundedReceiver<FromProxy>) {
        let (sender, outgoing) = mpsc::unbounded_channel();
        let policy = watch::Sender::new(Arc::new(PolicyView::default()));
        let (next_number, is_ready) = (AtomicU64::new(1), AtomicBool::new(false));
        let (waiting, in_flight) = (Mutex::default(), Mutex::default());
        let approval_key = ApprovalKey::new(approval_key);
        let link = Self { sender, waiting, next_number, is_ready, policy, in_flight, approval_key };
        (Arc::new(link), outgoing)
    }

    /// Runs the conversation until the controller leaves; everyone who still waits is told.
    pub(super) async fn converse<R, W>(
        self: Arc<Self>,
        reader: R,
        writer: W,
        mut outgoing: mpsc::UnboundedReceiver<FromProxy>,
    ) -> Result<(), BrokerError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        // A task of its own: a controller that is slow to read must not keep its answers from being read.
        let writing = tokio::spawn(async move { FrameWriter::new(writer).write_from(&mut outgoing).await });
        let mut reader = FrameReader::new(reader);
        let ended = loop {
            match reader.read().await {
                Ok(Some(message)) => self.take(message),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        writing.abort();
        self.lose();
        ended
    }

    /// The snapshot in force.
    pub(super) fn policy(&self) -> Arc<PolicyView> {
        Arc::clone(&self.policy.borrow())
    }

    /// Says something that has no answer.
    pub(super) fn say(&self, message: FromProxy) {
        // The receiver gone means the controller is gone, and the process with it.
        let _ = self.sender.send(message);
    }

    /// A request of a bottle's was refused by what routes say.
    pub(super) fn tell_refused(
        &self,
        bottle: &Bottle,
        reason: RefusalReason,
        host: Option<&Host>,
        target: &str,
        rule: Option<String>,
    ) {
        bottle.passage.measures.refused(reason);
        let Some(count) = bottle.passage.refusals.take(Instant::now()) else { return };
        let (bottle, host, target) = (bottle.view.id, host.cloned(), target.to_owned());
        self.say(FromProxy::Refused { bottle, reason, host, target, rule, count });
    }

    /// May this request go?
    pub(super) async fn admit(
        self: &Arc<Self>,
        request: SpendRequest,
    ) -> Result<Result<LivePermit, Refusal>, NoAnswer> {
        let tokens = request.is_metered.then_some(request.input_estimate);
        let expected = Expected { provider: request.provider.clone(), tokens };
        let waiter = |sender| Waiter::Admit(expected, sender);
        let answer = self.ask(waiter, |number| FromProxy::Admit { number, request });
        wait(answer, CONTROLLER_TIME_MAX).await
    }

    /// A bottle's budgets; `None` when the ledger cannot tell.
    pub(super) async fn budgets(&self, bottle: BottleId) -> Result<Option<Vec<BudgetView>>, NoAnswer> {
        let answer = self.ask(Waiter::Budgets, |number| FromProxy::Budgets { number, bottle });
        wait(answer, CONTROLLER_TIME_MAX).await
    }

    /// A certificate for this name.
    pub(super) async fn mint(&self, host: Host) -> Result<LeafReply, NoAnswer> {
        let answer = self.ask(Waiter::Leaf, |number| FromProxy::MintLeaf { number, host });
        wait(answer, CONTROLLER_TIME_MAX).await
    }

    /// Has an operator asked about a request that is held. Dropped, the question is over.
    pub(super) async fn supervise(&self, question: Question, patience: Duration) -> Supervised {
        let number = self.number();
        let timeout_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let question = FromProxy::Supervise { number, question, timeout_ms };
        let answer = self.ask_as(number, Waiter::Supervise, question);
        let _asking = Asking { link: self, number };
        // The controller gives up first, and says so.
        wait(answer, patience.saturating_add(CONTROLLER_TIME_MAX)).await.unwrap_or(Supervised::Unavailable)
    }

    fn ask<T>(
        &self,
        waiter: impl FnOnce(oneshot::Sender<T>) -> Waiter,
        question: impl FnOnce(RequestNumber) -> FromProxy,
    ) -> oneshot::Receiver<T> {
        let number = self.number();
        self.ask_as(number, waiter, question(number))
    }

    fn number(&self) -> RequestNumber {
        RequestNumber(self.next_number.fetch_add(1, Ordering::Relaxed))
    }

    fn ask_as<T>(
        &self,
        number: RequestNumber,
        waiter: impl FnOnce(oneshot::Sender<T>) -> Waiter,
        question: FromProxy,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.is_lost {
            waiting.answers.insert(number, waiter(sender));
            drop(waiting);
            self.say(question);
        }
        receiver
    }

    fn take(self: &Arc<Self>, message: FromController) {
        match message {
            FromController::Configure(_) => tracing::warn!("a second configuration is ignored"),
            FromController::Snapshot(snapshot) => {
                let next = self.policy().succeed(snapshot, &self.sender);
                self.policy.send_replace(Arc::new(next));
                if !self.is_ready.swap(true, Ordering::Relaxed) {
                    self.say(FromProxy::Ready);
                }
            }
            FromController::Secrets { secrets } => {
                let next = self.policy().with_secrets(secrets.into_iter().collect());
                self.policy.send_replace(Arc::new(next));
            }
            FromController::Admitted { number, admission } => self.take_admission(number, admission),
            FromController::Settled { number, crossed, allowances } => {
                if let Some(Waiter::Settle(permit, waiter)) = self.waiter(number) {
                    self.in_flight().settled(permit, &allowances);
                    // Settled and nobody waits: the exchange was dropped, which needs no answer.
                    let _ = waiter.send(Committed { crossed });
                }
            }
            FromController::Budgets { number, budgets } => {
                if let Some(Waiter::Budgets(waiter)) = self.waiter(number) {
                    let _ = waiter.send(budgets);
                }
            }
            FromController::Supervised { number, answer } => {
                if let Some(Waiter::Supervise(waiter)) = self.waiter(number) {
                    let _ = waiter.send(answer);
                }
            }
            FromController::Leaf { number, leaf } => {
                if let Some(Waiter::Leaf(waiter)) = self.waiter(number) {
                    let _ = waiter.send(leaf);
                }
            }
        }
    }

    fn take_admission(self: &Arc<Self>, number: RequestNumber, admission: Admission) {
        let waiter = self.waiter(number);
        let admission = match admission {
            Admission::Permit(permit) => {
                let expected = if let Some(Waiter::Admit(expected, _)) = &waiter { Some(expected) } else { None };
                let watched = expected.map_or(Ok(None), |expected| self.watch(&permit, expected));
                let mut live = LivePermit { link: Arc::clone(self), permit: Some(permit), ends_with_budget: None };
                // Refused, the permit is dropped, and that settles it.
                watched.map(|ends_with_budget| {
                    live.ends_with_budget = ends_with_budget;
                    live
                })
            }
            Admission::Refused(refusal) => Err(refusal),
        };
        if let Some(Waiter::Admit(_, waiter)) = waiter {
            // Nobody waits any more: the permit is dropped, and that settles it.
            let _ = waiter.send(admission);
        }
    }

    /// Counts what runs on a permit, if it is to end with a budget that binds it. Nothing begins on what others in flight have
    /// used, which the ledger does not know yet.
    fn watch(&self, permit: &Permit, expected: &Expected) -> Result<Option<CacheReads>, Refusal> {
        let policy = self.policy();
        let is_severed = policy.crossing == CrossingMode::Sever && !permit.allowances.is_empty();
        let Some(tokens) = expected.tokens.filter(|_| is_severed) else { return Ok(None) };
        let mut in_flight = self.in_flight();
        if let Some(Allowance { scope, budget, .. }) = in_flight.used_up(&expected.provider, &permit.allowances) {
            let message = format!("requests in flight have used up the {} budget of {scope}", expected.provider);
            let refusal = Refusal::of(RefusalReason::BudgetExhausted, message);
            return Err(Refusal { scope: Some(scope.clone()), budget: Some(*budget), ..refusal });
        }
        in_flight.admitted(permit.id, &expected.provider, &permit.allowances, tokens);
        Ok(Some(policy.cache_reads))
    }

    fn in_flight(&self) -> MutexGuard<'_, InFlight> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiter(&self, number: RequestNumber) -> Option<Waiter> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).answers.remove(&number)
    }

    fn lose(&self) {
        self.policy().sever_all();
        self.policy.send_replace(Arc::default());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.is_lost = true;
        let answers = std::mem::take(&mut waiting.answers);
        drop(waiting);
        drop(answers);
    }
}

/// A request that is held until it has been answered for.
struct Asking<'a> {
    link: &'a Link,
    number: RequestNumber,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.link.waiter(self.number).is_some() {
            self.link.say(FromProxy::SuperviseOver { number: self.number });
        }
    }
}

impl LivePermit {
    /// Tokens left, after what is held, in the tightest budget that binds; `None` when none does.
    pub(super) fn remaining(&self) -> Option<Tokens> {
        let left = |allowance: &Allowance| allowance.left.saturating_sub(allowance.held);
        self.permit.as_ref()?.allowances.iter().map(left).min()
    }

    /// Does what runs on it end when its budget does?
    pub(super) fn ends_with_budget(&self) -> bool {
        self.ends_with_budget.is_some()
    }

    /// What runs on it has used so much. Must it end?
    pub(super) fn counts(&self, usage: &Usage) -> bool {
        let (Some(permit), Some(cache_reads)) = (&self.permit, self.ends_with_budget) else { return false };
        let count = match cache_reads {
            CacheReads::Count => usage.total(),
            CacheReads::Ignore => usage.total().saturating_sub(usage.cache_read),
        };
        self.link.in_flight().counts(permit.id, count)
    }

    /// Sends the settlement at once; the answer says when the ledger has committed.
    pub(super) fn settle(
        mut self,
        settlement: impl FnOnce(PermitId) -> Settlement,
    ) -> impl Future<Output = Result<Committed, NoAnswer>> + Send + 'static {
        let answer = self.send(settlement);
        async move { wait(answer.ok_or(NoAnswer)?, SETTLED_TIME_MAX).await }
    }

    fn send(&mut self, settlement: impl FnOnce(PermitId) -> Settlement) -> Option<oneshot::Receiver<Committed>> {
        let permit = self.permit.take()?.id;
        let settlement = Box::new(settlement(permit));
        let waiter = |sender| Waiter::Settle(permit, sender);
        Some(self.link.ask(waiter, |number| FromProxy::Settle { number, settlement }))
    }
}

impl Drop for LivePermit {
    fn drop(&mut self) {
        let never_sent = |permit| Settlement {
            permit,
            usage: Usage::default(),
            details: UsageDetails::default(),
            known: Known::Reported,
            ending: Ending::Cancelled,
            status: None,
            model: None,
            provider_request_id: None,
            notes: ProviderNotes::default(),
        };
        drop(self.send(never_sent));
    }
}

async fn wait<T>(answer: oneshot::Receiver<T>, patience: Duration) -> Result<T, NoAnswer> {
    match timeout(patience, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(NoAnswer),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::Fingerprint;

    /// A link and the controller's ends of it.
    struct World {
        link: Arc<Link>,
        reader: FrameReader<tokio::io::ReadHalf<tokio::io::DuplexStream>>,
        writer: FrameWriter<tokio::io::WriteHalf<tokio::io::DuplexStream>>,
    }

    fn world() -> World {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (link, outgoing) = Link::new(&Secret::new("key".to_owned()));
        let (reader, writer) = tokio::io::split(ours);
        tokio::spawn(Arc::clone(&link).converse(reader, writer, outgoing));
        let (reader, writer) = tokio::io::split(theirs);
        World { link, reader: FrameReader::new(reader), writer: FrameWriter::new(writer) }
    }

    fn supervise(link: &Arc<Link>, patience: Duration) -> tokio::task::JoinHandle<Supervised> {
        let link = Arc::clone(link);
        let question = Question {
            bottle: BottleId(7),
            detector: "aws_key".to_owned(),
            host: "a.example".parse().unwrap(),
            target: "POST /x".to_owned(),
            fingerprint: Fingerprint([1; 32]),
        };
        tokio::spawn(async move { link.supervise(question, patience).await })
    }

    async fn asked(world: &mut World) -> RequestNumber {
        let said = world.reader.read().await.unwrap();
        let Some(FromProxy::Supervise { number, .. }) = said else { panic!("{said:?}") };
        number
    }

    #[tokio::test]
    async fn a_held_request_takes_the_answer_to_its_own_question() {
        let mut world = world();
        let (first, second) = (supervise(&world.link, Duration::MAX), supervise(&world.link, Duration::MAX));
        let numbers = [asked(&mut world).await, asked(&mut world).await];
        for (number, answer) in numbers.into_iter().zip([Supervised::Approved, Supervised::Denied]) {
            world.writer.write(&FromController::Supervised { number, answer }).await.unwrap();
        }
        let mut answers = [first.await.unwrap(), second.await.unwrap()];
        answers.sort_by_key(|answer| *answer != Supervised::Approved);
        assert_eq!(answers, [Supervised::Approved, Supervised::Denied]);
    }

    #[tokio::test]
    async fn a_question_ends_with_the_request_that_asked() {
        let mut world = world();
        let held = supervise(&world.link, Duration::MAX);
        let number = asked(&mut world).await;
        held.abort();
        assert_eq!(world.reader.read().await.unwrap(), Some(FromProxy::SuperviseOver { number }));
        // Too late for anybody.
        let answer = Supervised::Approved;
        world.writer.write(&FromController::Supervised { number, answer }).await.unwrap();
    }

    #[tokio::test]
    async fn without_a_controller_nothing_is_approved() {
        let mut world = world();
        let held = supervise(&world.link, Duration::MAX);
        asked(&mut world).await;
        drop((world.reader, world.writer));
        assert_eq!(held.await.unwrap(), Supervised::Unavailable);
        assert_eq!(supervise(&world.link, Duration::MAX).await.unwrap(), Supervised::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_says_nothing_is_no_approval() {
        let mut world = world();
        let held = supervise(&world.link, Duration::from_secs(300));
        let number = asked(&mut world).await;
        assert_eq!(held.await.unwrap(), Supervised::Unavailable);
        assert_eq!(world.reader.read().await.unwrap(), Some(FromProxy::SuperviseOver { number }));
    }
}
