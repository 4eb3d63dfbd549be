//! What front-ends that show everything are told as it happens: a task for each that follows.
//!
//! It listens first and looks then, so that nothing falls between the snapshot and the first change. It looks again when
//! something says that it has changed: a request was admitted or settled, a row was written to the audit, the controller or
//! the settings in force say so, a budget begins anew. Where nothing happens nothing is read but what gates have counted.

mod shown;

use std::time::Duration;

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::warn;

use crate::control::{ApiError, LIVE_SILENCE_MAX, LiveBottle, LiveEvent, LiveSnapshot};
use crate::ledger::{ListedBottle, LiveLook, LiveStart, RequestNews};

use super::api::{Desk, info};
use super::clock::now;
use super::controller::{Running, View};
use super::gate_counts::GateCounters;
use super::launch::refused;
use super::reload::Said;
use shown::{Look, Shown};

/// Between two looks, so that a busy host does not drown whoever follows.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two readings of what gates have counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// Rows of the audit that a snapshot holds.
const SNAPSHOT_AUDIT_ROWS_MAX: u32 = 200;
/// Rows of the audit that are read in one look.
const LOOK_AUDIT_ROWS_MAX: u32 = 256;
/// Events that a follower may be behind before nothing is looked at for it.
const FOLLOWED_EVENTS_MAX: usize = 64;
/// Until then a budget is looked at again, though none begins anew.
const NO_TURN: Duration = Duration::from_secs(24 * 60 * 60);

impl Desk {
    /// How everything stands, and then every change of it, until the receiver is dropped.
    pub(super) async fn follow_live(self) -> Result<mpsc::Receiver<LiveEvent>, ApiError> {
        let (events, receiver) = mpsc::channel(FOLLOWED_EVENTS_MAX);
        let bells = Bells::new(&self);
        // What was written before somebody listened was told nobody; from here on it is read.
        self.launcher.ledger.answers().await;
        let (snapshot, follower) = Follower::begin(self, bells, events).await?;
        tokio::spawn(async move {
            if let Err(error) = follower.run(snapshot).await {
                // Its stream ends; a front-end comes back, and hears first how everything stands.
                warn!(error = error.message, "what happens cannot be followed");
            }
        });
        Ok(receiver)
    }

    /// Where things stand, and who runs at that moment.
    async fn snapshot(&self) -> Result<(LiveSnapshot, View, Shown), ApiError> {
        let start = self.launcher.ledger.live_start(SNAPSHOT_AUDIT_ROWS_MAX).await;
        let LiveStart { bottles, requests, approvals, newest_approval, audit } =
            start.map_err(|error| refused(&error))?;
        let view = self.look().await?;
        let status = self.status_of(&view, approvals.len() as u64);
        let gates = self.launcher.gate_counters(&view.running).await;
        let bottles = bottles.into_iter().map(|bottle| counted(bottle, &view, &gates)).collect();
        let snapshot = LiveSnapshot { status, bottles, requests, approvals, audit: audit.rows, now: now() };
        let shown = Shown::new(&snapshot, newest_approval, audit.newest);
        Ok((snapshot, view, shown))
    }
}

fn counted(bottle: ListedBottle, view: &View, gates: &GateCounters) -> LiveBottle {
    let gate = view.of(bottle.row.id).map(|running| gates.gate(running));
    let mut info = info(bottle, view);
    info.dropped_packets = gate.as_ref().map_or(0, |gate| gate.dropped_packets);
    LiveBottle { info, counts: gate.map(|gate| gate.counts).unwrap_or_default() }
}

/// One that follows.
struct Follower {
    desk: Desk,
    bells: Bells,
    events: mpsc::Sender<LiveEvent>,
    shown: Shown,
    running: Vec<Running>,
    /// Something has happened since the last look, or there was more than one look takes.
    is_due: bool,
}

/// What there is to do for a follower.
enum Work {
    Look,
    Count,
    /// It has gone, or the daemon stops.
    End,
}

impl Follower {
    async fn begin(
        desk: Desk,
        bells: Bells,
        events: mpsc::Sender<LiveEvent>,
    ) -> Result<(LiveSnapshot, Self), ApiError> {
        let (snapshot, view, shown) = desk.snapshot().await?;
        Ok((snapshot, Self { desk, bells, events, shown, running: view.running, is_due: false }))
    }

    async fn run(mut self, snapshot: LiveSnapshot) -> Result<(), ApiError> {
        let mut count = tokio::time::interval_at(Instant::now() + COUNT_EVERY, COUNT_EVERY);
        count.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut told = vec![LiveEvent::Snapshot(Box::new(snapshot))];
        let mut look_again = Instant::now() + LOOK_EVERY;
        let mut last_told = Instant::now();
        loop {
            if !told.is_empty() {
                last_told = Instant::now();
            }
            for event in told.drain(..) {
                if self.events.send(event).await.is_err() {
                    return Ok(());
                }
            }
            match self.wait(&mut count, look_again).await {
                Work::Look => {
                    told = self.look().await?;
                    look_again = Instant::now() + LOOK_EVERY;
                }
                Work::Count => {
                    told.extend(self.count().await);
                    if told.is_empty() && last_told.elapsed() >= LIVE_SILENCE_MAX {
                        // One that hangs is not alive.
                        self.desk.look().await?;
                        told.push(LiveEvent::Alive);
                    }
                }
                Work::End => return Ok(()),
            }
        }
    }

    /// Waits until something has happened, and until it may be looked at.
    async fn wait(&mut self, count: &mut Interval, look_again: Instant) -> Work {
        let until_turn = self.shown.next_turn().map_or(NO_TURN, |turn| until(turn.0 - now().0));
        let look = async {
            if !self.is_due {
                self.is_due = tokio::select! {
                    is_rung = self.bells.rung() => is_rung,
                    () = tokio::time::sleep(until_turn) => true,
                };
            }
            tokio::time::sleep_until(look_again).await;
            if self.is_due { Work::Look } else { Work::End }
        };
        tokio::select! {
            work = look => work,
            _ = count.tick() => Work::Count,
            () = self.events.closed() => Work::End,
        }
    }

    /// What is other than before; everything, if something was missed.
    async fn look(&mut self) -> Result<Vec<LiveEvent>, ApiError> {
        let Some(news) = self.bells.take() else {
            let (snapshot, view, shown) = self.desk.snapshot().await?;
            (self.shown, self.running, self.is_due) = (shown, view.running, false);
            return Ok(vec![LiveEvent::Snapshot(Box::new(snapshot))]);
        };
        let ledger = &self.desk.launcher.ledger;
        let found = ledger.live_look(self.shown.first_question(), self.shown.audited(), LOOK_AUDIT_ROWS_MAX).await;
        let LiveLook { bottles, approvals, audit } = found.map_err(|error| refused(&error))?;
        let view = self.desk.look().await?;
        self.is_due = audit.rows.len() >= LOOK_AUDIT_ROWS_MAX as usize;
        let last = audit.rows.last().map(|row| row.number);
        let look = Look {
            status: self.desk.status_of(&view, 0),
            bottles: bottles.into_iter().map(|bottle| info(bottle, &view)).collect(),
            approvals,
            audited: last.filter(|_| self.is_due).unwrap_or(audit.newest),
            audit: audit.rows,
        };
        self.running = view.running;
        Ok(self.shown.changes(look, news))
    }

    async fn count(&mut self) -> Option<LiveEvent> {
        let gates = self.desk.launcher.gate_counters(&self.running).await;
        self.shown.counted(self.running.iter().map(|running| gates.gate(running)).collect())
    }
}

/// What says that something has changed.
struct Bells {
    requests: broadcast::Receiver<RequestNews>,
    audited: watch::Receiver<()>,
    controller: watch::Receiver<()>,
    in_force: watch::Receiver<Said>,
    /// What has been heard of requests since the last look.
    news: Vec<RequestNews>,
    has_missed: bool,
}

impl Bells {
    fn new(desk: &Desk) -> Self {
        let launcher = &desk.launcher;
        let mut bells = Self {
            requests: launcher.ledger.requests(),
            audited: launcher.ledger.audited(),
            controller: launcher.controller.changed(),
            in_force: launcher.in_force.changed(),
            news: Vec::new(),
            has_missed: false,
        };
        bells.hush();
        bells
    }

    /// What happens from here on rings again.
    fn hush(&mut self) {
        self.audited.mark_unchanged();
        self.controller.mark_unchanged();
        self.in_force.mark_unchanged();
    }

    /// Waits for one of them; false when the daemon stops.
    async fn rung(&mut self) -> bool {
        tokio::select! {
            heard = self.requests.recv() => match heard {
                Ok(news) => self.news.push(news),
                Err(RecvError::Lagged(_)) => self.has_missed = true,
                Err(RecvError::Closed) => return false,
            },
            rung = self.audited.changed() => return rung.is_ok(),
            rung = self.controller.changed() => return rung.is_ok(),
            rung = self.in_force.changed() => return rung.is_ok(),
        }
        true
    }

    /// What was heard of requests; nothing when some of it was missed. What is looked at after this holds it all.
    fn take(&mut self) -> Option<Vec<RequestNews>> {
        self.hush();
        let mut news = std::mem::take(&mut self.news);
        loop {
            match self.requests.try_recv() {
                Ok(one) => news.push(one),
                Err(TryRecvError::Lagged(_)) => self.has_missed = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if std::mem::take(&mut self.has_missed) { None } else { Some(news) }
    }
}

/// At least a moment, so that a clock that goes back makes nobody run in circles.
fn until(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0)).clamp(LOOK_EVERY, NO_TURN)
}
