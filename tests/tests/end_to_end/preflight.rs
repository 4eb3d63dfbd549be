//! How a request's size is held against what is left, before it is sent.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::{Ending, GateView, Known, Tokens, Usage};
use harness::world::{Bottle, PATIENCE, World, until};

use crate::world;

/// A request of 60,000 words: more than the budget by anyone's estimate. No file holds it: bottles share `/tmp`.
const LARGE: &str = "words=$(seq -s ' ' 60000); printf \
    '{\"model\":\"%s\",\"max_tokens\":10,\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}' \
    \"$MODEL\" \"$words\" | curl -s -o /dev/null -w '%{http_code}' --max-time 20 \
    -H 'content-type: application/json' -d @- https://api.anthropic.com/v1/messages";

fn settings(preflight: &str) -> String {
    format!("preflight: {preflight}\nbudget:\n  claude: 50k")
}

/// The status of a large request that asks the provider for this.
fn large(bottle: &mut Bottle, model: &str) -> Result<u16> {
    Ok(bottle.sh(&format!("MODEL={model}; {LARGE}"))?.output.trim().parse()?)
}

/// Paths that the provider was asked.
fn asked(world: &World) -> Vec<String> {
    world.served().into_iter().map(|served| served.path).collect()
}

const COUNT: &str = "/v1/messages/count_tokens";
const MESSAGES: &str = "/v1/messages";

#[test]
fn exact_goes_by_what_the_provider_counts() -> Result<()> {
    let Some(world) = world("the provider counts", &settings("exact"))? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let refusal = bottle.ask("claude-test+count-60000")?;
    ensure!(refusal.status == 402 && refusal.body.contains("about 60,000 tokens"), "{refusal:?}");
    assert_eq!(asked(&world), [COUNT]);
    assert_eq!(world.bottle("web")?.gate, GateView::Open, "too large for what is left, which is not used up");
    assert_eq!(bottle.ask("claude-test+input-400+output-100")?.status, 200);
    assert_eq!(large(&mut bottle, "claude-test+count-100+input-400+output-100")?, 200);
    assert_eq!(asked(&world), [COUNT, COUNT, MESSAGES, COUNT, MESSAGES]);

    let rows = world.rows("web")?;
    let row =
        |target: &str| (format!("POST {target}"), if target == COUNT { Known::Unmetered } else { Known::Reported });
    let found: Vec<_> = rows.iter().map(|row| (row.target.clone(), row.known)).collect();
    assert_eq!(found, [COUNT, COUNT, MESSAGES, COUNT, MESSAGES].map(row));
    let question = rows.first().context("no row")?;
    assert_eq!((question.usage, question.ending, question.status), (Usage::default(), Ending::Complete, Some(200)));
    assert_eq!(question.request_id, world.served().first().map(|served| served.id.clone()));
    let spent: Tokens = rows.iter().map(|row| row.usage.total()).sum();
    assert_eq!(spent, Tokens(1_000));
    let budget = world.bottle("web")?.budgets.into_iter().find(|view| view.provider.as_str() == "claude");
    let used = budget.and_then(|view| view.chain.first().map(|state| state.used));
    assert_eq!(used, Some(Tokens(1_000)), "questions are spent by nobody");
    Ok(())
}

#[test]
fn exact_estimates_what_is_not_counted_and_waits_for_nobody() -> Result<()> {
    let Some(world) = world("a provider that does not count", &settings("exact"))? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    for trouble in ["count-status-500", "count-status-404", "count-garbage", "count-delay-30000"] {
        let begun = Instant::now();
        let answer = bottle.ask(&format!("claude-test+input-40+output-10+{trouble}"))?;
        assert_eq!(answer.status, 200, "{trouble}: {answer:?}");
        ensure!(begun.elapsed() < Duration::from_secs(4), "{trouble}: {:?}", begun.elapsed());
        assert_eq!(large(&mut bottle, &format!("claude-test+{trouble}"))?, 402, "{trouble}");
    }
    until("all questions are in the ledger", PATIENCE, || Ok(world.rows("web")?.len() == 12))?;
    let rows = world.rows("web")?;
    let questions: Vec<_> = rows.iter().filter(|row| row.known == Known::Unmetered).collect();
    ensure!(questions.len() == 8 && questions.iter().all(|row| row.ending == Ending::Error), "{questions:?}");
    assert_eq!(rows.iter().map(|row| row.usage.total()).sum::<Tokens>(), Tokens(4 * 50));
    Ok(())
}

#[test]
fn estimate_asks_nobody_and_off_looks_at_nothing() -> Result<()> {
    for (preflight, status) in [("estimate", 402), ("off", 200)] {
        let Some(world) = world("no question", &settings(preflight))? else { return Ok(()) };
        let mut bottle = world.shell("web", &[])?;
        assert_eq!(bottle.ask("claude-test+count-60000")?.status, 200, "{preflight}");
        assert_eq!(large(&mut bottle, "claude-test+count-100+input-50000")?, status, "{preflight}");
        ensure!(asked(&world).iter().all(|path| path == MESSAGES), "{preflight}: {:?}", asked(&world));
        if preflight == "off" {
            assert_eq!(bottle.ask("claude-test")?.status, 402, "the budget is used up");
        }
    }
    Ok(())
}
