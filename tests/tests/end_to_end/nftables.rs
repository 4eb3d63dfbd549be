//! Gates made of nftables, under a whole daemon; and gates that change what they are made of while bottles live.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use egress_common::CutReason;
use egress_userspace::control::BottlesReply;
use egress_userspace::domain::{AuditKind, CutCause, GateView};
use egress_userspace::kernel::{EbpfEnforcer, Enforcer, GateStatus, NftEnforcer, TcAttachment};
use harness::netns::command;
use harness::world::{Bottle, GATEWAY, PATIENCE, World, until};

use crate::{prepared, world};

const NFTABLES: &str = "enforcer: nftables";
const EBPF: &str = "enforcer: ebpf";
/// 1,100 tokens.
const REQUEST: &str = "claude-test+input-600+output-500+deltas-5";

fn nft(world: &World, words: &str) -> Result<String> {
    world.host.run(|| command("nft", words))
}

/// The world's table has the name of its pin directory.
fn table(world: &World) -> Result<String> {
    let name = world.names.pins.file_name().context("a name")?;
    Ok(name.to_string_lossy().into_owned())
}

fn verified(world: &World, gates: usize) -> Result<()> {
    let said = world.egress(&["audit", "--verify"])?;
    ensure!(said.code == 0 && said.output.contains(&format!("{gates} gates, each as")), "{said:?}");
    Ok(())
}

fn finds(world: &World, text: &str) -> Result<()> {
    let said = world.egress(&["audit", "--verify"])?;
    ensure!(said.code == 1 && said.output.contains(text), "not {text:?}: {said:?}");
    Ok(())
}

/// Whatever a cut bottle tries for some seconds, it reaches nothing.
fn begin_trying(bottle: &mut Bottle) -> Result<()> {
    bottle.begin(&format!(
        "for try in $(seq 30); do curl -s --max-time 0.2 http://{GATEWAY}:80 && echo reached; done; true"
    ))
}

fn has_reached_nothing(bottle: &mut Bottle) -> Result<()> {
    let done = bottle.end_of_command(PATIENCE)?;
    ensure!(done.code == 0 && !done.output.contains("reached"), "{done:?}");
    Ok(())
}

#[test]
fn budget_operator_and_crash_are_held_by_nftables() -> Result<()> {
    let Some(mut world) = world("nftables", &format!("{NFTABLES}\nbudget:\n  claude: 2k"))? else { return Ok(()) };
    assert_eq!(world.status()?.enforcer, "nftables");
    let mut bottle = world.shell("web", &[])?;
    let listed: BottlesReply = world.json(&["list"])?;
    assert_eq!(listed.enforcer, "nftables");
    ensure!(world.egress(&["list"])?.output.contains("gates by nftables\n"));
    ensure!(fs::read_dir(&world.names.pins).is_err(), "there are eBPF gates beside");

    assert_eq!(bottle.ask(REQUEST)?.status, 200);
    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    begin_trying(&mut bottle)?;
    has_reached_nothing(&mut bottle)?;
    assert_eq!(world.egress(&["restore", "web"])?.code, 0);
    assert_eq!(bottle.ask(REQUEST)?.status, 200);
    assert_eq!(bottle.ask(REQUEST)?.status, 402);
    world.until_gate("web", GateView::Cut(CutCause::Budget), PATIENCE)?;
    verified(&world, 1)?;

    begin_trying(&mut bottle)?;
    world.kill_daemon_and_proxy()?;
    world.start_daemon()?;
    has_reached_nothing(&mut bottle)?;
    assert_eq!(world.bottle("web")?.gate, GateView::Cut(CutCause::Budget));
    ensure!(world.bottle("web")?.dropped_packets > 0, "the gate counted nothing");
    verified(&world, 1)?;
    let repaired = |kind: &AuditKind| matches!(kind, AuditKind::Repaired { .. });
    ensure!(!world.audit(Some("web"))?.iter().any(repaired), "adopting changed the gate");
    assert_eq!(bottle.end()?.code, 0);
    until("its gate is gone", PATIENCE, || Ok(nft(&world, "list ruleset")?.is_empty()))
}

#[test]
fn what_others_do_to_the_table_is_refused_or_found_and_made_good() -> Result<()> {
    let Some(mut world) = world("a tampered table", NFTABLES)? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let table = table(&world)?;
    nft(&world, "add table ip filter")?;
    nft(&world, "flush ruleset")?;
    ensure!(nft(&world, &format!("delete table netdev {table}")).is_err(), "the table is anybody's");
    verified(&world, 1)?;

    // A new name is what its owner may give an interface; the chains are on the old one.
    world.host.ip("link set eg-web name eg-other")?;
    finds(&world, "web: its gate is not on its interface in both directions\n")?;
    world.host.ip("link set eg-other name eg-web")?;
    verified(&world, 1)?;

    world.kill_daemon_and_proxy()?;
    nft(&world, &format!("delete table netdev {table}"))?;
    world.start_daemon()?;
    verified(&world, 1)?;
    let what = "the gate was not what the ledger wants".to_owned();
    ensure!(world.audit(Some("web"))?.contains(&AuditKind::Repaired { what }), "{:?}", world.audit(Some("web"))?);
    assert_eq!(bottle.ask(REQUEST)?.status, 200);
    Ok(())
}

/// Bottles live on, the gates they have are made of something else, and none opens meanwhile.
#[test]
fn another_backend_takes_over_bottles_that_live() -> Result<()> {
    let Some(mut world) = world("another backend", EBPF)? else { return Ok(()) };
    let (mut open, mut closed) = (world.shell("open", &[])?, world.shell("closed", &[])?);
    let mut unknown = world.shell("unknown", &[])?;
    assert_eq!(world.egress(&["cut", "closed"])?.code, 0);
    let address = world.bottle("unknown")?.address;
    for (settings, backend) in [(NFTABLES, "nftables"), (EBPF, "ebpf")] {
        world.write_settings(settings)?;
        for bottle in [&mut closed, &mut unknown] {
            begin_trying(bottle)?;
        }
        world.kill_daemon_and_proxy()?;
        let earlier = gates(&world, backend != "ebpf")?;
        let held = earlier.gates()?;
        let gate = held.iter().find(|gate| Some(gate.address) == address).context("no gate")?;
        // The moment between the kernel's cut and the ledger's record of it.
        earlier.set(gate.interface, GateStatus::Cut(CutReason::Operator))?;
        drop(earlier);

        world.start_daemon()?;
        assert_eq!(world.status()?.enforcer, backend);
        verified(&world, 3)?;
        has_reached_nothing(&mut closed)?;
        unknown.end_of_command(PATIENCE)?;
        assert_eq!(world.bottle("closed")?.gate, GateView::Cut(CutCause::Operator));
        assert_eq!(world.bottle("unknown")?.gate, GateView::Cut(CutCause::Operator));
        ensure!(gates(&world, backend != "ebpf")?.gates()?.is_empty(), "gates of before are left");
        assert_eq!(open.ask(REQUEST)?.status, 200);
        assert_eq!(world.egress(&["restore", "unknown"])?.code, 0);
        assert_eq!(unknown.ask(REQUEST)?.status, 200);
    }
    assert_eq!(nft(&world, "list ruleset")?, "");
    let what = "the gate was made by another backend".to_owned();
    let moves =
        world.audit(Some("open"))?.into_iter().filter(|kind| *kind == AuditKind::Repaired { what: what.clone() });
    assert_eq!(moves.count(), 2);
    Ok(())
}

/// A bottle that cannot be taken over or entirely taken down: its interface goes on under another name.
#[test]
fn another_backend_keeps_an_interface_cut_that_is_left() -> Result<()> {
    let Some(mut world) = world("another backend, and an interface that is left", EBPF)? else { return Ok(()) };
    let _bottle = world.shell("web", &[])?;
    let _held = File::open(world.names.run.join("bottles/web/netns"))?;
    world.host.ip("link set eg-web name eg-left")?;
    for (settings, is_ebpf) in [(NFTABLES, false), (EBPF, true)] {
        world.kill_daemon_and_proxy()?;
        world.write_settings(settings)?;
        world.start_daemon()?;
        let (now, before) = (gates(&world, is_ebpf)?, gates(&world, !is_ebpf)?);
        let held = now.gates()?;
        let [left] = &held[..] else { anyhow::bail!("{settings}: the gates are {held:?}") };
        ensure!(left.status != GateStatus::Open, "{settings}: {left:?}");
        ensure!(world.host.run(|| Ok(now.is_attached(left.interface)?))?, "{settings}: it is not on the interface");
        ensure!(before.gates()?.is_empty(), "{settings}: {:?}", before.gates()?);
    }
    Ok(())
}

fn gates(world: &World, of_ebpf: bool) -> Result<Box<dyn Enforcer>> {
    if of_ebpf {
        return Ok(Box::new(EbpfEnforcer::new(&world.names.pins, TcAttachment::Auto)?));
    }
    let table = table(world)?;
    world.host.run(|| Ok(Box::new(NftEnforcer::new(&table)?) as Box<dyn Enforcer>))
}

#[test]
fn where_ebpf_cannot_be_it_is_nftables_and_the_log_says_why() -> Result<()> {
    let Some(mut world) = prepared("no eBPF", "enforcer: auto")? else { return Ok(()) };
    // No BPF file system there: nothing can be pinned.
    world.names.pins = world.names.directory.join("pins");
    world.start_daemon()?;
    assert_eq!(world.status()?.enforcer, "nftables");
    let log = || Ok::<_, anyhow::Error>(fs::read_to_string(&world.names.log)?);
    ensure!(log()?.contains("gates of eBPF cannot be made"), "{}", log()?);
    let mut bottle = world.shell("web", &[])?;
    assert_eq!(bottle.ask(REQUEST)?.status, 200);

    world.write_settings(EBPF)?;
    until("the daemon warns", PATIENCE, || Ok(log()?.contains("enforcer is read when the daemon starts")))?;
    assert_eq!(world.status()?.enforcer, "nftables");
    world.stop_daemon()?;
    let failed = world.fail_to_start(&mut world.daemon_command(&world.names, GATEWAY))?;
    ensure!(failed.code == 1 && failed.errors.contains("gates of eBPF cannot be made"), "{failed:?}");
    Ok(())
}
