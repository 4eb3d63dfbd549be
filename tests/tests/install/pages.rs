//! Pages that change a whole host are typed on one that has nothing yet.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use harness::console::{Page, Terminals, read, type_sessions};
use harness::world::{Bottle, Debian, Done};

use crate::built;

/// The host of somebody who has the source, and a shell on it.
struct CleanHost {
    shell: Bottle,
    _debian: Debian,
}

impl CleanHost {
    fn set() -> Result<Option<Self>> {
        let Some(debian) = Debian::start("commands on a clean Debian")? else { return Ok(None) };
        built::source(&debian)?;
        // Whom pages name.
        debian.done("useradd --create-home ann")?;
        let mut shell = Bottle::start(debian.command(&["bash"]))?;
        shell.sh(&format!("cd {}", built::SOURCE))?;
        Ok(Some(Self { shell, _debian: debian }))
    }
}

impl Terminals for CleanHost {
    fn on_host(&mut self, text: &str) -> Result<Done> {
        self.shell.sh(text).with_context(|| format!("`{text}`"))
    }

    fn inside(&mut self, bottle: &str, text: &str) -> Result<Done> {
        bail!("`{text}` in {bottle}: on a clean host commands are typed on the host")
    }
}

fn type_page(name: &str) -> Result<()> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name))?;
    let page: Page = read(&text)?;
    let hosts: BTreeSet<&str> = page.sessions.iter().filter_map(|session| session.on.as_deref()).collect();
    ensure!(!hosts.is_empty(), "{name} has no command for a clean host");
    for host in hosts {
        let Some(mut terminals) = CleanHost::set()? else { return Ok(()) };
        let wrong = type_sessions(&page.typed_on(host), &mut terminals)?;
        ensure!(wrong.is_empty(), "on {host}, commands of {name} do something else:\n\n{}", wrong.join("\n\n"));
    }
    Ok(())
}

#[test]
fn the_readme() -> Result<()> {
    type_page("README.md")
}

#[test]
fn the_page_on_installing() -> Result<()> {
    type_page("docs/install.md")
}
