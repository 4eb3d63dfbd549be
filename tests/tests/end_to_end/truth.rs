//! The ledger tells what the provider tells.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_userspace::control::UsageReply;
use egress_userspace::domain::{Ending, Known, Tokens, Usage, UsageRow};
use harness::provider::Served;
use harness::world::{PATIENCE, program, until};

use crate::world;

const BOTTLES: [&str; 4] = ["one", "two", "three", "four"];
const REQUESTS_EACH: usize = 133;
/// All of the requests, on a busy machine.
const AGENTS_MAX: Duration = Duration::from_secs(120);

#[test]
fn the_ledger_equals_the_provider() -> Result<()> {
    let Some(world) = world("ledger equals provider", "")? else { return Ok(()) };
    let agent = program("test-agent");
    let mut bottles = Vec::new();
    for (index, name) in BOTTLES.into_iter().enumerate() {
        let mut bottle = world.shell(name, &[])?;
        let seed = index * REQUESTS_EACH;
        bottle.begin(&format!("{} --name {name} --seed {seed} --requests {REQUESTS_EACH}", agent.display()))?;
        bottles.push(bottle);
    }
    for bottle in &mut bottles {
        let done = bottle.end_of_command(AGENTS_MAX).with_context(|| world.log_tail())?;
        ensure!(done.code == 0, "{} {}", done.output, world.log_tail());
    }
    let all = BOTTLES.len() * REQUESTS_EACH;
    until("the provider has logged everything", PATIENCE, || Ok(world.served().len() >= all))?;
    until("the ledger has settled everything", PATIENCE, || Ok(world.usage()?.rows.len() >= all))?;
    compare(&world.served(), &world.usage()?, all)
}

fn compare(served: &[Served], usage: &UsageReply, all: usize) -> Result<()> {
    ensure!(served.len() == all && usage.rows.len() == all, "{} {} of {all}", served.len(), usage.rows.len());
    let rows: BTreeMap<&str, &UsageRow> =
        usage.rows.iter().filter_map(|row| Some((row.request_id.as_deref()?, row))).collect();
    let mut complete: BTreeMap<&str, (Usage, usize)> = BTreeMap::new();
    for exchange in served {
        let row = rows.get(exchange.id.as_str()).with_context(|| format!("no row of {exchange:?}"))?;
        check(exchange, row).with_context(|| format!("{exchange:?} {row:?}"))?;
        if is_whole(exchange) {
            let sum = complete.entry(row.bottle.as_str()).or_default();
            *sum = (sum.0 + reported(exchange), sum.1 + 1);
        }
    }
    for name in BOTTLES {
        let of_bottle = || usage.rows.iter().filter(|row| row.bottle.as_str() == name);
        let sum = usage.sums.iter().find(|sum| sum.bottle.as_str() == name).context("no sum")?;
        let total = of_bottle().fold(Usage::default(), |sum, row| sum + row.usage);
        assert_eq!((sum.usage, sum.held, sum.requests), (total, Tokens::ZERO, REQUESTS_EACH as u64), "{name}");
        let whole = of_bottle().filter(|row| row.known == Known::Reported && row.status == Some(200));
        let whole = whole.fold((Usage::default(), 0), |(sum, count), row| (sum + row.usage, count + 1));
        let (expected, count) = complete.get(name).copied().unwrap_or_default();
        ensure!(
            whole == (expected, count) && count > REQUESTS_EACH / 2,
            "{name}: {whole:?}, not {expected:?} in {count}"
        );
    }
    Ok(())
}

/// Answered with 200 to the end, and without an error in it.
fn is_whole(exchange: &Served) -> bool {
    let has_error_event = exchange.model.as_ref().is_some_and(|model| model.starts_with("error-event"));
    exchange.is_complete && exchange.status == 200 && !has_error_event
}

fn reported(exchange: &Served) -> Usage {
    let usage = exchange.usage;
    Usage {
        input: Tokens(usage.input),
        cache_write: Tokens(usage.cache_write),
        cache_read: Tokens(usage.cache_read),
        output: Tokens(usage.output),
    }
}

fn check(exchange: &Served, row: &UsageRow) -> Result<()> {
    ensure!(Some(row.bottle.as_str()) == exchange.bottle.as_deref(), "another bottle's");
    ensure!(row.status == Some(exchange.status), "another status");
    if is_whole(exchange) {
        ensure!((row.known, row.ending) == (Known::Reported, Ending::Complete), "complete, and reported");
        ensure!(row.usage == reported(exchange), "another usage");
    } else if exchange.status == 200 {
        ensure!(row.known != Known::Reported, "the provider did not say it to the end");
        ensure!(row.usage.output.0 >= exchange.output_sent.max(exchange.reported.output), "less than was sent");
        ensure!(row.usage.input.0 >= exchange.reported.input, "less than was reported");
    } else {
        ensure!(row.usage == Usage::default(), "errors cost nothing");
    }
    Ok(())
}
