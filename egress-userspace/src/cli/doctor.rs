//! `egress doctor`: what was looked at, as it comes, and what is wrong in the end.
#![expect(clippy::print_stdout, reason = "printing is what this file is for")]

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Result;

use crate::doctor::{Check, Heard, Report, Verdict};

use super::progress::Progress;
use super::show;

/// Columns of the longest names.
const NAME_COLUMNS: usize = 20;
const AREA_COLUMNS: usize = 8;

/// How a report is printed.
#[derive(Debug)]
pub struct DoctorTable {
    as_json: bool,
    has_colour: bool,
    progress: Progress,
}

impl DoctorTable {
    /// For standard output.
    #[must_use]
    pub fn new(as_json: bool) -> Self {
        let has_colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { as_json, has_colour, progress: Progress::of("looking at this host") }
    }

    /// Prints each check when it is made, and what is waited for.
    pub fn note(&self, heard: &Heard) {
        match heard {
            Heard::Begins(what) => self.progress.step(what),
            Heard::Made(_) if self.as_json => {}
            Heard::Made(check) => self.row(check),
        }
    }

    fn row(&self, check: &Check) {
        self.progress.hide();
        println!("{}", line(check, self.has_colour));
        // A reader that has gone does not end what is being tried.
        let _ = io::stdout().flush();
    }

    /// Ends with 1 when something does not hold.
    ///
    /// # Errors
    /// When the report cannot be printed.
    pub fn conclude(self, report: &Report) -> Result<ExitCode> {
        drop(self.progress);
        if self.as_json {
            show::json(&serde_json::json!({ "holds": report.holds(), "checks": report.checks }))?;
        } else {
            println!("{}", summary(report));
        }
        Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn line(check: &Check, has_colour: bool) -> String {
    let (mark, word, colour) = match check.verdict {
        Verdict::Holds => ("✓", "ok", "32"),
        Verdict::Warning => ("!", "warning", "33"),
        Verdict::Failed => ("✗", "failed", "31"),
        Verdict::NotChecked => ("–", "not checked", "2"),
    };
    let verdict = format!("{mark} {word:<11}");
    let verdict = if has_colour { format!("\u{1b}[{colour}m{verdict}\u{1b}[0m") } else { verdict };
    let Check { area, name, says, .. } = check;
    format!("{verdict}  {area:<AREA_COLUMNS$}  {name:<NAME_COLUMNS$}  {says}")
}

fn summary(report: &Report) -> String {
    let [failed, warnings, unchecked] =
        [Verdict::Failed, Verdict::Warning, Verdict::NotChecked].map(|verdict| report.count(verdict));
    let verdict =
        if failed == 0 { "everything that was looked at holds".to_owned() } else { format!("{failed} do not hold") };
    format!("{verdict}; {warnings} warnings, {unchecked} not checked")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(verdict: Verdict, expected: &str) {
        let check = Check { area: "host", name: "BTF".to_owned(), verdict, says: "there".to_owned() };
        assert_eq!(line(&check, false), expected);
        assert!(line(&check, true).contains("\u{1b}["));
    }

    #[test]
    fn a_row_says_in_words_what_its_mark_does() {
        check(Verdict::Holds, "✓ ok           host      BTF                   there");
        check(Verdict::Failed, "✗ failed       host      BTF                   there");
        check(Verdict::NotChecked, "– not checked  host      BTF                   there");
    }
}
