//! A budget is gone: each SDK raises its error at once and does not try again.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use egress_userspace::domain::{CutCause, GateView};
use harness::clients::{self, Client, Line, Sdk};
use harness::world::PATIENCE;

use crate::{NODE_ANTHROPIC, NODE_OPENAI, PYTHON_ANTHROPIC, PYTHON_OPENAI, run, world};

const BUDGETS: &str = "budget:\n  claude: 5k\n  codex: 5k";
/// More than the answer takes, less than a second try, which the cut gate would leave without one.
const RAISED_WITHIN: Duration = Duration::from_secs(5);
/// Makes the SDKs say when they try again.
const LOGGED: &str = "export ANTHROPIC_LOG=info OPENAI_LOG=info;";

#[test]
fn anthropics_python_sdk_raises_at_once() -> Result<()> {
    check(PYTHON_ANTHROPIC, "PaymentRequiredError")
}

#[test]
fn openais_python_sdk_raises_at_once() -> Result<()> {
    check(PYTHON_OPENAI, "APIStatusError")
}

#[test]
fn anthropics_node_sdk_raises_at_once() -> Result<()> {
    check(NODE_ANTHROPIC, "PaymentRequiredError")
}

#[test]
fn openais_node_sdk_raises_at_once() -> Result<()> {
    check(NODE_OPENAI, "APIError")
}

/// Spends more than the budget, then is refused with this error.
fn check(client: Client, error: &str) -> Result<()> {
    let Some(world) = world(&format!("{client:?} refused"), client, BUDGETS)? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let done = run(&world, &mut bottle, client, LOGGED, &["refused"])?;
    let lines = clients::lines(&done.output)?;
    let [Line::Exchange(_), Line::Refused(refused)] = lines.as_slice() else { bail!("{}", done.output) };
    assert_eq!((refused.error.as_str(), refused.status), (error, 402), "{refused:?}");
    ensure!(refused.message.contains("is used up: 6,100 of 5,000 tokens"), "{refused:?}");
    ensure!(client.sdk == Sdk::OpenAi || refused.body["egress_reason"] == "budget_exhausted", "{refused:?}");
    ensure!(!done.output.to_lowercase().contains("retrying"), "it tries again: {}", done.output);
    ensure!(Duration::from_secs_f64(refused.seconds) < RAISED_WITHIN, "{refused:?}");
    // The refused request never left, and the reason has been heard.
    assert_eq!(world.served().len(), 1);
    world.until_gate("web", GateView::Cut(CutCause::Budget), PATIENCE)
}
