//! Tests that need root say so; where everything must be tested, missing it is a failure.

use std::sync::atomic::{AtomicUsize, Ordering};

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// May this test run? Prints that it does not, and fails where `CI` is `true`.
#[expect(clippy::print_stderr, reason = "what was not tested is told to whoever runs the tests")]
pub fn is_root(test: &str) -> anyhow::Result<bool> {
    if nix::unistd::geteuid().is_root() {
        return Ok(true);
    }
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    eprintln!("skipped: {test} needs root ({count} skipped so far)");
    anyhow::ensure!(std::env::var("CI").as_deref() != Ok("true"), "{test} was skipped, which CI does not accept");
    Ok(false)
}
