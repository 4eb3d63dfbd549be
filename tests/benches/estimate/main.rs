//! How far off the offline estimate of input is, and what it costs.
//!
//! Needs no privilege and no network. Nothing is asserted: the tests do that. Two truths are held against it:
//!
//! - `samples/`, small texts, with the counts of other tokenizers in `counts.tsv` (see `docs/estimator.md` for which);
//! - requests that were recorded together with what the provider said they used, where there are any: a folder of
//!   `.jsonl` files, named by `EGRESS_REQUESTS` or `../shared/requests` beside the project, each line
//!   `{"api", "path", "request", "input_total"}`.
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

mod error;
mod long;
mod recorded;
mod samples;
mod speed;

use egress_userspace::meter;

fn main() -> anyhow::Result<()> {
    meter::prepare_estimates();
    samples::run()?;
    recorded::run()?;
    long::run()?;
    speed::run();
    Ok(())
}
