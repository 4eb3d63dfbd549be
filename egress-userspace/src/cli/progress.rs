//! How far something that takes long has come, on one line of the terminal that is written over.
#![expect(clippy::print_stderr, reason = "printing is what this file is for")]

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// What takes shorter needs no word.
const QUIET: Duration = Duration::from_secs(1);
/// Between two words.
const SAID_EVERY: Duration = Duration::from_millis(100);

/// Dropped, it leaves an empty line.
pub(super) struct Progress {
    is_shown: bool,
    begun: Instant,
    said: Option<Instant>,
}

impl Progress {
    /// Says nothing for a while, and nothing at all where standard error is no terminal.
    pub(super) fn begin() -> Self {
        Self { is_shown: std::io::stderr().is_terminal(), begun: Instant::now(), said: None }
    }

    /// So much of so much is done.
    pub(super) fn say(&mut self, what: &str, done: u64, total: u64) {
        let is_due = self.said.is_none_or(|said| said.elapsed() > SAID_EVERY) && self.begun.elapsed() > QUIET;
        if self.is_shown && is_due {
            self.said = Some(Instant::now());
            eprint!("\r\x1b[K{}", line(what, done, total));
            // A terminal that takes no more is no reason to stop.
            let _ = std::io::stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.said.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

fn line(what: &str, done: u64, total: u64) -> String {
    let done = done.min(total);
    let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
    format!("{what}: {done} of {total} ({percent} %)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_much_is_done() {
        assert_eq!(line("requests", 50, 200), "requests: 50 of 200 (25 %)");
        assert_eq!(line("requests", 300, 200), "requests: 200 of 200 (100 %)");
        assert_eq!(line("requests", 0, 0), "requests: 0 of 0 (100 %)");
    }
}
