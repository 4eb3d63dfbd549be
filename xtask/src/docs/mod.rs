//! `cargo xtask docs`: the book of `docs/`, its pages that are made from the types, and the recordings.

mod draw;
mod links;
mod record;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::command;
use crate::need::{self, Group};

/// What is to be done besides building the book.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) write: bool,
    pub(crate) record: bool,
    pub(crate) install: bool,
}

pub(crate) fn run(wanted: Wanted) -> anyhow::Result<()> {
    if wanted.record {
        record::all()?;
    }
    if wanted.write {
        let mut cargo = command::cargo();
        cargo.args(["test", "--package", "egress-tests", "--test", "docs", "reference"]).env("EGRESS_WRITE", "1");
        command::run(&mut cargo)?;
    }
    need::ensure(&[Group::Docs], wanted.install)?;
    build()
}

/// Checks the pages and builds the book.
pub(crate) fn build() -> anyhow::Result<()> {
    let findings = links::check(&pages()?);
    findings.iter().for_each(|finding| println!("{finding}"));
    if !findings.is_empty() {
        bail!("{} links lead nowhere", findings.len());
    }
    let mdbook = command::find("mdbook").context("there is no mdbook: run the same with --install")?;
    command::run(Command::new(mdbook).arg("build").arg(command::workspace().join("docs")))?;
    println!("the book is {}", command::target_directory().join("book/index.html").display());
    Ok(())
}

/// Every file that a page may lead to, by its path from the top on; the text of those that are pages.
fn pages() -> anyhow::Result<Vec<(String, Option<String>)>> {
    let top = command::workspace();
    let mut files: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "LICENSE-APACHE", "LICENSE-MIT"].map(PathBuf::from).into();
    collect(&top, Path::new("docs"), &mut files)?;
    files.sort();
    let page = |path: PathBuf| {
        let is_page = path.extension().is_some_and(|ending| ending == "md");
        let text = if is_page { Some(fs::read_to_string(top.join(&path))?) } else { None };
        Ok((path.display().to_string(), text))
    };
    files.into_iter().map(page).collect()
}

fn collect(top: &Path, directory: &Path, into: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(top.join(directory))? {
        let entry = entry?;
        let path = directory.join(entry.file_name());
        if entry.file_type()?.is_dir() { collect(top, &path, into)? } else { into.push(path) }
    }
    Ok(())
}
