//! How the demonstration looks: steps, facts and quotations, coloured when a person watches.

use std::env;
use std::io::{IsTerminal, stdout};

/// Writes to the terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Show {
    has_colour: bool,
}

impl Show {
    pub(super) fn new() -> Self {
        Self { has_colour: stdout().is_terminal() && env::var_os("NO_COLOR").is_none() }
    }

    /// A new step begins.
    pub(super) fn step(self, number: usize, of: usize, what: &str) {
        println!("\n{}", self.paint("1;36", &format!("[{number}/{of}] {what}")));
    }

    /// What is being done, or was seen.
    pub(super) fn note(self, text: &str) {
        println!("      {text}");
    }

    /// What was hoped for and came true.
    pub(super) fn good(self, text: &str) {
        println!("    {} {text}", self.paint("1;32", "✓"));
    }

    /// Output of something else, each line marked.
    pub(super) fn quote(self, text: &str) {
        for line in text.trim_end().lines() {
            println!("    {}", self.paint("2", &format!("│ {line}")));
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.has_colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
