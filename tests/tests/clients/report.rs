//! Each exchange by its id: what the SDK says was used, what the ledger says, what the provider served.

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::{Ending, Known, Tokens, Usage, UsageDetails};
use harness::clients::{Client, Sdk};
use harness::provider::{HOST, OPENAI_HOST, Served};

use crate::{NODE_ANTHROPIC, NODE_OPENAI, PYTHON_ANTHROPIC, PYTHON_OPENAI, Told, accounts, usage, world};

/// Scenarios that are run in every way an SDK offers.
const ANTHROPIC: [&str; 6] = ["plain", "cache", "thinking", "tools", "slow", "long"];
const OPENAI: [&str; 5] = ["plain", "cache", "reasoning", "slow", "long"];
/// Content encodings: Python's SDKs take one more.
const ENCODINGS: [&str; 5] = ["identity", "gzip", "deflate", "br", "zstd"];
const NODE_ENCODINGS: [&str; 4] = ["identity", "gzip", "deflate", "br"];
/// Exchanges of the scenario `at_once`.
const AT_ONCE: usize = 20;

#[test]
fn anthropics_python_sdk_reports_what_the_ledger_holds() -> Result<()> {
    let scenarios = [&ANTHROPIC[..], &ENCODINGS, &["count", "at_once"]].concat();
    // Blocking and async: create, stream, and create with events; each counts once, too.
    check(PYTHON_ANTHROPIC, &scenarios, 6 * (6 + 5) + 2 + AT_ONCE)
}

#[test]
fn openais_python_sdk_reports_what_the_ledger_holds() -> Result<()> {
    let scenarios = [&OPENAI[..], &ENCODINGS, &["embeddings", "count", "at_once"]].concat();
    // Blocking and async: chat and completions, streamed and not, Responses in three ways.
    check(PYTHON_OPENAI, &scenarios, 14 * (5 + 5) + 2 + 2 + AT_ONCE)
}

#[test]
fn anthropics_node_sdk_reports_what_the_ledger_holds() -> Result<()> {
    let scenarios = [&ANTHROPIC[..], &NODE_ENCODINGS, &["count", "at_once"]].concat();
    check(NODE_ANTHROPIC, &scenarios, 3 * (6 + 4) + 1 + AT_ONCE)
}

#[test]
fn openais_node_sdk_reports_what_the_ledger_holds() -> Result<()> {
    let scenarios = [&OPENAI[..], &NODE_ENCODINGS, &["embeddings", "count", "at_once"]].concat();
    check(NODE_OPENAI, &scenarios, 7 * (5 + 4) + 1 + 1 + AT_ONCE)
}

/// Runs the scenarios, which make so many exchanges, and holds all three accounts against each other.
fn check(client: Client, scenarios: &[&str], expected: usize) -> Result<()> {
    let Some(world) = world(&format!("{client:?}"), client, "")? else { return Ok(()) };
    let mut sum = Usage::default();
    for told in accounts(&world, client, scenarios, expected)? {
        sum = sum + check_exchange(client, &told).with_context(|| format!("{told:?}"))?;
    }
    let columns = [sum.input, sum.cache_write, sum.cache_read, sum.output];
    ensure!(columns.iter().all(|tokens| *tokens > Tokens::ZERO), "a column was never used: {sum:?}");
    let sums = world.usage()?.sums;
    assert_eq!((sums.len(), sums[0].usage, sums[0].held), (1, sum, Tokens::ZERO));
    Ok(())
}

/// What the SDK reports of one exchange, once all agree.
fn check_exchange(client: Client, told: &Told) -> Result<Usage> {
    let Told { exchange, row, served } = told;
    let host = match client.sdk {
        Sdk::Anthropic => HOST,
        Sdk::OpenAi => OPENAI_HOST,
    };
    ensure!((row.host.as_str(), row.status, row.ending) == (host, Some(200), Ending::Complete));
    ensure!(row.target == format!("{} {}", served.method, served.path), "another target");
    ensure!(served.is_complete && accepts(served), "not served as it should be");
    if exchange.scenario == "count" {
        ensure!((row.known, row.usage) == (Known::Unmetered, Usage::default()), "counting costs nothing");
        ensure!(exchange.usage["input_tokens"] == 77, "another count");
        return Ok(Usage::default());
    }
    let reported = client.counts(&exchange.usage)?;
    ensure!(reported == served.usage, "the SDK reports {reported:?}");
    ensure!((row.known, row.usage) == (Known::Reported, usage(reported)), "the ledger holds another usage");
    if ENCODINGS.contains(&exchange.scenario.as_str()) {
        ensure!(served.encoding == exchange.scenario, "another encoding");
    }
    ensure!(row.details == client.details(&exchange.usage), "the ledger holds other details");
    let is_detailed = row.details != UsageDetails::default();
    ensure!(is_detailed == is_to_be_detailed(client, &exchange.scenario), "details are lost, or made up");
    Ok(usage(reported))
}

/// Scenarios whose usage has parts.
fn is_to_be_detailed(client: Client, scenario: &str) -> bool {
    match client.sdk {
        Sdk::Anthropic => ["cache", "thinking"].contains(&scenario),
        Sdk::OpenAi => scenario == "reasoning",
    }
}

/// Did the client ask for the encoding it got?
fn accepts(served: &Served) -> bool {
    let offers = served.accepts.as_deref().unwrap_or_default();
    served.encoding == "identity" || offers.split(',').any(|offer| offer.trim() == served.encoding)
}
