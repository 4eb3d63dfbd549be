//! What the gate tells: every packet is counted, some drops are reported.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use egress_common::{Direction, DropEvent, Outcome};
use gate_rules::classify::{Packet, describe};

use crate::maps;

/// Counts a packet.
#[inline(always)]
pub(crate) fn count(interface: u32, direction: Direction, outcome: Outcome, length: u32) {
    maps::add(interface, direction, outcome, u64::from(length));
}

/// May this interface answer with another reset?
#[inline(always)]
pub(crate) fn may_reset(interface: u32) -> bool {
    // SAFETY: a helper without arguments that every program of this type may call.
    maps::take_reset(interface, unsafe { bpf_ktime_get_ns() })
}

/// Reports a dropped packet unless its gate has reported enough.
#[inline(always)]
pub(crate) fn dropped(interface: u32, bottle_id: u32, direction: Direction, outcome: Outcome, packet: &Packet) {
    // SAFETY: a helper without arguments that every program of this type may call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if !maps::take_report(interface, now_ns) {
        return;
    }
    let flow = describe(packet);
    maps::send(&DropEvent {
        at_ns: now_ns,
        ifindex: interface,
        bottle_id,
        direction,
        outcome,
        length: packet.length,
        source: flow.source,
        destination: flow.destination,
        ether_type: flow.ether_type,
        destination_port: flow.destination_port,
        protocol: flow.protocol,
        reserved: [0; 3],
    });
}
