//! What gates have counted, read where it holds nobody up: a backend may have to ask the kernel many times.

use std::collections::BTreeMap;
use std::sync::Arc;

use egress_common::{Direction, Outcome};

use crate::control::{GateCounts, LiveGate};
use crate::kernel::{Counter, IfIndex};

use super::controller::Running;
use super::launch::Launcher;

/// What the gates of some bottles have counted. One that is just being made or removed has nothing.
#[derive(Debug, Default)]
pub(super) struct GateCounters(BTreeMap<IfIndex, Vec<Counter>>);

impl Launcher {
    /// Reads the gates of these.
    pub(super) async fn gate_counters(&self, running: &[Running]) -> GateCounters {
        let enforcer = Arc::clone(&self.enforcer);
        let interfaces: Vec<IfIndex> = running.iter().map(|running| running.interface).collect();
        let read = move || {
            let counters = |interface| Some((interface, enforcer.counters(interface).ok()?));
            GateCounters(interfaces.into_iter().filter_map(counters).collect())
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }
}

impl GateCounters {
    /// Of one bottle, by direction and outcome.
    pub(super) fn of(&self, running: &Running) -> &[Counter] {
        self.0.get(&running.interface).map_or(&[], Vec::as_slice)
    }

    /// Of one bottle, added up.
    pub(super) fn gate(&self, running: &Running) -> LiveGate {
        let (passed, dropped): (Vec<&Counter>, Vec<&Counter>) =
            self.of(running).iter().partition(|counter| counter.outcome == Outcome::Passed);
        let bytes = |direction: Direction| {
            passed.iter().filter(|counter| counter.direction == direction).map(|counter| counter.bytes).sum()
        };
        LiveGate {
            bottle: running.name.clone(),
            dropped_packets: dropped.iter().map(|counter| counter.packets).sum(),
            counts: GateCounts {
                passed_bytes_from_bottle: bytes(Direction::FromBottle),
                passed_bytes_to_bottle: bytes(Direction::ToBottle),
            },
        }
    }
}
