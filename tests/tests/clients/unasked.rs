//! OpenAI tells the usage of a streamed completion only to who asks. The ledger knows it all the same, and a client that has
//! not asked does not notice.

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::{Ending, Known};
use harness::clients::Client;

use crate::{NODE_OPENAI, PYTHON_OPENAI, Told, accounts, usage, world};

#[test]
fn openais_python_sdk_need_not_ask() -> Result<()> {
    // Four scenarios, blocking and async: chat, chat that declines, completions.
    check(PYTHON_OPENAI, 4 * 6)
}

#[test]
fn openais_node_sdk_need_not_ask() -> Result<()> {
    check(NODE_OPENAI, 4 * 3)
}

/// The program ends with an error where it meets a chunk without a choice.
fn check(client: Client, expected: usize) -> Result<()> {
    let Some(world) = world(&format!("{client:?} unasked"), client, "")? else { return Ok(()) };
    for told in accounts(&world, client, &["unasked"], expected)? {
        check_exchange(&told).with_context(|| format!("{told:?}"))?;
    }
    Ok(())
}

fn check_exchange(told: &Told) -> Result<()> {
    let Told { exchange, row, served } = told;
    ensure!(exchange.usage.is_null(), "the client was told what it has not asked for");
    // As the scenarios have it; eight deltas of sixteen bytes unless they say otherwise.
    let text_length = match exchange.scenario.as_str() {
        "slow" => 20 * 16,
        "long" => 3_000 * 60,
        _ => 8 * 16,
    };
    ensure!(exchange.text_length == Some(text_length), "not all of the text, or more");
    ensure!((row.status, row.ending) == (Some(200), Ending::Complete) && served.is_complete, "not complete");
    ensure!((row.known, row.usage) == (Known::Reported, usage(served.usage)), "the ledger does not know what was used");
    Ok(())
}
