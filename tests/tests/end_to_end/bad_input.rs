//! What is wrong is named, with what to do; nothing is lost by it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use anyhow::{Result, ensure};
use egress_userspace::domain::{CutCause, GateView};
use harness::world::{GATEWAY, Names, PATIENCE, World};

use crate::{prepared, world};

/// Another daemon's, on the same host.
const OTHER_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 214, 0, 1);

/// A daemon that does not start: says all of this and ends with 1.
fn assert_refused(world: &World, command: &mut Command, says: &[&str]) -> Result<()> {
    let said = world.fail_to_start(command)?;
    ensure!(said.code == 1, "{said:?}");
    for text in says {
        ensure!(said.errors.contains(text), "it does not say {text:?}: {}", said.errors);
    }
    Ok(())
}

fn other_names(world: &World) -> Names {
    let directory = world.names.directory.join("other");
    Names {
        home: directory.join("home"),
        run: directory.join("run"),
        bridge: format!("{}y", world.names.bridge),
        pins: world.names.pins.join("other"),
        ..world.names.clone()
    }
}

#[test]
fn malformed_settings_are_named_by_file_line_and_column() -> Result<()> {
    let Some(world) = prepared("malformed settings", "budget:\n  claude: lots")? else { return Ok(()) };
    let cases = [
        ("budget:\n  claude: lots", ":2:11:"),
        ("budgets:\n  claude: 5k", ":1:1:"),
        ("drain: 1s\nlast_word: soon", ":2:12:"),
        ("budget: [1]", ":1:9:"),
        ("budget:\n\tclaude: 5", ":2:"),
    ];
    for (settings, place) in cases {
        world.write_settings(settings)?;
        let place = format!("{}{place}", world.names.home.join("settings.yml").display());
        assert_refused(&world, &mut world.daemon_command(&world.names, GATEWAY), &[&place])?;
    }
    Ok(())
}

#[test]
fn a_second_daemon_is_refused() -> Result<()> {
    let Some(world) = world("a second daemon", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let other = other_names(&world);
    let same_home = Names { home: world.names.home.clone(), ..other.clone() };
    let says = ["bot-bottle.db is in use by another egress daemon"];
    assert_refused(&world, &mut world.daemon_command(&same_home, OTHER_GATEWAY), &says)?;
    let same_run = Names { run: world.names.run.clone(), ..other.clone() };
    let says = ["control.sock could not be bound", "another egress daemon listens on it"];
    assert_refused(&world, &mut world.daemon_command(&same_run, OTHER_GATEWAY), &says)?;
    let says = ["10.213.0.1:8080 cannot be listened on", "--gateway chooses another address"];
    assert_refused(&world, &mut world.daemon_command(&other, GATEWAY), &says)?;
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    Ok(())
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let Some(mut world) = prepared("a port in use", "")? else { return Ok(()) };
    let taken = world.host.run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 443))?))?;
    let says = ["10.213.0.1:443 cannot be listened on", "ss -lntup", "Address already in use"];
    assert_refused(&world, &mut world.daemon_command(&world.names, GATEWAY), &says)?;
    drop(taken);
    world.start_daemon()
}

#[test]
fn a_missing_capability_is_named() -> Result<()> {
    let Some(world) = prepared("a missing capability", "")? else { return Ok(()) };
    let whole = world.daemon_command(&world.names, GATEWAY);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_admin,-sys_ptrace", "--inh-caps", "-net_admin,-sys_ptrace"]);
    command.arg(whole.get_program()).args(whole.get_args());
    assert_refused(&world, &mut command, &["the daemon lacks CAP_NET_ADMIN, CAP_SYS_PTRACE: run it as root"])?;
    ensure!(!world.names.home.join("bot-bottle.db").exists(), "it went on all the same");
    Ok(())
}

#[test]
fn a_ledger_from_the_future_is_left_alone() -> Result<()> {
    let Some(mut world) = world("a ledger from the future", "")? else { return Ok(()) };
    assert_eq!(world.shell("web", &[])?.ask("claude-test")?.status, 200);
    world.stop_daemon()?;
    let path = world.names.home.join("bot-bottle.db");
    let change = |statement: &str| -> Result<()> {
        let ledger = rusqlite::Connection::open(&path)?;
        ledger.execute(statement, [])?;
        ledger.close().map_err(|(_, error)| error)?;
        Ok(())
    };
    let known: u32 =
        rusqlite::Connection::open(&path)?
            .query_row("SELECT max(version) FROM schema_version", [], |row| row.get(0))?;
    change(&format!("INSERT INTO schema_version VALUES ({}, 0)", known + 41))?;
    let before = fs::read(&path)?;
    let says = [&format!("has schema version {}", known + 41), "run the newer egress, or restore a backup"];
    assert_refused(&world, &mut world.daemon_command(&world.names, GATEWAY), &says.map(|text: &str| text))?;
    ensure!(fs::read(&path)? == before, "it was changed");
    change(&format!("DELETE FROM schema_version WHERE version > {known}"))?;
    world.start_daemon()?;
    assert_eq!(world.rows("web")?.len(), 1);
    Ok(())
}

#[test]
fn clsact_does_for_the_whole_path() -> Result<()> {
    let Some(mut world) = prepared("clsact", "budget:\n  claude: 5000")? else { return Ok(()) };
    world.daemon_arguments = vec!["--attach".to_owned(), "clsact".to_owned()];
    world.start_daemon()?;
    let mut bottle = world.shell("web", &[])?;
    let filters = world.host.run(|| harness::netns::command("tc", "filter show dev eg-web ingress"))?;
    ensure!(filters.contains("bpf"), "no filter: {filters}");
    assert_eq!(bottle.ask("claude-test+input-4000")?.status, 200);
    world.kill_daemon_and_proxy()?;
    world.start_daemon()?;
    assert_eq!(bottle.ask("claude-test+input-4000")?.status, 200);
    assert_eq!(bottle.ask("claude-test+input-4000")?.status, 402);
    world.until_gate("web", GateView::Cut(CutCause::Budget), PATIENCE)?;
    world.kill_daemon_and_proxy()?;
    world.start_daemon()?;
    let silence = bottle.sh("curl -s --max-time 2 https://api.anthropic.com/v1/models")?;
    ensure!(silence.code != 0 && silence.output.is_empty(), "{silence:?}");
    ensure!(world.bottle("web")?.dropped_packets > 0, "nothing was dropped");
    Ok(())
}
