//! The house rules, made executable. [`tables`] says what holds, [`rules`] looks, this reads the files.

mod rules;
mod source;
mod tables;
#[cfg(test)]
mod tests;

use std::fs;
use std::process::Command;

use anyhow::{Context, bail};

use crate::command;

/// Checks every file git knows or would add; prints `file:line: what to do` for each finding.
pub(crate) fn run() -> anyhow::Result<()> {
    let workspace = command::workspace();
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(&workspace);
    let listed = command::output(&mut git).context("tidy looks at what git tracks")?;
    let mut findings = Vec::new();
    let mut files = 0_usize;
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        // Bytes that are no text are nobody's business here; a deleted file is still listed.
        let Ok(text) = fs::read_to_string(workspace.join(path)) else {
            continue;
        };
        files += 1;
        findings.extend(rules::check_file(path, &text));
        if path == "Cargo.lock" {
            findings.extend(rules::check_lock(&text));
        }
    }
    let changelog = fs::read_to_string(workspace.join("CHANGELOG.md")).ok();
    findings.extend(rules::check_changelog(changelog.as_deref()));
    findings.sort();
    findings.dedup();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings in {files} files", findings.len());
    }
    println!("{files} files are tidy");
    Ok(())
}
