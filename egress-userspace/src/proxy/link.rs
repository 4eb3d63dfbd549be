//! The proxy's end of the broker: questions and their answers, permits, and the snapshot as it changes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::broker::{
    Admission, BrokerError, FrameReader, FrameWriter, FromController, FromProxy, LeafReply, Permit, RequestNumber,
};
use crate::domain::{
    Ending, Host, Known, PermitId, ProviderNotes, Refusal, Settlement, SpendRequest, Usage, UsageDetails,
};

use super::limits::{CONTROLLER_TIME_MAX, SETTLED_TIME_MAX};
use super::view::PolicyView;

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
}

/// Who waits for what.
#[derive(Debug, Default)]
struct Waiting {
    is_lost: bool,
    answers: HashMap<RequestNumber, Waiter>,
}

#[derive(Debug)]
enum Waiter {
    Admit(oneshot::Sender<Result<LivePermit, Refusal>>),
    Settle(oneshot::Sender<Committed>),
    Leaf(oneshot::Sender<LeafReply>),
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
}

impl Link {
    /// A link and what is still to be sent over it.
    pub(super) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<FromProxy>) {
        let (sender, outgoing) = mpsc::unbounded_channel();
        let policy = watch::Sender::new(Arc::new(PolicyView::default()));
        let (next_number, is_ready) = (AtomicU64::new(1), AtomicBool::new(false));
        let link = Self { sender, waiting: Mutex::default(), next_number, is_ready, policy };
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

    /// May this request go?
    pub(super) async fn admit(
        self: &Arc<Self>,
        request: SpendRequest,
    ) -> Result<Result<LivePermit, Refusal>, NoAnswer> {
        let answer = self.ask(Waiter::Admit, |number| FromProxy::Admit { number, request });
        wait(answer, CONTROLLER_TIME_MAX).await
    }

    /// A certificate for this name.
    pub(super) async fn mint(&self, host: Host) -> Result<LeafReply, NoAnswer> {
        let answer = self.ask(Waiter::Leaf, |number| FromProxy::MintLeaf { number, host });
        wait(answer, CONTROLLER_TIME_MAX).await
    }

    fn ask<T>(
        &self,
        waiter: fn(oneshot::Sender<T>) -> Waiter,
        question: impl FnOnce(RequestNumber) -> FromProxy,
    ) -> oneshot::Receiver<T> {
        let number = RequestNumber(self.next_number.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.is_lost {
            waiting.answers.insert(number, waiter(sender));
            drop(waiting);
            self.say(question(number));
        }
        receiver
    }

    fn take(self: &Arc<Self>, message: FromController) {
        match message {
            FromController::Configure(_) => tracing::warn!("a second configuration is ignored"),
            FromController::Snapshot(snapshot) => {
                let next = self.policy().succeed(snapshot);
                self.policy.send_replace(Arc::new(next));
                if !self.is_ready.swap(true, Ordering::Relaxed) {
                    self.say(FromProxy::Ready);
                }
            }
            FromController::Admitted { number, admission } => self.take_admission(number, admission),
            FromController::Settled { number, crossed, .. } => {
                if let Some(Waiter::Settle(waiter)) = self.waiter(number) {
                    // Settled and nobody waits: the exchange was dropped, which needs no answer.
                    let _ = waiter.send(Committed { crossed });
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
        let admission = match admission {
            Admission::Permit(permit) => Ok(LivePermit { link: Arc::clone(self), permit: Some(permit) }),
            Admission::Refused(refusal) => Err(refusal),
        };
        if let Some(Waiter::Admit(waiter)) = self.waiter(number) {
            // Nobody waits any more: the permit is dropped, and that settles it.
            let _ = waiter.send(admission);
        }
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

impl LivePermit {
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
        Some(self.link.ask(Waiter::Settle, |number| FromProxy::Settle { number, settlement }))
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
