//! The only code that reads and writes packet buffers.
//!
//! Packets are copied by the kernel's helper, not read through pointers: it reads non-linear buffers too, and there is
//! no bound to get wrong.

use core::mem::MaybeUninit;
use core::ptr::addr_of_mut;

use aya_ebpf::bindings::BPF_F_INVALIDATE_HASH;
use aya_ebpf::helpers::{bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use gate_rules::classify::{PREFIX_BYTES, Packet, Prefix};
use gate_rules::reset::{ANSWER_BYTES, TCP_HEADER_BYTES, TCP_OFFSET};

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
    let mut prefix = MaybeUninit::<Prefix>::uninit();
    // SAFETY: as above; and the helper writes that many bytes of a place that has as many, zeros when it fails. All else of a
    // prefix needs no value.
    let (vlan_tagged, prefix) = unsafe {
        let bytes = addr_of_mut!((*prefix.as_mut_ptr()).bytes);
        bpf_skb_load_bytes(skb.cast(), 0, bytes.cast(), PREFIX_BYTES as u32);
        ((*skb).vlan_present != 0, prefix.assume_init())
    };
    Packet { vlan_tagged, length: context.len(), prefix }
}

/// Reads the TCP header of a packet that has one where it stands after an IPv4 header without options.
#[inline(always)]
pub(crate) fn read_tcp(context: &TcContext) -> Option<[u8; TCP_HEADER_BYTES]> {
    let mut header = [0; TCP_HEADER_BYTES];
    // SAFETY: the helper checks the packet's bounds, and writes that many bytes of an array that has as many.
    let read = unsafe {
        let place = header.as_mut_ptr().cast();
        bpf_skb_load_bytes(context.skb.skb.cast(), TCP_OFFSET as u32, place, TCP_HEADER_BYTES as u32)
    };
    (read == 0).then_some(header)
}

/// Makes the packet this answer and sends it back where it came from; returns what the kernel is to do with it.
#[inline(always)]
pub(crate) fn answer(context: &TcContext, answer: &[u8; ANSWER_BYTES]) -> Option<i32> {
    let skb = context.skb.skb;
    // SAFETY: the context is valid, and the helpers check the packet's bounds; the array has as many bytes as are read.
    unsafe {
        let cut = bpf_skb_change_tail(skb, ANSWER_BYTES as u32, 0);
        let flags = u64::from(BPF_F_INVALIDATE_HASH);
        let written = bpf_skb_store_bytes(skb, 0, answer.as_ptr().cast(), ANSWER_BYTES as u32, flags);
        if cut != 0 || written != 0 {
            return None;
        }
        i32::try_from(bpf_redirect((*skb).ifindex, 0)).ok()
    }
}
