//! Containers that are frozen, resumed and killed, and daemons that die meanwhile.

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_userspace::control::StopEvent;
use egress_userspace::domain::{AuditKind, BottleState, CutCause, GateView, StopStep};
use egress_userspace::kernel::{EbpfEnforcer, Enforcer, GateStatus, TcAttachment};
use harness::docker::{CLIENT, Docker};
use harness::follow::Follower;
use harness::world::{Bottle, PATIENCE, World, until};

use crate::world;

/// Counts its runs in a file of the container; the first run waits, the second ends.
const COUNTER: &str =
    "echo run >> /runs; echo \"run $(wc -l < /runs) of $WORD\"; test $(wc -l < /runs) = 1 && sleep 6072; exit 7";

fn start_counter(world: &World) -> Result<Bottle> {
    let words = ["run", "web", "--image", CLIENT, "--env", "WORD=the-first", "--", "sh", "-c", COUNTER];
    let bottle = Bottle::start(world.command(&words))?;
    bottle.until_output("run 1 of the-first")?;
    Ok(bottle)
}

fn is_frozen(world: &World) -> Result<bool> {
    Ok(world.listed("web")?.is_some_and(|bottle| bottle.state == BottleState::Frozen))
}

fn images(docker: &Docker) -> Result<String> {
    docker.docker(&["images", "--format", "{{.Repository}}"])
}

#[test]
fn a_frozen_container_continues_on_its_files() -> Result<()> {
    let Some((docker, mut world)) = world("freezing a container", "")? else { return Ok(()) };
    check_freezing(&docker, &mut world)
}

pub(crate) fn check_freezing(docker: &Docker, world: &mut World) -> Result<()> {
    let mut bottle = start_counter(world)?;
    let mut steps: Follower<StopEvent> = Follower::of(world, "bottles/web/stopping");
    let at = |wanted: Option<StopStep>| move |event: &StopEvent| (event.step == wanted).then_some(());
    steps.until("nothing is done yet", at(None))?;
    let said = world.egress(&["freeze", "web"])?;
    assert_eq!((said.code, said.output.as_str()), (0, "web is frozen: `egress resume web` continues it\n"), "{said:?}");
    for step in [Some(StopStep::CommittingImage), Some(StopStep::TakingContainerDown), None] {
        steps.until(&format!("{step:?}"), at(step))?;
    }
    let ended = bottle.end()?;
    ensure!(ended.code == 137 && ended.errors.contains("egress resume web"), "{ended:?}");
    assert_eq!(docker.containers()?, [""; 0], "its container is left");
    ensure!(images(docker)?.contains("egress-frozen/web"), "there is no image");
    ensure!(!world.host.ip("-brief link")?.contains("eg-"), "its interface is left");
    world.kill_daemon_and_proxy()?;
    world.start_daemon()?;
    ensure!(is_frozen(world)?, "it was forgotten");

    let resumed = Bottle::start(world.command(&["resume", "web"]))?.end()?;
    assert_eq!(
        (resumed.code, String::from_utf8(resumed.output)?.as_str()),
        (7, "run 2 of the-first\n"),
        "{}",
        resumed.errors
    );
    ensure!(!world.names.home.join("bottles/web/launch.json").exists(), "secrets are left");
    let said = world.egress(&["kill", "web"])?;
    ensure!(said.code == 0, "{said:?}");
    ensure!(!images(docker)?.contains("egress-frozen"), "the image is left");
    ensure!(!world.names.home.join("bottles/web").exists(), "something is kept");
    Ok(())
}

#[test]
fn a_killed_container_leaves_nothing_and_so_does_an_attached_one() -> Result<()> {
    let Some((docker, world)) = world("killing a container", "")? else { return Ok(()) };
    let mut bottle = start_counter(&world)?;
    let said = world.egress(&["kill", "web"])?;
    ensure!(said.code == 0, "{said:?}");
    assert_eq!(bottle.end()?.code, 137);
    assert_eq!(docker.containers()?, [""; 0]);
    docker.docker(&["run", "-d", "--name", "target", "-e", "WORD=own", CLIENT, "sh", "-c", COUNTER])?;
    assert_eq!(world.egress(&["attach", "web", "--container", "target"])?.code, 0);
    let said = world.egress(&["freeze", "web"])?;
    ensure!(said.code == 0, "{said:?}");
    assert_eq!(docker.containers()?, [""; 0]);
    let resumed = Bottle::start(world.command(&["resume", "web"]))?.end()?;
    assert_eq!(
        (resumed.code, String::from_utf8(resumed.output)?.as_str()),
        (7, "run 2 of own\n"),
        "{}",
        resumed.errors
    );
    docker.docker(&["run", "-d", "--name", "target", CLIENT, "sleep", "6073"])?;
    assert_eq!(world.egress(&["attach", "web", "--container", "target"])?.code, 0);
    let said = world.egress(&["kill", "web"])?;
    ensure!(said.code == 0, "{said:?}");
    assert_eq!(docker.containers()?, [""; 0]);
    ensure!(!images(&docker)?.contains("egress-frozen"), "the image is left");
    ensure!(world.listed("web")?.is_none() && !world.names.home.join("bottles/web").exists(), "something is left");
    Ok(())
}

/// Wherever in the middle of freezing the daemon dies, the next one brings it to its end, and nothing flows before.
#[test]
fn a_freeze_that_was_interrupted_is_finished() -> Result<()> {
    let Some((docker, mut world)) = world("an interrupted freeze", "")? else { return Ok(()) };
    let mut begun = 0;
    for after_ms in [20, 50, 90, 150, 300] {
        let bottle = start_counter(&world)?;
        let mut freeze = world.command(&["freeze", "web"]).stdout(Stdio::null()).spawn()?;
        sleep(Duration::from_millis(after_ms));
        world.kill_daemon()?;
        freeze.wait()?;
        world.start_daemon()?;
        let listed = world.bottle("web").with_context(|| format!("killed after {after_ms} ms"))?;
        // An open gate is of a freeze that was not heard.
        if listed.gate != GateView::Open {
            begun += 1;
            if listed.state == BottleState::Running && world.names.run.join("bottles/web/held").exists() {
                until("it is frozen", PATIENCE, || is_frozen(&world))?;
            }
            ensure!(world.egress(&["freeze", "web"])?.code == 0, "it cannot be frozen");
            assert_eq!(docker.containers()?, [""; 0], "{after_ms} ms");
        }
        assert_eq!(world.egress(&["kill", "web"])?.code, 0);
        drop(bottle);
        until("it is gone", PATIENCE, || Ok(world.listed("web")?.is_none()))?;
        assert_eq!(docker.containers()?, [""; 0]);
    }
    ensure!(begun > 0, "no freeze was interrupted");
    Ok(())
}

/// The engine is gone when its container is to be frozen: it stays cut, and says what remains.
#[test]
fn a_freeze_that_fails_leaves_the_bottle_cut() -> Result<()> {
    let Some((mut docker, world)) = world("a freeze that fails", "")? else { return Ok(()) };
    docker.docker(&["run", "-d", "--restart", "always", "--name", "target", CLIENT, "sleep", "6074"])?;
    assert_eq!(world.egress(&["attach", "web", "--container", "target"])?.code, 0);
    docker.stop()?;
    let said = world.egress(&["freeze", "web"])?;
    ensure!(said.code == 1 && said.errors.contains("web could not be frozen"), "{said:?}");
    assert_eq!(world.bottle("web")?.gate, GateView::Cut(CutCause::Operator));
    let audit = world.audit(Some("web"))?;
    ensure!(audit.iter().any(|kind| matches!(kind, AuditKind::StopFailed { .. })), "{audit:?}");
    docker.start_again()?;
    until("the engine starts it again", PATIENCE, || {
        Ok(docker.docker(&["inspect", "-f", "{{.State.Running}}", "target"])? == "true")
    })?;
    let said = world.egress(&["freeze", "web"])?;
    ensure!(said.code == 0 && is_frozen(&world)?, "{said:?} {}", world.log_tail());
    Ok(())
}

/// An engine that hangs holds up the freeze or the kill, and not the cut.
#[test]
fn a_cut_does_not_wait_for_the_engine() -> Result<()> {
    let Some((docker, world)) = world("a freeze while the engine hangs", "")? else { return Ok(()) };
    for word in ["freeze", "kill"] {
        let bottle = start_counter(&world)?;
        let hung = docker.hang()?;
        let mut stop = world.command(&[word, "web"]).stdout(Stdio::null()).spawn()?;
        until(&format!("a {word} cuts"), PATIENCE, || {
            let gates = EbpfEnforcer::new(&world.names.pins, TcAttachment::Auto)?.gates()?;
            Ok(!gates.is_empty() && gates.iter().all(|gate| gate.status != GateStatus::Open))
        })?;
        ensure!(stop.try_wait()?.is_none(), "{word} ended without the engine");
        assert_eq!(world.bottle("web")?.state, BottleState::Running);
        drop(hung);
        ensure!(stop.wait()?.success(), "{word}: {}", world.log_tail());
        ensure!(is_frozen(&world)? == (word == "freeze"), "{word}: {}", world.log_tail());
        ensure!(world.egress(&["kill", "web"])?.code == 0);
        drop(bottle);
    }
    Ok(())
}

/// Whoever asks for something hears of that, and gets it, although somebody else has asked for something else.
#[test]
fn a_kill_that_comes_while_a_bottle_is_frozen_kills_it() -> Result<()> {
    let Some((docker, world)) = world("a freeze and a kill", "")? else { return Ok(()) };
    for (first, second) in [("freeze", "kill"), ("kill", "freeze"), ("kill", "kill")] {
        let bottle = start_counter(&world)?;
        let hung = docker.hang()?;
        let mut waiting = Vec::new();
        for word in [first, second] {
            waiting.push(Bottle::start(world.command(&[word, "web"]))?);
            // Each has been asked for before the next is.
            sleep(Duration::from_millis(500));
        }
        drop(hung);
        let ended = waiting.into_iter().map(|mut front| front.end()).collect::<Result<Vec<_>>>()?;
        let is_told = |word: &str, code: i32, output: &[u8], errors: &str| match word {
            "freeze" => {
                if first == "freeze" {
                    code == 0 && output.starts_with(b"web is frozen")
                } else {
                    code == 1 && errors.contains("not running")
                }
            }
            _ => code == 0 && !output.is_empty(),
        };
        for (word, ended) in [first, second].into_iter().zip(&ended) {
            ensure!(is_told(word, ended.code, &ended.output, &ended.errors), "{first}, {second}: {word}: {ended:?}");
        }
        ensure!(world.listed("web")?.is_none(), "{first}, {second}: {:?} {}", world.listed("web")?, world.log_tail());
        assert_eq!(
            (docker.containers()?, images(&docker)?.contains("egress-frozen")),
            (Vec::new(), false),
            "{first}, {second}"
        );
        drop(bottle);
    }
    Ok(())
}

/// The engine was away when a bottle ended: its container is left, and a kill finds it.
#[test]
fn a_kill_removes_what_an_end_has_left() -> Result<()> {
    let Some((docker, world)) = world("a container that is left", "")? else { return Ok(()) };
    let bottle = start_counter(&world)?;
    let away = world.names.directory.join("away.sock");
    fs::rename(docker.socket(), &away)?;
    drop(bottle);
    until("it has ended", PATIENCE, || Ok(world.listed("web")?.is_none()))?;
    fs::rename(&away, docker.socket())?;
    assert_eq!(docker.containers()?, ["egress-web"]);
    let said = world.egress(&["kill", "web"])?;
    ensure!(said.code == 0, "{said:?} {}", world.log_tail());
    assert_eq!(docker.containers()?, [""; 0], "its container is left");
    ensure!(!world.names.run.join("bottles/web").exists() && !world.names.home.join("bottles/web").exists());
    Ok(())
}

/// As a freeze leaves it that fails when the engine is away.
#[test]
fn a_restore_lets_a_container_go_on_that_stands_still() -> Result<()> {
    let Some((docker, world)) = world("a container that stands still", "")? else { return Ok(()) };
    let bottle = start_counter(&world)?;
    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    docker.docker(&["pause", "egress-web"])?;
    let held = world.names.run.join("bottles/web/held");
    fs::write(&held, "")?;
    let said = world.egress(&["restore", "web"])?;
    ensure!(said.code == 0 && !held.exists(), "{said:?}");
    assert_eq!(docker.docker(&["inspect", "--format", "{{.State.Paused}}", "egress-web"])?, "false");
    drop(bottle);
    Ok(())
}

#[test]
fn the_next_daemon_adopts_a_container() -> Result<()> {
    let Some((docker, mut world)) = world("a daemon dies beside a container", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &["--image", CLIENT])?;
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    let before = world.bottle("web")?;
    world.kill_daemon_and_proxy()?;
    let done = bottle
        .sh("for port in 443 80 8080; do curl -s --max-time 1 http://10.213.0.1:$port && echo reached; done; true")?;
    ensure!(done.output.is_empty(), "{done:?}");
    world.start_daemon()?;
    let after = world.bottle("web")?;
    assert_eq!((after.pid, after.container, after.address), (before.pid, before.container, before.address));
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    until("the front-end follows again", PATIENCE, || Ok(bottle.errors().contains("went away")))?;
    bottle.begin("exit 9")?;
    assert_eq!(bottle.end()?.code, 9);
    until("it is taken down", PATIENCE, || Ok(docker.containers()?.is_empty()))?;
    // A front-end that is killed takes its container along.
    let bottle = world.shell("web", &["--image", CLIENT])?;
    drop(bottle);
    until("it is ended", PATIENCE, || Ok(docker.containers()?.is_empty()))?;
    until("nothing is left", PATIENCE, || {
        let left = fs::read_dir(world.names.run.join("bottles"))?.flatten();
        Ok(left.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count() == 0)
    })
}
