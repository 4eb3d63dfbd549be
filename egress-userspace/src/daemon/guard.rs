//! While the daemon runs: the gates there are against the gates there are to be, every few seconds. What somebody else changed
//! is put right, and told as what it is: nobody but the controller has business there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use egress_common::{Direction, Outcome};
use thiserror::Error;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::MissedTickBehavior;
use tracing::{error, warn};

use crate::bottle::BottleSpec;
use crate::control::GateFault;
use crate::domain::{AuditKind, BottleId, GateView, with_causes};
use crate::kernel::{Counter, Gate, KernelError};
use crate::ledger::LedgerError;

use super::controller::{Mended, Running};
use super::cutting::Stage;
use super::gate_check::{Difference, Gates, differences};
use super::launch::Launcher;
use super::leftover;
use super::traffic::{Accounts, News, Passed, Unaccounted};

/// How long what somebody did to a gate lasts, at most, but for the looks.
const GUARD_EVERY: Duration = Duration::from_secs(2);
/// A gate is cut in the kernel first and then in the ledger, and made before it is looked at: they differ for a moment. Only
/// what differs in so many looks is a difference.
const LOOKS: usize = 3;
/// Between two of them.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Traffic is looked at once in so many looks.
const TRAFFIC_LOOKS: u32 = 3;

/// Why gates could not be compared.
#[derive(Debug, Error)]
pub(super) enum LookError {
    /// The controller's task is gone.
    #[error("the controller has stopped")]
    Stopped,
    /// See there.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// See there.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Guards until the future is dropped.
pub(super) async fn guard(launcher: Launcher, news: UnboundedReceiver<News>) {
    tokio::join!(guard_gates(launcher.clone(), news), guard_networks(launcher));
}

async fn guard_gates(launcher: Launcher, news: UnboundedReceiver<News>) {
    let mut guard = Guard { launcher, told: BTreeSet::new(), news, accounts: Accounts::default(), looks: 0 };
    let mut tick = tokio::time::interval(GUARD_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_failing = false;
    loop {
        tick.tick().await;
        match guard.look().await {
            Ok(()) => is_failing = false,
            Err(error) if !is_failing => {
                is_failing = true;
                let what = format!("the gates cannot be compared with the ledger ({})", with_causes(&error));
                error!(what, "gates are not guarded; trying again");
                guard.audit(None, AuditKind::GateTampered { what }).await;
            }
            Err(_) => {}
        }
    }
}

/// Keeps containers off networks of their engine's, which are beside their gates. Apart from the gates: an engine may hang,
/// and they do not wait for it.
async fn guard_networks(launcher: Launcher) {
    let mut tick = tokio::time::interval(GUARD_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = BTreeSet::new();
    loop {
        tick.tick().await;
        // One that is just being attached, or given back, is none of the controller's.
        let running = launcher.controller.look().await.map(|view| view.running).unwrap_or_default();
        for Running { id, name, .. } in running.iter().filter(|running| running.container.is_some()) {
            let kept_off = launcher.runtime.keep_off_networks(name).await;
            let Some(what) = beside(&mut told, *id, kept_off) else { continue };
            error!(bottle = %name, what, "a gate was gone around");
            if let Err(error) = launcher.ledger.audit(Some(*id), AuditKind::GateTampered { what }).await {
                error!(error = with_causes(&error), "this is not in the audit");
            }
        }
    }
}

/// What there is to tell of a container that was to be kept off networks, once for as long as it fails.
fn beside<E: std::error::Error>(
    told: &mut BTreeSet<BottleId>,
    bottle: BottleId,
    kept_off: Result<bool, E>,
) -> Option<String> {
    match kept_off {
        Ok(was_on) => {
            told.remove(&bottle);
            was_on.then(|| "its container was put on a network beside the gate, and is off it again".to_owned())
        }
        Err(error) => {
            let what = format!("its container cannot be kept off networks beside the gate ({})", with_causes(&error));
            told.insert(bottle).then_some(what)
        }
    }
}

struct Guard {
    launcher: Launcher,
    /// Bottles without an interface, interfaces' gates without a bottle, and gates that cannot be read, that have been told of.
    told: BTreeSet<BottleId>,
    news: UnboundedReceiver<News>,
    accounts: Accounts,
    looks: u32,
}

impl Guard {
    async fn look(&mut self) -> Result<(), LookError> {
        // First: where looks fail there is no end of them.
        self.hear_news();
        // Nobody changes what is wanted meanwhile.
        let mending = Arc::clone(&self.launcher.mending);
        let turn = mending.lock().await;
        let (gates, found) = self.launcher.compare_gates().await?;
        let lasts = |found: &&Difference| {
            matches!(found.fault, GateFault::NoInterface | GateFault::Stray | GateFault::Unreadable)
        };
        let known = std::mem::take(&mut self.told);
        self.told = found.iter().filter(lasts).map(|difference| difference.bottle).collect();
        let mut mended = BTreeSet::new();
        for difference in &found {
            // All that is wrong with a gate is put right at once, and told of in one row each.
            let is_first = mended.insert(difference.interface);
            match &difference.fault {
                GateFault::NoInterface if known.contains(&difference.bottle) => {}
                GateFault::NoInterface => {
                    self.tell(difference, "its interface is gone: it has no network until it is run again").await;
                }
                GateFault::Unreadable if known.contains(&difference.bottle) => {}
                GateFault::Unreadable => self.tell(difference, "what is on its interface cannot be read").await,
                GateFault::Stray => self.remove(difference, &known).await,
                GateFault::State { wanted: GateView::Open, is_open: false } => self.keep_cut(difference).await,
                GateFault::Missing | GateFault::Terms | GateFault::Detached | GateFault::State { .. } => {
                    let wanted = gates.wanted.iter().find(|(_, wanted)| wanted.interface == difference.interface);
                    if let Some((_, wanted)) = wanted {
                        self.mend(difference, wanted, is_first).await;
                    }
                }
            }
        }
        self.mend_wiring(&gates).await;
        drop(turn);
        self.look_at_traffic(&gates).await
    }

    fn hear_news(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            self.accounts.hear(news);
        }
    }

    /// Is there traffic that the proxy knows nothing of?
    async fn look_at_traffic(&mut self, gates: &Gates) -> Result<(), LookError> {
        self.hear_news();
        self.looks += 1;
        if !self.looks.is_multiple_of(TRAFFIC_LOOKS) {
            return Ok(());
        }
        self.accounts.keep(|bottle| gates.running.contains(&bottle));
        let places: Vec<_> = gates.wanted.iter().map(|(_, gate)| (gate.bottle, gate.interface)).collect();
        let enforcer = Arc::clone(&self.launcher.enforcer);
        let count = move || -> Result<Vec<_>, KernelError> {
            let passed = |(bottle, interface)| Ok((bottle, interface, passed(&enforcer.counters(interface)?)));
            places.into_iter().map(passed).collect()
        };
        let counted = tokio::task::spawn_blocking(count).await.map_err(|_| LookError::Stopped)??;
        for (bottle, interface, passed) in counted {
            for Unaccounted { is_from_bottle, passed, accounted } in self.accounts.look(bottle, interface, passed) {
                error!(bottle = bottle.0, is_from_bottle, passed, accounted, "traffic that the proxy does not know of");
                self.audit(Some(bottle), AuditKind::TrafficUnaccounted { is_from_bottle, passed, accounted }).await;
            }
        }
        Ok(())
    }

    /// What bottles reach the gateway by, behind gates that are attached. Bottles whose gates had to be mended come next time.
    async fn mend_wiring(&self, gates: &Gates) {
        let is_attached = |gate: &&Gate| gates.attached.contains(&gate.interface);
        let wired = gates.wanted.iter().map(|(_, gate)| gate).filter(is_attached).filter_map(|gate| {
            let name = gates.names.get(&gate.bottle)?.clone();
            Some((BottleSpec { name, address: gate.address, mac: gate.mac }, gate.interface.0))
        });
        let mended = match self.launcher.runtime.mend_wiring(wired.collect()).await {
            Ok(mended) => mended,
            Err(error) => {
                return error!(error = with_causes(&error), "the way to the gateway is not what it is to be");
            }
        };
        for what in mended {
            let what = format!("{what} was not as it is to be, and is again");
            warn!(what);
            self.audit(None, AuditKind::Repaired { what }).await;
        }
    }

    async fn mend(&self, difference: &Difference, wanted: &Gate, is_first: bool) {
        let fault = said(&difference.fault);
        let mended = if is_first { self.launcher.controller.mend(wanted.clone()).await } else { Ok(Mended::Yes) };
        let done = match mended {
            Ok(Mended::Yes) => "put right".to_owned(),
            // It has ended meanwhile.
            Ok(Mended::NotRunning) => return,
            Err(error) => format!("could not be put right ({}), so the bottle is ended", with_causes(&error)),
        };
        self.tell(difference, &format!("{fault}; {done}")).await;
    }

    /// Cut by somebody else's hand: it stays cut, and the ledger says so too. A cut of the controller's own that could not be
    /// recorded yet, for want of room on the disk, is none.
    async fn keep_cut(&self, difference: &Difference) {
        let running = self.launcher.controller.look().await.map(|view| view.running).unwrap_or_default();
        let is_own = |running: &Running| running.id == difference.bottle && matches!(running.stage, Stage::Cut(_));
        if running.iter().any(is_own) {
            return;
        }
        if let Err(error) = self.launcher.controller.cut(difference.bottle).await {
            error!(
                bottle = difference.bottle.0,
                error = with_causes(&error),
                "a gate is cut; the ledger does not know"
            );
        }
        self.tell(difference, "it was cut, not by egress; it stays cut").await;
    }

    async fn remove(&self, difference: &Difference, known: &BTreeSet<BottleId>) {
        let interface = difference.interface;
        match leftover::remove_gate(self.launcher.enforcer.as_ref(), interface) {
            Ok(true) => {}
            Ok(false) if known.contains(&difference.bottle) => return,
            Ok(false) => {
                return self.tell(difference, "its bottle is over and its interface is not: the gate stays, cut").await;
            }
            Err(error) => {
                return error!(interface = interface.0, error = with_causes(&error), "a gate without a bottle is left");
            }
        }
        let what = format!("a gate on interface {} was left of a bottle that is not there", interface.0);
        warn!(what);
        self.audit(None, AuditKind::Repaired { what }).await;
    }

    async fn tell(&self, difference: &Difference, what: &str) {
        error!(bottle = difference.bottle.0, interface = difference.interface.0, what, "a gate was tampered with");
        self.audit(Some(difference.bottle), AuditKind::GateTampered { what: what.to_owned() }).await;
    }

    async fn audit(&self, bottle: Option<BottleId>, kind: AuditKind) {
        if let Err(error) = self.launcher.ledger.audit(bottle, kind).await {
            error!(error = with_causes(&error), "this is not in the audit");
        }
    }
}

impl Launcher {
    /// The gates that are to be and those that are, and how they differ.
    pub(super) async fn compare_gates(&self) -> Result<(Gates, Vec<Difference>), LookError> {
        let mut gates = self.look_at_gates().await?;
        let mut found = differences(&gates);
        for _ in 1..LOOKS {
            if found.is_empty() {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
            gates = self.look_at_gates().await?;
            let again = differences(&gates);
            found.retain(|difference| again.contains(difference));
        }
        Ok((gates, found))
    }

    /// Makes every gate anew, as settings that have changed want it.
    pub(super) async fn renew_gates(&self) -> Result<(), LookError> {
        for (_, gate) in self.look_at_gates().await?.wanted {
            let (bottle, mended) = (gate.bottle, self.controller.mend(gate).await);
            if let Err(error) = mended {
                error!(bottle = bottle.0, error = with_causes(&error), "its gate could not be made anew; it is ended");
            }
        }
        Ok(())
    }

    async fn look_at_gates(&self) -> Result<Gates, LookError> {
        let running = self.controller.look().await.ok_or(LookError::Stopped)?.running;
        let mut gates = Gates::default();
        for row in self.ledger.bottles().await? {
            let running = running.iter().find(|running| running.id == row.id);
            // A container that is stopped has none, and no network: it gets another, gated, when it starts.
            let has_gate = |running: &&Running| running.container.is_none() || running.interface.exists();
            let interface = running.filter(has_gate).map(|running| running.interface);
            if let (Some(interface), Some(address), None) = (interface, row.address, row.ended) {
                gates.wanted.push((row.gate, self.gate(&row, address, interface)));
            }
            if row.ended.is_none() {
                gates.running.insert(row.id);
            }
            gates.names.insert(row.id, row.name);
        }
        let enforcer = Arc::clone(&self.enforcer);
        // Some system calls for each gate.
        let look = tokio::task::spawn_blocking(move || {
            gates.held = enforcer.gates()?;
            for (_, Gate { interface, .. }) in &gates.wanted {
                if interface.exists() {
                    gates.interfaces.insert(*interface);
                }
                // One that cannot be read keeps nobody from the others.
                match enforcer.is_attached(*interface) {
                    Ok(true) => gates.attached.insert(*interface),
                    Ok(false) => false,
                    Err(error) => {
                        warn!(interface = interface.0, error = with_causes(&error), "a gate cannot be read");
                        gates.unreadable.insert(*interface)
                    }
                };
            }
            Ok(gates)
        });
        look.await.unwrap_or(Err(LookError::Stopped))
    }
}

/// What a gate has let through, from the bottle and to it.
fn passed(counters: &[Counter]) -> [Passed; 2] {
    [Direction::FromBottle, Direction::ToBottle].map(|direction| {
        let is_it = |counter: &&Counter| (counter.direction, counter.outcome) == (direction, Outcome::Passed);
        let found = counters.iter().find(is_it);
        found.map_or(Passed::default(), |counter| Passed { packets: counter.packets, bytes: counter.bytes })
    })
}

fn said(fault: &GateFault) -> &'static str {
    match fault {
        GateFault::Missing => "the kernel held no entry of it",
        GateFault::State { .. } => "it was open, and is to be cut",
        GateFault::Terms => "it let other addresses or ports pass than it is to",
        GateFault::Detached => "it was not on its interface in both directions",
        GateFault::Unreadable => "what is on its interface could not be read",
        GateFault::NoInterface => "its interface is gone",
        GateFault::Stray => "its bottle does not run",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many rows a container makes of which this was found, look after look.
    fn check(found: &[Option<bool>], rows: usize) {
        let mut told = BTreeSet::new();
        let look =
            |found: &Option<bool>| beside(&mut told, BottleId(3), found.ok_or_else(|| std::io::Error::other("away")));
        assert_eq!(found.iter().filter_map(look).count(), rows, "{found:?}");
    }

    #[test]
    fn an_engine_that_fails_is_told_of_once() {
        check(&[Some(false); 3], 0);
        check(&[Some(true), Some(false), Some(true)], 2);
        check(&[None; 5], 1);
        check(&[None, Some(false), None], 2);
        check(&[None, Some(true), None, None], 3);
    }
}
