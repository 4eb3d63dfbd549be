//! What both directions of a socket share: who talks to whom, and the responses in flight.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use tokio::time::Instant;

use crate::broker::{FromProxy, Phase};
use crate::domain::{BottleId, Ending, RefusalReason, Tokens};
use crate::meter::websocket::Frame;
use crate::meter::{Ask, Dialect, EventKind, Lanes, Route, ServerEvent, Work};
use crate::policy::{Decision, Destination, Forbidden, MeteredHost};

use super::super::account::Account;
use super::super::delivery::Delivery;
use super::super::exchange::admit;
use super::super::limits::REFUSAL_DELIVERY_TIME_MAX;
use super::super::link::{Committed, Link, NoAnswer};
use super::super::refusal::{self, Answer, Unborn, failed_response};
use super::super::socket::ClientSocket;
use super::super::target::Target;
use super::super::view::Passage;
use super::wire::random;

/// One socket.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) link: Arc<Link>,
    pub(super) socket: Arc<ClientSocket>,
    pub(super) passage: Arc<Passage>,
    pub(super) bottle: BottleId,
    pub(super) target: Target,
    pub(super) metered: MeteredHost,
    pub(super) path: String,
    flights: Mutex<Flights>,
    client_leaves: AtomicBool,
}

/// The responses in flight.
#[derive(Debug)]
struct Flights {
    lanes: Lanes<Account>,
    /// When the last request left.
    asked: Instant,
}

/// Something the proxy says to the client itself.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) frame: Frame,
    /// Follows it to the client.
    pub(super) delivery: Option<Delivery>,
}

/// Why work is not sent.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The client hears why.
    Refused(Word),
    /// The bottle is cut, and hears nothing.
    Severed,
}

/// What becomes of an event.
pub(super) enum Step {
    /// It may pass.
    Pass,
    /// It may pass when this has committed.
    Settles(Settling),
    /// It is part of a response that nobody asked for.
    Stranger,
    /// It says that a response that has been settled used more.
    Exceeds,
    /// With it a budget is used up: it is the last that passes.
    Exhausts,
}

/// An event is part of a response that nobody asked for.
#[derive(Debug)]
pub(super) struct Stranger;

/// A settlement on its way.
pub(super) type Settling = Pin<Box<dyn Future<Output = Result<Committed, NoAnswer>> + Send>>;

impl Talk {
    /// Whoever `socket` belongs to talks to this host.
    pub(super) fn new(
        link: Arc<Link>,
        socket: Arc<ClientSocket>,
        passage: Arc<Passage>,
        bottle: BottleId,
        (target, metered): (Target, MeteredHost),
        path: String,
    ) -> Self {
        let flights = Mutex::new(Flights { lanes: Lanes::default(), asked: Instant::now() });
        let client_leaves = AtomicBool::new(false);
        Self { link, socket, passage, bottle, target, metered, path, flights, client_leaves }
    }

    /// May this work be sent? Everything is looked up anew: a reload, a cut or a spent budget binds the next request.
    pub(super) async fn admit(&self, mut work: Work) -> Result<(Work, Account), Unsent> {
        let policy = self.link.policy();
        let bottle = policy.bottle(self.socket.peer());
        let bottle = bottle.filter(|bottle| Arc::ptr_eq(&bottle.passage, &self.passage)).ok_or(Unsent::Severed)?;
        let refuse = |answer: &Answer, is_last_word| Unsent::Refused(self.refusal(answer, &work, is_last_word));
        if let Phase::LastWord(refusal) = &bottle.view.phase {
            return Err(refuse(&Answer::Refused(refusal.clone()), true));
        }
        let Target { host, port, .. } = &self.target;
        let to = Destination { host, port: *port, method: Method::GET.as_str(), path: &self.path };
        match policy.decide(bottle, to) {
            Decision::Allowed(way) if way.metered.as_ref() == Some(&self.metered) => {}
            Decision::Allowed(_) => {
                return Err(refuse(&refusal::forbidden(Forbidden::Host, &bottle.view.name, to), false));
            }
            Decision::Refused(why) => return Err(refuse(&refusal::forbidden(why, &bottle.view.name, to), false)),
        }
        let target = format!("WS {}", self.path);
        if !work.ask.is_meterable() {
            return Err(refuse(&refusal::not_meterable(&target), false));
        }
        if !self.flights().lanes.has_room() {
            let message = "too many responses are in flight on this WebSocket; open another".to_owned();
            return Err(refuse(&refusal::plain(RefusalReason::NotMeterable, message), false));
        }
        work.ask.input_estimate = work.ask.input_estimate + self.context(&work);
        match admit(&self.link, bottle, (&self.metered, host), &target, &work.ask).await {
            Ok(permit) => {
                let provider = self.metered.provider.clone();
                let account = Account::of_events(permit, work.ask.clone(), (provider, Arc::clone(&self.passage)));
                Ok((work, account))
            }
            Err(answer) => Err(Unsent::Refused(self.refusal(&answer, &work, false))),
        }
    }

    /// What the provider remembers of a conversation is read again, and is not in the request.
    fn context(&self, work: &Work) -> Tokens {
        let flights = self.flights();
        let before = work.continues.as_deref().and_then(|id| flights.lanes.named(id));
        before.map(Account::context).unwrap_or_default()
    }

    /// The event that says no.
    fn refusal(&self, answer: &Answer, work: &Work, is_last_word: bool) -> Word {
        if let Answer::Refused(refused) = answer {
            self.passage.measures.refused(refused.reason);
        }
        let mut number = [0; 16];
        // Without randomness there would be no TLS either.
        let _ = random(&mut number);
        let id = number.iter().fold("resp_egress_".to_owned(), |mut id, byte| {
            // Writing to a string cannot fail.
            let _ = write!(id, "{byte:02x}");
            id
        });
        let created_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (stream_id, model) = (work.stream_id.as_deref(), work.ask.model.as_deref());
        let frame = Frame::text(failed_response(answer, Unborn { id: &id, created_unix_s, stream_id, model }));
        let report = FromProxy::RefusalDelivered { bottle: self.bottle };
        tracing::debug!(bottle = self.bottle.0, target = format!("WS {}", self.path), "refused");
        let delivery = refusal::is_final(answer, is_last_word).then(|| Delivery {
            socket: Arc::clone(&self.socket),
            link: Arc::clone(&self.link),
            patience: REFUSAL_DELIVERY_TIME_MAX,
            report,
        });
        Word { frame, delivery }
    }

    /// The word that a response which crossed a budget has left, to be said when it has.
    pub(super) fn delivery(&self) -> Delivery {
        let report = FromProxy::Delivered { bottle: self.bottle };
        let patience = self.link.policy().drain;
        Delivery { socket: Arc::clone(&self.socket), link: Arc::clone(&self.link), patience, report }
    }

    /// Admitted work is about to leave.
    pub(super) fn begin(&self, work: &Work, mut account: Account) {
        account.set_sent(true);
        let mut flights = self.flights();
        flights.lanes.open(work, account);
        flights.asked = Instant::now();
    }

    /// Takes an event of the provider's, as it stands in `message`.
    pub(super) fn take(&self, event: &ServerEvent, message: &[u8]) -> Step {
        let mut flights = self.flights();
        match flights.lanes.route(event) {
            Route::Nobody => Step::Pass,
            Route::Stranger => Step::Stranger,
            Route::Ended(account) => {
                account.take_event(event, message);
                if account.exceeds_settlement() { Step::Exceeds } else { Step::Pass }
            }
            Route::Open(place, account) => {
                if event.kind == EventKind::Spares {
                    account.spare();
                } else {
                    account.take_event(event, message);
                }
                if !event.is_terminal() {
                    return if account.is_over() { Step::Exhausts } else { Step::Pass };
                }
                let settling = flights.lanes.end(place).and_then(|account| account.settle(ending(event.kind)));
                settling.map_or(Step::Pass, |settling| Step::Settles(Box::pin(settling)))
            }
        }
    }

    /// Takes the beginning of a message that is too large to be read. What it ends is settled by what was seen of it; when
    /// it does not say what it is, that is everything in flight.
    pub(super) fn take_beginning(&self, event: &ServerEvent, bytes: usize) -> Result<Vec<Settling>, Stranger> {
        if event.kind == EventKind::Unknown {
            return Ok(self.settle_all(Ending::Complete, bytes));
        }
        let mut flights = self.flights();
        let place = match flights.lanes.route(event) {
            Route::Nobody | Route::Ended(_) => return Ok(Vec::new()),
            Route::Stranger => return Err(Stranger),
            Route::Open(place, account) => {
                account.miss(bytes);
                place
            }
        };
        if !event.is_terminal() {
            return Ok(Vec::new());
        }
        let settling = flights.lanes.end(place).and_then(|account| account.settle(ending(event.kind)));
        Ok(settling.map(|settling| Box::pin(settling) as Settling).into_iter().collect())
    }

    /// Asks for a permit for a response that has begun although nobody asked for it: one that was steered goes on by itself.
    /// Its input is what its predecessor read and wrote; how much it may write nobody said.
    pub(super) async fn adopt(&self, event: &ServerEvent) -> Result<(), Unsent> {
        let input_estimate = self.flights().lanes.latest().map(Account::context).unwrap_or_default();
        let mut ask = Ask::unseen(Dialect::OpenAiResponses);
        ask.input_estimate = input_estimate;
        let work = Work { ask, is_create: true, stream_id: event.stream_id.clone(), continues: None };
        let (_, mut account) = self.admit(work).await?;
        account.set_sent(true);
        self.flights().lanes.adopt(event, account);
        Ok(())
    }

    /// Ends everything in flight, as its budget has ended: the settlements, and the events that the client hears when they
    /// have committed.
    pub(super) fn end_early(&self) -> (Vec<Settling>, Vec<Frame>) {
        let mut flights = self.flights();
        let (mut settling, mut words): (Vec<Settling>, Vec<Frame>) = Default::default();
        while let Some(account) = flights.lanes.end_first() {
            words.extend(account.end_events_early().into_iter().map(Frame::text));
            settling.extend(account.settle(Ending::Cut).map(|settling| Box::pin(settling) as Settling));
        }
        (settling, words)
    }

    /// The provider says nothing more, and that is how it ended, unless the client has said so first.
    pub(super) fn settle_unfinished(&self, ending: Ending) -> Vec<Settling> {
        let client_leaves = self.client_leaves.load(Ordering::Relaxed);
        self.settle_all(if client_leaves { Ending::Cancelled } else { ending }, 0)
    }

    /// Nobody waits any more.
    pub(super) fn settle_rest(&self, ending: Ending) {
        drop(self.settle_unfinished(if self.passage.is_severed() { Ending::Cut } else { ending }));
    }

    /// Ends everything in flight, each with so many bytes that nobody could read.
    fn settle_all(&self, ending: Ending, unread_bytes: usize) -> Vec<Settling> {
        let mut flights = self.flights();
        let mut settling: Vec<Settling> = Vec::new();
        while let Some(account) = flights.lanes.end_first() {
            account.miss(unread_bytes);
            settling.extend(account.settle(ending).map(|settling| Box::pin(settling) as Settling));
        }
        settling
    }

    /// The client has said its last word: what ends now is not the provider's fault.
    pub(super) fn client_leaves(&self) {
        self.client_leaves.store(true, Ordering::Relaxed);
    }

    /// When the provider has been silent for too long, having been heard at `heard`; `None` when it has nothing to say.
    pub(super) fn silent_from(&self, heard: Instant) -> Option<Instant> {
        let flights = self.flights();
        flights.lanes.is_waiting().then(|| flights.asked.max(heard) + self.idle_max())
    }

    /// How long a provider may be silent.
    pub(super) fn idle_max(&self) -> Duration {
        self.link.policy().idle
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a response ends with an event that ends it.
fn ending(kind: EventKind) -> Ending {
    match kind {
        EventKind::Fails | EventKind::Rejects => Ending::Error,
        EventKind::Spares => Ending::Cancelled,
        EventKind::Begins | EventKind::Writes | EventKind::Ends | EventKind::Other | EventKind::Unknown => {
            Ending::Complete
        }
    }
}
