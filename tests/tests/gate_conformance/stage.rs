//! A world with a backend in it, and frames that are sent through its gate.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use egress_common::{Direction, Outcome};
use egress_userspace::kernel::{Enforcer, Gate, GateStatus};
use harness::gate::{Backend, Line, PATIENCE, PinDirectory, Witness, World, counted, until};

use super::frames::{self, Case};

/// How long a frame is given to arrive whose fate is decided.
pub(crate) const A_MOMENT: Duration = Duration::from_millis(3);

/// A world with a backend in it. Fields drop in order: the gate before its pins.
pub(crate) struct Stage {
    pub(crate) backend: Backend,
    pub(crate) gates: Box<dyn Enforcer>,
    pub(crate) world: World,
    pub(crate) pins: PinDirectory,
}

impl Stage {
    pub(crate) fn new(backend: Backend) -> Result<Self> {
        let (pins, world) = (PinDirectory::new()?, World::new()?);
        let gates = world.host.run(|| backend.open(pins.path()))?;
        Ok(Self { backend, gates, world, pins })
    }

    /// What there is after all of our processes have ended: nobody holds the gate.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.gates = Backend::Fake.open(Path::new(""))?;
        Ok(())
    }

    /// The next controller.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        self.gates = self.world.host.run(|| self.backend.open(self.pins.path()))?;
        Ok(())
    }

    /// With the bottle's gate attached and open.
    pub(crate) fn attached(backend: Backend) -> Result<Self> {
        let stage = Self::new(backend)?;
        stage.attach(&stage.world.gate())?;
        Ok(stage)
    }

    pub(crate) fn attach(&self, gate: &Gate) -> Result<()> {
        self.world.host.run(|| Ok(self.gates.attach(gate)?))
    }

    pub(crate) fn set(&self, status: GateStatus) -> Result<()> {
        Ok(self.gates.set(self.world.interface, status)?)
    }

    pub(crate) fn is_attached(&self) -> Result<bool> {
        self.world.host.run(|| Ok(self.gates.is_attached(self.world.interface)?))
    }

    pub(crate) fn detach(&self) -> Result<()> {
        self.world.host.run(|| Ok(self.gates.detach(self.world.interface)?))
    }

    pub(crate) fn counted(&self, direction: Direction, outcome: Outcome) -> Result<u64> {
        counted(self.gates.as_ref(), self.world.interface, direction, outcome)
    }

    /// The frame gets through or not, as `outcome` says, and is counted under it.
    pub(crate) fn check(&self, direction: Direction, case: &Case, outcome: Outcome) -> Result<()> {
        Sides::new(self, direction)?.check(case, outcome)
    }

    pub(crate) fn check_all(&self, outcome_of: impl Fn(&Case) -> Outcome) -> Result<()> {
        self.check_ways(|_, case| outcome_of(case))
    }

    pub(crate) fn check_ways(&self, outcome_of: impl Fn(Direction, &Case) -> Outcome) -> Result<()> {
        for (direction, cases) in
            [(Direction::FromBottle, frames::from_bottle()), (Direction::ToBottle, frames::to_bottle())]
        {
            let sides = Sides::new(self, direction)?;
            cases.iter().try_for_each(|case| sides.check(case, outcome_of(direction, case)))?;
        }
        Ok(())
    }
}

/// Who sends through a gate in one direction, and who would see it. Entering a namespace takes longer than a packet does.
pub(crate) struct Sides<'a> {
    stage: &'a Stage,
    direction: Direction,
    pub(crate) line: Line,
    pub(crate) witness: Witness,
}

impl<'a> Sides<'a> {
    pub(crate) fn new(stage: &'a Stage, direction: Direction) -> Result<Self> {
        let witness = match direction {
            Direction::FromBottle => stage.world.witness_at_host()?,
            Direction::ToBottle => stage.world.witness_in_bottle()?,
        };
        Ok(Self { stage, direction, line: stage.world.line(direction)?, witness })
    }

    pub(crate) fn check(&self, case: &Case, outcome: Outcome) -> Result<()> {
        let Self { stage, direction, line, witness } = self;
        let before = stage.counted(*direction, outcome)?;
        line.send(&case.frame)?;
        let what = || format!("{direction:?}: {}: {:?}", case.name, stage.gates.counters(stage.world.interface));
        ensure!(
            until(PATIENCE, || stage.counted(*direction, outcome).is_ok_and(|now| now > before)),
            "not counted: {}",
            what()
        );
        if outcome == Outcome::Passed {
            ensure!(witness.sees(case.marker), "did not arrive: {}", what());
        } else {
            // It was counted, so its fate is decided; a moment for it to arrive all the same.
            thread::sleep(A_MOMENT);
            ensure!(!witness.has_seen(case.marker), "arrived: {}", what());
        }
        Ok(())
    }
}
