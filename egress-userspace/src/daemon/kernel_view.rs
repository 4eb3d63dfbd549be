//! `egress audit --kernel`: every gate as ledger and kernel have it, with its programs and counters.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::control::{ApiError, GateCounter, GateProgram, GateTerms, KernelGate, KernelReply};
use crate::domain::{BottleName, with_causes};
use crate::kernel::{AttachedProgram, Counter, Enforcer, Gate, GateStatus, IfIndex, KernelError};

use super::api::Desk;
use super::gate_check::Gates;
use super::launch::{failed, refused};

impl Desk {
    /// Of all bottles, or of one.
    pub(super) async fn kernel(&self, of: Option<BottleName>) -> Result<KernelReply, ApiError> {
        if let Some(bottle) = &of {
            self.launcher.ledger.bottle(bottle).await.map_err(|error| refused(&error))?;
        }
        let turn = self.launcher.mending.lock().await;
        let (gates, found) = self.launcher.compare_gates().await.map_err(|error| failed(with_causes(&error)))?;
        let enforcer = Arc::clone(&self.launcher.enforcer);
        let (backend, pins) = (enforcer.backend().to_owned(), self.pins.clone());
        let differences = found.iter().map(|difference| gates.named(difference));
        let is_asked_for = |bottle: &Option<BottleName>| of.is_none() || *bottle == of;
        let differences = differences.filter(|difference| is_asked_for(&difference.bottle)).collect();
        // Some system calls for each gate.
        let look = tokio::task::spawn_blocking(move || view(&gates, enforcer.as_ref()));
        let gates = look.await.map_err(|_| failed("the gates were not read"))?;
        drop(turn);
        let mut gates = gates.map_err(|error| failed(with_causes(&error)))?;
        gates.retain(|gate| is_asked_for(&gate.bottle));
        Ok(KernelReply { enforcer: backend, pins, gates, differences })
    }
}

fn view(gates: &Gates, enforcer: &dyn Enforcer) -> Result<Vec<KernelGate>, KernelError> {
    let wanted = || gates.wanted.iter().map(|(_, gate)| gate);
    let interfaces: BTreeSet<IfIndex> = wanted().chain(&gates.held).map(|gate| gate.interface).collect();
    let gate = |interface: IfIndex| {
        let wanted = wanted().find(|gate| gate.interface == interface);
        let held = gates.held.iter().find(|gate| gate.interface == interface);
        let bottle = wanted.or(held).and_then(|gate| gates.names.get(&gate.bottle)).cloned();
        Ok(KernelGate {
            bottle,
            interface: interface.0,
            ledger: wanted.map(terms),
            kernel: held.map(terms),
            // That they cannot be read is a difference of this gate's.
            programs: enforcer.programs(interface).unwrap_or_default().into_iter().map(program).collect(),
            counters: enforcer.counters(interface)?.iter().map(counter).collect(),
        })
    };
    interfaces.into_iter().map(gate).collect()
}

fn terms(gate: &Gate) -> GateTerms {
    let cut_reason = match gate.status {
        GateStatus::Open => None,
        GateStatus::Cut(reason) => Some(format!("{reason:?}")),
    };
    GateTerms {
        is_cut: gate.status != GateStatus::Open,
        cut_reason,
        cut_mode: gate.cut_mode,
        address: gate.address,
        mac: gate.mac.map(|byte| format!("{byte:02x}")).join(":"),
        gateway: gate.gateway,
        tcp_ports: gate.tcp_ports.clone(),
        dns_port: gate.dns_port,
    }
}

fn program(program: AttachedProgram) -> GateProgram {
    let AttachedProgram { hook, name, id, tag, average_ns } = program;
    GateProgram { hook, name, id, tag: format!("{tag:016x}"), average_ns }
}

/// In the words that `bpftool` prints.
fn counter(counter: &Counter) -> GateCounter {
    GateCounter {
        direction: format!("{:?}", counter.direction),
        outcome: format!("{:?}", counter.outcome),
        packets: counter.packets,
        bytes: counter.bytes,
    }
}
