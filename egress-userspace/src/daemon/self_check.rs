//! Tried before anything is promised: does a gate on this host do what gates do?

use std::path::Path;
use std::time::Instant;

use tracing::{error, info};

use crate::doctor::{self, Names};
use crate::domain::EnforcerChoice;
use crate::kernel;

use super::Options;

/// Below the run directory and below the pins.
const NAME: &str = "self-check";

/// Why this host's gates are not to be relied on; `None` when they are.
pub(super) async fn run(options: &Options, choice: EnforcerChoice) -> Option<String> {
    let names = Names {
        directory: options.run_directory.join(NAME),
        pins: options.pins.join(NAME),
        // In a namespace of its own.
        bridge: NAME.to_owned(),
        group: format!("{}-check", options.bridge),
        number: std::process::id(),
    };
    let attachment = options.attachment;
    let begun = Instant::now();
    let check = move || {
        let make = |pins: &Path| kernel::open_alone(choice, pins, attachment);
        doctor::self_check(&names, &make)
    };
    let result = tokio::task::spawn_blocking(check).await.unwrap_or_else(|panicked| Err(panicked.to_string()));
    match result {
        Ok(()) => info!(took_ms = begun.elapsed().as_millis(), "enforcing: a gate was tried and holds"),
        Err(ref problem) => error!(problem, "NOT ENFORCING: no bottle is started"),
    }
    result.err()
}
