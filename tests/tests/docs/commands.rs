//! Every command that is shown is typed, or is on the list of those that cannot be.

use anyhow::{Result, ensure};
use clap::CommandFactory;
use egress_userspace::cli::Arguments;
use harness::console::{Page, type_sessions};
use harness::privilege;

use crate::pages;
use crate::stage::Stage;

/// Pages with commands that no test types, and why. Each is a promise that somebody has typed them.
const NOT_RUN: &[(&str, &str)] = &[
    ("README.md", "needs Claude Code and an account; tests run it against a provider of their own"),
    ("README.md", "the second one runs this test; the first one is recorded in docs/casts/demo.cast"),
    ("docs/containers.md", "needs a container engine and images; tests/tests/docker runs containers"),
    ("docs/dashboard.md", "takes the whole terminal; tests/tests/end_to_end/top.rs works with it in one"),
    ("docs/git.md", "needs a server with repositories; tests/tests/proxy_path/git pushes to one"),
    ("docs/operations.md", "removes the daemon's device and its pins, of which a test's world has others"),
    ("docs/performance.md", "measurements take minutes, and assert nothing"),
];
/// A documentation that is not tested is none.
const NOT_RUN_MAX: usize = 24;

#[test]
fn every_command_that_is_shown_does_what_is_shown() -> Result<()> {
    if !privilege::is_root("the documentation's commands")? {
        return Ok(());
    }
    let mut wrong = Vec::new();
    for (name, page) in pages::all()? {
        let sessions = page.typed_in_world();
        if sessions.is_empty() {
            continue;
        }
        let stage = Stage::set(page.world.as_deref().unwrap_or("running"));
        match stage.and_then(|mut stage| type_sessions(&sessions, &mut stage)) {
            Ok(found) => wrong.extend(found.into_iter().map(|text| format!("{name}:{text}"))),
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{} commands do something else:\n\n{}", wrong.len(), wrong.join("\n\n"));
    Ok(())
}

#[test]
fn commands_that_are_not_run_are_few_and_known() -> Result<()> {
    let pages = pages::all()?;
    let of = |(name, page): &(String, Page)| -> Vec<(String, String)> {
        let reasons = page.sessions.iter().filter_map(|session| session.not_run.clone());
        reasons.map(|reason| (name.clone(), reason)).collect()
    };
    let mut found: Vec<_> = pages.iter().flat_map(of).collect();
    found.dedup();
    let is_read = |page: &str| pages.iter().any(|(name, _)| name == page);
    let known = NOT_RUN.iter().filter(|(page, _)| is_read(page));
    let known: Vec<_> = known.map(|(page, reason)| ((*page).to_owned(), (*reason).to_owned())).collect();
    assert_eq!(found, known, "review what is not run, and note it in NOT_RUN");
    ensure!(NOT_RUN.len() <= NOT_RUN_MAX, "{} commands that nobody tests are too many", NOT_RUN.len());
    Ok(())
}

/// `egress …` in running text names commands and flags that there are.
#[test]
fn commands_in_running_text_exist() -> Result<()> {
    let mut wrong = Vec::new();
    for (name, page) in pages::all()? {
        let typed = page.sessions.iter().flat_map(|session| session.commands.iter().map(|command| &command.text));
        let unknown = typed.chain(&page.inline).filter_map(|text| Some((text, unknown_word(text)?)));
        wrong.extend(unknown.map(|(text, word)| format!("{name}: there is no {word:?} in `{text}`")));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The first word of a command of `egress` that means nothing to it.
fn unknown_word(text: &str) -> Option<&str> {
    let mut command = Arguments::command();
    command.build();
    let mut words =
        text.strip_prefix("egress ")?.split_whitespace().take_while(|word| !["--", "|", "#"].contains(word));
    let mut command = &command;
    for word in words.by_ref() {
        if let Some(flag) = word.strip_prefix("--") {
            let flag = flag.split('=').next().unwrap_or_default();
            if !command.get_arguments().any(|argument| argument.get_long() == Some(flag)) {
                return Some(word);
            }
        } else if command.has_subcommands() {
            // A placeholder, or what is between two commands that are told of together.
            if !word.starts_with(|first: char| first.is_ascii_lowercase()) {
                return None;
            }
            let Some(found) = command.find_subcommand(word) else { return Some(word) };
            command = found;
        }
    }
    None
}
