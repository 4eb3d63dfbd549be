//! Another program takes the place of the one that runs: bottles run on, a cut gate is cut at every moment, nothing is lost.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_common::CutReason;
use egress_userspace::control::UsageReply;
use egress_userspace::domain::{CutCause, GateView};
use egress_userspace::kernel::{EbpfEnforcer, Enforcer, GateStatus, TcAttachment};
use harness::world::{World, program};

use crate::prepared;

/// Looks at the gates that it takes for a look to prove something.
const LOOKS_MIN: u32 = 200;

/// Puts a copy of the program in its place as an installation does: beside it first.
fn install(place: &Path) -> Result<()> {
    let beside = place.with_extension("new");
    fs::copy(program("egress"), &beside)?;
    Ok(fs::rename(beside, place)?)
}

/// Looks at the cut gate until it is told to stop; how often, or what else it was.
fn watch(pins: &Path, stop: &AtomicBool, looks: &AtomicU32) -> Result<()> {
    let gates = EbpfEnforcer::new(pins, TcAttachment::Auto)?;
    let is_cut = |status| matches!(status, GateStatus::Cut(CutReason::Operator));
    let cut = || Ok::<_, anyhow::Error>(gates.gates()?.into_iter().filter(|gate| is_cut(gate.status)).count());
    while !stop.load(Ordering::Relaxed) {
        let found = cut()?;
        ensure!(found == 1, "{found} gates were cut after {} looks", looks.load(Ordering::Relaxed));
        looks.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn upgrade(world: &mut World, place: &Path, by_force: bool) -> Result<()> {
    install(place)?;
    if by_force {
        world.kill_daemon()?;
    } else {
        world.stop_daemon()?;
    }
    world.start_daemon()?;
    let running = fs::read_link(format!("/proc/{}/exe", world.status()?.pid))?;
    ensure!(running == place, "what runs is {}", running.display());
    Ok(())
}

#[test]
fn an_upgrade_opens_nothing_and_loses_nothing() -> Result<()> {
    let Some(mut world) = prepared("an upgrade", "budget:\n  claude: 1M")? else { return Ok(()) };
    let place = world.names.directory.join("installed-egress");
    install(&place)?;
    let line = format!("exec {} \"$@\"", place.display());
    world.daemon_starter = ["sh".to_owned(), "-c".to_owned(), line].to_vec();
    world.start_daemon()?;
    let (mut open, mut closed) = (world.shell("open", &[])?, world.shell("closed", &[])?);
    assert_eq!(open.ask("claude-test+input-1000+output-50")?.status, 200);
    assert_eq!(world.egress(&["cut", "closed"])?.code, 0);
    let before: UsageReply = world.usage()?;
    let pids = (world.bottle("open")?.pid, world.bottle("closed")?.pid);
    for by_force in [false, true] {
        let (stop, looks) = (AtomicBool::new(false), AtomicU32::new(0));
        let pins = world.names.pins.clone();
        thread::scope(|scope| -> Result<()> {
            let watching = scope.spawn(|| watch(&pins, &stop, &looks));
            let upgraded = upgrade(&mut world, &place, by_force);
            stop.store(true, Ordering::Relaxed);
            watching.join().ok().context("watching panicked")??;
            upgraded
        })?;
        ensure!(looks.load(Ordering::Relaxed) > LOOKS_MIN, "the gate was looked at {looks:?} times only");
        assert_eq!(world.bottle("closed")?.gate, GateView::Cut(CutCause::Operator));
        assert_eq!((world.bottle("open")?.pid, world.bottle("closed")?.pid), pids);
        let after = world.usage()?;
        assert_eq!(before.rows, after.rows, "by force: {by_force}");
        assert_eq!(before.sums, after.sums, "by force: {by_force}");
        ensure!(closed.sh("curl -s --max-time 1 https://api.anthropic.com/v1/models")?.code != 0, "it opened");
    }
    assert_eq!(open.ask("claude-test")?.status, 200);
    assert_eq!(world.egress(&["restore", "closed"])?.code, 0);
    assert_eq!(closed.ask("claude-test")?.status, 200);
    Ok(())
}
