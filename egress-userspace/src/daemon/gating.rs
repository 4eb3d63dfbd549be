//! What the controller does to gates: cuts, opens and makes them anew, in the kernel and on record.

use egress_common::CutReason;
use tokio::time::Instant;
use tracing::{error, info};

use crate::domain::{BottleId, BottleName, CutCause, Distribution, Scale, with_causes};
use crate::fault::{self, Point};
use crate::kernel::{Gate, GateStatus, IfIndex, KernelError};
use crate::ledger::{GateChange, LedgerError};

use super::controller::{Controller, CutTimes, Mended, Record};
use super::cutting::Stage;

impl Controller {
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

    /// What the bottle is may have changed since somebody asked for its gate: it is read here.
    pub(super) fn mend(&mut self, gate: Gate) -> Result<Mended, KernelError> {
        let Some(running) = self.running.get(&gate.bottle).filter(|running| running.interface == gate.interface) else {
            return Ok(Mended::NotRunning);
        };
        let status = status(&running.stage);
        let made = self.enforcer.attach(&Gate { status, ..gate });
        if made.is_err() {
            running.lifeline.end.notify_one();
        }
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
    /// their bottles ended if they cannot.
    pub(super) async fn cut_all(&mut self) -> Vec<BottleName> {
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
        let bottles = open.into_iter().map(|(bottle, _)| bottle).collect();
        self.unrecorded.push_back(Record::CutTogether(bottles, CutCause::Operator));
        // The kernel holds the cuts; a record that fails is written later.
        let _ = self.write_unrecorded().await;
        names
    }

    pub(super) async fn restore(&mut self, bottle: BottleId) -> Result<bool, LedgerError> {
        self.open(bottle, GateChange::Restore).await
    }

    /// The record first: a gate is never open that the ledger wants cut.
    pub(super) async fn open(&mut self, bottle: BottleId, change: GateChange) -> Result<bool, LedgerError> {
        self.write_unrecorded().await?;
        let was_open = self.ledger.change_gate(bottle, change).await?;
        fault::point(Point::RestoreRecorded);
        let Some(running) = self.running.get_mut(&bottle) else { return Ok(was_open) };
        if let Err(error) = self.enforcer.set(running.interface, GateStatus::Open) {
            error!(bottle = %running.name, error = with_causes(&error), "the gate could not be opened");
            return Ok(was_open);
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
