//! The gate: two programs on the host end of a bottle's veth, one per direction.
//!
//! They look up what the gate knows of the bottle, decide ([`gate_rules::classify`]), count, and act. Whatever goes
//! wrong drops the packet: an interface whose gate has no entry, an entry nobody can read, a packet too short to judge.
#![no_std]
#![no_main]

mod maps;
mod packet;
mod report;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use egress_common::{Direction, Outcome};
use gate_rules::classify::classify;

/// On tc ingress of the host end: what the bottle sends.
#[classifier]
fn from_bottle(context: TcContext) -> i32 {
    gate(&context, Direction::FromBottle)
}

/// On tc egress of the host end: what the bottle is sent.
#[classifier]
fn to_bottle(context: TcContext) -> i32 {
    gate(&context, Direction::ToBottle)
}

#[inline(always)]
fn gate(context: &TcContext, direction: Direction) -> i32 {
    let interface = packet::interface(context);
    let packet = packet::read(context);
    let entry = maps::entry(interface);
    let outcome = classify(entry.as_ref().map(|entry| &entry.rules), direction, &packet);
    report::count(interface, direction, outcome, packet.length);
    match outcome {
        // Goes on to whatever else the host has attached, which may still drop it.
        Outcome::Passed => TC_ACT_UNSPEC,
        Outcome::Cut
        | Outcome::NoEntry
        | Outcome::Truncated
        | Outcome::Vlan
        | Outcome::Ipv6
        | Outcome::EtherType
        | Outcome::SourceMac
        | Outcome::SourceIp
        | Outcome::Arp
        | Outcome::IpHeader
        | Outcome::Fragment
        | Outcome::Destination
        | Outcome::Protocol
        | Outcome::Port => {
            let bottle_id = entry.map_or(0, |entry| entry.bottle_id);
            report::dropped(interface, bottle_id, direction, outcome, &packet);
            TC_ACT_SHOT
        }
    }
}

/// The kernel gives GPL-only helpers to GPL programs; this one uses none.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 18] = *b"Apache-2.0 OR MIT\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never in the object: nothing here can panic, and the verifier would refuse an endless loop.
    loop {}
}
