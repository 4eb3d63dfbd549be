//! An operator cuts and restores, and what the command line says when it cannot.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::{AuditKind, CutCause, Ending, GateView, Known};
use harness::world::{GATEWAY, PATIENCE, World, curl, until};

use crate::world;

/// A delta every 20 ms for a minute.
const SLOW: &str = "claude-test+deltas-3000+delay-20+output-3000+input-77";
/// What curl ends with: refused, a response that is not whole, out of time, broken off.
const CURL_REFUSED: i32 = 7;
const CURL_PARTIAL: i32 = 18;
const CURL_TIMED_OUT: i32 = 28;
const CURL_BROKEN_OFF: i32 = 56;
/// From the moment a byte is written to the moment the test has read it, on a busy machine.
const READING_MAX: Duration = Duration::from_millis(300);

#[test]
fn an_open_stream_ends_with_the_cut() -> Result<()> {
    let Some(world) = world("an open stream", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    bottle.begin(&curl(SLOW, true, "--max-time 6"))?;
    until("the stream flows", PATIENCE, || Ok(bottle.output().matches("text_delta").count() > 10))?;
    let said = world.egress(&["cut", "web"])?;
    let cut = Instant::now();
    assert_eq!((said.code, said.output.as_str()), (0, "web is cut (operator)\n"), "{said:?}");
    sleep(Duration::from_secs(1));
    let last = bottle.last_output().context("no output")?;
    ensure!(last < cut + READING_MAX, "bytes arrived {:?} after the cut", last - cut);

    until("the exchange is settled", PATIENCE, || Ok(world.rows("web")?.len() == 1))?;
    let row = world.rows("web")?.remove(0);
    assert_eq!((row.known, row.ending, row.usage.input.0), (Known::Partial, Ending::Cut, 77));
    until("the provider is hung up on", PATIENCE, || Ok(world.served().len() == 1))?;
    let served = world.served().remove(0);
    ensure!(!served.is_complete && row.usage.output.0 >= served.output_sent / 2, "{served:?} {row:?}");
    assert_eq!(world.bottle("web")?.gate, GateView::Cut(CutCause::Operator));
    ensure!(world.audit(Some("web"))?.contains(&AuditKind::GateCut { cause: CutCause::Operator }), "no audit row");

    let again = world.egress(&["cut", "web"])?;
    assert_eq!(again.output, "web is already cut (operator)\n");
    bottle.end_of_command(PATIENCE)?;
    let restored = world.egress(&["restore", "web"])?;
    assert_eq!((restored.code, restored.output.as_str(), restored.errors.as_str()), (0, "web is open\n", ""));
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    Ok(())
}

/// Starts a stream, cuts the bottle in the middle of it, and tells how long the client went on and what it ended with.
fn cut_in_a_stream(world: &World, patience: &str) -> Result<(Duration, i32)> {
    let mut bottle = world.shell("web", &[])?;
    bottle.begin(&curl(SLOW, true, patience))?;
    until("the stream flows", PATIENCE, || Ok(bottle.output().matches("text_delta").count() > 10))?;
    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    let cut = Instant::now();
    let done = bottle.end_of_command(PATIENCE)?;
    Ok((cut.elapsed(), done.code))
}

#[test]
fn a_client_that_waits_hears_of_the_cut_at_once() -> Result<()> {
    let Some(world) = world("a client that waits", "")? else { return Ok(()) };
    let (waited, code) = cut_in_a_stream(&world, "--max-time 15")?;
    ensure!(matches!(code, CURL_BROKEN_OFF | CURL_PARTIAL), "curl ended with {code}");
    ensure!(waited < Duration::from_secs(5), "it took {waited:?}");
    Ok(())
}

#[test]
fn a_silent_cut_is_not_heard() -> Result<()> {
    let Some(world) = world("a silent cut", "cut_mode: drop")? else { return Ok(()) };
    let (waited, code) = cut_in_a_stream(&world, "--max-time 3")?;
    assert_eq!(code, CURL_TIMED_OUT, "after {waited:?}");
    Ok(())
}

#[test]
fn the_way_to_be_cut_may_change_meanwhile() -> Result<()> {
    let Some(world) = world("another way to be cut", "cut_mode: drop")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    let gateway = format!("curl -s --connect-timeout 1 http://{GATEWAY}:8080/");
    assert_eq!(bottle.sh(&gateway)?.code, CURL_TIMED_OUT);
    world.write_settings("cut_mode: reset")?;
    until("a cut is heard", PATIENCE, || Ok(bottle.sh(&gateway)?.code == CURL_REFUSED))?;
    let repaired = |kind: &AuditKind| matches!(kind, AuditKind::Repaired { .. });
    ensure!(!world.audit(Some("web"))?.iter().any(repaired), "a change of settings passes for a repair");
    Ok(())
}

#[test]
fn a_bottle_that_is_not_running_can_be_cut() -> Result<()> {
    let Some(world) = world("a bottle that is not running", "")? else { return Ok(()) };
    assert_eq!(world.run("web", &[], "true")?.end()?.code, 0);
    let said = world.egress(&["cut", "web"])?;
    ensure!(said.code == 0 && said.errors.contains("cannot be run again until `egress restore web`"), "{said:?}");
    let run = world.run("web", &[], "true")?.end()?;
    ensure!(run.code == 1 && run.errors.contains("web is still cut (operator)"), "{run:?}");
    assert_eq!(world.egress(&["restore", "web"])?.code, 0);
    assert_eq!(world.run("web", &[], "true")?.end()?.code, 0);
    Ok(())
}

#[test]
fn all_are_cut_at_once() -> Result<()> {
    let Some(world) = world("all are cut", "")? else { return Ok(()) };
    let nothing = world.egress(&["cut", "--all"])?;
    assert_eq!((nothing.code, nothing.output.as_str()), (0, "no bottle runs that is not cut already\n"), "{nothing:?}");
    let mut bottles =
        ["one", "two", "three"].map(|name| world.shell(name, &[])).into_iter().collect::<Result<Vec<_>>>()?;
    assert_eq!(world.egress(&["cut", "two"])?.code, 0);
    let said = world.egress(&["cut", "--all"])?;
    assert_eq!((said.code, said.output.as_str()), (0, "one is cut (operator)\nthree is cut (operator)\n"), "{said:?}");
    for (bottle, name) in bottles.iter_mut().zip(["one", "two", "three"]) {
        assert_eq!(world.bottle(name)?.gate, GateView::Cut(CutCause::Operator), "{name}");
        ensure!(bottle.ask("claude-test")?.status == 0, "{name} gets through");
        let cuts =
            world.audit(Some(name))?.into_iter().filter(|kind| matches!(kind, AuditKind::GateCut { .. })).count();
        assert_eq!(cuts, 1, "{name}");
    }
    assert_eq!(world.egress(&["restore", "three"])?.code, 0);
    assert_eq!(bottles.pop().context("three")?.ask("claude-test")?.status, 200);
    Ok(())
}

#[test]
fn exit_codes_say_what_kind_of_failure_it_was() -> Result<()> {
    let Some(mut world) = world("exit codes", "")? else { return Ok(()) };
    for action in ["cut", "restore"] {
        let unknown = world.egress(&[action, "nobody-knows-it"])?;
        ensure!(unknown.code == 1 && unknown.errors.contains("there is no bottle nobody-knows-it"), "{unknown:?}");
    }
    for wrong in [
        &["cut"][..],
        &["cut", "web", "--all"],
        &["cut", "Not A Name"],
        &["run", "web"],
        &["run", "web", "--budget", "claude", "--", "true"],
        &["fly"],
    ] {
        assert_eq!(world.egress(wrong)?.code, 2, "{wrong:?}");
    }
    for words in [&["list"][..], &["cut", "web"], &["run", "web", "--", "true"]] {
        let said = world.as_nobody(words)?;
        ensure!(said.code == 4 && said.errors.contains("group egress"), "{words:?}: {said:?}");
    }
    world.stop_daemon()?;
    for words in [&["list"][..], &["cut", "web"], &["run", "web", "--", "true"]] {
        let said = world.egress(words)?;
        ensure!(said.code == 3 && said.errors.contains("start one with `egress daemon`"), "{words:?}: {said:?}");
    }
    Ok(())
}

#[test]
fn a_runs_exit_code_is_its_commands() -> Result<()> {
    let Some(world) = world("exit codes of runs", "")? else { return Ok(()) };
    for (line, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        assert_eq!(world.run("web", &[], line)?.end()?.code, code, "{line}");
    }
    let missing = world.egress(&["run", "web", "--", "no-such-program"])?;
    ensure!(missing.code == 127 && missing.errors.contains("no-such-program"), "{missing:?}");
    let first = world.shell("web", &[])?;
    let second = world.run("web", &[], "true")?.end()?;
    ensure!(second.code == 1 && second.errors.contains("bottle web is already running"), "{second:?}");
    drop(first);
    until("the bottle is taken down", PATIENCE, || Ok(world.listed("web")?.is_none()))
}
