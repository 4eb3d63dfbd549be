//! OpenAI's Responses over a WebSocket: many responses on one connection, each with a row of its own.

use anyhow::{Context, Result, bail, ensure};
use egress_userspace::domain::{Ending, Known, Tokens, Usage, UsageRow};
use harness::clients::{self, Line};
use harness::provider::{OPENAI_HOST, Served};
use harness::world::{PATIENCE, until};

use crate::{PYTHON_OPENAI, run, usage, world};

/// A blocking and an async one. Connecting costs nothing.
const CONNECTIONS: usize = 2;
/// Six on each connection, of which the first only warms up.
const TURNS: usize = CONNECTIONS * 6;

#[test]
fn openais_python_sdk_reports_what_the_ledger_holds_of_a_socket() -> Result<()> {
    let Some(world) = world("OpenAI's SDK on a WebSocket", PYTHON_OPENAI, "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let lines = clients::lines(&run(&world, &mut bottle, PYTHON_OPENAI, "", &["socket"])?.output)?;
    assert_eq!(lines.len(), TURNS);
    let all = CONNECTIONS + TURNS;
    until("the ledger has settled everything", PATIENCE, || Ok(world.usage()?.rows.len() >= all))?;
    let (free, rows): (Vec<UsageRow>, Vec<UsageRow>) =
        world.rows("web")?.into_iter().partition(|row| row.known == Known::Unmetered);
    let served: Vec<Served> = world.served().into_iter().filter(|served| served.method == "WS").collect();
    ensure!(rows.len() == TURNS && served.len() == TURNS, "{} {} of {TURNS}", rows.len(), served.len());
    ensure!(free.len() == CONNECTIONS && free.iter().all(|row| row.status == Some(101)), "{free:?}");
    let mut sum = Usage::default();
    for line in &lines {
        let Line::Exchange(exchange) = line else { bail!("refused: {line:?}") };
        ensure!(exchange.model.is_some(), "a response without a model: {exchange:?}");
        let row = rows.iter().find(|row| row.model == exchange.model);
        let served = served.iter().find(|served| served.id == exchange.request_id());
        let (row, served) = row.zip(served).with_context(|| format!("nobody else knows {exchange:?}"))?;
        let told = || format!("{exchange:?}\n{row:?}\n{served:?}");
        let reported = PYTHON_OPENAI.counts(&exchange.usage)?;
        ensure!(reported == served.usage && served.is_complete, "the SDK reports something else: {}", told());
        ensure!((row.known, row.usage) == (Known::Reported, usage(reported)), "another usage: {}", told());
        ensure!(row.details == PYTHON_OPENAI.details(&exchange.usage), "other details: {}", told());
        ensure!((row.host.as_str(), row.ending) == (OPENAI_HOST, Ending::Complete), "another ending: {}", told());
        sum = sum + row.usage;
    }
    ensure!(sum.total() > Tokens::ZERO && world.usage()?.sums[0].usage == sum, "another sum: {sum:?}");
    Ok(())
}
