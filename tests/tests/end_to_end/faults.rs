//! `kill -9` of the daemon after each step of what it does with privilege: nothing opens meanwhile, and the next daemon puts
//! everything right.

use std::fs::File;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::{BottleState, GateView};
use egress_userspace::fault::{FAULT_VARIABLE, Point};
use egress_userspace::kernel::{EbpfEnforcer, Enforcer, GateStatus, TcAttachment};
use harness::world::{Bottle, GATEWAY, PATIENCE, World, until};

use crate::crash::{assert_nothing_left, gets_out};
use crate::prepared;

/// The first address that a bottle gets.
const BOTTLE: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 2);
/// Nobody's.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// What an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Run,
    Cut,
    Restore,
    Freeze,
    Resume,
    Kill,
}

/// The deeds that pass a point.
fn deeds(point: Point) -> &'static [Deed] {
    match point {
        Point::RunBegun => &[Deed::Run],
        Point::ResumeBegun => &[Deed::Resume],
        // Tried with containers, in their suite.
        Point::AttachBegun | Point::NetworksLeft | Point::ContainerWired => &[],
        Point::DirectoryMade
        | Point::NamespaceMade
        | Point::VethMade
        | Point::InsideConfigured
        | Point::GroupMade
        | Point::EntryWritten
        | Point::HalfAttached
        | Point::GateAttached
        | Point::BroughtUp
        | Point::Introduced
        | Point::CommandStarted => &[Deed::Run, Deed::Resume],
        Point::CutInKernel => &[Deed::Cut, Deed::Freeze, Deed::Kill],
        Point::CutRecorded => &[Deed::Cut, Deed::Freeze],
        Point::RestoreRecorded | Point::RestoredInKernel => &[Deed::Restore],
        Point::Held | Point::FreezeBegun | Point::LaunchSaved => &[Deed::Freeze],
        Point::KillBegun | Point::FilesRemoved => &[Deed::Kill],
        Point::GroupRemoved
        | Point::VethRemoved
        | Point::NamespaceRemoved
        | Point::DirectoryRemoved
        | Point::GateRemoved
        | Point::StopRecorded => &[Deed::Freeze, Deed::Kill],
    }
}

impl Deed {
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Run => &["run", "web", "--", "sh"],
            Self::Cut => &["cut", "web"],
            Self::Restore => &["restore", "web"],
            Self::Freeze => &["freeze", "web"],
            Self::Resume => &["resume", "web"],
            Self::Kill => &["kill", "web"],
        }
    }

    /// From its first point on, the bottle is to hear and say nothing.
    fn closes(self) -> bool {
        matches!(self, Self::Cut | Self::Freeze | Self::Kill)
    }
}

/// The front-ends of a bottle and of the deed; both end with the world.
fn play(world: &mut World, point: Point, deed: Deed) -> Result<()> {
    world.start_daemon()?;
    let mut before = None;
    if deed != Deed::Run {
        before = Some(world.shell("web", &[])?);
    }
    match deed {
        Deed::Run | Deed::Cut | Deed::Freeze | Deed::Kill => {}
        Deed::Restore => assert_eq!(world.egress(&["cut", "web"])?.code, 0),
        Deed::Resume => assert_eq!(world.egress(&["freeze", "web"])?.code, 0),
    }
    world.stop_daemon()?;
    world.daemon_starter = vec!["env".to_owned(), format!("{FAULT_VARIABLE}={}", point.as_str())];
    world.start_daemon()?;
    let doing = Bottle::start(world.command(deed.words()))?;
    world.until_daemon_dies().context("it did not come to that point")?;
    assert_no_window(world, deed).context("while no daemon ran")?;
    world.daemon_starter.clear();
    world.start_daemon()?;
    assert_no_window(world, deed).context("after the next start")?;
    assert_sound(world, deed)?;
    drop((before, doing));
    recover(world)
}

/// Whatever there is of the bottle, what it sends to where it may not go comes out nowhere.
fn assert_no_window(world: &World, deed: Deed) -> Result<()> {
    let gates = EbpfEnforcer::new(&world.names.pins, TcAttachment::Auto)?;
    for gate in gates.gates()?.iter().filter(|_| deed.closes()) {
        ensure!(gate.status != GateStatus::Open, "{gate:?} is open");
    }
    let Ok(link) = world.host.ip("-brief link show eg-web") else { return Ok(()) };
    let namespace = || File::open(world.names.run.join("bottles/web/netns"));
    if !link.contains(",UP") || namespace().is_err() {
        return Ok(());
    }
    let allowed = [(GATEWAY, 443)];
    let forbidden = [(ELSEWHERE, 443), (GATEWAY, 22)];
    for (to, port) in forbidden.iter().chain(if deed.closes() { &allowed[..] } else { &[] }) {
        // Where nothing can be sent from, nothing comes out.
        let came_out = gets_out(world, "web", namespace()?, (BOTTLE, *to, *port)).unwrap_or(false);
        ensure!(!came_out, "a packet to {to}:{port} came out");
    }
    Ok(())
}

/// Ledger and kernel agree, and what was to be closed is.
fn assert_sound(world: &World, deed: Deed) -> Result<()> {
    until("ledger and kernel agree", PATIENCE, || Ok(world.egress(&["audit", "--verify"])?.code == 0))
        .with_context(|| format!("{:?}", world.egress(&["audit", "--verify"])))?;
    let Some(bottle) = world.listed("web")? else { return Ok(()) };
    let is_closed = bottle.gate != GateView::Open || bottle.state != BottleState::Running;
    ensure!(is_closed || !deed.closes(), "{bottle:?}");
    ensure!(bottle.state != BottleState::Frozen || bottle.pid.is_none(), "{bottle:?}");
    Ok(())
}

/// Everything can be done with the bottle that an operator may want.
fn recover(world: &World) -> Result<()> {
    until("it is gone", PATIENCE, || {
        let said = world.egress(&["kill", "web"])?;
        let is_gone = world.listed("web")?.is_none_or(|bottle| bottle.state == BottleState::Ended);
        ensure!(said.code == 0 || said.errors.contains("there is no bottle") || !is_gone, "{said:?}");
        Ok(is_gone)
    })?;
    assert_nothing_left(world)?;
    // A cut outlives the run.
    world.egress(&["restore", "web"])?;
    let mut again = world.shell("web", &[])?;
    assert_eq!(again.ask("claude-test")?.status, 200);
    Ok(())
}

/// Every point that this deed passes, each in a world of its own.
fn check(deed: Deed) -> Result<()> {
    let mut failures = Vec::new();
    for point in Point::ALL.iter().copied().filter(|point| deeds(*point).contains(&deed)) {
        let Some(mut world) = prepared(&format!("{deed:?} and kill -9 after {point:?}"), "")? else { return Ok(()) };
        if let Err(error) = play(&mut world, point, deed).with_context(|| world.log_tail()) {
            failures.push(format!("{deed:?}, {point:?}: {error:#}"));
        }
    }
    ensure!(failures.is_empty(), "{} points:\n{}", failures.len(), failures.join("\n\n"));
    Ok(())
}

macro_rules! on_each {
    ($($test:ident: $deed:ident)*) => {
        $(#[test] fn $test() -> anyhow::Result<()> { check(Deed::$deed) })*
    };
}

on_each! {
    a_run_that_is_killed_at_any_step: Run
    a_cut_that_is_killed_at_any_step: Cut
    a_restore_that_is_killed_at_any_step: Restore
    a_freeze_that_is_killed_at_any_step: Freeze
    a_resume_that_is_killed_at_any_step: Resume
    a_kill_that_is_killed_at_any_step: Kill
}

#[test]
fn every_point_is_passed_by_something() {
    let untried: Vec<Point> = Point::ALL.iter().copied().filter(|point| deeds(*point).is_empty()).collect();
    assert_eq!(untried, [Point::AttachBegun, Point::NetworksLeft, Point::ContainerWired]);
}
