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
use gate_rules::classify::{Packet, classify};
use gate_rules::reset::{self, Verdict};

use crate::maps::Entry;

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
    if let (Outcome::Cut, Some(entry)) = (outcome, &entry)
        && reset::is_told(&entry.rules)
        && let Some(action) = tell(context, interface, direction, entry, &packet)
    {
        return action;
    }
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
        | Outcome::Port
        | Outcome::Reset => {
            let bottle_id = entry.map_or(0, |entry| entry.bottle_id);
            report::dropped(interface, bottle_id, direction, outcome, &packet);
            TC_ACT_SHOT
        }
    }
}

/// What is done with a packet that a cut gate does not just drop.
#[inline(always)]
fn tell(context: &TcContext, interface: u32, direction: Direction, entry: &Entry, packet: &Packet) -> Option<i32> {
    let tcp = packet::read_tcp(context)?;
    let action = match reset::verdict(&entry.rules, direction, packet, &tcp) {
        Verdict::Silence => return None,
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Answer(answer) => {
            if !report::may_reset(interface) {
                return None;
            }
            packet::answer(context, &answer).unwrap_or(TC_ACT_SHOT)
        }
    };
    report::count(interface, direction, Outcome::Reset, packet.length);
    Some(action)
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
