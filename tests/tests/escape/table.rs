//! What was tried and what came of it.

use std::fmt::Display;

use anyhow::{Result, ensure};

const NOT_HERE: &str = "not in this kernel";

/// One row per attack.
pub(crate) struct Table {
    name: String,
    rows: Vec<Row>,
}

struct Row {
    attack: String,
    expected: String,
    problem: Option<String>,
}

impl Table {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), rows: Vec::new() }
    }

    /// Notes how an attack went; goes on in any case.
    pub(crate) fn row(&mut self, attack: impl Display, expected: impl Display, result: Result<()>) {
        let problem = result.err().map(|error| format!("{error:#}"));
        self.rows.push(Row { attack: attack.to_string(), expected: expected.to_string(), problem });
    }

    /// An attack that this kernel gives nobody the means for.
    pub(crate) fn not_here(&mut self, attack: &str) {
        self.rows.push(Row { attack: attack.to_owned(), expected: NOT_HERE.to_owned(), problem: None });
    }

    /// Prints all rows, and fails if one has a problem.
    #[expect(clippy::print_stdout, reason = "shown where output is asked for, and where the test fails")]
    pub(crate) fn conclude(&self) -> Result<()> {
        let failed: Vec<&Row> = self.rows.iter().filter(|row| row.problem.is_some()).collect();
        let width = self.rows.iter().map(|row| row.attack.chars().count()).max().unwrap_or(0);
        for row in &self.rows {
            let verdict = row.problem.as_deref().unwrap_or(if row.expected == NOT_HERE { "-" } else { "held" });
            println!("{}  {:<width$}  {:<12}  {verdict}", self.name, row.attack, row.expected);
        }
        let tried = self.rows.iter().filter(|row| row.expected != NOT_HERE).count();
        println!("{}: {tried} attacks, {} of them not as expected", self.name, failed.len());
        ensure!(tried > 0, "nothing was tried");
        ensure!(failed.is_empty(), "{} of {} attacks were not as expected", failed.len(), self.rows.len());
        Ok(())
    }
}
