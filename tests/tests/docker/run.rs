//! `egress run --runtime docker`: what a user of containers expects, behind a gate.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::{AuditKind, CutCause, GateView, RuntimeKind};
use harness::docker::{BARE, CLIENT, Docker};
use harness::terminal::Terminal;
use harness::world::{Bottle, PATIENCE, World, until};

use crate::world;

fn run(world: &World, arguments: &[&str]) -> Result<Bottle> {
    Bottle::start(world.command(&[&["run", "web", "--runtime", "docker"], arguments].concat()))
}

#[test]
fn streams_exit_codes_and_environment_are_the_containers() -> Result<()> {
    let Some((docker, world)) = world("streams of a container", "")? else { return Ok(()) };
    check_streams(&docker, &world)
}

pub(crate) fn check_streams(docker: &Docker, world: &World) -> Result<()> {
    let mut bottle = run(world, &["--image", CLIENT, "--", "sh", "-c", "cat; echo wrong >&2; exit 7"])?;
    let bytes: Vec<u8> = (0..=255_u8).cycle().take(300_000).collect();
    bottle.feed(&bytes)?;
    let ended = bottle.end()?;
    ensure!(
        ended.code == 7 && ended.output == bytes,
        "{} with {} bytes: {}",
        ended.code,
        ended.output.len(),
        ended.errors
    );
    assert_eq!(ended.errors, "wrong\n");
    assert_eq!(docker.containers()?, [""; 0], "the container is left");
    let ended = run(world, &["--image", BARE, "--", "/busybox", "echo", "static"])?.end()?;
    assert_eq!((ended.code, ended.output.as_slice()), (0, b"static\n".as_slice()), "{}", ended.errors);
    let ended = run(world, &["--image", BARE, "--", "/nothing"])?.end()?;
    ensure!(ended.code == 127 && ended.errors.contains("/nothing"), "{ended:?}");
    Ok(())
}

#[test]
fn a_container_is_metered_cut_and_restored() -> Result<()> {
    let Some((docker, world)) = world("a container's spending", "")? else { return Ok(()) };
    check_spending(&docker, &world)
}

pub(crate) fn check_spending(docker: &Docker, world: &World) -> Result<()> {
    let mut bottle = world.shell("web", &["--image", CLIENT])?;
    // Its first instruction found the network: nobody waited before it.
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    assert_eq!(world.bottle("web")?.runtime, RuntimeKind::Docker);
    let id = docker.docker(&["inspect", "--format", "{{.Id}} {{.State.Pid}}", "egress-web"])?;
    // Its command may be faster than word of it.
    let is_told = || {
        let listed = world.bottle("web")?;
        Ok(id == format!("{} {}", listed.container.unwrap_or_default(), listed.pid.unwrap_or_default()))
    };
    until("it is told which container it is", PATIENCE, is_told)?;
    assert_eq!(world.rows("web")?.len(), 1);
    ensure!(world.rows("web")?[0].usage.output.0 > 0, "{:?}", world.rows("web")?);
    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    ensure!(bottle.sh("curl -s --max-time 2 https://api.anthropic.com/v1/models")?.code != 0, "the cut does not hold");
    assert_eq!(world.egress(&["restore", "web"])?.code, 0);
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    let ended = bottle.end()?;
    assert_eq!(ended.code, 0, "{ended:?}");
    until("it is taken down", PATIENCE, || Ok(world.listed("web")?.is_none()))?;
    let gate = GateView::Cut(CutCause::Budget);
    let mut bottle = world.shell("web", &["--image", CLIENT, "--budget", "claude=1k"])?;
    bottle.ask("claude-test+input-900+output-500")?;
    world.until_gate("web", gate, PATIENCE)
}

/// Making a container takes its time, and longer when the engine hangs. What an operator says meanwhile holds.
#[test]
fn a_cut_that_comes_while_a_container_starts_holds() -> Result<()> {
    let Some((docker, world)) = world("a cut of what starts", "")? else { return Ok(()) };
    let hung = docker.hang()?;
    let start = |name| Bottle::start(world.command(&["run", name, "--image", CLIENT, "--", "sh"]));
    let mut bottles = [("web", start("web")?), ("api", start("api")?)];
    until("both are being started", PATIENCE, || Ok(world.listed("web")?.is_some() && world.listed("api")?.is_some()))?;
    let said = world.egress(&["cut", "web"])?;
    assert_eq!((said.code, said.output.as_str()), (0, "web is cut (operator)\n"), "{said:?}");
    let said = world.egress(&["cut", "--all"])?;
    assert_eq!((said.code, said.output.as_str()), (0, "api is cut (operator)\n"), "{said:?}");
    drop(hung);
    for (name, bottle) in &mut bottles {
        bottle.sh("true").with_context(|| world.log_tail())?;
        ensure!(
            bottle.sh("curl -s --max-time 2 http://10.213.0.1:8080/")?.code != 0,
            "the cut of {name} does not hold"
        );
        assert_eq!(world.bottle(name)?.gate, GateView::Cut(CutCause::Operator));
        assert_eq!(world.egress(&["restore", name])?.code, 0);
        assert_eq!(bottle.ask("claude-test")?.status, 200, "{name}");
        let tampered = |kind: &AuditKind| matches!(kind, AuditKind::GateTampered { .. });
        ensure!(!world.audit(Some(name))?.iter().any(tampered), "it passes for tampering");
    }
    Ok(())
}

/// A user's own container has the name that one of a bottle would have. It is nobody's to remove, whatever fails.
#[test]
fn a_container_that_is_anothers_is_left_alone() -> Result<()> {
    let Some((docker, mut world)) = world("another's container", "")? else { return Ok(()) };
    docker.docker(&["run", "-d", "--name", "egress-web", CLIENT, "sleep", "7003"])?;
    let state = || docker.docker(&["inspect", "--format", "{{.Id}} {{.State.Running}}", "egress-web"]);
    let before = state()?;
    ensure!(before.ends_with("true"), "{before}");
    let said = world.egress(&["run", "web", "--image", CLIENT, "--", "true"])?;
    ensure!(said.code == 1 && said.errors.contains("another container of the name egress-web"), "{said:?}");
    assert_eq!(state()?, before, "by a run");
    assert_eq!(world.egress(&["kill", "web"])?.code, 0);
    assert_eq!(state()?, before, "by a kill");
    // What a daemon leaves that dies before it has made the container.
    world.kill_daemon_and_proxy()?;
    let directory = world.names.run.join("bottles/web");
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("container"), r#"{"container":"egress-web","is_attached":false}"#)?;
    world.start_daemon()?;
    ensure!(!directory.exists(), "it is not taken down");
    assert_eq!(state()?, before, "by the next daemon");
    docker.docker(&["rename", "egress-web", "own"])?;
    assert_eq!(run(&world, &["--image", CLIENT, "--", "true"])?.end()?.code, 0);
    assert_eq!(docker.containers()?, ["own"]);
    Ok(())
}

#[test]
fn a_container_has_the_callers_terminal() -> Result<()> {
    let Some((_docker, world)) = world("a terminal of a container", "")? else { return Ok(()) };
    let script = "stty size; read -r line; echo you said $line; while ! stty size | grep 50; do sleep 0.1; done; \
        trap 'echo interrupted; exit 5' INT; while :; do sleep 0.1; done";
    let mut terminal = Terminal::of(&world.command(&["run", "web", "--image", CLIENT, "--", "sh", "-c", script]))?;
    terminal.until_shown("31 97")?;
    ensure!(!terminal.is_cooked()?, "the caller's terminal interprets keys itself");
    terminal.keyboard.write_all(b"hello\r")?;
    terminal.until_shown("you said hello")?;
    terminal.resize(50, 120)?;
    terminal.until_shown("50 120")?;
    terminal.keyboard.write_all(b"\x03")?;
    terminal.until_shown("interrupted")?;
    assert_eq!(terminal.end()?, Some(5));
    ensure!(terminal.is_cooked()?, "the caller's terminal was not put back");
    Ok(())
}

#[test]
fn a_container_that_was_run_goes_on_over_a_restart() -> Result<()> {
    let Some((docker, world)) = world("a restart of a run", "")? else { return Ok(()) };
    let script = "if test -e /second; then curl -s http://_egress.local/budget && echo second; exit 8; fi; \
        touch /second; echo first; sleep 1000";
    let mut bottle = run(&world, &["--image", CLIENT, "--", "sh", "-c", script])?;
    bottle.until_output("first")?;
    docker.docker(&["restart", "--time", "0", "egress-web"])?;
    bottle.until_output("second")?;
    assert_eq!(bottle.end()?.code, 8);
    Ok(())
}

#[test]
fn a_shared_directory_is_the_hosts() -> Result<()> {
    let Some((_docker, world)) = world("a container's shared directory", "")? else { return Ok(()) };
    let shared = world.names.directory.join("shared");
    std::fs::create_dir(&shared)?;
    let path = shared.display().to_string();
    let script = "pwd; echo $WORD $HERE; echo written > file; ping -c 1 -W 1 10.213.0.1 || echo no ping";
    let words = ["run", "web", "--image", CLIENT, "--share", &path, "--env", "WORD=said", "--env", "HERE"];
    let mut command = world.command(&[words.as_slice(), &["--", "sh", "-c", script]].concat());
    command.current_dir(&shared).env("HERE", "there").env("OTHER", "stays out");
    let ended = Bottle::start(command)?.end()?;
    let output = String::from_utf8(ended.output)?;
    ensure!(output.starts_with(&format!("{path}\nsaid there\n")) && output.ends_with("no ping\n"), "{output}");
    assert_eq!(std::fs::read_to_string(shared.join("file"))?, "written\n");
    Ok(())
}
