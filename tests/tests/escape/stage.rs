//! A world with a backend in it, and the questions every attack asks.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use egress_common::{Direction, Outcome};
use egress_userspace::doctor::attacks::Attempt;
use egress_userspace::kernel::{Enforcer, GateStatus};
use harness::gate::{Backend, PATIENCE, PinDirectory, Witness, World, counted, until};

/// How long a packet may need that has been counted and passes.
const ON_ITS_WAY: Duration = Duration::from_millis(2);

/// Fields drop in order: the gate before its pins.
pub(crate) struct Stage {
    pub(crate) gates: Box<dyn Enforcer>,
    pub(crate) world: World,
    _pins: PinDirectory,
}

impl Stage {
    pub(crate) fn new(backend: Backend) -> Result<Self> {
        let (pins, world) = (PinDirectory::new()?, World::new()?);
        let gates = world.host.run(|| backend.open(pins.path()))?;
        Ok(Self { gates, world, _pins: pins })
    }

    pub(crate) fn attach(&self) -> Result<()> {
        self.world.host.run(|| Ok(self.gates.attach(&self.world.gate())?))
    }

    pub(crate) fn detach(&self) -> Result<()> {
        self.world.host.run(|| Ok(self.gates.detach(self.world.interface)?))
    }

    pub(crate) fn set(&self, status: GateStatus) -> Result<()> {
        Ok(self.gates.set(self.world.interface, status)?)
    }

    pub(crate) fn is_attached(&self) -> Result<bool> {
        self.world.host.run(|| Ok(self.gates.is_attached(self.world.interface)?))
    }

    pub(crate) fn counted(&self, outcome: Outcome) -> Result<u64> {
        counted(self.gates.as_ref(), self.world.interface, Direction::FromBottle, outcome)
    }

    /// Everything that was dropped, from the bottle.
    pub(crate) fn dropped(&self) -> Result<u64> {
        let counters = self.gates.counters(self.world.interface)?;
        let dropped =
            counters.iter().filter(|cell| cell.direction == Direction::FromBottle && cell.outcome != Outcome::Passed);
        Ok(dropped.map(|cell| cell.packets).sum())
    }

    /// Sent by the bottle, it arrives or not as it is to, and is counted as what it is.
    pub(crate) fn check(&self, witness: &Witness, attempt: &Attempt, outcome: Outcome) -> Result<()> {
        self.check_sent(witness, attempt, outcome, || self.world.send(Direction::FromBottle, &attempt.frame))
    }

    /// The same, sent some other way.
    pub(crate) fn check_sent(
        &self,
        witness: &Witness,
        attempt: &Attempt,
        outcome: Outcome,
        send: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let before = self.counted(outcome)?;
        send()?;
        let is_counted = until(PATIENCE, || self.counted(outcome).is_ok_and(|now| now > before));
        if outcome == Outcome::Passed {
            ensure!(witness.sees(attempt.marker), "did not arrive");
        } else {
            thread::sleep(ON_ITS_WAY);
            ensure!(!witness.has_seen(attempt.marker), "ARRIVED");
        }
        ensure!(is_counted, "not counted: {:?}", self.gates.counters(self.world.interface)?);
        Ok(())
    }
}
