//! Freezing, resuming and killing, by an operator and by a budget.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_userspace::control::StopReply;
use egress_userspace::domain::{AuditKind, BottleState, CutCause, CutoffPolicy, Ending, GateView, Stop};
use harness::world::{Bottle, PATIENCE, World, curl, until};

use crate::crash::assert_nothing_left;
use crate::world;

const SLOW: &str = "claude-test+deltas-3000+delay-20+output-3000+input-77";
const LARGE: &str = "claude-test+input-5500+output-500+deltas-5";
const BY_BUDGET: GateView = GateView::Cut(CutCause::Budget);
/// Counts its runs in a file that only the bottle has; the first run waits, the second ends.
const COUNTER: &str = "mkdir -p /var/tmp/egress-counter; cd /var/tmp/egress-counter; echo run >> runs; \
    echo \"run $(wc -l < runs) of $WORD in $OLDPWD\"; test $(wc -l < runs) = 1 && sleep 6071; exit 7";

/// Where what a bottle keeps is.
fn kept(world: &World, name: &str) -> PathBuf {
    world.names.home.join("bottles").join(name)
}

fn is_frozen(world: &World, name: &str) -> Result<bool> {
    Ok(world.listed(name)?.is_some_and(|bottle| bottle.state == BottleState::Frozen))
}

/// Processes on the host whose command line contains this.
fn processes(text: &str) -> usize {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).replace('\0', " ").contains(text)).count()
}

fn start_counter(world: &World, arguments: &[&str]) -> Result<Bottle> {
    let words = [&["run", "web"], arguments, &["--", "sh", "-c", COUNTER]].concat();
    let mut command = world.command(&words);
    command.env("WORD", "the-first");
    let bottle = Bottle::start(command)?;
    bottle.until_output("run 1 of the-first")?;
    Ok(bottle)
}

fn resume(world: &World, arguments: &[&str]) -> Result<Bottle> {
    Bottle::start(world.command(&[&["resume", "web"], arguments].concat()))
}

#[test]
fn a_frozen_bottle_continues_on_its_files() -> Result<()> {
    let Some(mut world) = world("freeze and resume", "")? else { return Ok(()) };
    let mut bottle = start_counter(&world, &["--agent", "reviewer"])?;
    let pid = world.bottle("web")?.pid.context("no process")?;
    let said = world.egress(&["freeze", "web"])?;
    assert_eq!((said.code, said.output.as_str()), (0, "web is frozen: `egress resume web` continues it\n"), "{said:?}");
    let ended = bottle.end()?;
    ensure!(ended.code == 137 && ended.errors.contains("web is frozen (by an operator)"), "{ended:?}");
    ensure!(ended.errors.contains("egress resume web") && ended.errors.contains("egress kill web"), "{ended:?}");
    ensure!(!harness::world::runs(pid), "its processes live on");
    assert_nothing_left(&world)?;
    let listed = world.bottle("web")?;
    assert_eq!((listed.state, listed.frozen), (BottleState::Frozen, Some(CutCause::Operator)));
    assert_eq!(listed.gate, GateView::Cut(CutCause::Operator));
    let audit = world.audit(Some("web"))?;
    let end = [AuditKind::GateCut { cause: CutCause::Operator }, AuditKind::BottleFrozen { cause: CutCause::Operator }];
    ensure!(audit.ends_with(&end), "{audit:?}");
    let mode = |name: &str| anyhow::Ok(fs::metadata(kept(&world, "web").join(name))?.permissions().mode() & 0o7777);
    assert_eq!((mode("launch.json")?, mode("")?), (0o600, 0o700));
    ensure!(!PathBuf::from("/var/tmp/egress-counter").exists(), "it wrote to the host");

    let run = world.run("web", &[], "true")?.end()?;
    ensure!(
        run.code == 1 && run.errors.contains("web is frozen") && run.errors.contains("egress resume web"),
        "{run:?}"
    );
    let again = world.egress(&["freeze", "web"])?;
    ensure!(again.code == 0 && again.output.contains("already frozen"), "{again:?}");
    world.kill_daemon_and_proxy()?;
    world.start_daemon()?;
    ensure!(is_frozen(&world, "web")?, "it was forgotten");

    let resumed = resume(&world, &[])?.end()?;
    let here = std::env::current_dir()?;
    assert_eq!(resumed.code, 7, "{resumed:?}");
    assert_eq!(String::from_utf8(resumed.output)?, format!("run 2 of the-first in {}\n", here.display()));
    ensure!(!kept(&world, "web").join("launch.json").exists(), "secrets are left");
    ensure!(world.audit(Some("web"))?.contains(&AuditKind::BottleResumed), "not on record");
    let nothing = resume(&world, &[])?.end()?;
    ensure!(nothing.code == 1 && nothing.errors.contains("is not frozen"), "{nothing:?}");
    // The files are there for the next run too.
    let next = world.run("web", &[], "cat /var/tmp/egress-counter/runs")?.end()?;
    assert_eq!(String::from_utf8(next.output)?, "run\nrun\n");
    Ok(())
}

#[test]
fn freezing_ends_what_is_open_and_resuming_opens_the_gate() -> Result<()> {
    let Some(world) = world("freeze in a stream", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    bottle.begin(&curl(SLOW, true, "--max-time 6"))?;
    until("the stream flows", PATIENCE, || Ok(bottle.output().matches("text_delta").count() > 10))?;
    let reply: StopReply = world.json(&["freeze", "web"])?;
    assert_eq!((reply.stop, reply.was_already), (Stop::Freeze, false));
    until("the exchange is settled", PATIENCE, || Ok(world.rows("web")?.len() == 1))?;
    assert_eq!(world.rows("web")?[0].ending, Ending::Cut);
    let restored = world.egress(&["restore", "web"])?;
    ensure!(restored.errors.contains("web is frozen: `egress resume web`"), "{restored:?}");
    let mut again = resume(&world, &[])?;
    assert_eq!(again.ask("claude-test")?.status, 200);
    assert_eq!(world.bottle("web")?.gate, GateView::Open);
    Ok(())
}

#[test]
fn killing_leaves_nothing() -> Result<()> {
    let Some(world) = world("kill", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    bottle.sh("echo mine > /var/tmp/mine")?;
    bottle.begin("sleep 6172")?;
    until("it sleeps", PATIENCE, || Ok(processes("sleep 6172") > 0))?;
    let said = world.egress(&["kill", "web"])?;
    assert_eq!((said.code, said.output.as_str()), (0, "web is gone: nothing of it runs, its files are removed\n"));
    let code = bottle.end_of_front()?;
    ensure!(code == 137 && bottle.errors().contains("web was killed (by an operator)"), "{code}: {}", bottle.errors());
    assert_eq!(processes("sleep 6172"), 0);
    ensure!(!kept(&world, "web").exists(), "its files are left");
    assert_nothing_left(&world)?;
    ensure!(world.listed("web")?.is_none(), "it is listed");
    assert_eq!(world.rows("web")?.len(), 1, "what it spent stays on record");
    let killed = AuditKind::BottleKilled { cause: CutCause::Operator };
    ensure!(world.audit(Some("web"))?.ends_with(std::slice::from_ref(&killed)), "{:?}", world.audit(Some("web"))?);
    let again = world.egress(&["kill", "web"])?;
    ensure!(again.code == 0 && again.output.contains("already gone"), "{again:?}");

    // The next run begins anew, and an ended one can be killed too.
    let next = world.run("web", &[], "cat /var/tmp/mine; echo new > /var/tmp/mine")?.end()?;
    ensure!(next.code == 0 && next.output.is_empty(), "{next:?}");
    ensure!(kept(&world, "web").exists(), "nothing was kept");
    assert_eq!(world.egress(&["kill", "web"])?.code, 0);
    ensure!(!kept(&world, "web").exists(), "its files are left");

    // A frozen one.
    let mut frozen = start_counter(&world, &[])?;
    assert_eq!(world.egress(&["freeze", "web"])?.code, 0);
    frozen.end()?;
    let reply: StopReply = world.json(&["kill", "web"])?;
    assert_eq!((reply.stop, reply.was_already), (Stop::Kill, false));
    ensure!(!kept(&world, "web").exists() && world.listed("web")?.is_none(), "it is left");
    assert_eq!(resume(&world, &[])?.end()?.code, 1);
    let unknown = world.egress(&["kill", "nobody-knows-it"])?;
    ensure!(unknown.code == 1 && unknown.errors.contains("there is no bottle"), "{unknown:?}");
    Ok(())
}

#[test]
fn a_crossed_budget_freezes() -> Result<()> {
    let settings = "budget:\n  claude: 5k\nshutdown: freeze\ndrain: 200ms\nlast_word: 300ms";
    let Some(world) = world("a budget freezes", settings)? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    assert_eq!(world.bottle("web")?.policy, CutoffPolicy::Freeze);
    let answer = bottle.ask(LARGE)?;
    ensure!(answer.status == 200 && answer.body.contains("event: message_stop"), "{answer:?}");
    until("it is frozen", PATIENCE, || is_frozen(&world, "web")).with_context(|| world.log_tail())?;
    let code = bottle.end_of_front()?;
    let errors = bottle.errors();
    ensure!(code == 137 && errors.contains("the claude budget of host is used up: 6,000 of 5,000 tokens"), "{errors}");
    let listed = world.bottle("web")?;
    assert_eq!((listed.gate, listed.frozen), (BY_BUDGET, Some(CutCause::Budget)));
    let audit = world.audit(Some("web"))?;
    let end = [AuditKind::GateCut { cause: CutCause::Budget }, AuditKind::BottleFrozen { cause: CutCause::Budget }];
    ensure!(audit.ends_with(&end), "{audit:?}");
    let table = world.egress(&["list"])?.output;
    ensure!(table.contains("frozen") && table.contains("cut (budget)") && table.contains("SHUTDOWN"), "{table}");
    assert_nothing_left(&world)?;

    let refused = resume(&world, &[])?.end()?;
    ensure!(refused.code == 1 && refused.errors.contains("claude budget of host is still used up"), "{refused:?}");
    ensure!(refused.errors.contains("egress resume web --budget claude="), "{refused:?}");
    let mut again = resume(&world, &["--budget", "claude=50k"])?;
    assert_eq!(again.ask("claude-test")?.status, 200);
    Ok(())
}

#[test]
fn a_crossed_budget_kills_if_the_command_line_says_so() -> Result<()> {
    let settings = "shutdown: freeze\ndrain: 200ms\nlast_word: 300ms";
    let Some(world) = world("a budget kills", settings)? else { return Ok(()) };
    let mut bottle = world.shell("web", &["--budget", "claude=5k", "--shutdown", "kill"])?;
    assert_eq!(bottle.ask(LARGE)?.status, 200);
    let killed = AuditKind::BottleKilled { cause: CutCause::Budget };
    until("it is killed", PATIENCE, || Ok(world.audit(Some("web"))?.contains(&killed)))
        .with_context(|| world.log_tail())?;
    let code = bottle.end_of_front()?;
    ensure!(code == 137 && bottle.errors().contains("web was killed (the claude budget of"), "{}", bottle.errors());
    ensure!(!kept(&world, "web").exists(), "its files are left");
    assert_nothing_left(&world)?;
    assert_eq!(world.rows("web")?.len(), 1);
    let bad = world.egress(&["run", "web", "--shutdown", "Freeze", "--", "true"])?;
    ensure!(bad.code == 2 && bad.errors.contains("write cutoff, freeze or kill"), "{bad:?}");
    Ok(())
}

/// The daemon dies at any moment of a freeze: afterwards the bottle is frozen, cut, or was not touched at all.
#[test]
fn a_freeze_that_was_begun_is_finished_by_the_next_daemon() -> Result<()> {
    let Some(mut world) = world("a crash while freezing", "")? else { return Ok(()) };
    let mut ends = Vec::new();
    for after_ms in [2, 6, 9, 12, 16, 22, 30, 45] {
        let mut bottle = start_counter(&world, &[])?;
        let mut freeze = world.command(&["freeze", "web"]);
        let mut freeze = freeze.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        sleep(Duration::from_millis(after_ms));
        let was_held = is_held(&world);
        world.kill_daemon_and_proxy()?;
        freeze.wait()?;
        world.start_daemon()?;
        let listed = world.bottle("web")?;
        let is_open = listed.gate == GateView::Open;
        ensure!(!(is_open && (was_held || is_held(&world))), "after {after_ms} ms: begun, and open: {listed:?}");
        ends.push((after_ms, listed.state));
        if listed.state == BottleState::Frozen {
            let ended = bottle.end()?;
            ensure!(ended.code == 137 && ended.errors.contains("web is frozen"), "{ended:?}");
            let resumed = resume(&world, &[])?.end()?;
            ensure!(resumed.code == 7, "after {after_ms} ms: {resumed:?}");
        }
        assert_eq!(world.egress(&["kill", "web"])?.code, 0);
        assert_nothing_left(&world).with_context(|| format!("killed after {after_ms} ms"))?;
    }
    ensure!(ends.iter().any(|(_, state)| *state == BottleState::Frozen), "no freeze came far enough: {ends:?}");
    Ok(())
}

fn is_held(world: &World) -> bool {
    let group = world.names.group().unwrap_or_default().join("web/cgroup.freeze");
    fs::read_to_string(group).is_ok_and(|text| text.trim() == "1")
}

/// The first moment of it: nothing but the processes has been stopped.
#[test]
fn a_bottle_that_stands_still_is_cut_and_frozen() -> Result<()> {
    let Some(mut world) = world("a bottle that stands still", "")? else { return Ok(()) };
    let mut bottle = start_counter(&world, &[])?;
    world.kill_daemon_and_proxy()?;
    fs::write(world.names.group().context("no group")?.join("web/cgroup.freeze"), "1")?;
    world.start_daemon()?;
    let listed = world.bottle("web")?;
    assert_eq!((listed.state, listed.gate), (BottleState::Frozen, GateView::Cut(CutCause::Operator)), "{listed:?}");
    ensure!(bottle.end()?.errors.contains("web is frozen"), "the front-end was not told");
    assert_eq!(resume(&world, &[])?.end()?.code, 7);
    Ok(())
}

/// The daemon died after it had written down that it kills: of a running bottle, and of the files of an ended one.
#[test]
fn a_kill_that_was_begun_is_finished_by_the_next_daemon() -> Result<()> {
    let Some(mut world) = world("a crash while killing", "")? else { return Ok(()) };
    let mut bottle = start_counter(&world, &[])?;
    let pid = world.bottle("web")?.pid.context("no process")?;
    assert_eq!(world.run("ended", &[], "echo mine > /var/tmp/mine")?.end()?.code, 0);
    ensure!(kept(&world, "web").exists() && kept(&world, "ended").exists(), "nothing is kept");
    world.kill_daemon_and_proxy()?;
    let ledger = rusqlite::Connection::open(world.names.home.join("bot-bottle.db"))?;
    ledger.execute("UPDATE bottle SET stopping = 'kill'", [])?;
    ledger.close().map_err(|(_, error)| error)?;
    world.start_daemon()?;
    ensure!(!harness::world::runs(pid), "its processes live on");
    ensure!(!kept(&world, "web").exists() && !kept(&world, "ended").exists(), "files are left");
    assert_nothing_left(&world)?;
    let killed = AuditKind::BottleKilled { cause: CutCause::Operator };
    for name in ["web", "ended"] {
        ensure!(world.listed(name)?.is_none(), "{name} is listed");
        ensure!(world.audit(Some(name))?.contains(&killed), "{name}: {:?}", world.audit(Some(name))?);
    }
    assert_eq!(bottle.end()?.code, 1);
    assert_eq!(world.run("web", &[], "exit 3")?.end()?.code, 3);
    Ok(())
}

#[test]
fn a_policy_that_a_crash_kept_from_firing_fires() -> Result<()> {
    let settings = "budget:\n  claude: 5k\nshutdown: freeze\nlast_word: 3s";
    let Some(mut world) = world("a crash before the policy fires", settings)? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    assert_eq!(bottle.ask("claude-test+input-6000")?.status, 200);
    // The last word has begun and not ended.
    world.kill_daemon_and_proxy()?;
    world.start_daemon()?;
    until("it is frozen", PATIENCE, || is_frozen(&world, "web")).with_context(|| world.log_tail())?;
    assert_eq!(world.bottle("web")?.gate, BY_BUDGET);
    Ok(())
}

#[test]
fn a_freeze_that_fails_leaves_the_bottle_cut() -> Result<()> {
    let Some(world) = world("a freeze that fails", "")? else { return Ok(()) };
    let _bottle = start_counter(&world, &[])?;
    let in_the_way = kept(&world, "web").join("launch.unfinished");
    fs::create_dir(&in_the_way)?;
    let said = world.egress(&["freeze", "web"])?;
    ensure!(said.code == 1 && said.errors.contains("writing down its launch failed"), "{said:?}");
    ensure!(said.errors.contains("its processes go on, without network"), "{said:?}");
    ensure!(said.errors.contains("egress restore web") && said.errors.contains("egress kill web"), "{said:?}");
    ensure!(!is_held(&world), "its processes stand still");
    let listed = world.bottle("web")?;
    assert_eq!((listed.state, listed.gate), (BottleState::Running, GateView::Cut(CutCause::Operator)));
    let audit = world.audit(Some("web"))?;
    ensure!(matches!(audit.last(), Some(AuditKind::StopFailed { stop: Stop::Freeze, .. })), "{audit:?}");
    fs::remove_dir(in_the_way)?;
    assert_eq!(world.egress(&["freeze", "web"])?.code, 0);
    ensure!(is_frozen(&world, "web")?, "the second attempt did not help");
    Ok(())
}

#[test]
fn what_cannot_be_done_is_said() -> Result<()> {
    let Some(world) = world("what cannot be frozen", "")? else { return Ok(()) };
    assert_eq!(world.run("web", &[], "true")?.end()?.code, 0);
    let ended = world.egress(&["freeze", "web"])?;
    ensure!(ended.code == 1 && ended.errors.contains("web is not running"), "{ended:?}");
    for words in [&["freeze", "web"][..], &["resume", "web"], &["kill", "web"]] {
        assert_eq!(world.as_nobody(words)?.code, 4, "{words:?}");
    }
    for (share, expected) in [("/", "the whole host"), ("/dev/shm", "its own /dev"), ("/no/such", "No such file")] {
        let said = world.egress(&["run", "web", "--share", share, "--", "true"])?;
        ensure!(said.code == 1 && said.errors.contains(expected), "{share}: {said:?}");
    }
    Ok(())
}

#[test]
fn what_egress_keeps_is_not_shared() -> Result<()> {
    let Some(world) = world("what is not shared", "")? else { return Ok(()) };
    let (home, shared) = (world.names.home.clone(), world.names.directory.join("shared"));
    fs::create_dir(&shared)?;
    let above = home.parent().context("a home is somewhere")?;
    for directory in [above, &home, &home.join("ca")] {
        let says = format!("{} cannot be shared with a bottle, as egress itself keeps", directory.display());
        let (name, elsewhere) = (directory.display().to_string(), shared.display().to_string());
        for (work, share) in [(directory, &elsewhere), (&shared, &name)] {
            let mut command = world.command(&["run", "web", "--share", share, "--", "touch", "through"]);
            let said = command.current_dir(work).stdin(Stdio::null()).output()?;
            let errors = String::from_utf8(said.stderr)?;
            ensure!(!said.status.success() && errors.contains(&says) && errors.contains("cd ~/work"), "{errors}");
        }
        ensure!(!directory.join("through").exists());
    }
    let mut command = world.command(&["run", "web", "--", "touch", "through"]);
    let said = command.current_dir(&shared).stdin(Stdio::null()).output()?;
    ensure!(said.status.success() && shared.join("through").exists(), "{said:?}");
    Ok(())
}

#[test]
fn a_resume_that_fails_leaves_the_bottle_frozen() -> Result<()> {
    let Some(world) = world("a resume that fails", "")? else { return Ok(()) };
    // A directory that goes away meanwhile.
    let shared = world.names.directory.join("shared");
    fs::create_dir(&shared)?;
    let mut bottle = start_counter(&world, &["--share", &shared.display().to_string()])?;
    assert_eq!(world.egress(&["freeze", "web"])?.code, 0);
    bottle.end()?;
    fs::remove_dir(&shared)?;
    let gone = resume(&world, &[])?.end()?;
    ensure!(gone.code == 1 && gone.errors.contains("shared, which it shares with the host, is not there"), "{gone:?}");
    fs::create_dir(&shared)?;
    // A layer that cannot be mounted.
    let (files, aside) = (kept(&world, "web").join("files"), kept(&world, "web").join("aside"));
    fs::rename(&files, &aside)?;
    fs::write(&files, "in the way")?;
    let failed = resume(&world, &[])?.end()?;
    ensure!(failed.code == 125 && failed.errors.contains("cannot hold what the bottle writes"), "{failed:?}");
    ensure!(failed.errors.contains("web is frozen") && is_frozen(&world, "web")?, "{failed:?}");
    fs::remove_file(&files)?;
    fs::rename(&aside, &files)?;
    assert_eq!(resume(&world, &[])?.end()?.code, 7);
    Ok(())
}
