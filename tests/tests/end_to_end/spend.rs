//! A budget is spent, crossed, and enforced.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::{AuditKind, CutCause, Ending, GateView, Known, Scope, Tokens};
use harness::world::{Bottle, PATIENCE, World, curl, until};
use serde_json::{Value, json};

use crate::world;

const CUT: GateView = GateView::Cut(CutCause::Budget);
/// 1,100 tokens.
const REQUEST: &str = "claude-test+input-400+cache-read-200+cache-write-100+output-400+deltas-10";
const REQUEST_TOKENS: u64 = 1_100;
/// More than a budget of 5,000.
const LARGE: &str = "claude-test+input-5500+output-500+deltas-5";

/// Spends until the budget of 5,000 is crossed, and hears why the next request is refused.
fn spend(world: &World, bottle: &mut Bottle, name: &str, scope: &Value) -> Result<()> {
    let mut used = 0;
    while used < 5_000 {
        let answer = bottle.ask(REQUEST)?;
        ensure!(answer.status == 200, "{answer:?}");
        ensure!(answer.body.contains("event: message_stop"), "not whole: {answer:?}");
        used += REQUEST_TOKENS;
        let rows = world.rows(name)?;
        let row = rows.last().context("no row")?;
        assert_eq!(
            (row.known, row.ending, row.usage.total()),
            (Known::Reported, Ending::Complete, Tokens(REQUEST_TOKENS))
        );
        let columns = [row.usage.input, row.usage.cache_write, row.usage.cache_read, row.usage.output];
        assert_eq!(columns, [400, 100, 200, 400].map(Tokens));
    }
    let refusal = bottle.ask(REQUEST)?;
    assert_eq!(refusal.status, 402, "{refusal:?}");
    let body: Value = serde_json::from_str(&refusal.body)?;
    assert_eq!(body["type"], "error");
    assert_eq!(body["error"]["type"], "billing_error");
    assert_eq!(body["egress_reason"], "budget_exhausted");
    assert_eq!((&body["scope"], &body["budget"], &body["used"]), (scope, &json!(5_000), &json!(used)));
    ensure!(body["error"]["message"].as_str().is_some_and(|text| text.contains("5,500 of 5,000")), "{body}");
    Ok(())
}

/// What the audit holds of a crossing, in that order: budget, used, scope, request.
fn assert_audited(world: &World, name: &str, scope: &Scope, used: u64) -> Result<()> {
    let audit = world.audit(Some(name))?;
    let request = world.served().last().map(|served| served.id.clone());
    let crossed = AuditKind::BudgetCrossed {
        scope: scope.clone(),
        provider: "claude".parse()?,
        budget: Tokens(5_000),
        used: Tokens(used),
        held: Tokens::ZERO,
        request,
    };
    let crossing = audit.iter().position(|kind| *kind == crossed).with_context(|| format!("{audit:?}"))?;
    let cut = audit.iter().position(|kind| *kind == AuditKind::GateCut { cause: CutCause::Budget });
    ensure!(cut.is_some_and(|cut| cut > crossing), "{audit:?}");
    Ok(())
}

/// Nothing answers, not even with a reset.
fn assert_silence(bottle: &mut Bottle) -> Result<()> {
    let done = bottle.sh(&curl(REQUEST, false, "--connect-timeout 1 --max-time 2"))?;
    ensure!(matches!(done.code, 6 | 28) && done.output.is_empty(), "{done:?}");
    Ok(())
}

#[test]
fn the_hosts_budget_is_spent_and_enforced() -> Result<()> {
    let Some(world) = world("the host's budget", "budget:\n  claude: 5k")? else { return Ok(()) };
    let mut bottle = world.shell("web", &["--agent", "reviewer"])?;
    spend(&world, &mut bottle, "web", &json!("host"))?;
    world.until_gate("web", CUT, PATIENCE)?;
    assert_silence(&mut bottle)?;
    assert_audited(&world, "web", &Scope::Host, 5_500)?;
    let listed = world.bottle("web")?;
    ensure!(listed.is_running && listed.dropped_packets > 0, "{listed:?}");
    let table = world.egress(&["list"])?.output;
    ensure!(table.contains("cut (budget)") && table.contains("claude 5,500 / 5,000 (host)"), "{table}");
    // Five passed, the refused one never left.
    assert_eq!(world.served().len(), 5);
    // Another bottle of the host spends from the same budget.
    let mut other = world.shell("other", &[])?;
    assert_eq!(other.ask(REQUEST)?.status, 402);
    world.until_gate("other", CUT, PATIENCE)
}

#[test]
fn a_runs_own_budget_is_spent_and_lifted_by_a_larger_one() -> Result<()> {
    let Some(world) = world("a run's own budget", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &["--budget", "claude=5k"])?;
    spend(&world, &mut bottle, "web", &json!("bottle"))?;
    world.until_gate("web", CUT, PATIENCE)?;
    assert_audited(&world, "web", &Scope::Bottle("web".parse()?), 5_500)?;
    assert_eq!(bottle.end()?.code, 0);
    let again = world.run("web", &["--budget", "claude=5k"], "true")?.end()?;
    ensure!(again.code == 1 && again.errors.contains("bottle web is still cut (budget)"), "{again:?}");
    ensure!(again.errors.contains("egress restore web") && again.errors.contains("larger --budget"), "{again:?}");
    ensure!(world.bottle("web")?.gate == CUT, "ended bottles that are cut are listed");
    let mut larger = world.shell("web", &["--budget", "claude=50k"])?;
    assert_eq!(larger.ask(REQUEST)?.status, 200);
    ensure!(world.bottle("web")?.gate == GateView::Open, "the larger budget opened it");
    ensure!(world.audit(Some("web"))?.contains(&AuditKind::GateRestored), "and the audit says so");
    Ok(())
}

#[test]
fn restoring_says_what_will_happen_and_it_does() -> Result<()> {
    let Some(world) = world("restore", "budget:\n  claude: 5000\ndrain: 200ms\nlast_word: 300ms")? else {
        return Ok(());
    };
    let mut bottle = world.shell("web", &[])?;
    assert_eq!(bottle.ask(LARGE)?.status, 200);
    world.until_gate("web", CUT, PATIENCE)?;
    let restored = world.egress(&["restore", "web"])?;
    assert_eq!((restored.code, restored.output.as_str()), (0, "web is open\n"));
    ensure!(restored.errors.contains("the claude budget of host is still used up (6,000 of 5,000)"), "{restored:?}");
    assert_eq!(bottle.ask(REQUEST)?.status, 402);
    world.until_gate("web", CUT, PATIENCE)
}

#[test]
fn a_silent_bottle_is_cut_when_the_bounds_have_passed() -> Result<()> {
    let bounds = "budget:\n  claude: 5000\ndrain: 200ms\nlast_word: 300ms";
    let Some(world) = world("a silent bottle", bounds)? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let answer = bottle.ask(LARGE)?;
    ensure!(answer.status == 200 && answer.body.contains("event: message_stop"), "{answer:?}");
    let crossed = Instant::now();
    world.until_gate("web", CUT, PATIENCE)?;
    // Half a second, and what a busy machine adds to it.
    ensure!(crossed.elapsed() < Duration::from_secs(4), "cut after {:?}", crossed.elapsed());
    assert_silence(&mut bottle)?;
    until("the audit tells it", PATIENCE, || Ok(assert_audited(&world, "web", &Scope::Host, 6_000).is_ok()))?;
    assert_audited(&world, "web", &Scope::Host, 6_000)
}

#[test]
fn without_bounds_the_crossing_cuts() -> Result<()> {
    let Some(world) = world("no bounds", "budget:\n  claude: 5000\ndrain: 0\nlast_word: 0")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    bottle.begin(&curl(LARGE, true, "--max-time 5"))?;
    world.until_gate("web", CUT, PATIENCE)?;
    bottle.end_of_command(PATIENCE)?;
    assert_silence(&mut bottle)?;
    assert_audited(&world, "web", &Scope::Host, 6_000)?;
    let rows = world.rows("web")?;
    ensure!(rows.len() == 1 && rows[0].usage.total() == Tokens(6_000), "{rows:?}");
    Ok(())
}
