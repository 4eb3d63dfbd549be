//! `cargo xtask install` and `uninstall`: a host, or a tree to be packaged, is made what a plan says.

mod carry_out;
pub(crate) mod deb;
mod layout;
mod plan;
mod step;

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{command, need};
use carry_out::{Doer, Outcome};
use layout::{Layout, RUN, STATE};
use plan::{Committed, Ledger};
use step::Step;

/// `cargo xtask install`
#[derive(Debug, Args)]
pub(crate) struct Install {
    /// Fill this tree instead of the host, for packaging: no account is made and no service started.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Change nothing: print every step.
    #[arg(long)]
    dry_run: bool,
    /// Install this program instead of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// `cargo xtask uninstall`
#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    /// Empty this tree instead of the host.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Change nothing: print every step.
    #[arg(long)]
    dry_run: bool,
    /// Remove settings, ledger and CA, too, without asking.
    #[arg(long, conflicts_with = "keep_ledger")]
    purge: bool,
    /// Keep them without asking.
    #[arg(long)]
    keep_ledger: bool,
}

/// Installs, or brings what is installed up to date: bottles that run, their gates and the ledger stay as they are.
pub(crate) fn install(arguments: &Install) -> Result<()> {
    let layout = Layout::new(arguments.root.clone());
    if !arguments.dry_run && !layout.is_staged() {
        need::ensure_root("install")?;
        refuse_packaged()?;
    }
    let package = command::workspace().join("xtask/package");
    let read = |name: &str| fs::read_to_string(package.join(name)).with_context(|| format!("xtask/package/{name}"));
    let (unit, sysusers, tmpfiles) = (read("egress.service")?, read("egress.sysusers")?, read("egress.tmpfiles")?);
    let committed = Committed { unit: &unit, sysusers: &sysusers, tmpfiles: &tmpfiles };
    let steps = plan::install(&layout, committed, has_systemd());
    if arguments.dry_run {
        if arguments.binary.is_none() {
            print_dry("cargo build --release --package egress-userspace", "the program is built");
        }
        return print_all(&steps);
    }
    let program = match &arguments.binary {
        Some(program) => program.clone(),
        None => build()?,
    };
    carry_out_all(&steps, Some(program))?;
    if layout.is_staged() {
        println!("installed into {}", layout.at("/").display());
    } else if has_systemd() {
        println!("installed; `egress doctor` says whether this host holds what is promised");
        println!(
            "settings, ledger and CA (made at the first start) are in {STATE}; `journalctl -u egress` has the log"
        );
    } else {
        println!("installed; no systemd runs here: start `egress daemon` as root");
    }
    Ok(())
}

/// Removes what [`install`] made. Settings, ledger and CA only when somebody says so.
pub(crate) fn uninstall(arguments: &Uninstall) -> Result<()> {
    let layout = Layout::new(arguments.root.clone());
    if !arguments.dry_run && !layout.is_staged() {
        need::ensure_root("uninstall")?;
        refuse_packaged()?;
        refuse_while_bottles_run(Path::new(RUN))?;
    }
    let ledger = match (arguments.purge, arguments.keep_ledger) {
        (true, _) => Ledger::Remove,
        (false, true) => Ledger::Keep,
        (false, false) if arguments.dry_run => Ledger::Keep,
        (false, false) => ask_about_ledger(&layout.at(STATE), &mut io::stdin().lock(), io::stdin().is_terminal())?,
    };
    let steps = plan::uninstall(&layout, ledger, has_systemd());
    if arguments.dry_run {
        return print_all(&steps);
    }
    carry_out_all(&steps, None)?;
    if ledger == Ledger::Keep && layout.at(STATE).exists() {
        println!("settings, ledger and CA are kept in {}", layout.at(STATE).display());
    }
    Ok(())
}

/// Builds what is installed, in view: it takes minutes.
pub(super) fn build() -> Result<PathBuf> {
    println!("building the program with optimisations, which takes some minutes …");
    let start = Instant::now();
    command::run(command::cargo().args(["build", "--release", "--package", "egress-userspace"]))?;
    println!("built in {:.0} s", start.elapsed().as_secs_f32());
    Ok(command::target_directory().join("release/egress"))
}

fn has_systemd() -> bool {
    // What sd_booted(3) looks at.
    Path::new("/run/systemd/system").is_dir()
}

/// Two installations would fight for one unit. A package that was removed has left its name behind, and what was spent.
fn refuse_packaged() -> Result<()> {
    let asked = Command::new("dpkg-query").args(["--show", "--showformat", "${db:Status-Status}", "egress"]).output();
    let status = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let is_packaged = !["", "not-installed", "config-files"].contains(&status.trim());
    ensure!(
        !is_packaged,
        "egress is installed from a package here: `apt install ./egress_….deb` and `apt remove egress`"
    );
    Ok(())
}

/// Is there nothing that would be torn from under somebody?
pub(super) fn ensure_quiet() -> Result<()> {
    let run = Path::new(RUN);
    refuse_while_bottles_run(run).context(
        "a bottle was started meanwhile, and nothing has been removed: `systemctl enable --now egress` goes back",
    )?;
    ensure!(
        UnixStream::connect(run.join("control.sock")).is_err(),
        "a daemon that was started by hand runs here: end it"
    );
    Ok(())
}

fn refuse_while_bottles_run(run_directory: &Path) -> Result<()> {
    let entries = fs::read_dir(run_directory.join("bottles")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    if !names.is_empty() {
        bail!(
            "bottles run here: {}. End each with `egress kill` (attached ones with `egress detach`)",
            names.join(", ")
        );
    }
    Ok(())
}

/// What was spent is in there, so silence keeps it.
fn ask_about_ledger(state: &Path, answers: &mut impl BufRead, is_somebody_there: bool) -> Result<Ledger> {
    if !is_somebody_there || !state.exists() {
        return Ok(Ledger::Keep);
    }
    print!("remove settings, CA and the ledger of what was spent, {}? [y/N] ", state.display());
    io::stdout().flush()?;
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    Ok(if matches!(answer.trim(), "y" | "yes") { Ledger::Remove } else { Ledger::Keep })
}

fn print_all(steps: &[Step]) -> Result<()> {
    steps.iter().for_each(|step| print_dry(&step.as_typed(), &step.to_string()));
    Ok(())
}

fn print_dry(command: &str, what: &str) {
    println!("{command:<100} # {what}");
}

fn carry_out_all(steps: &[Step], program: Option<PathBuf>) -> Result<()> {
    let mut doer = Doer::new(program);
    for (number, step) in steps.iter().enumerate() {
        print!("[{:>2}/{}] {step} … ", number + 1, steps.len());
        io::stdout().flush()?;
        match doer.carry_out(step)? {
            Outcome::Changed => println!("done"),
            Outcome::AlreadySo => println!("already so"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_is_kept_unless_somebody_says_yes() {
        let directory = tempfile::tempdir().unwrap();
        let answer = |text: &str, is_somebody_there| {
            ask_about_ledger(directory.path(), &mut text.as_bytes(), is_somebody_there).unwrap()
        };
        for text in ["", "\n", "n\n", "what\n"] {
            assert_eq!(answer(text, true), Ledger::Keep, "{text:?}");
        }
        assert_eq!(answer("y\n", true), Ledger::Remove);
        assert_eq!(answer("y\n", false), Ledger::Keep);
    }

    #[test]
    fn bottles_that_run_are_named() {
        let directory = tempfile::tempdir().unwrap();
        assert!(refuse_while_bottles_run(directory.path()).is_ok());
        for name in ["bottles/.cgroup", "bottles/web", "bottles/api"] {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        let refused = refuse_while_bottles_run(directory.path()).unwrap_err().to_string();
        assert!(refused.starts_with("bottles run here: api, web."), "{refused}");
    }
}
