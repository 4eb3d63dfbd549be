//! The only code that reads packet buffers.
//!
//! Packets are copied by the kernel's helper, not read through pointers: it reads non-linear buffers too, and there is
//! no bound to get wrong.

use aya_ebpf::programs::TcContext;
use gate_rules::classify::{PREFIX_BYTES, Packet};

/// The interface the program is attached to.
#[inline(always)]
pub(crate) fn interface(context: &TcContext) -> u32 {
    // SAFETY: the kernel passes a valid context, and the verifier checks every access to it.
    unsafe { (*context.skb.skb).ifindex }
}

/// Reads as much of the packet as a decision needs.
#[inline(always)]
pub(crate) fn read(context: &TcContext) -> Packet {
    // SAFETY: as above.
    let vlan_tagged = unsafe { (*context.skb.skb).vlan_present } != 0;
    Packet { vlan_tagged, length: context.len(), prefix: context.load::<[u8; PREFIX_BYTES]>(0).ok() }
}
