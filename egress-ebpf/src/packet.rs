//! The only code that reads packet buffers.
//!
//! Packets are copied by the kernel's helper, not read through pointers: it reads non-linear buffers too, and there is
//! no bound to get wrong.

use aya_ebpf::helpers::bpf_skb_load_bytes;
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
    let skb = context.skb.skb;
    let mut prefix = [0; PREFIX_BYTES];
    // SAFETY: as above; and the helper writes that many bytes of an array that has as many, or zeros.
    let vlan_tagged = unsafe {
        bpf_skb_load_bytes(skb.cast(), 0, prefix.as_mut_ptr().cast(), PREFIX_BYTES as u32);
        (*skb).vlan_present != 0
    };
    Packet { vlan_tagged, length: context.len(), prefix }
}
