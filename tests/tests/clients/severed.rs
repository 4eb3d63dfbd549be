//! A budget ends in the middle of a stream: to each SDK that is a message which was cut short, and no error.

use anyhow::{Result, bail, ensure};
use egress_userspace::domain::Ending;
use harness::clients::{self, Client, Line};

use crate::{PYTHON_ANTHROPIC, PYTHON_OPENAI, run, usage, world};

const SETTINGS: &str = "budget:\n  claude: 1k\n  codex: 1k\ncrossing: sever\n";

#[test]
fn anthropics_sdk_reads_a_message_that_was_cut_short() -> Result<()> {
    check(PYTHON_ANTHROPIC, "severed", "max_tokens")
}

#[test]
fn openais_sdk_reads_a_chat_that_was_cut_short() -> Result<()> {
    check(PYTHON_OPENAI, "severed", "length")
}

#[test]
fn openais_sdk_reads_a_response_that_was_cut_short() -> Result<()> {
    check(PYTHON_OPENAI, "severed_responses", "max_output_tokens")
}

fn check(client: Client, scenario: &str, reason: &str) -> Result<()> {
    let Some(world) = world(&format!("{client:?} {scenario}"), client, SETTINGS)? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let done = run(&world, &mut bottle, client, "", &[scenario])?;
    let lines = clients::lines(&done.output)?;
    let [Line::Exchange(exchange)] = lines.as_slice() else { bail!("{}", done.output) };
    assert_eq!(exchange.usage["stop_reason"], reason, "{exchange:?}");
    ensure!(exchange.usage["text"].as_u64() > Some(100), "{exchange:?}");
    let rows = world.rows("web")?;
    let [row] = rows.as_slice() else { bail!("{rows:?}") };
    assert_eq!((row.ending, row.usage), (Ending::Cut, usage(client.counts(&exchange.usage)?)), "{exchange:?}");
    ensure!((1_000..1_050).contains(&row.usage.total().0), "{row:?}");
    Ok(())
}
