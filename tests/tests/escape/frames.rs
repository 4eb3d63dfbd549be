//! Single frames, both ways: the doctor's lists.

use anyhow::{Result, ensure};
use egress_common::{CutReason, Direction, Outcome};
use egress_userspace::doctor::attacks;
use egress_userspace::kernel::GateStatus;
use harness::gate::{Backend, PARTIES};

use super::stage::Stage;
use super::table::Table;

/// Without a gate each arrives; with one none that is not allowed, and with a cut one none at all.
pub(crate) fn attack(backend: Backend, table: &mut Table) -> Result<()> {
    let stage = Stage::new(backend)?;
    let attempts = [attacks::from_bottle(&PARTIES), attacks::further(&PARTIES)].concat();
    let witness = stage.world.witness_of_all_at_host()?;
    let mut arrives = Vec::new();
    for attempt in &attempts {
        stage.world.send(Direction::FromBottle, &attempt.frame)?;
        arrives.push(witness.sees(attempt.marker));
    }
    stage.attach()?;
    for (attempt, arrives) in attempts.iter().zip(arrives) {
        let check = || {
            ensure!(arrives, "does not arrive without a gate either");
            stage.check(&witness, attempt, attempt.outcome)
        };
        let result = check();
        table.row(attempt.name, format!("{:?}", attempt.outcome), result);
    }
    stage.set(GateStatus::Cut(CutReason::Operator))?;
    for attempt in &attempts {
        let result = stage.check(&witness, attempt, Outcome::Cut);
        table.row(format!("{}, the gate cut", attempt.name), "Cut", result);
    }
    Ok(())
}
