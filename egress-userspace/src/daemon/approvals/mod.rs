//! The one owner of requests that wait for an operator: asks, wakes whoever holds them, and gives up in time.
//!
//! A task that takes orders one by one, so that no decision falls between a question and its being waited for. What was asked
//! and decided is the ledger's; here is only who waits. Whatever fails, the request is not let go.

mod api;
mod key;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::broker::{FromController, RequestNumber};
use crate::domain::{ApprovalId, Question, Supervised, Verdict, with_causes};
use crate::ledger::{Asked, Decided, Decision, Ledger, LedgerError};

pub(super) use api::Seen;
pub(super) use key::read_or_make as read_or_make_key;

/// No request is held longer, whatever the proxy says.
const PATIENCE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Between two attempts to write what a full disk did not take.
const RECORD_RETRY_EVERY: Duration = Duration::from_millis(500);
/// Longer than any daemon lives.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

enum Order {
    Ask { number: RequestNumber, question: Box<Question>, patience: Duration, answers: Answers },
    Over { number: RequestNumber },
    Decide { id: ApprovalId, decision: Decision, done: oneshot::Sender<Result<Decided, LedgerError>> },
    ProxyDown { done: oneshot::Sender<()> },
}

/// Where the proxy that holds a request hears.
type Answers = UnboundedSender<FromController>;

/// How the rest of the daemon reaches the task.
#[derive(Clone, Debug)]
pub(super) struct Approvals {
    orders: UnboundedSender<Order>,
}

impl Approvals {
    /// The proxy holds a request; it is answered through `answers`.
    pub(super) fn ask(&self, number: RequestNumber, question: Question, patience: Duration, answers: Answers) {
        let question = Box::new(question);
        // The task gone means that the daemon stops, and the proxy with it.
        let _ = self.orders.send(Order::Ask { number, question, patience: patience.min(PATIENCE_MAX), answers });
    }

    /// The proxy holds it no longer.
    pub(super) fn over(&self, number: RequestNumber) {
        let _ = self.orders.send(Order::Over { number });
    }

    /// An operator decides.
    pub(super) async fn decide(&self, id: ApprovalId, decision: Decision) -> Result<Decided, LedgerError> {
        let (done, answer) = oneshot::channel();
        let _ = self.orders.send(Order::Decide { id, decision, done });
        answer.await.unwrap_or(Err(LedgerError::Closed))
    }

    /// The proxy is gone, and all that it held; returns when that is on record, or cannot be at this time.
    pub(super) async fn proxy_down(&self) {
        let (done, answer) = oneshot::channel();
        let _ = self.orders.send(Order::ProxyDown { done });
        let _ = answer.await;
    }
}

/// A request that the proxy holds.
struct Held {
    number: RequestNumber,
    answers: Answers,
    until: Instant,
}

struct Queue {
    ledger: Ledger,
    held: BTreeMap<ApprovalId, Held>,
    /// Settled without an operator, and not on record yet.
    unrecorded: BTreeMap<ApprovalId, Verdict>,
}

/// Starts the task.
pub(super) fn spawn(ledger: Ledger) -> Approvals {
    let (orders, queue) = mpsc::unbounded_channel();
    let waiting = Queue { ledger, held: BTreeMap::new(), unrecorded: BTreeMap::new() };
    tokio::spawn(waiting.run(queue));
    Approvals { orders }
}

impl Queue {
    async fn run(mut self, mut orders: UnboundedReceiver<Order>) {
        loop {
            self.write_unrecorded().await;
            let until = self.held.values().map(|held| held.until).min();
            let retry = (!self.unrecorded.is_empty()).then(|| Instant::now() + RECORD_RETRY_EVERY);
            let wake = until.into_iter().chain(retry).min().unwrap_or_else(|| Instant::now() + FOREVER);
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
                () = tokio::time::sleep_until(wake) => self.expire(),
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Ask { number, question, patience, answers } => {
                self.ask(number, *question, patience, answers).await;
            }
            Order::Over { number } => {
                let gone = self.held.iter().find_map(|(id, held)| (held.number == number).then_some(*id));
                if let Some(id) = gone {
                    self.settle(id, Verdict::Abandoned);
                }
            }
            Order::Decide { id, decision, done } => {
                let decided = self.ledger.decide_approval(id, decision).await;
                if let Ok(Decided { row, settled }) = &decided {
                    // What is not committed is not told.
                    let verdict = row.verdict.unwrap_or(Verdict::Abandoned);
                    settled.iter().for_each(|id| self.tell(*id, verdict));
                }
                let _ = done.send(decided);
            }
            Order::ProxyDown { done } => {
                let held = std::mem::take(&mut self.held);
                self.unrecorded.extend(held.into_keys().map(|id| (id, Verdict::Abandoned)));
                self.write_unrecorded().await;
                let _ = done.send(());
            }
        }
    }

    async fn ask(&mut self, number: RequestNumber, question: Question, patience: Duration, answers: Answers) {
        let (bottle, detector, host) = (question.bottle, question.detector.clone(), question.host.clone());
        let answer = match self.ledger.ask_approval(question, patience).await {
            Ok(Asked::Waits(id)) => {
                info!(%id, bottle = bottle.0, detector, %host, "a request waits for an approval: `egress approvals list`");
                self.held.insert(id, Held { number, answers, until: Instant::now() + patience });
                return;
            }
            Ok(Asked::Remembered(verdict)) => verdict.into(),
            Ok(Asked::TooMany) => {
                warn!(bottle = bottle.0, detector, %host, "a bottle asks for too many approvals: refused unasked");
                Supervised::TooMany
            }
            Err(error) => {
                error!(error = with_causes(&error), "no operator can be asked");
                Supervised::Unavailable
            }
        };
        // A proxy that is gone holds nothing.
        let _ = answers.send(FromController::Supervised { number, answer });
    }

    /// Those whose time is over.
    fn expire(&mut self) {
        let now = Instant::now();
        let over: Vec<ApprovalId> = self.held.iter().filter(|(_, held)| held.until <= now).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.settle(id, Verdict::Expired));
    }

    /// Without an operator: nothing goes, so whoever waits is told before it is on record.
    fn settle(&mut self, id: ApprovalId, verdict: Verdict) {
        self.tell(id, verdict);
        self.unrecorded.insert(id, verdict);
    }

    fn tell(&mut self, id: ApprovalId, verdict: Verdict) {
        if let Some(Held { number, answers, .. }) = self.held.remove(&id) {
            let _ = answers.send(FromController::Supervised { number, answer: verdict.into() });
        }
    }

    async fn write_unrecorded(&mut self) {
        for verdict in [Verdict::Expired, Verdict::Abandoned] {
            let ids: Vec<ApprovalId> =
                self.unrecorded.iter().filter(|(_, of)| **of == verdict).map(|(id, _)| *id).collect();
            if ids.is_empty() {
                continue;
            }
            match self.ledger.close_approvals(ids, verdict).await {
                Ok(()) => self.unrecorded.retain(|_, of| *of != verdict),
                Err(error) => {
                    error!(error = with_causes(&error), "settled approvals are not in the ledger yet; trying again");
                }
            }
        }
    }
}
