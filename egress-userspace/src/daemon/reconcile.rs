//! At start: what the ledger wants against what there is. Bottles that live on are adopted behind their gates, everything
//! else of an earlier controller is taken down. Each repair is audited.

use std::collections::BTreeSet;

use egress_common::CutReason;
use tracing::{info, warn};

use crate::budget;
use crate::domain::{AuditKind, BottleName, CutCause, GateView};
use crate::kernel::{Gate, GateStatus, IfIndex};
use crate::ledger::{BottleRow, GateChange};

use super::DaemonError;
use super::controller::{refusal, spends};
use super::launch::{Launcher, running};
use super::lifeline::Lifeline;

/// What a run is recorded to have ended with when nobody saw its end.
const UNSEEN: i32 = 137;

pub(super) async fn reconcile(launcher: &Launcher) -> Result<(), DaemonError> {
    let rows = launcher.ledger.bottles().await?;
    let mut kept = BTreeSet::new();
    for row in rows.iter().filter(|row| row.ended.is_none()) {
        match adopt(launcher, row).await? {
            Some(interface) => {
                kept.insert(interface);
            }
            None => {
                launcher.take_down(row, UNSEEN).await;
                audit(launcher, row, "a run whose processes had ended was taken down").await?;
            }
        }
    }
    remove_stray_bottles(launcher, &rows).await?;
    remove_stray_gates(launcher, &kept)
}

/// A bottle whose processes live: its gate is made what the ledger wants before anything else.
async fn adopt(launcher: &Launcher, row: &BottleRow) -> Result<Option<IfIndex>, DaemonError> {
    let Some(address) = row.address else { return Ok(None) };
    let Some((built, command)) = launcher.runtime.adopt(&row.name)? else { return Ok(None) };
    let interface = IfIndex(built.interface);
    let held = launcher.enforcer.gates()?.into_iter().find(|gate| gate.interface == interface);
    let row = &keep_cut(launcher, row, held.as_ref()).await?;
    let wanted = launcher.gate(row, address, interface);
    if held.as_ref() != Some(&wanted) || !launcher.enforcer.is_attached(interface)? {
        launcher.enforcer.attach(&wanted)?;
        warn!(bottle = %row.name, "its gate was not what the ledger wants, and is now");
        audit(launcher, row, "the gate was not what the ledger wants").await?;
    }
    let (lifeline, exit) = Lifeline::new();
    launcher.controller.started(running(row, address, &built, lifeline.clone())).await;
    launcher.controller.runs(row.id, command.init_pid(), command.signaller());
    info!(bottle = %row.name, "adopted");
    resume_cutting(launcher, row).await?;
    tokio::spawn(launcher.clone().live_on(row.clone(), command, lifeline, exit));
    Ok(Some(interface))
}

/// A gate that the kernel holds cut and the ledger does not: the earlier controller did not live to record it. It stays cut.
async fn keep_cut(launcher: &Launcher, row: &BottleRow, held: Option<&Gate>) -> Result<BottleRow, DaemonError> {
    let mut row = row.clone();
    if let (GateView::Open, Some(GateStatus::Cut(reason))) =
        (row.gate, held.filter(|gate| gate.bottle == row.id).map(|gate| gate.status))
    {
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
        launcher.runtime.take_down(&name).await?;
    }
    Ok(())
}

fn remove_stray_gates(launcher: &Launcher, kept: &BTreeSet<IfIndex>) -> Result<(), DaemonError> {
    for gate in launcher.enforcer.gates()?.into_iter().filter(|gate| !kept.contains(&gate.interface)) {
        launcher.enforcer.detach(gate.interface)?;
    }
    Ok(())
}

async fn audit(launcher: &Launcher, row: &BottleRow, what: &str) -> Result<(), DaemonError> {
    Ok(launcher.ledger.audit(Some(row.id), AuditKind::Repaired { what: what.to_owned() }).await?)
}
