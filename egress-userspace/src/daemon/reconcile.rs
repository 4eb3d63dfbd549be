//! At start: what the ledger wants against what there is. Bottles that live on are adopted behind their gates, everything
//! else of an earlier controller is taken down. Each repair is audited.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use egress_common::CutReason;
use tracing::{error, info, warn};

use crate::budget;
use crate::domain::{AuditKind, BottleName, CutCause, GateView, Stop, with_causes};
use crate::kernel::{Enforcer, Gate, GateStatus, IfIndex, KernelError};
use crate::ledger::{BottleRow, GateChange};

use super::DaemonError;
use super::containers::Process;
use super::controller::{refusal, spends};
use super::launch::{Launcher, running, spec};
use super::leftover;
use super::lifeline::Lifeline;
use super::stopping::{Over, unfinished};

/// What a run is recorded to have ended with when nobody saw its end.
const UNSEEN: i32 = 137;
/// What is on record of a gate after another backend was chosen.
const MOVED: &str = "the gate was made by another backend";
const LEFT: &str = "a bottle that is over has left its interface: its gate stays, cut";

/// `earlier` is the backend that gates were made of before another was chosen. A bottle that lives on has both gates until
/// all bottles are adopted, and packets must pass both: no moment is without one.
pub(super) async fn reconcile(launcher: &Launcher, earlier: Option<&dyn Enforcer>) -> Result<(), DaemonError> {
    let backends: Vec<&dyn Enforcer> = [Some(launcher.enforcer.as_ref()), earlier].into_iter().flatten().collect();
    let held: Vec<Gate> = backends.iter().map(|backend| backend.gates()).collect::<Result<Vec<_>, _>>()?.concat();
    let rows = launcher.ledger.bottles().await?;
    let mut kept = BTreeSet::new();
    for row in &rows {
        if row.ended.is_some() {
            finish_removal(launcher, row).await;
            continue;
        }
        match adopt(launcher, row, &held).await {
            Ok(interface) => kept.extend(interface),
            // What is wrong with one bottle keeps nobody from the others.
            Err(problem @ (DaemonError::Bottle(_) | DaemonError::Kernel(_))) => {
                give_up(launcher, row, &backends, &with_causes(&problem)).await?;
            }
            Err(error) => return Err(error),
        }
    }
    remove_stray_bottles(launcher, &rows).await?;
    for gate in launcher.enforcer.gates()?.into_iter().filter(|gate| !kept.contains(&gate.interface)) {
        match leftover::remove_gate(launcher.enforcer.as_ref(), gate.interface) {
            Ok(true) => {}
            Ok(false) => error!(interface = gate.interface.0, LEFT),
            // The guard tries again.
            Err(error) => {
                error!(interface = gate.interface.0, error = with_causes(&error), "a gate without a bottle is left");
            }
        }
    }
    if let Some(earlier) = earlier {
        for gate in earlier.gates()? {
            let is_kept = kept.contains(&gate.interface);
            if let Err(error) = replace_gate(launcher.enforcer.as_ref(), earlier, &gate, is_kept) {
                let interface = gate.interface.0;
                error!(
                    interface,
                    error = with_causes(&error),
                    "a gate of another backend is left; the next start tries again"
                );
            }
        }
    }
    Ok(())
}

/// Removes another backend's gate. Where the interface is left of a bottle that is over, this backend's is on it first, cut.
fn replace_gate(
    enforcer: &dyn Enforcer,
    earlier: &dyn Enforcer,
    gate: &Gate,
    is_kept: bool,
) -> Result<(), KernelError> {
    if !is_kept {
        if leftover::remove_gate(earlier, gate.interface)? {
            return Ok(());
        }
        enforcer.attach(&leftover::cut(gate.clone()))?;
        error!(interface = gate.interface.0, LEFT);
    }
    earlier.detach(gate.interface)
}

/// A bottle that cannot be taken over is ended. Nothing passes meanwhile, nor after if something of it is left.
async fn give_up(
    launcher: &Launcher,
    row: &BottleRow,
    backends: &[&dyn Enforcer],
    problem: &str,
) -> Result<(), DaemonError> {
    error!(bottle = %row.name, problem, "it cannot be taken over; it is ended");
    for backend in backends {
        for gate in backend.gates()?.iter().filter(|gate| gate.bottle == row.id) {
            // None on an interface that is gone.
            if let Err(error) = backend.set(gate.interface, GateStatus::Cut(CutReason::Operator)) {
                warn!(bottle = %row.name, error = with_causes(&error), "its gate could not be cut");
            }
        }
    }
    audit(launcher, row, &format!("it could not be taken over and was ended: {problem}")).await?;
    take_down(launcher, row, launcher.runtime.is_held(&row.name)).await
}

/// An ended bottle whose files were being removed.
async fn finish_removal(launcher: &Launcher, row: &BottleRow) {
    if row.stopping.is_some()
        && let Err(error) = launcher.kill_ended(row).await
    {
        warn!(bottle = %row.name, error = error.message, "its files are left; the next start tries again");
    }
}

/// A bottle that an earlier controller ran: what was begun with it is finished; it is followed on if its processes live; else
/// it is taken down. The interface is one whose gate is to be kept.
async fn adopt(launcher: &Launcher, row: &BottleRow, held: &[Gate]) -> Result<Option<IfIndex>, DaemonError> {
    let is_held = launcher.runtime.is_held(&row.name);
    if let Some(over @ Over::Stopped(Stop::Kill, _)) = begun(row, is_held) {
        launcher.finish(row, over).await;
        return Ok(None);
    }
    let living = match spec(row) {
        Ok(spec) => launcher.runtime.adopt(&spec, row.runtime).await?.map(|living| (spec.address, living)),
        Err(_) => None,
    };
    let Some((address, (built, command))) = living else {
        take_down(launcher, row, is_held).await?;
        return Ok(None);
    };
    let interface = IfIndex(built.interface);
    let row = &keep_gate(launcher, row, is_held, held, (interface, address)).await?;
    let (lifeline, exit) = Lifeline::new();
    let lineage = launcher.ledger.lineage(row.id).await?;
    launcher.controller.started(running(row, lineage, address, &built, lifeline.clone())).await?;
    let container = launcher.runtime.container(&row.name).await;
    launcher.controller.runs(row.id, Process::of(container, &command), command.signaller());
    info!(bottle = %row.name, "adopted");
    match begun(row, is_held) {
        // Killed now that the kernel's word on the gate is known.
        Some(over @ Over::Stopped(Stop::Kill, _)) => {
            launcher.finish(row, over).await;
            return Ok(None);
        }
        Some(over) => match launcher.hold(row, &command).await {
            Ok(()) => {
                launcher.finish(row, over).await;
                return Ok(None);
            }
            // Followed on, behind its cut gate.
            Err(what) => warn!(bottle = %row.name, what, "it goes on"),
        },
        None => resume_cutting(launcher, row).await?,
    }
    tokio::spawn(launcher.clone().live_on(row.clone(), command, lifeline, exit));
    Ok(Some(interface))
}

fn begun(row: &BottleRow, is_held: bool) -> Option<Over> {
    unfinished(row, is_held).map(|(stop, cause)| Over::Stopped(stop, cause))
}

/// A run of which nothing lives. Its launch is written down only on the way to being frozen, or on the way back.
async fn take_down(launcher: &Launcher, row: &BottleRow, is_held: bool) -> Result<(), DaemonError> {
    if launcher.is_saved(row) {
        let (_, cause) = unfinished(row, is_held).unwrap_or((Stop::Freeze, CutCause::Operator));
        launcher.finish(row, Over::Stopped(Stop::Freeze, cause)).await;
        return Ok(());
    }
    launcher.finish(row, Over::Ended(launcher.runtime.exit_code(&row.name).unwrap_or(UNSEEN))).await;
    audit(launcher, row, "a run whose processes had ended was taken down").await
}

/// The gate of a bottle that lives is made what the ledger wants before anything else.
async fn keep_gate(
    launcher: &Launcher,
    row: &BottleRow,
    is_held: bool,
    held: &[Gate],
    (interface, address): (IfIndex, Ipv4Addr),
) -> Result<BottleRow, DaemonError> {
    let of_this: Vec<&Gate> = held.iter().filter(|gate| gate.interface == interface).collect();
    let mut row = keep_cut(launcher, row, &of_this).await?;
    // The earlier controller did not come so far as to cut it.
    if row.gate == GateView::Open && unfinished(&row, is_held).is_some() {
        launcher.ledger.change_gate(row.id, GateChange::Cut(CutCause::Operator)).await?;
        row.gate = GateView::Cut(CutCause::Operator);
    }
    let wanted = launcher.gate(&row, address, interface);
    let now = launcher.enforcer.gates()?.into_iter().find(|gate| gate.interface == interface);
    if now.as_ref() != Some(&wanted) || !launcher.enforcer.is_attached(interface)? {
        launcher.enforcer.attach(&wanted)?;
        let is_moved = now.is_none() && of_this.iter().any(|gate| gate.bottle == row.id);
        let what = if is_moved { MOVED } else { "the gate was not what the ledger wants" };
        warn!(bottle = %row.name, enforcer = launcher.enforcer.backend(), what, "its gate was made anew");
        audit(launcher, &row, what).await?;
    }
    Ok(row)
}

/// A gate that the kernel holds cut and the ledger does not: the earlier controller did not live to record it. It stays cut.
async fn keep_cut(launcher: &Launcher, row: &BottleRow, held: &[&Gate]) -> Result<BottleRow, DaemonError> {
    let mut row = row.clone();
    let cut = held.iter().filter(|gate| gate.bottle == row.id).find_map(|gate| match gate.status {
        GateStatus::Cut(reason) => Some(reason),
        GateStatus::Open => None,
    });
    if let (GateView::Open, Some(reason)) = (row.gate, cut) {
        let cause = if reason == CutReason::Budget { CutCause::Budget } else { CutCause::Operator };
        launcher.ledger.change_gate(row.id, GateChange::Cut(cause)).await?;
        row.gate = GateView::Cut(cause);
    }
    Ok(row)
}

/// A budget that was crossed and a gate that is open: the earlier controller did not live to cut it, or an operator restored
/// the bottle as it was. Either way it hears why at its next request, and is cut.
async fn resume_cutting(launcher: &Launcher, row: &BottleRow) -> Result<(), DaemonError> {
    for view in launcher.ledger.budgets(row.id).await?.into_iter().filter(spends) {
        if let Some(crossing) = budget::crossed(&view.chain) {
            launcher.controller.exhausted(row.id, refusal(&crossing, &view.provider), true).await;
        }
    }
    Ok(())
}

/// What is on disk of bottles that do not run.
async fn remove_stray_bottles(launcher: &Launcher, rows: &[BottleRow]) -> Result<(), DaemonError> {
    let runs = |name: &BottleName| rows.iter().any(|row| row.name == *name && row.ended.is_none());
    for name in launcher.runtime.leftovers()?.into_iter().filter(|name| !runs(name)) {
        warn!(bottle = %name, "left over by an earlier run; taken down");
        if let Err(error) = launcher.runtime.take_down(&name).await {
            error!(bottle = %name, error = with_causes(&error), "something of it is left; the next start tries again");
        }
    }
    Ok(())
}

async fn audit(launcher: &Launcher, row: &BottleRow, what: &str) -> Result<(), DaemonError> {
    Ok(launcher.ledger.audit(Some(row.id), AuditKind::Repaired { what: what.to_owned() }).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Call, FakeEnforcer, sample_gate};

    /// In every namespace.
    const LOOPBACK: IfIndex = IfIndex(1);
    const CUT: GateStatus = GateStatus::Cut(CutReason::NotRunning);

    fn gate(status: GateStatus) -> Gate {
        sample_gate(LOOPBACK, status)
    }

    /// What the two backends hold after another's open gate was replaced.
    fn check(is_kept: bool, failing: Option<Call>, [now, earlier]: [&[Gate]; 2]) {
        let [enforcer, other] = [FakeEnforcer::default(), FakeEnforcer::default()];
        other.attach(&gate(GateStatus::Open)).unwrap();
        if let Some(call) = failing {
            enforcer.fail(call);
        }
        let replaced = replace_gate(&enforcer, &other, &gate(GateStatus::Open), is_kept);
        assert_eq!(replaced.is_err(), failing.is_some());
        enforcer.heal();
        assert_eq!((enforcer.gates().unwrap().as_slice(), other.gates().unwrap().as_slice()), (now, earlier));
    }

    #[test]
    fn no_interface_loses_its_gate_to_another_backend() {
        check(false, None, [&[gate(CUT)], &[]]);
        check(false, Some(Call::Attach), [&[], &[gate(CUT)]]);
        check(true, None, [&[], &[]]);
    }
}
