//! Gates of bottles that are over: they go after their interfaces, never before.

use egress_common::CutReason;

use crate::kernel::{Enforcer, Gate, GateStatus, IfIndex, KernelError};

/// Removes the gate of a bottle that is over. Where anything of it is on an interface that is left, it stays there, cut and
/// whole, and the answer is false. An interface with nothing of it has its number and is another.
pub(super) fn remove_gate(enforcer: &dyn Enforcer, interface: IfIndex) -> Result<bool, KernelError> {
    if !interface.exists() {
        return enforcer.detach(interface).map(|()| true);
    }
    let held = enforcer.gates()?.into_iter().find(|gate| gate.interface == interface);
    // First, as it takes no look at the interface. What fails is made good below.
    let is_set = held.as_ref().is_none_or(|held| match held.status {
        GateStatus::Open => enforcer.set(interface, GateStatus::Cut(CutReason::NotRunning)).is_ok(),
        GateStatus::Cut(_) => true,
    });
    if !enforcer.is_partly_attached(interface)? {
        return enforcer.detach(interface).map(|()| true);
    }
    // A program without an entry drops everything.
    if let Some(held) = held
        && !(is_set && enforcer.is_attached(interface)?)
    {
        enforcer.attach(&cut(held))?;
    }
    Ok(false)
}

/// The gate, passing nothing.
pub(super) fn cut(gate: Gate) -> Gate {
    let status = match gate.status {
        GateStatus::Open => GateStatus::Cut(CutReason::NotRunning),
        status @ GateStatus::Cut(_) => status,
    };
    Gate { status, ..gate }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Call, FakeEnforcer, sample_gate as gate};

    /// In every namespace.
    const LOOPBACK: IfIndex = IfIndex(1);
    const NOBODYS: IfIndex = IfIndex(0x7fff_0000);
    const CUT: GateStatus = GateStatus::Cut(CutReason::NotRunning);

    /// What becomes of an open gate to which this was done.
    fn check(interface: IfIndex, deed: impl FnOnce(&FakeEnforcer), left: Option<GateStatus>) {
        let enforcer = FakeEnforcer::default();
        enforcer.attach(&gate(interface, GateStatus::Open)).unwrap();
        deed(&enforcer);
        assert_eq!(remove_gate(&enforcer, interface).unwrap(), left.is_none());
        let expected: Vec<Gate> = left.map(|status| gate(interface, status)).into_iter().collect();
        assert_eq!(enforcer.gates().unwrap(), expected);
        assert_eq!(enforcer.is_attached(interface).unwrap(), left.is_some());
    }

    #[test]
    fn a_gate_goes_after_its_interface() {
        check(NOBODYS, |_| (), None);
        check(LOOPBACK, |gates| gates.lose_attachment(LOOPBACK), None);
        check(LOOPBACK, |_| (), Some(CUT));
        check(LOOPBACK, |gates| gates.lose_hook(LOOPBACK), Some(CUT));
        check(LOOPBACK, |gates| gates.fail(Call::Set), Some(CUT));
        let budget = GateStatus::Cut(CutReason::Budget);
        check(LOOPBACK, |gates| gates.set(LOOPBACK, budget).unwrap(), Some(budget));
    }

    #[test]
    fn what_cannot_be_made_whole_is_not_removed() {
        let enforcer = FakeEnforcer::default();
        enforcer.attach(&gate(LOOPBACK, GateStatus::Open)).unwrap();
        enforcer.lose_hook(LOOPBACK);
        enforcer.fail(Call::Attach);
        assert!(remove_gate(&enforcer, LOOPBACK).is_err());
        assert_eq!(enforcer.gates().unwrap(), [gate(LOOPBACK, CUT)]);
    }
}
