//! What passes a gate is what the proxy has exchanged, or somebody hears of it.

use std::io::Read;
use std::net::TcpListener;
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::AuditKind;
use harness::netns::command;
use harness::world::{GATEWAY, PATIENCE, World, until};

use crate::world;

/// Longer than it takes to look at traffic twice.
const TWO_LOOKS: Duration = Duration::from_secs(14);
/// Not the gateway's.
const ELSEWHERE: u16 = 9_999;
/// What the bottle sends: no request.
const SENT: usize = 8_000_000;

fn send(port: u16) -> String {
    format!("bash -c 'head -c {SENT} /dev/zero >/dev/tcp/{GATEWAY}/{port}'")
}

fn alarms(world: &World) -> Result<Vec<AuditKind>> {
    let is_alarm = |kind: &AuditKind| matches!(kind, AuditKind::TrafficUnaccounted { .. });
    Ok(world.audit(Some("web"))?.into_iter().filter(is_alarm).collect())
}

/// Somebody redirects the gateway's port, behind the gate and before the proxy.
#[test]
fn traffic_that_goes_round_the_proxy_is_told_of() -> Result<()> {
    let Some(world) = world("traffic round the proxy", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    let listener = world.host.run(|| Ok(TcpListener::bind((GATEWAY, ELSEWHERE))?))?;
    let sink = thread::spawn(move || -> Result<usize> {
        let (mut stream, mut received) = (listener.accept()?.0, 0);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(received),
                length => received += length,
            }
        }
    });
    world.host.run(|| {
        command("nft", "add table ip elsewhere")?;
        command("nft", "add chain ip elsewhere before { type nat hook prerouting priority -100 ; }")?;
        command("nft", &format!("add rule ip elsewhere before tcp dport 8080 dnat to {GATEWAY}:{ELSEWHERE}"))
    })?;
    // Both accounts have begun by now.
    sleep(TWO_LOOKS / 2);
    bottle.sh(&send(8080))?;
    until("it is told", PATIENCE, || Ok(!alarms(&world)?.is_empty())).with_context(|| world.log_tail())?;
    let AuditKind::TrafficUnaccounted { is_from_bottle: true, passed, accounted } = alarms(&world)?.remove(0) else {
        anyhow::bail!("another alarm: {:?}", alarms(&world)?);
    };
    ensure!(passed > 7_000_000 && accounted < 1_000_000, "{passed} passed, {accounted} accounted for");
    ensure!(sink.join().is_ok_and(|received| received.is_ok_and(|received| received == SENT)), "not received");
    Ok(())
}

#[test]
fn traffic_through_the_proxy_is_accounted_for() -> Result<()> {
    let Some(world) = world("traffic through the proxy", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    sleep(TWO_LOOKS / 2);
    for _ in 0..3 {
        assert_eq!(bottle.ask("claude-test+deltas-20000+output-20000")?.status, 200);
        // Nobody reads it all: it is no request.
        bottle.sh(&send(80))?;
    }
    world.kill_proxy()?;
    until("a new proxy serves", PATIENCE, || Ok(bottle.ask("claude-test")?.status == 200))?;
    sleep(TWO_LOOKS);
    ensure!(alarms(&world)?.is_empty(), "{:?}", alarms(&world)?);
    Ok(())
}
