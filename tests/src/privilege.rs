//! Tests that need root, or something else that is not there, say so; where everything must be tested, that is a failure.

use std::sync::atomic::{AtomicUsize, Ordering};

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// May this test run? Prints that it does not, and fails where `CI` is `true`.
pub fn is_root(test: &str) -> anyhow::Result<bool> {
    if nix::unistd::geteuid().is_root() {
        return Ok(true);
    }
    skip(test, "root")
}

/// Prints that a test does not run for want of something, and fails where `CI` is `true`.
#[expect(clippy::print_stderr, reason = "what was not tested is told to whoever runs the tests")]
pub(crate) fn skip(test: &str, want: &str) -> anyhow::Result<bool> {
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    eprintln!("skipped: {test} needs {want} ({count} skipped so far)");
    anyhow::ensure!(std::env::var("CI").as_deref() != Ok("true"), "{test} was skipped, which CI does not accept");
    Ok(false)
}
