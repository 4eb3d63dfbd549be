//! Processes are killed; nothing opens, nothing is lost, nothing is left.

use std::fs;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_common::CutReason;
use egress_userspace::control::BottleInfo;
use egress_userspace::domain::{AuditKind, CutCause, Ending, GateView, Known};
use egress_userspace::kernel::{EbpfEnforcer, Enforcer, GateStatus, TcAttachment};
use harness::packet::{self, Ipv4, Marker, RawSocket, Wire};
use harness::world::{Bottle, GATEWAY, PATIENCE, World, curl, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world;

const SLOW: &str = "claude-test+deltas-2000+delay-20+output-2000+input-50";

#[test]
fn a_killed_proxy_is_replaced_and_its_permits_settled() -> Result<()> {
    let Some(world) = world("a killed proxy", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    bottle.begin(&curl(SLOW, true, ""))?;
    until("the stream flows", PATIENCE, || Ok(bottle.output().contains("text_delta")))?;
    let old = world.kill_proxy()?;
    let is_new = || Ok(world.status()?.proxy_pid.is_some_and(|pid| pid != old));
    until("there is a new proxy", Duration::from_secs(5), is_new)?;
    ensure!(bottle.end_of_command(PATIENCE)?.code != 0, "the stream ended well");
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    let rows = world.rows("web")?;
    assert_eq!((rows[0].ending, rows[0].known), (Ending::ProxyLost, Known::Estimated), "{rows:?}");
    ensure!(rows[0].usage.output.0 > 0 && rows[0].usage.input.0 > 0, "{rows:?}");
    assert_eq!(rows[1].ending, Ending::Complete);
    ensure!(world.audit(None)?.contains(&AuditKind::ProxyRestarted { permits_settled: 1 }), "{:?}", world.audit(None)?);
    ensure!(world.usage()?.sums.iter().all(|sum| sum.held.0 == 0), "tokens are still held");
    Ok(())
}

#[test]
fn a_cut_outlives_daemon_and_proxy_and_the_next_daemon_adopts() -> Result<()> {
    let Some(mut world) = world("daemon and proxy are killed", "")? else { return Ok(()) };
    let (mut open, mut closed) = (world.shell("open", &[])?, world.shell("closed", &[])?);
    assert_eq!(open.ask("claude-test")?.status, 200);
    assert_eq!(world.egress(&["cut", "closed"])?.code, 0);
    let before = (world.bottle("open")?, world.bottle("closed")?);
    world.kill_daemon_and_proxy()?;

    for bottle in [&mut open, &mut closed] {
        let done = bottle.sh(&format!(
            "for port in 443 80 8080; do curl -s --max-time 1 http://{GATEWAY}:$port && echo reached; done; true"
        ))?;
        ensure!(done.output.is_empty(), "{done:?}");
    }
    let address = |bottle: &BottleInfo| bottle.address.context("no address");
    let to_gateway = |bottle| Ok::<_, anyhow::Error>((address(bottle)?, GATEWAY, 443));
    ensure!(gets_out(&world, "open", network(&before.0)?, to_gateway(&before.0)?)?, "the witness sees nothing at all");
    ensure!(!gets_out(&world, "closed", network(&before.1)?, to_gateway(&before.1)?)?, "a packet left the cut bottle");
    let elsewhere = (address(&before.0)?, Ipv4Addr::new(192, 0, 2, 1), 443);
    ensure!(!gets_out(&world, "open", network(&before.0)?, elsewhere)?, "a packet left for elsewhere");

    world.start_daemon()?;
    let after = (world.bottle("open")?, world.bottle("closed")?);
    assert_eq!((after.0.pid, after.1.pid), (before.0.pid, before.1.pid));
    assert_eq!((after.0.gate, after.1.gate), (GateView::Open, GateView::Cut(CutCause::Operator)));
    assert_eq!(open.ask("claude-test")?.status, 200);
    ensure!(closed.sh("curl -s --max-time 2 https://api.anthropic.com/v1/models")?.code != 0, "the cut did not hold");
    assert_eq!(world.egress(&["restore", "closed"])?.code, 0);
    assert_eq!(closed.ask("claude-test")?.status, 200);
    ends_with(&mut open, 7)?;
    ends_with(&mut closed, 9)?;
    until("both are taken down", PATIENCE, || Ok(world.listed("open")?.is_none() && world.listed("closed")?.is_none()))
}

/// The moment between the kernel's cut and the ledger's record of it: the kernel's word stands.
#[test]
fn a_cut_that_only_the_kernel_knows_of_is_kept() -> Result<()> {
    let Some(mut world) = world("daemon is killed while cutting", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    world.kill_daemon_and_proxy()?;
    let gates = EbpfEnforcer::new(&world.names.pins, TcAttachment::Auto)?;
    let gate = gates.gates()?.into_iter().next().context("no gate is pinned")?;
    gates.set(gate.interface, GateStatus::Cut(CutReason::Operator))?;
    drop(gates);
    world.start_daemon()?;
    assert_eq!(world.bottle("web")?.gate, GateView::Cut(CutCause::Operator));
    ensure!(bottle.sh("curl -s --max-time 2 https://api.anthropic.com/v1/models")?.code != 0, "the cut did not hold");
    ensure!(world.audit(Some("web"))?.contains(&AuditKind::GateCut { cause: CutCause::Operator }), "not on record");
    assert_eq!(world.egress(&["restore", "web"])?.code, 0);
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    Ok(())
}

/// One that lost its interface while nobody looked.
#[test]
fn a_bottle_that_cannot_be_taken_over_is_ended_and_others_go_on() -> Result<()> {
    let Some(mut world) = world("a bottle without an interface", "")? else { return Ok(()) };
    let (mut other, broken) = (world.shell("other", &[])?, world.shell("broken", &[])?);
    let interface = world.bottle("broken")?.interface.context("no interface")?;
    world.kill_daemon_and_proxy()?;
    world.host.ip(&format!("link delete {interface}"))?;
    world.start_daemon()?;
    until("it is ended", PATIENCE, || Ok(world.listed("broken")?.is_none_or(|bottle| !bottle.is_running)))?;
    let is_told =
        |kind: &AuditKind| matches!(kind, AuditKind::Repaired { what } if what.contains("could not be taken over"));
    ensure!(world.audit(Some("broken"))?.iter().any(is_told), "{:?}", world.audit(Some("broken"))?);
    assert_eq!(other.ask("claude-test")?.status, 200);
    drop(broken);
    let mut again = world.shell("broken", &[])?;
    assert_eq!(again.ask("claude-test")?.status, 200);
    Ok(())
}

/// The front-end that was started before the crash reports the command's own exit code.
fn ends_with(bottle: &mut Bottle, code: i32) -> Result<()> {
    until("the front-end follows again", PATIENCE, || Ok(bottle.errors().contains("went away")))?;
    bottle.begin(&format!("exit {code}"))?;
    let ended = bottle.end()?;
    ensure!(ended.code == code, "{ended:?}");
    Ok(())
}

/// The network namespace of a bottle.
fn network(bottle: &BottleInfo) -> Result<fs::File> {
    Ok(fs::File::open(format!("/proc/{}/ns/net", bottle.pid.context("no process")?))?)
}

/// Does a frame sent by root in the bottle's namespace come out at the host?
pub(crate) fn gets_out(
    world: &World,
    name: &str,
    namespace: fs::File,
    (from, to, port): (Ipv4Addr, Ipv4Addr, u16),
) -> Result<bool> {
    let witness = world.host.run(|| Ok(RawSocket::open(packet::IPV4)?))?;
    let link = world.host.ip(&format!("-o link show eg-{name}"))?;
    let host_mac = mac(link.split("link/ether ").nth(1).context("no address")?)?;
    let mut marker = Marker::default();
    let number = u64::from(to.to_bits()) << 16 | u64::from(from.octets()[3]);
    marker[..8].copy_from_slice(&(number ^ 0x5eed_5eed_0000_0000).to_be_bytes());
    let send = || -> Result<()> {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
        let link = harness::netns::command("ip", "-o link show eth0")?;
        let own = mac(link.split("link/ether ").nth(1).context("no address")?)?;
        let packet = Ipv4 {
            version_and_length: 0x45,
            service: 0,
            total_bytes: None,
            fragment: 0,
            protocol: 6,
            source: from.octets(),
            destination: to.octets(),
            ports: [40_000, port],
            flags: packet::SYN,
        };
        let frame = packet::ethernet(host_mac, own, packet::IPV4, &packet.bytes(marker));
        let wire = Wire::find(nix::net::if_::if_nametoindex("eth0")?)?;
        Ok(RawSocket::open(packet::IPV4)?.send(&wire, &frame)?)
    };
    std::thread::scope(|scope| scope.spawn(send).join()).map_err(|_| anyhow::anyhow!("sending panicked"))??;
    sleep(Duration::from_millis(200));
    Ok(witness.has_received(marker))
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let word = text.split_whitespace().next().context("no address")?;
    let bytes: Vec<u8> = word.split(':').map(|part| u8::from_str_radix(part, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("{word} is no hardware address"))
}

#[test]
fn a_run_that_ended_while_the_daemon_was_away_is_taken_down() -> Result<()> {
    let Some(mut world) = world("a run that ended meanwhile", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let mut other = world.shell("other", &[])?;
    let pid = world.bottle("web")?.pid.context("no process")?;
    let other_pid = world.bottle("other")?.pid.context("no process")?;
    world.kill_daemon_and_proxy()?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
    other.begin("exit 7")?;
    until("it has ended", PATIENCE, || Ok(!fs::exists(format!("/proc/{other_pid}"))?))?;
    world.start_daemon()?;
    ensure!(world.listed("web")?.is_none() && world.listed("other")?.is_none(), "they are still listed");
    assert_nothing_left(&world)?;
    let audit = world.audit(Some("web"))?;
    ensure!(audit.iter().any(|kind| matches!(kind, AuditKind::Repaired { .. })), "{audit:?}");
    ensure!(audit.contains(&AuditKind::BottleEnded { exit_code: 137 }), "{audit:?}");
    let ended = bottle.end()?;
    ensure!(ended.code == 137 && ended.errors.contains("went away"), "nobody saw how it ended: {ended:?}");
    assert_eq!(other.end()?.code, 7, "its own code is on record");
    assert_eq!(world.run("web", &[], "exit 3")?.end()?.code, 3);
    Ok(())
}

#[test]
fn a_crossing_is_enforced_by_the_next_daemon() -> Result<()> {
    let Some(mut world) = world("a crossing before a crash", "budget:\n  claude: 5k\nlast_word: 3s")? else {
        return Ok(());
    };
    let mut bottle = world.shell("web", &[])?;
    assert_eq!(bottle.ask("claude-test+input-6000")?.status, 200);
    // The last word has begun and not ended.
    world.kill_daemon_and_proxy()?;
    world.start_daemon()?;
    world.until_gate("web", GateView::Cut(CutCause::Budget), PATIENCE)
}

#[test]
fn a_crossing_that_only_the_next_daemon_learns_of_is_enforced() -> Result<()> {
    let Some(mut world) = world("a crossing by a crash", "drain: 0\nlast_word: 0")? else { return Ok(()) };
    let mut bottle = world.shell("web", &["--budget", "claude=1k"])?;
    bottle.begin(&curl(SLOW, true, "--max-time 5"))?;
    until("the stream flows", PATIENCE, || Ok(bottle.output().contains("text_delta")))?;
    world.kill_daemon_and_proxy()?;
    world.start_daemon()?;
    world.until_gate("web", GateView::Cut(CutCause::Budget), PATIENCE)?;
    let audit = world.audit(Some("web"))?;
    ensure!(audit.iter().any(|kind| matches!(kind, AuditKind::BudgetCrossed { .. })), "{audit:?}");
    Ok(())
}

#[test]
fn a_crash_in_the_middle_of_a_start_leaves_nothing() -> Result<()> {
    let Some(mut world) = world("a crash in the middle of a start", "")? else { return Ok(()) };
    for after_ms in [0, 10, 25, 50, 90, 150] {
        let started = world.run("web", &[], "true")?;
        sleep(Duration::from_millis(after_ms));
        world.kill_daemon()?;
        drop(started);
        world.start_daemon()?;
        until("the run has ended", PATIENCE, || Ok(world.listed("web")?.is_none()))?;
        assert_nothing_left(&world).with_context(|| format!("killed after {after_ms} ms"))?;
    }
    assert_eq!(world.run("web", &[], "exit 3")?.end()?.code, 3);
    Ok(())
}

pub(crate) fn assert_nothing_left(world: &World) -> Result<()> {
    let is_gone = || {
        let links = world.host.ip("-brief link")?;
        ensure!(!links.contains("eg-"), "interfaces: {links}");
        let directories = names_in(&world.names.run.join("bottles"), |name| !name.starts_with('.'));
        ensure!(directories.is_empty(), "directories: {directories:?}");
        let group = world.names.group().unwrap_or_default();
        let groups = names_in(&group, |name| group.join(name).is_dir());
        ensure!(groups.is_empty(), "control groups: {groups:?}");
        let pins = names_in(&world.names.pins.join("links"), |_| true);
        ensure!(pins.is_empty(), "pinned links: {pins:?}");
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mounts: Vec<&str> =
            mounts.lines().filter(|line| line.contains(&world.names.run.display().to_string())).collect();
        ensure!(mounts.iter().all(|mount| mount.contains("cgroup")), "mounts: {mounts:?}");
        Ok(true)
    };
    until("nothing is left", PATIENCE, is_gone).with_context(|| world.log_tail())
}

fn names_in(directory: &std::path::Path, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_wanted(name)).collect()
}
