//! The providers' own SDKs, unchanged, in a bottle: what they report is what the ledger holds.
#![expect(clippy::indexing_slicing, reason = "a test may fail by panicking, too")]

mod agents;
mod refusal;
mod report;
mod severed;
mod socket;
mod unasked;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use egress_userspace::domain::{Tokens, Usage, UsageRow};
use harness::clients::{self, Client, Exchange, Language, Line, Sdk};
use harness::privilege;
use harness::provider::{Counts, Served};
use harness::world::{Bottle, Done, PATIENCE, World, until};

const PYTHON_ANTHROPIC: Client = Client { language: Language::Python, sdk: Sdk::Anthropic };
const PYTHON_OPENAI: Client = Client { language: Language::Python, sdk: Sdk::OpenAi };
const NODE_ANTHROPIC: Client = Client { language: Language::Node, sdk: Sdk::Anthropic };
const NODE_OPENAI: Client = Client { language: Language::Node, sdk: Sdk::OpenAi };

/// One program, on a busy machine.
const PROGRAM_TIME_MAX: Duration = Duration::from_secs(120);

/// A host for a test of this client with these lines in its settings; `None` when it cannot be had here.
fn world(test: &str, client: Client, settings: &str) -> Result<Option<World>> {
    let can_run = privilege::is_root(test)? && client.is_installed(test)?;
    if can_run { World::start(settings).map(Some) } else { Ok(None) }
}

/// One exchange, as each of three tells it.
#[derive(Debug)]
struct Told {
    /// What the SDK reports.
    exchange: Exchange,
    /// The ledger's row.
    row: UsageRow,
    /// The provider's log.
    served: Served,
}

/// Runs a client's scenarios in a bottle, after some other line of shell, to a good end.
fn run(world: &World, bottle: &mut Bottle, client: Client, before: &str, scenarios: &[&str]) -> Result<Done> {
    bottle.begin(&format!("{before} {}", client.line(scenarios)))?;
    let done = bottle.end_of_command(PROGRAM_TIME_MAX).with_context(|| world.log_tail())?;
    ensure!(done.code == 0, "{client:?}: {} {}", done.output, world.log_tail());
    Ok(done)
}

/// Runs scenarios that make so many exchanges, and finds each in all three accounts, which hold no others.
fn accounts(world: &World, client: Client, scenarios: &[&str], expected: usize) -> Result<Vec<Told>> {
    let mut bottle = world.shell("web", &[])?;
    let lines = clients::lines(&run(world, &mut bottle, client, "", scenarios)?.output)?;
    assert_eq!(lines.len(), expected);
    until("the provider has logged everything", PATIENCE, || Ok(world.served().len() >= expected))?;
    until("the ledger has settled everything", PATIENCE, || Ok(world.usage()?.rows.len() >= expected))?;
    let (served, rows) = (world.served(), world.rows("web")?);
    ensure!(served.len() == expected && rows.len() == expected, "{} {} of {expected}", served.len(), rows.len());
    let mut served: BTreeMap<String, Served> = served.into_iter().map(|served| (served.id.clone(), served)).collect();
    let mut rows: BTreeMap<String, UsageRow> =
        rows.into_iter().filter_map(|row| Some((row.request_id.clone()?, row))).collect();
    let find = |line| {
        let Line::Exchange(exchange) = line else { bail!("refused: {line:?}") };
        let found = rows.remove(exchange.request_id()).zip(served.remove(exchange.request_id()));
        let (row, served) = found.with_context(|| format!("nobody else knows {exchange:?}"))?;
        Ok(Told { exchange, row, served })
    };
    lines.into_iter().map(find).collect()
}

/// The ledger's columns of what the provider or an SDK counts.
fn usage(counts: Counts) -> Usage {
    Usage {
        input: Tokens(counts.input),
        cache_write: Tokens(counts.cache_write),
        cache_read: Tokens(counts.cache_read),
        output: Tokens(counts.output),
    }
}
