//! The kernel runs the program a million times over one packet and tells how long each took (`BPF_PROG_TEST_RUN`): no clock
//! is read in between, as it is by the statistics of `kernel.bpf_stats_enabled`.

use std::fs;

use anyhow::{Context, Result, ensure};
use egress_common::{CutReason, Direction};
use egress_userspace::domain::CutMode;
use egress_userspace::kernel::{Enforcer, Gate, GateStatus, IfIndex};
use harness::gate::{BOTTLE, BOTTLE_MAC, Backend, DNS_PORT, GATEWAY, HOST_MAC, PinDirectory, gate};
use harness::netns::{NetNs, command};
use harness::packet::{self, Ipv4, ethernet};

/// The interface that the kernel takes a test's packet to be on: loopback.
const LOOPBACK: IfIndex = IfIndex(1);
const REPEATS: u32 = 1_000_000;
/// Takes of which the least is kept: what disturbs only adds.
const TAKES: usize = 7;

const OPEN: GateStatus = GateStatus::Open;
const CUT: GateStatus = GateStatus::Cut(CutReason::Operator);

pub(super) fn measure() -> Result<()> {
    let (pins, host) = (PinDirectory::new()?, NetNs::new()?);
    let gates = Backend::Tcx.open(pins.path())?;
    println!("{:<44}{:>8}", "packet", "ns");
    host.run(|| table(gates.as_ref()))
}

/// What each kind of packet costs at a gate on loopback, beside whatever gates there are.
pub(super) fn table(gates: &dyn Enforcer) -> Result<()> {
    for (what, direction, status, port) in [
        ("TCP from the bottle, passed", Direction::FromBottle, OPEN, 443),
        ("TCP to the bottle, passed", Direction::ToBottle, OPEN, 443),
        ("from the bottle, dropped for its port", Direction::FromBottle, OPEN, 22),
        ("from the bottle, dropped by a silent cut", Direction::FromBottle, CUT, 443),
    ] {
        let wanted = Gate { status, cut_mode: CutMode::Drop, ..gate(LOOPBACK) };
        gates.attach(&wanted)?;
        println!("{what:<44}{:>8}", cost(gates, direction, &frame(direction, port))?);
    }
    Ok(gates.detach(LOOPBACK)?)
}

fn frame(direction: Direction, port: u16) -> Vec<u8> {
    const CLIENT: u16 = 50_000;
    let (macs, source, destination, ports) = match direction {
        Direction::FromBottle => ([HOST_MAC, BOTTLE_MAC], BOTTLE, GATEWAY, [CLIENT, port]),
        Direction::ToBottle => ([BOTTLE_MAC, HOST_MAC], GATEWAY, BOTTLE, [port, CLIENT]),
    };
    let protocol = if port == DNS_PORT { 17 } else { 6 };
    const SYN: u8 = 2;
    let ipv4 = Ipv4 {
        version_and_length: 0x45,
        service: 0,
        total_bytes: None,
        fragment: 0,
        protocol,
        source,
        destination,
        ports,
        flags: SYN,
    };
    let [to, from] = macs;
    ethernet(to, from, packet::IPV4, &ipv4.bytes(*b"what-a-gate-cost"))
}

/// The least of some takes.
fn cost(gates: &dyn Enforcer, direction: Direction, frame: &[u8]) -> Result<u64> {
    let directory = tempfile::tempdir()?;
    let input = directory.path().join("packet");
    fs::write(&input, frame)?;
    let programs = gates.programs(LOOPBACK)?;
    let wanted = if direction == Direction::FromBottle { "from_bottle" } else { "to_bottle" };
    let program = programs.iter().find(|program| program.name == wanted).context("the program is not attached")?;
    let words = format!("prog run id {} data_in {} data_out /dev/null repeat {REPEATS}", program.id, input.display());
    let mut least = u64::MAX;
    for _ in 0..TAKES {
        let told = command("bpftool", &words)?;
        let average = told.split("duration (average): ").nth(1).and_then(|rest| rest.split("ns").next());
        least = least.min(average.with_context(|| told.clone())?.trim().parse()?);
    }
    ensure!(least < u64::MAX, "nothing was measured");
    Ok(least)
}
