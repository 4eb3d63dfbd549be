//! A budget is gone: each SDK raises its error at once and does not try again.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use egress_userspace::domain::{CutCause, GateView};
use harness::clients::{self, Client, Line, Refused};
use harness::world::PATIENCE;

use crate::{NODE_ANTHROPIC, NODE_OPENAI, PYTHON_ANTHROPIC, PYTHON_OPENAI, run, world};

const BUDGETS: &str = "budget:\n  claude: 5k\n  codex: 5k";
/// More than the answer takes, less than a second try, which the cut gate would leave without one.
const RAISED_WITHIN: Duration = Duration::from_secs(5);
/// Makes the SDKs say when they try again.
const LOGGED: &str = "export ANTHROPIC_LOG=info OPENAI_LOG=info;";

/// Ways in which a client asks: how many there are.
const ANTHROPIC_PYTHON_WAYS: usize = 2 * 3;
const ANTHROPIC_NODE_WAYS: usize = 3;
const OPENAI_PYTHON_WAYS: usize = 2 * 7;
const OPENAI_NODE_WAYS: usize = 7;

#[test]
fn anthropics_python_sdk_raises_at_once() -> Result<()> {
    check(PYTHON_ANTHROPIC, "PaymentRequiredError", &[])
}

#[test]
fn openais_python_sdk_raises_at_once() -> Result<()> {
    // A WebSocket is not opened on a budget that is gone.
    check(PYTHON_OPENAI, "APIStatusError", &[("InvalidStatus", 426)])
}

#[test]
fn anthropics_node_sdk_raises_at_once() -> Result<()> {
    check(NODE_ANTHROPIC, "PaymentRequiredError", &[])
}

#[test]
fn openais_node_sdk_raises_at_once() -> Result<()> {
    check(NODE_OPENAI, "APIError", &[])
}

/// Spends more than the budget, then is refused with this error, after these.
fn check(client: Client, error: &str, before: &[(&str, u16)]) -> Result<()> {
    let Some(world) = world(&format!("{client:?} refused"), client, BUDGETS)? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let done = run(&world, &mut bottle, client, LOGGED, &["refused"])?;
    let lines = clients::lines(&done.output)?;
    let [Line::Exchange(_), others @ .., Line::Refused(refused)] = lines.as_slice() else { bail!("{}", done.output) };
    assert_eq!((refused.error.as_str(), refused.status), (error, 402), "{refused:?}");
    ensure!(refused.message.contains("is used up: 6,100 of 5,000 tokens"), "{refused:?}");
    check_raised(&done.output, refused)?;
    assert_eq!(errors(others)?, before);
    // The refused request never left, and the reason has been heard.
    assert_eq!(world.served().len(), 1);
    world.until_gate("web", GateView::Cut(CutCause::Budget), PATIENCE)
}

#[test]
fn anthropics_python_sdk_raises_in_every_way() -> Result<()> {
    check_every_way(PYTHON_ANTHROPIC, ANTHROPIC_PYTHON_WAYS)
}

#[test]
fn openais_python_sdk_raises_in_every_way() -> Result<()> {
    check_every_way(PYTHON_OPENAI, OPENAI_PYTHON_WAYS)
}

#[test]
fn anthropics_node_sdk_raises_in_every_way() -> Result<()> {
    check_every_way(NODE_ANTHROPIC, ANTHROPIC_NODE_WAYS)
}

#[test]
fn openais_node_sdk_raises_in_every_way() -> Result<()> {
    check_every_way(NODE_OPENAI, OPENAI_NODE_WAYS)
}

/// Blocking, async, streamed or not: what does not fit is refused, and the gate stays open.
fn check_every_way(client: Client, ways: usize) -> Result<()> {
    let Some(world) = world(&format!("{client:?} in every way"), client, BUDGETS)? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let done = run(&world, &mut bottle, client, LOGGED, &["too_large"])?;
    let lines = clients::lines(&done.output)?;
    assert_eq!(lines.len(), ways, "{}", done.output);
    for line in &lines {
        let Line::Refused(refused) = line else { bail!("not refused: {line:?}") };
        // Whoever speaks Responses, as Codex does, hears it with the status that Codex heeds.
        assert_eq!(refused.status, if refused.way.starts_with("responses") { 400 } else { 402 }, "{refused:?}");
        ensure!(refused.message.contains("do not fit in the 5,000 tokens"), "{refused:?}");
        check_raised(&done.output, refused)?;
    }
    ensure!(world.served().is_empty() && world.rows("web")?.is_empty(), "a refused request left");
    assert_eq!(world.bottle("web")?.gate, GateView::Open);
    Ok(())
}

#[test]
fn openais_python_sdk_hears_it_on_an_open_socket() -> Result<()> {
    let Some(world) = world("OpenAI's SDK refused on a WebSocket", PYTHON_OPENAI, BUDGETS)? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let done = run(&world, &mut bottle, PYTHON_OPENAI, LOGGED, &["too_large_socket"])?;
    let lines = clients::lines(&done.output)?;
    assert_eq!(errors(&lines)?, [("response.failed", 101); 2], "{}", done.output);
    for line in &lines {
        let Line::Refused(refused) = line else { bail!("not refused: {line:?}") };
        ensure!(refused.message.contains("do not fit in the 5,000 tokens"), "{refused:?}");
        ensure!(refused.body["response"]["error"]["code"] == "invalid_prompt", "{refused:?}");
        check_raised(&done.output, refused)?;
    }
    ensure!(world.served().iter().all(|served| served.status == 101), "a refused request left");
    Ok(())
}

/// The error says why, to machines too, and came at the first try.
fn check_raised(output: &str, refused: &Refused) -> Result<()> {
    let body = &refused.body;
    ensure!(body["egress_reason"] == "budget_exhausted" && body["scope"] == "host", "{refused:?}");
    ensure!(body["budget"] == 5_000 && body["used"].is_u64(), "{refused:?}");
    ensure!(!output.to_lowercase().contains("retrying"), "it tries again: {output}");
    ensure!(Duration::from_secs_f64(refused.seconds) < RAISED_WITHIN, "{refused:?}");
    Ok(())
}

fn errors(lines: &[Line]) -> Result<Vec<(&str, u16)>> {
    let mut errors = Vec::new();
    for line in lines {
        let Line::Refused(refused) = line else { bail!("not refused: {line:?}") };
        errors.push((refused.error.as_str(), refused.status));
    }
    Ok(errors)
}
