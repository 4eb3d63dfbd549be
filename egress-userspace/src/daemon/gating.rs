//! What the controller does to gates: cuts, opens and makes them anew, in the kernel and on record.

use egress_common::CutReason;
use thiserror::Error;
use tokio::time::Instant;
use tracing::{error, info};

use crate::domain::{BottleId, BottleName, CutCause, Distribution, GateView, Scale, with_causes};
use crate::fault::{self, Point};
use crate::kernel::{Gate, GateStatus, IfIndex, KernelError};
use crate::ledger::{GateChange, LedgerError};

use super::DaemonError;
use super::controller::{Controller, CutTimes, Mended, Record, Running};
use super::cutting::Stage;

/// Why a bottle is not let start, or not opened: what its gate is to be is not known, or not held.
#[derive(Debug, Error)]
pub(super) enum GateError {
    /// See there.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// See there.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl From<GateError> for DaemonError {
    fn from(error: GateError) -> Self {
        match error {
            GateError::Ledger(error) => error.into(),
            GateError::Kernel(error) => error.into(),
        }
    }
}

impl Controller {
    /// A bottle is about to start. It may have been cut since its start began, when nobody here knew of it: the ledger's word
    /// is read once more, and held by the kernel before anybody brings the interface up.
    pub(super) async fn introduce(&mut self, mut running: Running) -> Result<(), GateError> {
        // A cut that is not on record would be overlooked.
        self.write_unrecorded().await?;
        let (bottle, mut stop) = (running.id, None);
        if let GateView::Cut(cause) = self.ledger.bottle(&running.name).await?.gate
            && running.stage != Stage::Cut(cause)
        {
            self.enforcer.set(running.interface, GateStatus::Cut(reason(cause)))?;
            info!(bottle = %running.name, cause = cause.as_str(), "cut while it was being started");
            running.stage = Stage::Cut(cause);
            stop = running.policy.stop().filter(|_| cause == CutCause::Budget);
        }
        self.running.insert(bottle, running);
        self.tell_everybody();
        if let Some(stop) = stop {
            self.order_stop(bottle, stop, CutCause::Budget).await;
        }
        Ok(())
    }

    /// Kernel first, then the exchanges in flight. The record of it comes next. `due` is when it was to be done.
    pub(super) fn cut_gate(&mut self, bottle: BottleId, cause: CutCause, due: Instant) {
        let Some(running) = self.running.get_mut(&bottle) else { return };
        let start = Instant::now();
        match self.enforcer.set(running.interface, GateStatus::Cut(reason(cause))) {
            Ok(()) => took(&mut self.cut_times, cause, due),
            Err(error) => {
                error!(bottle = %running.name, error = with_causes(&error), "the gate could not be cut; the bottle is ended instead");
                running.lifeline.end.notify_one();
            }
        }
        fault::point(Point::CutInKernel);
        running.stage = Stage::Cut(cause);
        // Said when the kernel holds it: `cargo xtask bench` takes the moment and the duration from here.
        info!(bottle = %running.name, cause = cause.as_str(), write_us = start.elapsed().as_micros(), "cut");
        self.tell_proxy();
    }

    /// What the bottle is may have changed since somebody asked for its gate: it is read here. What either the controller or
    /// the ledger has cut is not opened.
    pub(super) async fn mend(&mut self, gate: Gate) -> Result<Mended, KernelError> {
        let is_its = |running: &&mut Running| running.interface == gate.interface;
        let Some(running) = self.running.get_mut(&gate.bottle).filter(is_its) else { return Ok(Mended::NotRunning) };
        let recorded = self.ledger.bottle(&running.name).await.map(|row| row.gate);
        let mut status = status(&running.stage);
        match recorded {
            Ok(GateView::Cut(cause)) if status == GateStatus::Open => {
                running.stage = Stage::Cut(cause);
                status = GateStatus::Cut(reason(cause));
            }
            Ok(GateView::Open | GateView::Cut(_)) => {}
            // What the ledger said when the gate was asked for.
            Err(_) if status == GateStatus::Open => status = gate.status,
            Err(_) => {}
        }
        let made = self.enforcer.attach(&Gate { status, ..gate });
        if made.is_err() {
            running.lifeline.end.notify_one();
        }
        self.tell_proxy();
        made.map(|()| Mended::Yes)
    }

    pub(super) async fn cut_by_operator(&mut self, bottle: BottleId) -> Result<bool, LedgerError> {
        let was_cut = self.running.get(&bottle).is_some_and(|running| matches!(running.stage, Stage::Cut(_)));
        if self.running.contains_key(&bottle) && !was_cut {
            self.cut_gate(bottle, CutCause::Operator, self.asked);
            self.unrecorded.push_back(Record::Cut(bottle, CutCause::Operator));
            // The kernel holds the cut; a record that fails is written later.
            let _ = self.write_unrecorded().await;
            return Ok(false);
        }
        self.ledger.change_gate(bottle, GateChange::Cut(CutCause::Operator)).await
    }

    /// In the kernel by one order, in the ledger by one transaction. Gates that cannot be cut so are cut one by one, and
    /// their bottles ended if they cannot. What is being started is cut in the ledger, and by that before it is up.
    pub(super) async fn cut_all(&mut self) -> Result<Vec<BottleName>, LedgerError> {
        let open = self.running.values().filter(|running| !matches!(running.stage, Stage::Cut(_)));
        let open: Vec<(BottleId, IfIndex)> = open.map(|running| (running.id, running.interface)).collect();
        let cut = GateStatus::Cut(CutReason::Operator);
        let start = Instant::now();
        let gates: Vec<_> = open.iter().map(|(_, interface)| (*interface, cut)).collect();
        let cut = self.enforcer.set_many(&gates);
        if let Err(error) = &cut {
            error!(error = with_causes(error), "not all gates could be cut at once; each is cut alone");
        }
        let mut names = Vec::new();
        for (bottle, _) in &open {
            match &cut {
                Ok(()) => took(&mut self.cut_times, CutCause::Operator, self.asked),
                Err(_) => self.cut_gate(*bottle, CutCause::Operator, self.asked),
            }
            if let Some(running) = self.running.get_mut(bottle) {
                running.stage = Stage::Cut(CutCause::Operator);
                names.push(running.name.clone());
            }
        }
        info!(bottles = names.len(), write_us = start.elapsed().as_micros(), "all are cut");
        self.tell_proxy();
        let mut bottles: Vec<BottleId> = open.into_iter().map(|(bottle, _)| bottle).collect();
        let known = self.ledger.bottles().await;
        for row in known.iter().flatten().filter(|row| row.ended.is_none() && row.gate == GateView::Open) {
            if !self.running.contains_key(&row.id) {
                bottles.push(row.id);
                names.push(row.name.clone());
            }
        }
        self.unrecorded.push_back(Record::CutTogether(bottles, CutCause::Operator));
        // The kernel holds the cuts, and nothing starts without the record; one that fails is written later.
        let _ = self.write_unrecorded().await;
        known.map(|_| names)
    }

    pub(super) async fn restore(&mut self, bottle: BottleId) -> Result<bool, GateError> {
        self.open(bottle, GateChange::Restore).await
    }

    /// The record first: a gate is never open that the ledger wants cut. One that the kernel does not open can be tried again.
    pub(super) async fn open(&mut self, bottle: BottleId, change: GateChange) -> Result<bool, GateError> {
        self.write_unrecorded().await?;
        let was_open = self.ledger.change_gate(bottle, change).await?;
        fault::point(Point::RestoreRecorded);
        let Some(running) = self.running.get_mut(&bottle) else { return Ok(was_open) };
        if let Err(error) = self.enforcer.set(running.interface, GateStatus::Open) {
            error!(bottle = %running.name, error = with_causes(&error), "the gate could not be opened");
            return Err(error.into());
        }
        fault::point(Point::RestoredInKernel);
        running.stage = Stage::Open;
        info!(bottle = %running.name, "open again");
        self.tell_proxy();
        Ok(was_open)
    }
}

/// A cut that was due is held by the kernel.
fn took(times: &mut CutTimes, cause: CutCause, due: Instant) {
    times.entry(cause).or_insert_with(|| Distribution::new(Scale::Local)).record_time(due.elapsed());
}

/// What the gate of a bottle in this stage is to be.
pub(super) fn status(stage: &Stage) -> GateStatus {
    match stage {
        Stage::Open | Stage::Draining { .. } | Stage::LastWord { .. } => GateStatus::Open,
        Stage::Cut(cause) => GateStatus::Cut(reason(*cause)),
    }
}

/// As the kernel has it.
fn reason(cause: CutCause) -> CutReason {
    match cause {
        CutCause::Budget => CutReason::Budget,
        CutCause::Operator => CutReason::Operator,
    }
}

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;
    use crate::domain::{CutoffPolicy, Stop};
    use crate::kernel::Call;

    const OPERATOR: GateView = GateView::Cut(CutCause::Operator);

    async fn stage_of(world: &World) -> Option<Stage> {
        world.controller.look().await.unwrap().of(world.bottle.id).map(|running| running.stage.clone())
    }

    #[tokio::test]
    async fn a_cut_that_comes_while_a_bottle_starts_holds() {
        let world = World::begun("100", CutoffPolicy::Freeze).await;
        assert!(!world.controller.cut(world.bottle.id).await.unwrap());
        assert!(!world.is_cut(), "the bottle is not known yet");
        world.start().await.unwrap();
        assert!(world.is_cut(), "it came up open");
        assert_eq!(stage_of(&world).await, Some(Stage::Cut(CutCause::Operator)));
        assert_eq!(*world.lifeline.stop.borrow(), None, "an operator who cuts stops nothing");
        world.controller.restore(world.bottle.id).await.unwrap();
        assert!(!world.is_cut());
    }

    #[tokio::test]
    async fn a_budgets_cut_that_comes_while_a_bottle_starts_is_followed_by_its_policy() {
        for (policy, stop) in [(CutoffPolicy::Cutoff, None), (CutoffPolicy::Freeze, Some(Stop::Freeze))] {
            let world = World::begun("100", policy).await;
            world.ledger.change_gate(world.bottle.id, GateChange::Cut(CutCause::Budget)).await.unwrap();
            world.start().await.unwrap();
            assert!(world.is_cut(), "it came up open");
            assert_eq!(*world.lifeline.stop.borrow(), stop.map(|stop| (stop, CutCause::Budget)), "{policy:?}");
        }
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_cut_does_not_start() {
        let world = World::begun("100", CutoffPolicy::Cutoff).await;
        world.controller.cut(world.bottle.id).await.unwrap();
        world.enforcer.fail(Call::Set);
        assert!(matches!(world.start().await, Err(GateError::Kernel(_))));
        assert_eq!(stage_of(&world).await, None);
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_open_is_not_said_to_be_open() {
        let world = World::started("100").await;
        world.controller.cut(world.bottle.id).await.unwrap();
        world.enforcer.fail(Call::Set);
        assert!(matches!(world.controller.restore(world.bottle.id).await, Err(GateError::Kernel(_))));
        assert_eq!(stage_of(&world).await, Some(Stage::Cut(CutCause::Operator)));
        world.enforcer.heal();
        world.controller.restore(world.bottle.id).await.unwrap();
        assert!(!world.is_cut());
        assert_eq!(stage_of(&world).await, Some(Stage::Open));
    }

    #[tokio::test]
    async fn all_are_cut_those_that_start_among_them() {
        let world = World::begun("100", CutoffPolicy::Cutoff).await;
        assert_eq!(world.controller.cut_all().await.unwrap(), vec![world.bottle.name.clone()]);
        assert_eq!(world.recorded().await, OPERATOR);
        world.start().await.unwrap();
        assert!(world.is_cut(), "it came up open");
        assert_eq!(world.controller.cut_all().await.unwrap(), [], "it is cut already");
        world.ledger.end_run(world.bottle.id, 0).await.unwrap();
        world.controller.restore(world.bottle.id).await.unwrap();
        world.controller.ended(world.bottle.id).await;
        assert_eq!(world.controller.cut_all().await.unwrap(), [], "it has ended");
    }

    #[tokio::test]
    async fn a_gate_that_is_made_anew_is_never_more_open_than_the_ledger_wants() {
        let world = World::started("100").await;
        world.ledger.change_gate(world.bottle.id, GateChange::Cut(CutCause::Operator)).await.unwrap();
        assert_eq!(world.controller.mend(world.gate()).await.unwrap(), Mended::Yes);
        assert!(world.is_cut(), "it was opened");
        assert_eq!(stage_of(&world).await, Some(Stage::Cut(CutCause::Operator)));
        // Asked for before it was restored.
        let asked = Gate { status: GateStatus::Cut(CutReason::Operator), ..world.gate() };
        world.controller.restore(world.bottle.id).await.unwrap();
        assert_eq!(world.controller.mend(asked).await.unwrap(), Mended::Yes);
        assert!(!world.is_cut(), "it was cut by a look that was over");
        world.controller.ended(world.bottle.id).await;
        assert_eq!(world.controller.mend(world.gate()).await.unwrap(), Mended::NotRunning);
    }
}
