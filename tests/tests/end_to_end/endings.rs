//! However an exchange ends, it is settled once, under the name of its end, and for no less than the agent was given.

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::{Ending, Known, UsageRow};
use harness::world::{PATIENCE, World, curl, until};

use crate::world;

/// Each delta has 16 bytes and counts for a token.
const INPUT: u64 = 77;

/// How a request goes, and what its row says.
struct Case {
    model: &'static str,
    is_streaming: bool,
    options: &'static str,
    ending: Ending,
    known: Known,
    /// At least so much output, because it was seen.
    output_min: u64,
}

const fn case(model: &'static str, ending: Ending, known: Known, output_min: u64) -> Case {
    Case { model, is_streaming: true, options: "", ending, known, output_min }
}

const CASES: [Case; 8] = [
    case("claude-test+input-77+deltas-9+output-40", Ending::Complete, Known::Reported, 40),
    Case { is_streaming: false, ..case("claude-test+input-77+output-41", Ending::Complete, Known::Reported, 41) },
    case("claude-test+input-77+overloaded", Ending::Error, Known::Reported, 0),
    case("claude-test+input-77+deltas-50+error-after-12", Ending::Error, Known::Partial, 12),
    case("claude-test+input-77+deltas-50+abort-after-13", Ending::HungUp, Known::Partial, 13),
    case("claude-test+input-77+deltas-50+stall-after-14", Ending::TimedOut, Known::Partial, 14),
    case("claude-test+input-77+deltas-9+no-usage", Ending::Complete, Known::Estimated, 9),
    Case {
        options: "--max-time 1",
        ..case("claude-test+input-77+deltas-500+delay-20", Ending::Cancelled, Known::Partial, 15)
    },
];

#[test]
fn every_end_is_settled_once_under_its_name() -> Result<()> {
    let Some(world) = world("every end", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    for (settled, case) in CASES.iter().enumerate() {
        bottle.begin(&curl(case.model, case.is_streaming, case.options))?;
        bottle.end_of_command(PATIENCE)?;
        let row = newest(&world, settled + 1)?;
        let found = (row.ending, row.known);
        ensure!(found == (case.ending, case.known), "{}: {row:?}", case.model);
        ensure!(row.usage.output.0 >= case.output_min, "{}: {row:?}", case.model);
        let is_free = case.known == Known::Reported && case.ending == Ending::Error;
        ensure!(is_free || row.usage.input.0 == INPUT || case.known == Known::Estimated, "{}: {row:?}", case.model);
        // The provider is hung up on, or has ended itself: it logs an exchange when it is over.
        until("the provider's side is over", PATIENCE, || Ok(world.served().len() > settled))?;
        let served = world.served().pop().context("nothing was served")?;
        ensure!(case.ending == Ending::Error || row.usage.output.0 >= served.output_sent / 2, "{served:?} {row:?}");
    }
    ensure!(world.usage()?.sums.iter().all(|sum| sum.held.0 == 0), "tokens are still held");
    assert_eq!(world.rows("web")?.len(), CASES.len());
    Ok(())
}

/// The row of the exchange that was settled last.
fn newest(world: &World, expected: usize) -> Result<UsageRow> {
    until("it is settled", PATIENCE, || Ok(world.rows("web")?.len() == expected))?;
    world.rows("web")?.pop().context("no row")
}
