//! What is within reach from inside a bottle, and what is not.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, anyhow, ensure};
use harness::world::{Bottle, GATEWAY, PATIENCE, program, until};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;

use crate::world;

const CAPABILITY_SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

#[test]
fn the_hosts_state_is_out_of_reach() -> Result<()> {
    let Some(world) = world("state out of reach", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let (home, run, pins) = (world.names.home.display(), world.names.run.display(), world.names.pins.display());
    ensure!(
        world.names.home.join("bot-bottle.db").exists() && world.names.pins.join("gates").exists(),
        "nothing to hide"
    );
    let script = format!(
        "for place in {home} {run} {pins}; do ls -A $place 2>/dev/null; done; cat {home}/settings.yml {home}/ca/ca.key 2>/dev/null; \
         curl -s --max-time 2 --unix-socket {run}/control.sock http://egress/v1/status; true"
    );
    let done = bottle.sh(&script)?;
    ensure!(done.output.is_empty(), "within reach: {}", done.output);
    let client = bottle.sh(&format!("{} --run-dir {run} cut web", program("egress").display()))?;
    ensure!(client.code == 3, "{client:?}");
    Ok(())
}

#[test]
fn nothing_but_the_gateways_ports_is_reachable() -> Result<()> {
    let Some(world) = world("nothing else is reachable", "")? else { return Ok(()) };
    let (mut one, mut two) = (world.shell("one", &[])?, world.shell("two", &[])?);
    world.host.ip("address add 10.99.0.1/32 dev lo")?;
    let host = world.host.run(|| listen(9_999))?;
    let pid = world.bottle("two")?.pid.context("no process")?;
    let bottle = in_namespace_of(pid, || listen(7_777))?;
    let other = world.bottle("two")?.address.context("no address")?;

    // What is there can be reached by those who may.
    world.host.run(|| Ok(TcpStream::connect((GATEWAY, 9_999))?))?;
    ensure!(has_a_caller(&host)?, "the host's port is closed");
    two.sh(&format!("curl -s --max-time 1 http://{other}:7777; true"))?;
    ensure!(has_a_caller(&bottle)?, "the bottle's port is closed");

    let targets = format!("{GATEWAY}:9999 10.99.0.1:9999 {other}:7777 127.0.0.1:9443 192.0.2.1:443 {GATEWAY}:22");
    let script =
        format!("for target in {targets}; do curl -s --max-time 1 http://$target && echo reached $target; done; true");
    let done = one.sh(&script)?;
    ensure!(done.output.is_empty(), "{}", done.output);
    ensure!(!has_a_caller(&host)? && !has_a_caller(&bottle)?, "somebody called");
    ensure!(world.bottle("one")?.dropped_packets >= 4, "the drops are not counted");
    assert_eq!(one.ask("claude-test")?.status, 200);
    Ok(())
}

fn listen(port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn has_a_caller(listener: &TcpListener) -> Result<bool> {
    match listener.accept() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn in_namespace_of<T: Send>(pid: u32, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = fs::File::open(format!("/proc/{pid}/ns/net"))?;
    let body = || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    };
    std::thread::scope(|scope| scope.spawn(body).join()).map_err(|_| anyhow!("the thread panicked"))?
}

#[test]
fn names_lead_to_the_gateway_or_nowhere() -> Result<()> {
    let Some(world) = world("names", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let allowed = bottle.sh("getent ahostsv4 api.anthropic.com")?;
    ensure!(
        allowed.output.lines().all(|line| line.starts_with(&GATEWAY.to_string())) && allowed.code == 0,
        "{allowed:?}"
    );
    let six = bottle.sh("getent ahostsv6 api.anthropic.com | grep -v ::ffff:")?;
    ensure!(six.output.is_empty(), "{six:?}");
    for name in ["example.com", "sub.api.anthropic.com", "localhost.example"] {
        ensure!(bottle.sh(&format!("getent hosts {name}"))?.code == 2, "{name} has an address");
    }
    let refused = bottle.sh(&format!("curl -s --max-time 5 -x http://{GATEWAY}:8080 http://example.com/"))?;
    ensure!(refused.output.contains("host_not_allowed"), "{refused:?}");
    Ok(())
}

#[test]
fn neither_the_command_nor_the_proxy_has_privilege() -> Result<()> {
    let Some(world) = world("no privilege", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let inside = bottle.sh("cat /proc/self/status")?.output;
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    let proxy = world.status()?.proxy_pid.context("no proxy")?;
    let proxy = fs::read_to_string(format!("/proc/{proxy}/status"))?;
    for (who, status) in [("the command", &inside), ("the proxy", &proxy)] {
        for set in CAPABILITY_SETS {
            assert_eq!(field(status, set)?, ["0000000000000000"], "{set} of {who}");
        }
        assert_eq!(field(status, "NoNewPrivs")?, ["1"], "{who}");
        assert_eq!(field(status, "Seccomp")?, ["2"], "{who}");
    }
    ensure!(field(&proxy, "Uid")?.iter().all(|uid| *uid != "0"), "the proxy is root");
    ensure!(field(&proxy, "Groups")?.is_empty(), "the proxy has groups");
    Ok(())
}

fn field<'a>(status: &'a str, name: &str) -> Result<Vec<&'a str>> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name}"))?.split_whitespace().collect())
}

#[test]
fn a_megabyte_passes_through_pipes_byte_for_byte() -> Result<()> {
    let Some(world) = world("pipes", "")? else { return Ok(()) };
    let bytes: Vec<u8> =
        (0..1 << 20_u32).map(|position: u32| (position.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut bottle = world.run("web", &[], "cat; echo done >&2")?;
    bottle.feed(&bytes)?;
    let ended = bottle.end()?;
    ensure!(
        ended.code == 0 && ended.output == bytes && ended.errors == "done\n",
        "{} bytes, {}",
        ended.output.len(),
        ended.errors
    );
    Ok(())
}

#[test]
fn signals_are_passed_on() -> Result<()> {
    let Some(world) = world("signals", "")? else { return Ok(()) };
    let script = "trap 'exit 42' TERM; trap 'echo user' USR1; echo ready; while :; do sleep 0.05; done";
    let mut bottle = world.run("web", &[], script)?;
    bottle.until_output("ready")?;
    bottle.signal(Signal::SIGUSR1)?;
    bottle.until_output("user")?;
    bottle.signal(Signal::SIGTERM)?;
    assert_eq!(bottle.end()?.code, 42);
    Ok(())
}

#[test]
fn a_killed_front_end_takes_its_bottle_with_it() -> Result<()> {
    let Some(mut world) = world("a killed front-end", "")? else { return Ok(()) };
    let mut bottle = world.run("web", &[], "trap '' HUP; echo ready; while :; do sleep 1; done")?;
    bottle.until_output("ready")?;
    let pid = world.bottle("web")?.pid.context("no process")?;
    kill_front_end(&mut bottle)?;
    until("the bottle is taken down", PATIENCE, || Ok(world.listed("web")?.is_none()))?;
    ensure!(!harness::world::runs(pid), "its processes live on");

    // The same after the daemon was replaced: whoever follows the run decides.
    let mut bottle = world.run("web", &[], "trap '' HUP; echo ready; while :; do sleep 1; done")?;
    bottle.until_output("ready")?;
    world.kill_daemon_and_proxy()?;
    world.start_daemon()?;
    until("the front-end follows again", PATIENCE, || Ok(bottle.errors().contains("went away")))?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    kill_front_end(&mut bottle)?;
    until("the adopted bottle is taken down", PATIENCE, || Ok(world.listed("web")?.is_none()))?;

    // And when the front-end died while there was no daemon to notice.
    let mut bottle = world.run("web", &[], "trap '' HUP; echo ready; while :; do sleep 1; done")?;
    bottle.until_output("ready")?;
    world.kill_daemon_and_proxy()?;
    kill_front_end(&mut bottle)?;
    world.start_daemon()?;
    ensure!(world.listed("web")?.is_some(), "it was not adopted");
    until("the bottle that nobody follows is taken down", PATIENCE, || Ok(world.listed("web")?.is_none()))
}

fn kill_front_end(bottle: &mut Bottle) -> Result<()> {
    bottle.signal(Signal::SIGKILL)?;
    assert_eq!(bottle.end_of_front()?, 137);
    Ok(())
}
