//! The pages: README.md, CONTRIBUTING.md and everything below docs/.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use harness::console::{Page, read};

/// Chooses pages by a part of their names.
const PAGES_VARIABLE: &str = "EGRESS_PAGES";

/// The top of the workspace.
pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Every page by its path from the top on, in order.
pub(crate) fn all() -> Result<Vec<(String, Page)>> {
    let mut paths = vec![PathBuf::from("README.md"), PathBuf::from("CONTRIBUTING.md")];
    collect(Path::new("docs"), &mut paths)?;
    paths.sort();
    let wanted = std::env::var(PAGES_VARIABLE).unwrap_or_default();
    let names = paths.into_iter().map(|path| path.display().to_string()).filter(|name| name.contains(&wanted));
    let page = |name: String| {
        let page = read(&fs::read_to_string(top().join(&name))?).with_context(|| name.clone())?;
        Ok((name, page))
    };
    names.map(page).collect()
}

fn collect(directory: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(top().join(directory))? {
        let entry = entry?;
        let path = directory.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|ending| ending == "md") {
            into.push(path);
        }
    }
    Ok(())
}

#[test]
fn every_page_is_written_as_it_should_be() -> Result<()> {
    let pages = all()?;
    anyhow::ensure!(pages.iter().any(|(_, page)| !page.sessions.is_empty()), "there is nothing to type");
    Ok(())
}
