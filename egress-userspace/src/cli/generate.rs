//! What is made from the command line itself: completions of shells, and man pages. Both leave out what is hidden.

use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::Arguments;

/// Prints what makes `shell` complete the command line.
///
/// # Errors
/// When nobody reads it.
pub fn completions(shell: Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(), "egress", &mut script);
    io::stdout().write_all(&script)
}

/// Writes a man page for every command into `directory`.
///
/// # Errors
/// When it cannot be written there.
pub fn man_pages(directory: &Path) -> io::Result<()> {
    clap_mangen::generate_to(visible().disable_help_subcommand(true), directory)
}

/// The command line without the commands that processes of ours are started with.
fn visible() -> Command {
    let whole = Arguments::command();
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let about = whole.get_about().cloned().unwrap_or_default();
    Command::new("egress")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .subcommand_required(true)
        .args(whole.get_arguments().cloned())
        .subcommands(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: [&str; 5] = ["proxy", "bottle-init", "container-init", "container-front", "man-pages"];

    #[test]
    fn completions_know_every_command_that_is_shown_and_no_other() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut visible(), "egress", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("approvals") && script.contains("run-dir"), "{shell}");
            assert!(HIDDEN.iter().skip(1).all(|hidden| !script.contains(hidden)), "{shell}");
        }
    }

    #[test]
    fn every_command_that_is_shown_has_a_man_page() {
        let directory = tempfile::tempdir().unwrap();
        man_pages(directory.path()).unwrap();
        for shown in ["egress", "egress-run", "egress-budget-grant", "egress-daemon"] {
            let page = std::fs::read_to_string(directory.path().join(format!("{shown}.1"))).unwrap();
            assert!(page.contains(".SH NAME") && page.contains(".SH OPTIONS"), "{shown}: {page}");
        }
        for hidden in HIDDEN {
            assert!(!directory.path().join(format!("egress-{hidden}.1")).exists(), "{hidden}");
        }
    }
}
