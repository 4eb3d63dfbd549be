//! `crossing: sever`: a response ends where the budget does. And what a bottle is told of its budget.

use anyhow::{Result, ensure};
use egress_userspace::domain::{CutCause, Ending, GateView, Known, UsageRow};
use harness::world::{PATIENCE, World, curl, until};
use serde_json::Value;

use crate::world;

const CUT: GateView = GateView::Cut(CutCause::Budget);
/// Would go on for half a minute; at most 1,024 tokens of it are believed.
const ENDLESS: &str = "claude-test+input-100+output-20000+deltas-10000+delay-3";
/// What one delta is taken for at most, in tokens.
const DELTA_TOKENS_MAX: u64 = 16;

/// A message that a client takes for whole, cut short.
fn assert_truncated(body: &str) -> Result<()> {
    ensure!(body.contains("\"stop_reason\":\"max_tokens\""), "{body}");
    ensure!(body.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"), "{body}");
    let count = |text: &str| body.matches(text).count();
    assert_eq!(count("event: content_block_start"), count("event: content_block_stop"), "{body}");
    Ok(())
}

/// The rows of streams that were ended; returns their tokens.
fn ended(world: &World, rows: usize) -> Result<u64> {
    until("all is settled", PATIENCE, || Ok(world.rows("web")?.len() == rows))?;
    let rows = world.rows("web")?;
    let is_ended = |row: &UsageRow| (row.ending, row.known) == (Ending::Cut, Known::Partial);
    ensure!(rows.iter().all(is_ended), "{rows:?}");
    Ok(rows.iter().map(|row| row.usage.total().0).sum())
}

#[test]
fn a_response_ends_where_the_budget_does_and_the_next_hears_why() -> Result<()> {
    let Some(world) = world("sever", "budget:\n  claude: 600\ncrossing: sever\n")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let answer = bottle.ask(ENDLESS)?;
    assert_eq!((answer.status, answer.code), (200, 0), "{answer:?}");
    assert_truncated(&answer.body)?;
    let used = ended(&world, 1)?;
    ensure!((600..=600 + DELTA_TOKENS_MAX).contains(&used), "{used} of 600");
    let refusal = bottle.ask(ENDLESS)?;
    assert_eq!(refusal.status, 402, "{refusal:?}");
    world.until_gate("web", CUT, PATIENCE)
}

#[test]
fn streams_that_share_a_budget_end_together() -> Result<()> {
    const STREAMS: u64 = 16;
    const BUDGET: u64 = 8_000;
    let Some(world) = world("sever many", "budget:\n  claude: 8000\ncrossing: sever\n")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let one = curl(ENDLESS, true, "");
    let done = bottle.sh(&format!(
        "d=$(mktemp -d); for i in $(seq {STREAMS}); do {one} >$d/$i & done; wait; grep -c '\"max_tokens\"' $d/*; \
         grep -c 'event: message_stop' $d/*"
    ))?;
    let whole = done.output.lines().filter(|line| line.ends_with(":1")).count();
    assert_eq!(whole, 2 * usize::try_from(STREAMS)?, "{done:?}");
    let used = ended(&world, usize::try_from(STREAMS)?)?;
    println!("{STREAMS} streams: {} tokens over a budget of {BUDGET}", used.saturating_sub(BUDGET));
    ensure!((BUDGET..=BUDGET + STREAMS * DELTA_TOKENS_MAX).contains(&used), "{used} of {BUDGET}");
    world.until_gate("web", CUT, PATIENCE)
}

#[test]
fn a_bottle_is_told_what_is_left() -> Result<()> {
    let settings = "budget:\n  claude: 5000\nlast_word: 20s\nbottles:\n  web:\n    budget:\n      claude: 3k/day\n";
    let Some(world) = world("what is left", settings)? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let mut other = world.shell("other", &[])?;
    let budgets = "curl -s --max-time 5 -w '\\n%{http_code}' http://_egress.local/budget";
    let told = |output: &str| -> Result<(Value, String)> {
        let (body, status) = output.trim_end().rsplit_once('\n').unwrap_or((output, ""));
        Ok((serde_json::from_str(body)?, status.to_owned()))
    };
    assert_eq!(other.ask("claude-test+input-700+output-300")?.status, 200);
    let metered = bottle.sh(&curl("claude-test+input-400+output-600", true, "-i"))?.output.to_lowercase();
    let remaining = metered.lines().find_map(|line| line.strip_prefix("x-egress-budget-remaining: "));
    let remaining: u64 = remaining.unwrap_or_default().trim().parse()?;
    ensure!((2_000..3_000).contains(&remaining), "{remaining}: {metered}");
    let unmetered = bottle.sh("curl -si --max-time 5 https://api.anthropic.com/v1/models")?.output;
    ensure!(unmetered.starts_with("HTTP/") && !unmetered.contains("x-egress"), "{unmetered}");
    let (body, status) = told(&bottle.sh(budgets)?.output)?;
    assert_eq!((status.as_str(), body["bottle"].as_str()), ("200", Some("web")), "{body}");
    let claude = &body["budgets"][0];
    assert_eq!(
        (&claude["provider"], &claude["own"], &claude["remaining"]),
        (&"claude".into(), &1000.into(), &2000.into())
    );
    let [web, host] = claude["chain"].as_array().map(Vec::as_slice).unwrap_or_default() else {
        anyhow::bail!("{body}")
    };
    assert_eq!(
        (&web["window"], &web["used"], &web["left"], &web["binds"]),
        (&"day".into(), &1000.into(), &2000.into(), &true.into())
    );
    ensure!(web["turns"].is_number(), "{body}");
    assert_eq!((&host["limit"], &host["used"], &host["binds"]), (&5000.into(), &2000.into(), &false.into()));
    ensure!(!body.to_string().contains("other"), "{body}");
    // Used up, in its last word, and still answered; by way of the explicit proxy, too.
    assert_eq!(bottle.ask("claude-test+input-1500+output-600")?.status, 200);
    let by_proxy = format!("{budgets} --proxy http://{}:8080", world.status()?.gateway);
    for line in [budgets, by_proxy.as_str()] {
        until("the budget is used up", PATIENCE, || {
            let (body, status) = told(&bottle.sh(line)?.output)?;
            Ok(status == "200" && body["budgets"][0]["remaining"] == 0)
        })?;
    }
    let missing = bottle.sh("curl -s -o /dev/null -w '%{http_code}' http://_egress.local/x")?.output;
    assert_eq!(missing.trim(), "404");
    let tls = bottle.sh("curl -s --max-time 5 https://_egress.local/healthz")?;
    ensure!(tls.code == 0 && tls.output == "ok", "{tls:?}");
    assert_eq!(world.served().iter().filter(|served| served.path.contains("budget")).count(), 0);
    Ok(())
}
