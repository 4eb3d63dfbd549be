//! Somebody with privilege does things to gates while the daemon runs: it puts them right, and says so.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use egress_common::CutReason;
use egress_userspace::control::KernelReply;
use egress_userspace::domain::{AuditKind, BottleState, CutCause, GateView};
use egress_userspace::kernel::{EbpfEnforcer, Enforcer, Gate, GateStatus, TcAttachment};
use harness::netns::command;
use harness::world::{Bottle, PATIENCE, World, until};

use crate::world;

/// Two bottles, one of them cut, and their gates as somebody else sees them.
struct Stage {
    world: World,
    open: Bottle,
    closed: Bottle,
    gates: EbpfEnforcer,
    held: Vec<Gate>,
}

impl Stage {
    fn new(what: &str) -> Result<Option<Self>> {
        let Some(world) = world(what, "cut_mode: drop")? else { return Ok(None) };
        let (open, closed) = (world.shell("open", &[])?, world.shell("closed", &[])?);
        assert_eq!(world.egress(&["cut", "closed"])?.code, 0);
        let gates = EbpfEnforcer::new(&world.names.pins, TcAttachment::Auto)?;
        let held = gates.gates()?;
        Ok(Some(Self { world, open, closed, gates, held }))
    }

    fn gate(&self, is_open: bool) -> Result<&Gate> {
        let found = self.held.iter().find(|gate| (gate.status == GateStatus::Open) == is_open);
        found.context("no such gate")
    }

    /// Does it, and waits until it is undone and told of `bottle`.
    fn does(&mut self, bottle: &str, told: &str, deed: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let alarms = |world: &World| -> Result<usize> {
            let is_told = |kind: &AuditKind| matches!(kind, AuditKind::GateTampered { what } if what.contains(told));
            Ok(world.audit(Some(bottle))?.iter().filter(|kind| is_told(kind)).count())
        };
        let before = alarms(&self.world)?;
        deed(self)?;
        until(told, PATIENCE, || Ok(alarms(&self.world)? > before)).with_context(|| self.world.log_tail())?;
        let verified = self.world.egress(&["audit", "--verify"])?;
        ensure!(verified.code == 0, "{told}: {verified:?}");
        ensure!(self.gates.gates()? == self.held, "{told}: {:?}", self.gates.gates()?);
        assert_eq!(self.open.ask("claude-test")?.status, 200, "{told}");
        let gateway = format!("curl -s --max-time 1 http://{}:8080/", harness::world::GATEWAY);
        ensure!(self.closed.sh(&gateway)?.code != 0, "{told}: a cut bottle gets through");
        Ok(())
    }
}

#[test]
fn what_is_done_to_a_gate_is_undone_and_told_of() -> Result<()> {
    let Some(mut stage) = Stage::new("a gate is tampered with")? else { return Ok(()) };
    stage.does("closed", "it was open, and is to be cut; put right", |stage| {
        Ok(stage.gates.set(stage.gate(false)?.interface, GateStatus::Open)?)
    })?;
    stage.does("open", "it let other addresses or ports pass", |stage| {
        Ok(stage.gates.attach(&Gate { tcp_ports: vec![22, 8080], ..stage.gate(true)?.clone() })?)
    })?;
    for (bottle, is_open) in [("open", true), ("closed", false)] {
        stage.does(bottle, "not on its interface in both directions", |stage| {
            let link = format!("links/{}-egress", stage.gate(is_open)?.interface.0);
            Ok(fs::remove_file(stage.world.names.pins.join(link))?)
        })?;
        stage.does(bottle, "the kernel held no entry of it", |stage| {
            let key = stage.gate(is_open)?.interface.0.to_ne_bytes().map(|byte| byte.to_string()).join(" ");
            let map = stage.world.names.pins.join("gates");
            command("bpftool", &format!("map delete pinned {} key {key}", map.display())).map(drop)
        })?;
    }
    Ok(())
}

#[test]
fn a_cut_by_somebody_elses_hand_stays() -> Result<()> {
    let Some(mut stage) = Stage::new("a gate is cut by hand")? else { return Ok(()) };
    let status = GateStatus::Cut(CutReason::Operator);
    stage.gates.set(stage.gate(true)?.interface, status)?;
    stage.world.until_gate("open", GateView::Cut(CutCause::Operator), PATIENCE)?;
    let told = |kind: &AuditKind| matches!(kind, AuditKind::GateTampered { what } if what.contains("it stays cut"));
    until("it is told", PATIENCE, || Ok(stage.world.audit(Some("open"))?.iter().any(told)))?;
    assert_eq!(stage.world.egress(&["restore", "open"])?.code, 0);
    assert_eq!(stage.open.ask("claude-test")?.status, 200);
    Ok(())
}

#[test]
fn the_hosts_side_is_mended_and_an_interface_that_is_gone_told_of() -> Result<()> {
    let Some(mut stage) = Stage::new("devices are taken away")? else { return Ok(()) };
    let bridge = stage.world.names.bridge.clone();
    stage.world.host.ip(&format!("address flush dev {bridge}"))?;
    let repairs = |world: &World, part: &str| -> Result<usize> {
        let is_of_it = |kind: &AuditKind| matches!(kind, AuditKind::Repaired { what } if what.contains(part));
        Ok(world.audit(None)?.iter().filter(|kind| is_of_it(kind)).count())
    };
    until("the gateway is back", PATIENCE, || Ok(repairs(&stage.world, "the gateway's device was not")? == 1))?;
    until("its routes are", PATIENCE, || Ok(repairs(&stage.world, "the host's side of open")? == 1))?;
    assert_eq!(stage.open.ask("claude-test")?.status, 200);
    for (number, deed) in [(2, "link set eg-open down"), (3, "route flush dev eg-open")] {
        stage.world.host.ip(deed)?;
        until(deed, PATIENCE, || Ok(repairs(&stage.world, "the host's side of open")? == number))?;
        assert_eq!(stage.open.ask("claude-test")?.status, 200, "{deed}");
    }

    stage.world.host.ip("link del eg-open")?;
    let told =
        |kind: &AuditKind| matches!(kind, AuditKind::GateTampered { what } if what.contains("interface is gone"));
    until("it is told", PATIENCE, || Ok(stage.world.audit(Some("open"))?.iter().any(told)))?;
    let verified = stage.world.egress(&["audit", "--verify"])?;
    ensure!(verified.code == 1 && verified.output.contains("open: its interface is gone"), "{verified:?}");
    assert_eq!(stage.world.bottle("open")?.state, BottleState::Running);
    stage.open.begin("exit 3")?;
    until("it is taken down", PATIENCE, || Ok(stage.world.listed("open")?.is_none()))?;
    assert_eq!(stage.world.egress(&["audit", "--verify"])?.code, 0);
    let mut again = stage.world.shell("open", &[])?;
    assert_eq!(again.ask("claude-test")?.status, 200);
    Ok(())
}

/// Somebody holds on to both ends of a bottle that is over: its interface goes on under another name.
#[test]
fn a_gate_stays_on_an_interface_that_is_left_whole_and_cut() -> Result<()> {
    let Some(mut world) = world("an interface is left", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let _held = File::open(world.names.run.join("bottles/web/netns"))?;
    world.host.ip("link set eg-web name eg-left")?;
    assert_eq!(bottle.end()?.code, 0);
    until("its bottle is over", PATIENCE, || Ok(world.listed("web")?.is_none_or(|bottle| !bottle.is_running)))?;
    let gates = EbpfEnforcer::new(&world.names.pins, TcAttachment::Auto)?;
    let is_closed = |world: &World| -> Result<bool> {
        let held = gates.gates()?;
        let [left] = &held[..] else { anyhow::bail!("the gates are {held:?}") };
        let is_attached = world.host.run(|| Ok(gates.is_attached(left.interface)?))?;
        Ok(is_attached && left.status != GateStatus::Open)
    };
    ensure!(is_closed(&world)?, "it is open once its bottle is over");
    let interface = gates.gates()?[0].interface;
    let lose = |hook| fs::remove_file(world.names.pins.join(format!("links/{}-{hook}", interface.0)));
    for hook in ["ingress", "egress"] {
        lose(hook)?;
        until(hook, PATIENCE, || is_closed(&world))?;
    }
    let pins = world.names.pins.clone();
    world.kill_daemon_and_proxy()?;
    fs::remove_file(pins.join(format!("links/{}-egress", interface.0)))?;
    gates.set(interface, GateStatus::Open)?;
    world.start_daemon()?;
    ensure!(is_closed(&world)?, "it is open after a start");
    world.host.ip("link del eg-left")?;
    until("its gate goes with it", PATIENCE, || Ok(gates.gates()?.is_empty()))
}

#[test]
fn ledger_and_kernel_are_shown_beside_each_other_and_tools_see_the_same() -> Result<()> {
    let Some(mut stage) = Stage::new("the kernel's view")? else { return Ok(()) };
    assert_eq!(stage.open.ask("claude-test")?.status, 200);
    let reply: KernelReply = stage.world.json(&["audit", "--kernel"])?;
    ensure!(reply.gates.len() == 2 && reply.differences.is_empty(), "{reply:?}");
    for gate in &reply.gates {
        ensure!(gate.ledger.is_some() && gate.ledger == gate.kernel, "{gate:?}");
        let name = gate.bottle.as_ref().context("no bottle")?;
        for program in &gate.programs {
            let hook = program.hook.rsplit(' ').next().unwrap_or_default();
            let link = stage.world.names.pins.join(format!("links/{}-{hook}", gate.interface));
            let shown = command("bpftool", &format!("link show pinned {}", link.display()))?;
            ensure!(shown.contains(&format!("prog {}", program.id)), "{program:?}: {shown}");
            let told = command("bpftool", &format!("prog show id {}", program.id))?;
            ensure!(told.contains(&program.tag), "{program:?}: {told}");
        }
        assert_eq!(gate.programs.len(), 2);
        let passed = gate.counters.iter().any(|counter| counter.outcome == "Passed" && counter.packets > 0);
        ensure!(passed == (name.as_str() == "open"), "{gate:?}");
    }
    let said = stage.world.egress(&["audit", "--kernel", "closed"])?;
    ensure!(said.code == 0 && said.output.contains("1 gates, each as the ledger wants it"), "{said:?}");
    ensure!(said.output.contains("when cut drop: Cut (Operator)"), "{said:?}");
    let unknown = stage.world.egress(&["audit", "--kernel", "nobody"])?;
    ensure!(unknown.code == 1 && unknown.errors.contains("there is no bottle nobody"), "{unknown:?}");
    // Unplugged for good, so that it differs for as long as it takes to look.
    stage.world.host.ip("link del eg-open")?;
    let said = stage.world.egress(&["audit", "--kernel"])?;
    ensure!(said.code == 1 && said.output.contains("open: its interface is gone"), "{said:?}");
    Ok(())
}
