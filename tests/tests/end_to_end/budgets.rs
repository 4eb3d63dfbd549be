//! Chains of scopes, many requests at once, and budgets that change while bottles run.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_userspace::control::{BudgetsReply, ExplainReply};
use egress_userspace::domain::{AuditKind, CutCause, GateView, LimitSource, Scope, ScopeState, Tokens};
use harness::world::{Bottle, PATIENCE, World, until};
use nix::sys::signal::Signal;

use crate::world;

const CUT: GateView = GateView::Cut(CutCause::Budget);
/// 1,100 tokens.
const REQUEST: &str = "claude-test+input-400+cache-read-200+cache-write-100+output-400+deltas-10";

fn explain(world: &World, bottle: &str) -> Result<Vec<ScopeState>> {
    let reply: ExplainReply = world.json(&["budget", "explain", bottle])?;
    Ok(reply.budgets.into_iter().find(|view| view.provider.as_str() == "claude").context("nothing of claude")?.chain)
}

fn used(chain: &[ScopeState]) -> Vec<(String, u64, bool)> {
    chain.iter().map(|state| (state.scope.to_string(), state.used.0, state.binds)).collect()
}

fn spend(bottle: &mut Bottle, requests: usize) -> Result<()> {
    for _ in 0..requests {
        let answer = bottle.ask(REQUEST)?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    Ok(())
}

/// Two agents in two bottles with a common parent: what each spends counts for all above it, and the budget they share ends
/// the work of both.
#[test]
fn two_agents_share_budgets_along_their_chains() -> Result<()> {
    let settings = "budget:\n  claude: 5k\nlast_word: 500ms\nagents:\n  reviewer:\n    budget:\n      codex: 1M\n\
                    bottles:\n  web:\n    extends: base\n  api:\n    extends: base\n  base:\n    extends: root\n  root:";
    let Some(world) = world("a chain of scopes", settings)? else { return Ok(()) };
    let (mut web, mut api) =
        (world.shell("web", &["--agent", "reviewer"])?, world.shell("api", &["--agent", "writer"])?);
    spend(&mut web, 3)?;
    spend(&mut api, 1)?;
    let told = |name: &str, agent: &str, own: u64| {
        let mut expected = vec![(format!("agent {agent}"), own), (format!("bottle {name}"), own)];
        expected.extend([
            ("bottle base".to_owned(), 4_400),
            ("bottle root".to_owned(), 4_400),
            ("host".to_owned(), 4_400),
        ]);
        expected.into_iter().map(|(scope, used)| (scope.clone(), used, scope == "host")).collect::<Vec<_>>()
    };
    assert_eq!(used(&explain(&world, "web")?), told("web", "reviewer", 3_300));
    assert_eq!(used(&explain(&world, "api")?), told("api", "writer", 1_100));
    let text = world.egress(&["budget", "explain", "web"])?.output;
    for part in [
        "web counts for agent reviewer -> bottle web -> bottle base -> bottle root -> host",
        "claude: host governs, the nearest scope that says something",
    ] {
        ensure!(text.contains(part), "{text}");
    }
    spend(&mut api, 1)?;
    // The one that crossed and the one that did not are both told why, and cut.
    for bottle in [&mut web, &mut api] {
        let refusal = bottle.ask(REQUEST)?;
        ensure!(refusal.status == 402 && refusal.body.contains("5,500 of 5,000"), "{refusal:?}");
    }
    for name in ["web", "api"] {
        world.until_gate(name, CUT, PATIENCE)?;
    }
    assert_eq!(world.served().len(), 5);
    assert_eq!(world.usage()?.sums.iter().map(|sum| sum.usage.total().0).collect::<Vec<_>>(), [2_200, 3_300]);
    let text = world.egress(&["budget", "explain", "web"])?.output;
    ensure!(text.contains("the budget of host is used up") && text.contains("over by 500"), "{text}");
    Ok(())
}

#[test]
fn strict_precedence_makes_the_hosts_budget_a_hard_cap() -> Result<()> {
    let settings = "budget:\n  claude: 2k\nprecedence: strict\nlast_word: 500ms";
    let Some(world) = world("strict precedence", settings)? else { return Ok(()) };
    let mut web = world.shell("web", &["--budget", "claude=1M"])?;
    spend(&mut web, 2)?;
    let refusal = web.ask(REQUEST)?;
    ensure!(refusal.status == 402 && refusal.body.contains("\"scope\":\"host\""), "{refusal:?}");
    world.until_gate("web", CUT, PATIENCE)
}

/// 256 requests at once, and their status codes.
fn at_once(bottle: &mut Bottle, model: &str) -> Result<Vec<u16>> {
    let body = format!(r#"{{"model":"{model}","max_tokens":{CAP},"stream":true,"messages":[]}}"#);
    let line = format!(
        "curl -sZ --parallel-immediate --parallel-max 256 --max-time 30 -o /dev/null -w '%{{http_code}}\\n' \
         'https://api.anthropic.com/v1/messages?n=[1-256]' -H 'content-type: application/json' -d '{body}' 2>/dev/null"
    );
    let done = bottle.sh(&line)?;
    let codes: Vec<u16> = done.output.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(codes.len() == 256, "{done:?}");
    Ok(codes)
}

/// What became of them, for whoever compares.
#[expect(clippy::print_stdout, reason = "--nocapture shows it")]
fn tell(world: &World, way: &str, codes: &[u16]) -> Result<()> {
    let host = explain(world, "web")?.pop().context("no host")?;
    let (sent, refused) = (world.served().len(), count(codes, 402));
    println!("{way}: {sent} sent, {refused} refused, {} of {:?} used", host.used, host.limit.map(|limit| limit.0));
    Ok(())
}

fn count(codes: &[u16], wanted: u16) -> usize {
    codes.iter().filter(|code| **code == wanted).count()
}

/// Each of the requests may use 10,000 tokens and does; the budget is for five.
const WHOLE: &str = "claude-test+input-5+output-10000+deltas-20+delay-20";
/// The same for twenty that are on their way together before the first ends, however long their beginning takes.
const TOGETHER: &str = "claude-test+together-20+input-5+output-10000+deltas-20+delay-20";
const CAP: u64 = 10_000;

#[test]
fn of_256_at_once_exactly_those_that_fit_are_sent() -> Result<()> {
    let Some(world) = world("256 at once", "budget:\n  claude: 55k\npreflight: strict")? else { return Ok(()) };
    let mut web = world.shell("web", &[])?;
    let codes = at_once(&mut web, WHOLE)?;
    assert_eq!((count(&codes, 200), count(&codes, 402)), (5, 251), "{codes:?}");
    tell(&world, "strict", &codes)?;
    assert_eq!(world.served().len(), 5, "counted at the provider");
    let host = explain(&world, "web")?.pop().context("no host")?;
    assert_eq!((host.used, host.held), (Tokens(5 * 10_005), Tokens::ZERO));
    ensure!(world.bottle("web")?.gate == GateView::Open, "a budget that is too small for a request is not used up");
    Ok(())
}

#[test]
fn of_256_at_once_exactly_those_that_fit_every_scope_are_sent() -> Result<()> {
    let settings = "budget:\n  claude: 500k\nprecedence: strict\npreflight: strict\nagents:\n  reviewer:\n    budget:\n      \
                    claude: 85k\nbottles:\n  web:\n    extends: base\n  base:\n    budget:\n      claude: 55k";
    let Some(world) = world("256 at once, four scopes", settings)? else { return Ok(()) };
    let mut web = world.shell("web", &["--agent", "reviewer", "--budget", "claude=75k"])?;
    let codes = at_once(&mut web, WHOLE)?;
    assert_eq!((count(&codes, 200), count(&codes, 402)), (5, 251), "{codes:?}");
    tell(&world, "strict, four scopes", &codes)?;
    assert_eq!(world.served().len(), 5, "counted at the provider");
    for state in explain(&world, "web")? {
        assert_eq!((state.used, state.held, state.binds), (Tokens(5 * 10_005), Tokens::ZERO, true), "{state:?}");
    }
    Ok(())
}

/// Beside the two above: what the same load does to a budget that is only looked at when it is used up. What goes over is
/// what was in flight, and is told.
#[test]
fn without_a_look_ahead_the_overshoot_is_what_was_in_flight() -> Result<()> {
    let settings = "budget:\n  claude: 55k\npreflight: off\nlast_word: 500ms";
    let Some(world) = world("256 at once, not looked at", settings)? else { return Ok(()) };
    let mut web = world.shell("web", &[])?;
    let codes = at_once(&mut web, TOGETHER)?;
    let sent = world.served().len();
    ensure!(sent >= 20, "{sent} sent, {codes:?}");
    let settled = || Ok(explain(&world, "web")?.pop().context("no host")?.held == Tokens::ZERO);
    until("all is settled", PATIENCE, settled)?;
    tell(&world, "off", &codes)?;
    let crossed = |kind: &AuditKind| matches!(kind, AuditKind::BudgetCrossed { held, .. } if *held > Tokens::ZERO);
    let told = || Ok(world.audit(Some("web"))?.iter().any(crossed));
    until("what is in flight is told with the crossing", PATIENCE, told)?;
    let overshot = |kind: &AuditKind| matches!(kind, AuditKind::BudgetOvershot { used, .. } if used.0 > 55_000);
    until("the overshoot is told", PATIENCE, || Ok(world.audit(Some("web"))?.iter().any(overshot)))
}

#[test]
fn operators_change_budgets_at_once() -> Result<()> {
    let settings = "budget:\n  claude: 2k\nlast_word: 300ms\ndrain: 200ms";
    let Some(world) = world("budgets changed at run time", settings)? else { return Ok(()) };
    let mut web = world.shell("web", &[])?;
    spend(&mut web, 2)?;
    assert_eq!(web.ask(REQUEST)?.status, 402);
    world.until_gate("web", CUT, PATIENCE)?;

    let granted: BudgetsReply = world.json(&["budget", "grant", "claude=3k", "--ttl", "3s"])?;
    let state = &granted.scopes[0].state;
    assert_eq!((state.limit, state.granted, &state.scope), (Some(Tokens(5_000)), Tokens(3_000), &Scope::Host));
    assert_eq!(world.bottle("web")?.gate, GateView::Open, "the cut is lifted when the command returns");
    spend(&mut web, 1)?;
    // 3,300 of 2,000 when the grant is over.
    world.until_gate("web", CUT, PATIENCE)?;

    let set: BudgetsReply = world.json(&["budget", "set", "claude=1M/day", "--bottle", "web"])?;
    assert_eq!(set.scopes[0].state.source, Some(LimitSource::Operator));
    ensure!(set.scopes[0].state.turns.is_some(), "{set:?}");
    assert_eq!(world.bottle("web")?.gate, GateView::Open);
    spend(&mut web, 1)?;
    assert_eq!(world.egress(&["budget", "clear", "--bottle", "web"])?.code, 0);
    world.until_gate("web", CUT, PATIENCE)?;

    for (arguments, said) in [
        (&["budget", "set", "cluade=1"][..], "there is no provider cluade"),
        (&["budget", "grant", "codex=1k"], "egress budget set codex=AMOUNT"),
        (&["budget", "grant", "claude=1k/day"], "without a window"),
        (&["budget", "clear", "--agent", "nobody"], "nothing was set or granted for agent nobody"),
        (&["budget", "explain", "nobody"], "there is no bottle nobody"),
    ] {
        let refused = world.egress(arguments)?;
        ensure!(refused.code != 0 && refused.errors.contains(said), "{refused:?}");
    }
    let kinds = world.audit(None)?;
    let of_budgets: Vec<&AuditKind> = kinds
        .iter()
        .filter(|kind| !matches!(kind, AuditKind::DaemonStarted { .. } | AuditKind::ProxyRestarted { .. }))
        .collect();
    ensure!(
        matches!(
            of_budgets.as_slice(),
            [
                AuditKind::BudgetGranted { by: 0, until: Some(_), .. },
                AuditKind::GrantEnded { .. },
                AuditKind::BudgetSet { .. },
                AuditKind::BudgetCleared { .. },
            ]
        ),
        "{of_budgets:?}"
    );
    Ok(())
}

#[test]
fn an_operators_cut_is_lifted_by_no_budget() -> Result<()> {
    let Some(world) = world("a cut by an operator", "budget:\n  claude: 2k")? else { return Ok(()) };
    let _web = world.shell("web", &[])?;
    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    assert_eq!(world.egress(&["budget", "set", "claude=1M"])?.code, 0);
    assert_eq!(world.bottle("web")?.gate, GateView::Cut(CutCause::Operator));
    Ok(())
}

#[test]
fn little_that_is_left_is_told() -> Result<()> {
    let Some(world) = world("thresholds", "budget:\n  claude: 2400\nthresholds: 40, 90")? else { return Ok(()) };
    let mut web = world.shell("web", &[])?;
    spend(&mut web, 2)?;
    let told: Vec<(u8, u64)> = world
        .audit(Some("web"))?
        .into_iter()
        .filter_map(|kind| {
            let AuditKind::BudgetUsed { percent, used, .. } = kind else { return None };
            Some((percent, used.0))
        })
        .collect();
    assert_eq!(told, [(40, 1_100), (90, 2_200)]);
    let log = fs::read_to_string(&world.names.log)?;
    ensure!(log.contains("90 % of a budget are used"), "{log}");
    let table = world.egress(&["list"])?.output;
    ensure!(table.contains("2,200 / 2,400 (host) 91 %"), "{table}");
    Ok(())
}

/// A connection that was open before goes on, and its next request is decided by what is in force then.
#[test]
fn settings_are_read_anew_and_bad_ones_change_nothing() -> Result<()> {
    let Some(world) = world("settings that change", "budget:\n  claude: 2k\nlast_word: 300ms")? else { return Ok(()) };
    let mut web = world.shell("web", &[])?;
    web.begin(&harness::world::curl("claude-test+deltas-400+delay-20+output-5+input-5", true, ""))?;
    web.until_output("text_delta")?;
    let check = |code: i32, text: &str| -> Result<()> {
        let home = world.names.home.display().to_string();
        let said = world.egress(&["settings", "check", "--home", &home])?;
        ensure!(said.code == code && (said.output + &said.errors).contains(text), "{text}");
        Ok(())
    };
    check(0, "settings.yml is sound")?;
    world.write_settings("budget:\n  claude: 1_000k\n")?;
    let limit = || Ok::<_, anyhow::Error>(explain(&world, "web")?.pop().and_then(|state| state.limit));
    until("the new budget is in force", PATIENCE, || Ok(limit()? == Some(Tokens(1_000_000))))?;
    ensure!(world.audit(None)?.contains(&AuditKind::SettingsReloaded), "not in the audit");

    world.write_settings("budget:\n  claude: 5x\n")?;
    let complains =
        || Ok(world.status()?.settings_problem.is_some_and(|problem| problem.contains("settings.yml:2:11")));
    until("the bad file is complained about", PATIENCE, complains)?;
    ensure!(world.egress(&["list"])?.errors.contains("settings.yml is not in force"), "list is silent");
    check(1, "settings.yml:2:11: \"5x\" is not an amount of tokens")?;
    assert_eq!(limit()?, Some(Tokens(1_000_000)), "the settings of before are in force");

    fs::remove_file(world.names.home.join("settings.yml"))?;
    let is_missed = || Ok(world.status()?.settings_problem.is_some_and(|problem| problem.contains("is gone")));
    until("the missing file is complained about", PATIENCE, is_missed)?;
    assert_eq!(limit()?, Some(Tokens(1_000_000)), "the settings of before are in force");

    world.write_settings("budget:\n  claude: 3k\n")?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(world.status()?.pid)?);
    nix::sys::signal::kill(pid, Signal::SIGHUP)?;
    until("the mended file is in force", PATIENCE, || Ok(limit()? == Some(Tokens(3_000))))?;
    ensure!(world.status()?.settings_problem.is_none(), "it still complains");
    let done = web.end_of_command(Duration::from_secs(60))?;
    ensure!(done.code == 0 && done.output.contains("message_stop"), "the stream did not outlive the changes: {done:?}");
    Ok(())
}
