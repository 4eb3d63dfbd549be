//! A thousand bottles on one host: gates alone, on interfaces that nobody uses, and then bottles that run, as an operator has
//! them.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use egress_common::CutReason;
use egress_userspace::control::BottlesReply;
use egress_userspace::domain::{BottleId, GateView};
use egress_userspace::kernel::{Enforcer, Gate, GateStatus, IfIndex};
use harness::gate::{Backend, PinDirectory, gate};
use harness::netns::NetNs;
use harness::world::{World, until};

use super::{BACKENDS, cost, name, percentile};

const BOTTLES: u32 = 1_000;
/// How long so many take to start.
const START_TIME_MAX: Duration = Duration::from_secs(600);
/// Front-ends that start at once.
const AT_ONCE: usize = 4;

pub(super) fn measure() -> Result<()> {
    println!("{:<16}{:>12}{:>12}{:>14}{:>12}{:>14}", "ms", "attach p50", "p99", "cut one p50", "cut all", "all gates");
    for backend in BACKENDS {
        let (pins, host) = (PinDirectory::new()?, NetNs::new()?);
        let interfaces = interfaces(&host)?;
        host.run(|| {
            let gates = backend.open(pins.path())?;
            let line = gates_alone(gates.as_ref(), &interfaces)?;
            println!("{:<16}{line}", name(Some(backend)));
            if backend == Backend::Tcx {
                println!("nanoseconds a packet among so many:");
                cost::table(gates.as_ref())?;
            }
            Ok(())
        })?;
    }
    println!();
    bottles()
}

/// Host ends of as many veths.
fn interfaces(host: &NetNs) -> Result<Vec<IfIndex>> {
    let mut batch = String::new();
    for number in 0..BOTTLES {
        batch += &format!("link add g{number} type veth peer name p{number}\n");
    }
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("links");
    std::fs::write(&file, batch)?;
    host.ip(&format!("-batch {}", file.display()))?;
    (0..BOTTLES).map(|number| Ok(IfIndex(host.interface(&format!("g{number}"))?))).collect()
}

fn gates_alone(gates: &dyn Enforcer, interfaces: &[IfIndex]) -> Result<String> {
    let cut = GateStatus::Cut(CutReason::Operator);
    let mut attach = Vec::new();
    for (number, interface) in (1..).zip(interfaces) {
        let wanted = Gate { bottle: BottleId(number), ..gate(*interface) };
        attach.push(milliseconds(|| Ok(gates.attach(&wanted)?))?);
    }
    let mut alone = Vec::new();
    for interface in interfaces.iter().take(100) {
        alone.push(milliseconds(|| Ok(gates.set(*interface, cut)?))?);
        gates.set(*interface, GateStatus::Open)?;
    }
    let all: Vec<_> = interfaces.iter().map(|interface| (*interface, cut)).collect();
    let together = milliseconds(|| Ok(gates.set_many(&all)?))?;
    let mut held = Vec::new();
    let listing = milliseconds(|| {
        held = gates.gates()?;
        Ok(())
    })?;
    ensure!(held.len() == interfaces.len() && held.iter().all(|gate| gate.status == cut), "not all are cut");
    attach.sort_by(f64::total_cmp);
    alone.sort_by(f64::total_cmp);
    Ok(format!(
        "{:>12.2}{:>12.2}{:>14.3}{together:>12.1}{listing:>14.1}",
        percentile(&attach, 0.5),
        percentile(&attach, 0.99),
        percentile(&alone, 0.5)
    ))
}

/// Bottles that run, and the commands of an operator, process start and all.
fn bottles() -> Result<()> {
    let world = World::start("cut_mode: drop")?;
    let mut fronts: Vec<Child> = Vec::new();
    let started = Instant::now();
    let outcome = run_all(&world, &mut fronts).and_then(|()| {
        println!("{BOTTLES} bottles started in {:.0} s", started.elapsed().as_secs_f64());
        let list = command(&world, &["list"])?;
        let cut = command(&world, &["cut", "--all"])?;
        let reply: BottlesReply = world.json(&["list"])?;
        let cut_ones = reply.bottles.iter().filter(|bottle| bottle.gate != GateView::Open).count();
        ensure!(cut_ones == BOTTLES as usize, "{cut_ones} are cut");
        println!("`egress list` {list:.0} ms, `egress cut --all` {cut:.0} ms");
        Ok(())
    });
    for front in &mut fronts {
        // One that has ended is fine.
        let _ = front.kill();
        let _ = front.wait();
    }
    outcome
}

fn run_all(world: &World, fronts: &mut Vec<Child>) -> Result<()> {
    let running = || -> Result<usize> {
        let reply: BottlesReply = world.json(&["list"])?;
        Ok(reply.bottles.iter().filter(|bottle| bottle.pid.is_some()).count())
    };
    let deadline = Instant::now() + START_TIME_MAX;
    while fronts.len() < BOTTLES as usize {
        let mut command = world.command(&["run", &format!("b{}", fronts.len()), "--", "sleep", "100000"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        fronts.push(command.spawn()?);
        if fronts.len().is_multiple_of(AT_ONCE * 10) {
            until("they run", START_TIME_MAX, || Ok(running()? + AT_ONCE >= fronts.len()))?;
        }
        ensure!(Instant::now() < deadline, "{} bottles in {START_TIME_MAX:?}", fronts.len());
    }
    until("all run", START_TIME_MAX, || Ok(running()? == BOTTLES as usize))
}

/// How long a command takes, in milliseconds.
fn command(world: &World, words: &[&str]) -> Result<f64> {
    milliseconds(|| {
        let said = world.egress(words)?;
        ensure!(said.code == 0, "{said:?}");
        Ok(())
    })
}

fn milliseconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}
