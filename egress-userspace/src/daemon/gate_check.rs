//! Where the kernel does not hold what the ledger wants. A pure comparison; repairs nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::control::{GateDifference, GateFault};
use crate::domain::{BottleId, BottleName, GateView};
use crate::kernel::{Gate, GateStatus, IfIndex};

/// What the two say of all gates.
#[derive(Debug, Default)]
pub(super) struct Gates {
    /// Of bottles that have started: the ledger's word, and the gate that makes of it.
    pub(super) wanted: Vec<(GateView, Gate)>,
    /// What the kernel holds.
    pub(super) held: Vec<Gate>,
    /// Interfaces that exist.
    pub(super) interfaces: BTreeSet<IfIndex>,
    /// Those with the program on them, in both directions.
    pub(super) attached: BTreeSet<IfIndex>,
    /// Those of which the kernel does not say.
    pub(super) unreadable: BTreeSet<IfIndex>,
    /// Bottles that run, are about to start, or are being taken down.
    pub(super) running: BTreeSet<BottleId>,
    /// Every bottle there has been.
    pub(super) names: BTreeMap<BottleId, BottleName>,
}

/// One gate that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// Whose gate it is, or says it is.
    pub(super) bottle: BottleId,
    /// Where.
    pub(super) interface: IfIndex,
    /// How.
    pub(super) fault: GateFault,
}

impl Gates {
    /// A difference as front-ends hear it.
    pub(super) fn named(&self, difference: &Difference) -> GateDifference {
        let Difference { bottle, interface, fault } = difference.clone();
        GateDifference { bottle: self.names.get(&bottle).cloned(), interface: interface.0, fault }
    }
}

pub(super) fn differences(gates: &Gates) -> Vec<Difference> {
    let difference = |gate: &Gate, fault| Difference { bottle: gate.bottle, interface: gate.interface, fault };
    let wrong = gates.wanted.iter().flat_map(|(view, wanted)| {
        let held = gates.held.iter().find(|held| held.interface == wanted.interface);
        let faults = if gates.interfaces.contains(&wanted.interface) {
            let is_unreadable = gates.unreadable.contains(&wanted.interface);
            let attached = (!is_unreadable).then(|| gates.attached.contains(&wanted.interface));
            faults(*view, wanted, held, attached)
        } else {
            vec![GateFault::NoInterface]
        };
        faults.into_iter().map(|fault| difference(wanted, fault))
    });
    let is_wanted = |gate: &Gate| gates.wanted.iter().any(|(_, wanted)| wanted.interface == gate.interface);
    let is_elsewhere = |gate: &Gate| gates.wanted.iter().any(|(_, wanted)| wanted.bottle == gate.bottle);
    // Where a gate is wanted, another's is no stray: it is made what it is to be.
    let is_stray = |gate: &&Gate| !is_wanted(gate) && (!gates.running.contains(&gate.bottle) || is_elsewhere(gate));
    let stray = gates.held.iter().filter(is_stray).map(|gate| difference(gate, GateFault::Stray));
    wrong.chain(stray).collect()
}

/// Why a gate is cut may differ: an operator's cut of one that a budget had cut is the ledger's alone.
fn faults(view: GateView, wanted: &Gate, held: Option<&Gate>, is_attached: Option<bool>) -> Vec<GateFault> {
    let Some(held) = held else { return vec![GateFault::Missing] };
    let mut faults = Vec::new();
    let is_open = held.status == GateStatus::Open;
    if is_open != (view == GateView::Open) {
        faults.push(GateFault::State { wanted: view, is_open });
    }
    if (Gate { status: wanted.status, ..held.clone() }) != *wanted {
        faults.push(GateFault::Terms);
    }
    match is_attached {
        Some(true) => {}
        Some(false) => faults.push(GateFault::Detached),
        None => faults.push(GateFault::Unreadable),
    }
    faults
}

#[cfg(test)]
mod tests {
    use egress_common::CutReason;

    use super::*;
    use crate::domain::CutCause;
    use crate::kernel::sample_gate;

    fn gate(status: GateStatus) -> Gate {
        sample_gate(IfIndex(7), status)
    }

    fn gates(view: GateView, held: Vec<Gate>) -> Gates {
        Gates {
            wanted: vec![(view, gate(GateStatus::Open))],
            held,
            interfaces: [IfIndex(7)].into(),
            attached: [IfIndex(7)].into(),
            unreadable: BTreeSet::new(),
            running: [BottleId(3)].into(),
            names: [(BottleId(3), "web".parse().unwrap())].into(),
        }
    }

    fn check(gates: &Gates, faults: &[GateFault]) {
        let found: Vec<_> = differences(gates).iter().map(|difference| gates.named(difference)).collect();
        let expected = faults.iter().cloned().map(|fault| {
            let bottle = (!gates.names.is_empty()).then(|| "web".parse().unwrap());
            GateDifference { bottle, interface: 7, fault }
        });
        assert_eq!(found, expected.collect::<Vec<_>>(), "{gates:?}");
    }

    const OPEN: GateStatus = GateStatus::Open;
    const CUT: GateStatus = GateStatus::Cut(CutReason::Budget);
    const WANTS_CUT: GateView = GateView::Cut(CutCause::Operator);

    #[test]
    fn what_agrees_is_no_difference() {
        check(&gates(GateView::Open, vec![gate(OPEN)]), &[]);
        check(&gates(WANTS_CUT, vec![gate(CUT)]), &[]);
        check(&Gates { wanted: vec![], ..gates(GateView::Open, vec![gate(CUT)]) }, &[]);
        check(&Gates { wanted: vec![], ..gates(GateView::Open, vec![]) }, &[]);
    }

    #[test]
    fn each_difference_is_named() {
        check(&gates(GateView::Open, vec![]), &[GateFault::Missing]);
        let state = |wanted, is_open| GateFault::State { wanted, is_open };
        check(&gates(WANTS_CUT, vec![gate(OPEN)]), &[state(WANTS_CUT, true)]);
        check(&gates(GateView::Open, vec![gate(CUT)]), &[state(GateView::Open, false)]);
        let wider = Gate { tcp_ports: vec![22, 443], ..gate(OPEN) };
        check(&gates(GateView::Open, vec![wider.clone()]), &[GateFault::Terms]);
        let loose = Gates { attached: BTreeSet::new(), ..gates(WANTS_CUT, vec![wider]) };
        check(&loose, &[state(WANTS_CUT, true), GateFault::Terms, GateFault::Detached]);
        let unreadable = Gates { unreadable: [IfIndex(7)].into(), ..gates(GateView::Open, vec![gate(OPEN)]) };
        check(&unreadable, &[GateFault::Unreadable]);
        let ended = Gates { wanted: vec![], running: BTreeSet::new(), ..gates(GateView::Open, vec![gate(CUT)]) };
        check(&ended, &[GateFault::Stray]);
        check(&Gates { names: BTreeMap::new(), ..ended }, &[GateFault::Stray]);
        let foreign = Gate { bottle: BottleId(9), ..gate(OPEN) };
        check(&gates(GateView::Open, vec![foreign]), &[GateFault::Terms]);
        let old = Gate { interface: IfIndex(6), ..gate(CUT) };
        let found = differences(&gates(GateView::Open, vec![old.clone(), gate(OPEN)]));
        assert_eq!(found, [Difference { bottle: old.bottle, interface: old.interface, fault: GateFault::Stray }]);
        let unplugged = Gates { interfaces: BTreeSet::new(), ..gates(GateView::Open, vec![gate(CUT)]) };
        check(&unplugged, &[GateFault::NoInterface]);
    }
}
