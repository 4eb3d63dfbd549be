//! `egress top` in a real terminal, as a new user has it.

use std::fs;

use anyhow::{Context, Result, ensure};
use egress_userspace::control::ApprovalsReply;
use egress_userspace::domain::{BottleState, CutCause, GateView};
use harness::tmux::Tmux;
use harness::world::{Bottle, PATIENCE, World, curl, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::approvals::asked;
use crate::world;

const NARROW: (u16, u16) = (80, 24);
/// 1,000 tokens.
const REQUEST: &str = "claude-test+input-600+output-400+deltas-4";

/// An agent that asks and asks, whatever it is answered.
fn agent(world: &World, arguments: &[&str]) -> Result<Bottle> {
    let ask = curl(REQUEST, true, "-o /dev/null -w '%{http_code}\\n'").replace("--max-time 30", "--max-time 2");
    world.run("web", arguments, &format!("while :; do {ask}; sleep 0.3; done"))
}

fn top(world: &World, size: (u16, u16)) -> Result<Tmux> {
    let tmux = Tmux::open(&world.names.directory, size)?;
    tmux.type_egress("", &world.command(&["top"]))?;
    tmux.until_shown("enforcing by ebpf")?;
    Ok(tmux)
}

/// The shell is back, on a terminal that shows what is typed.
fn is_put_back(tmux: &Tmux) -> Result<()> {
    // Until then keys are the dashboard's.
    until("the dashboard ends", PATIENCE, || Ok(tmux.foreground()?.is_none()))?;
    tmux.type_line("echo sh''ell; stty -a")?;
    tmux.until("is the shell's again", |screen| {
        let has = |mode: &str| screen.split_whitespace().any(|word| word.trim_end_matches(';') == mode);
        screen.contains("\nshell\n") && has("icanon") && has("echo") && !screen.contains("enforcing by")
    })
}

/// The first quarter of an hour of somebody who has just installed it, in a minute.
#[test]
fn a_new_user_watches_cuts_restores_grants_freezes_and_resumes() -> Result<()> {
    let Some(world) = world("the dashboard", "last_word: 300ms\ndrain: 100ms")? else { return Ok(()) };
    let tmux = top(&world, NARROW)?;
    tmux.until_shown("There are no bottles. Start one:")?;
    let _agent = agent(&world, &["--agent", "reviewer", "--budget", "claude=9k"])?;
    tmux.until_line("web", "● running")?;
    tmux.until_line("web", "reviewer claude")?;
    tmux.until("shows a part of the budget used", |screen| screen.contains("k of 9k") && screen.contains("/min"))?;

    tmux.press("c")?;
    tmux.until_shown("web is cut (operator)")?;
    tmux.until_line("web", "■ cut")?;
    assert_eq!(world.bottle("web")?.gate, GateView::Cut(CutCause::Operator));
    tmux.press("r")?;
    tmux.until_shown("web is open")?;
    tmux.until_line("web", "● running")?;
    assert_eq!(world.bottle("web")?.gate, GateView::Open);

    tmux.until_line("web", "gone").context("the budget is used up")?;
    tmux.until_line("web", "■ cut")?;
    tmux.press("g")?;
    tmux.until_shown("claude of bottle web  (governs)")?;
    tmux.type_line("500k")?;
    tmux.until_shown("500,000 tokens more for claude of bottle web")?;
    tmux.until_line("web", "● running").context("what is granted opens the gate again")?;

    tmux.press("Enter")?;
    tmux.until_shown("● running as reviewer, cutoff when a budget is gone")?;
    tmux.until_shown("claude-test+")?;
    for (key, shown) in [("2", "launch flag"), ("3", "api.anthropic.com"), ("4", "Passed"), ("5", "restored")] {
        tmux.press(key)?;
        tmux.until_shown(shown)?;
    }
    tmux.press("Escape")?;
    tmux.until_shown("BUDGET USED")?;

    tmux.press("f")?;
    tmux.until_shown("Freeze web?")?;
    tmux.press("n")?;
    tmux.until_shown("web was not frozen")?;
    tmux.press("f")?;
    tmux.until_shown("Freeze web?")?;
    tmux.press("y")?;
    tmux.until_shown("web is frozen: u resumes it")?;
    tmux.until_line("web", "◇ frozen")?;
    assert_eq!(world.bottle("web")?.state, BottleState::Frozen);
    let before = world.rows("web")?.len();
    tmux.press("u")?;
    tmux.until_shown("web is resumed, its output goes to")?;
    tmux.until_line("web", "● running")?;
    until("it asks again", PATIENCE, || Ok(world.rows("web")?.len() > before))?;
    let log = world.names.directory.join("state/egress/web.log");
    until("it says so there", PATIENCE, || Ok(fs::read_to_string(&log)?.contains("200")))?;

    tmux.press("q")?;
    is_put_back(&tmux)?;
    ensure!(world.bottle("web")?.is_running, "it ended with the dashboard");
    tmux.type_egress("clear;", &world.command(&["top"]))?;
    tmux.until_line("web", "● running")?;
    tmux.press("k")?;
    tmux.until_shown("This cannot be undone.")?;
    tmux.press("y")?;
    tmux.until_shown("web is gone: nothing of it runs, its files are removed")?;
    tmux.until_shown("There are no bottles. Start one:")?;
    tmux.press("q")?;
    is_put_back(&tmux)
}

#[test]
fn a_daemon_that_dies_is_missed_and_found_again() -> Result<()> {
    let Some(mut world) = world("the dashboard without a daemon", "")? else { return Ok(()) };
    let mut web = world.shell("web", &["--budget", "claude=50k"])?;
    let tmux = top(&world, (160, 40))?;
    tmux.until_line("web", "● running")?;
    world.kill_daemon_and_proxy()?;
    tmux.until_shown("NO DAEMON since")?;
    tmux.until_shown("trying again")?;
    tmux.press("c")?;
    tmux.until_shown("there is no daemon to do that")?;
    ensure!(tmux.line("web")?.is_some(), "what was known is not shown: {}", tmux.screen()?);
    tmux.resize(60, 15)?;
    tmux.until_shown("egress top needs 80 columns")?;
    tmux.resize(100, 30)?;
    tmux.until_shown("NO DAEMON since")?;
    world.start_daemon()?;
    tmux.until("shows no alarm any more", |screen| !screen.contains("NO DAEMON"))?;
    tmux.until_shown("enforcing by ebpf")?;
    assert_eq!(web.ask(REQUEST)?.status, 200);
    tmux.until_line("web", "2%").context("what is used meanwhile is told")?;

    // A terminal is put back after a signal, too.
    kill(Pid::from_raw(tmux.foreground()?.context("nothing runs")?), Signal::SIGTERM)?;
    is_put_back(&tmux)?;
    world.kill_daemon_and_proxy()?;
    tmux.type_egress("clear; NO_COLOR=1 LC_ALL=C", &world.command(&["top"]))?;
    tmux.until_shown("! NO DAEMON since")?;
    tmux.press("C-c")?;
    is_put_back(&tmux)
}

#[test]
fn a_daemon_that_hangs_is_missed_and_found_again() -> Result<()> {
    let Some(world) = world("the dashboard and a daemon that hangs", "")? else { return Ok(()) };
    let mut web = world.shell("web", &["--budget", "claude=50k"])?;
    let tmux = top(&world, NARROW)?;
    tmux.until_line("web", "● running")?;
    let daemon = Pid::from_raw(world.status()?.pid.cast_signed());
    kill(daemon, Signal::SIGSTOP)?;
    tmux.until_shown("NO DAEMON since")?;
    kill(daemon, Signal::SIGCONT)?;
    tmux.until("shows no alarm any more", |screen| !screen.contains("NO DAEMON"))?;
    assert_eq!(web.ask(REQUEST)?.status, 200);
    tmux.until_line("web", "2%")
}

#[test]
fn requests_that_wait_are_decided() -> Result<()> {
    let Some(world) = world("approvals in the dashboard", "")? else { return Ok(()) };
    let _web = world.shell("web", &[])?;
    let ids = [asked(&world, "a.example", 1)?, asked(&world, "b.example", 2)?];
    let tmux = top(&world, NARROW)?;
    tmux.until_shown("2 approvals (a)")?;
    tmux.press("a")?;
    tmux.until_shown("web wants to send what aws_key found to a.example")?;
    tmux.press("y")?;
    tmux.until_shown(&format!("question {} of web is approved", ids[0]))?;
    tmux.until_shown("1 request waits for an operator")?;
    tmux.press("n")?;
    tmux.until_shown("no question is chosen")?;
    tmux.press("Down")?;
    tmux.until_shown("web wants to send what aws_key found to b.example")?;
    tmux.press("N")?;
    tmux.until_shown(&format!("question {} of web is denied, and the same value from now on", ids[1]))?;
    tmux.until_shown("Nothing waits.")?;
    let left: ApprovalsReply = world.json(&["approvals", "list"])?;
    assert_eq!(left.approvals, []);
    Ok(())
}

#[test]
fn without_a_terminal_or_a_permission_it_says_so() -> Result<()> {
    let Some(world) = world("the dashboard without a terminal", "")? else { return Ok(()) };
    let said = world.egress(&["top"])?;
    ensure!(said.code == 1 && said.errors.contains("`egress list`"), "{said:?}");
    let tmux = Tmux::open(&world.names.directory, NARROW)?;
    tmux.type_egress("TERM=dumb", &world.command(&["top"]))?;
    tmux.until_shown("`egress list` shows the")?;
    ensure!(world.as_nobody(&["list"])?.code == 4, "nobody may");
    let nobody = world.names.directory.join("egress");
    let line = format!("clear; setpriv --reuid 65534 --clear-groups --regid 65534 {}", nobody.display());
    tmux.type_line(&format!("{line} --run-dir {} top; echo code $?", world.names.run.display()))?;
    tmux.until_shown("you may not control egress through")?;
    tmux.until_shown("code 4")?;
    Ok(())
}
