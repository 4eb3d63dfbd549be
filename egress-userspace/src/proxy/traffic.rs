//! How many bytes a bottle and the gateway have exchanged through this process: said to the controller, who compares it with
//! what the gate let through.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{MissedTickBehavior, interval};

use crate::broker::FromProxy;
use crate::domain::BottleId;

use super::limits::TRAFFIC_TOLD_EVERY;
use super::link::Link;

/// One bottle's, for as long as it is let through. What has not been said when it ends is said then.
#[derive(Debug)]
pub(super) struct Traffic {
    bottle: BottleId,
    from_bottle: AtomicU64,
    to_bottle: AtomicU64,
    connections: AtomicU32,
    connections_said: AtomicU32,
    controller: UnboundedSender<FromProxy>,
}

impl Traffic {
    /// Nothing so far.
    pub(super) fn new(bottle: BottleId, controller: UnboundedSender<FromProxy>) -> Self {
        let (from_bottle, to_bottle) = (AtomicU64::new(0), AtomicU64::new(0));
        let (connections, connections_said) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { bottle, from_bottle, to_bottle, connections, connections_said, controller }
    }

    /// The bottle has sent so many bytes.
    pub(super) fn received(&self, bytes: usize) {
        self.from_bottle.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// It was sent so many.
    pub(super) fn sent(&self, bytes: usize) {
        self.to_bottle.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A connection was opened.
    pub(super) fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// One was closed.
    pub(super) fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Says what is new, if anything is.
    pub(super) fn tell(&self) {
        let [from_bottle, to_bottle] =
            [&self.from_bottle, &self.to_bottle].map(|bytes| bytes.swap(0, Ordering::Relaxed));
        let connections = self.connections.load(Ordering::Relaxed);
        let is_as_said = self.connections_said.swap(connections, Ordering::Relaxed) == connections;
        if (from_bottle, to_bottle) == (0, 0) && is_as_said {
            return;
        }
        let message = FromProxy::Exchanged { bottle: self.bottle, from_bottle, to_bottle, connections };
        // The receiver gone means the controller is gone, and the process with it.
        let _ = self.controller.send(message);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Says what all bottles have exchanged, and what was measured of them, now and then, for as long as the process lives.
pub(super) async fn tell_all(link: Arc<Link>) {
    let mut tick = interval(TRAFFIC_TOLD_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for bottle in link.policy().bottles() {
            bottle.passage.traffic.tell();
            bottle.passage.measures.tell();
        }
    }
}
