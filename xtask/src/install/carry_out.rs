//! Doing a step, unless it is so already.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::{Group, User};

use super::ensure_quiet;
use super::layout::{ACCOUNT, UNIT};
use super::step::{Contents, Step, user_words};
use crate::command;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Changed,
    AlreadySo,
}

/// Whoever does steps, one after the other.
pub(super) struct Doer {
    program: Option<PathBuf>,
    /// Something that runs is not what has been installed.
    is_stale: bool,
}

impl Doer {
    /// `program` is what is installed; none is needed to remove.
    pub(super) fn new(program: Option<PathBuf>) -> Self {
        Self { program, is_stale: false }
    }

    /// Does one.
    pub(super) fn carry_out(&mut self, step: &Step) -> Result<Outcome> {
        let has_changed = self.change(step).with_context(|| format!("{step}: this could not be made so"))?;
        Ok(if has_changed { Outcome::Changed } else { Outcome::AlreadySo })
    }

    fn change(&mut self, step: &Step) -> Result<bool> {
        match step {
            Step::Group => unless(Group::from_name(ACCOUNT)?.is_some(), &["groupadd", "--system", ACCOUNT]),
            Step::User => unless(User::from_name(ACCOUNT)?.is_some(), &user_words()),
            Step::Directory { path, mode } => Ok(directory(path, *mode)?),
            Step::File { path, mode, contents } => {
                let has_changed = file(path, &self.bytes_of(contents)?, *mode)?;
                self.is_stale |= has_changed;
                Ok(has_changed)
            }
            Step::ManPages(directory) => self.man_pages(directory),
            Step::Reload => {
                let is_behind = property("NeedDaemonReload").is_none_or(|answer| answer != "no");
                unless(!self.is_stale && !is_behind, &["systemctl", "daemon-reload"])
            }
            Step::Enable => {
                unless(says_yes(&["systemctl", "--quiet", "is-enabled", UNIT]), &["systemctl", "enable", UNIT])
            }
            Step::Start => {
                let is_active = says_yes(&["systemctl", "--quiet", "is-active", UNIT]);
                unless(is_active && !self.is_stale && !runs_replaced_program(), &["systemctl", "restart", UNIT])
            }
            Step::Disable => {
                let knows = says_yes(&["systemctl", "--quiet", "cat", UNIT]);
                unless(!knows, &["systemctl", "disable", "--now", UNIT])
            }
            Step::Quiet => ensure_quiet().map(|()| false),
            Step::Remove(path) => {
                let is_gone = is_gone(fs::remove_file(path))?;
                self.is_stale |= !is_gone;
                Ok(!is_gone)
            }
            Step::RemoveManPages(directory) => remove_man_pages(directory),
            Step::RemoveTree(path) => Ok(!is_gone(fs::remove_dir_all(path))?),
            Step::DeleteDevice(device) => {
                let is_absent = !Path::new("/sys/class/net").join(device).exists();
                if !is_absent && command::find("ip").is_none() {
                    print!("(there is no `ip` here: it goes when the host starts next) ");
                    return Ok(false);
                }
                unless(is_absent, &["ip", "link", "delete", device])
            }
            Step::DeleteTable(table) => {
                let is_there = command::find("nft").is_some() && says_yes(&["nft", "list", "table", "netdev", table]);
                unless(!is_there, &["nft", "delete", "table", "netdev", table])
            }
            Step::RemoveAccount => {
                let user = unless(User::from_name(ACCOUNT)?.is_none(), &["userdel", ACCOUNT])?;
                // It goes with its user where nobody else is in it.
                let group = unless(Group::from_name(ACCOUNT)?.is_none(), &["groupdel", ACCOUNT])?;
                Ok(user || group)
            }
        }
    }

    fn bytes_of(&self, contents: &Contents) -> Result<Vec<u8>> {
        Ok(match contents {
            Contents::Program => fs::read(self.program()?)?,
            Contents::Text(text) => text.clone().into_bytes(),
            Contents::Completions(shell) => {
                command::output(Command::new(self.program()?).args(["completions", shell.name()]))?.into_bytes()
            }
        })
    }

    fn man_pages(&self, directory: &Path) -> Result<bool> {
        let fresh = tempfile::tempdir()?;
        command::run(Command::new(self.program()?).arg("man-pages").arg(fresh.path()))?;
        let mut has_changed = false;
        for page in fs::read_dir(fresh.path())? {
            let page = page?;
            has_changed |= file(&directory.join(page.file_name()), &fs::read(page.path())?, 0o644)?;
        }
        // Of commands that there were once.
        for page in man_pages_in(directory)? {
            let is_current = page.file_name().is_some_and(|name| fresh.path().join(name).exists());
            has_changed |= !is_current && !is_gone(fs::remove_file(&page))?;
        }
        Ok(has_changed)
    }

    fn program(&self) -> Result<&Path> {
        self.program.as_deref().context("there is no program to install")
    }
}

/// Runs a command unless what it does is so; tells whether it ran.
fn unless(is_so: bool, words: &[&str]) -> Result<bool> {
    if !is_so {
        command::run(&mut system(words))?;
    }
    Ok(!is_so)
}

fn says_yes(words: &[&str]) -> bool {
    system(words).output().is_ok_and(|output| output.status.success())
}

/// What the service manager says of the unit.
fn property(name: &str) -> Option<String> {
    let said = command::output(&mut system(&["systemctl", "show", "--value", "--property", name, UNIT]));
    said.ok().map(|value| value.trim().to_owned())
}

/// An installation that was broken off has put another program in the place of the one that runs.
fn runs_replaced_program() -> bool {
    let program = property("MainPID").and_then(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok());
    program.is_some_and(|program| program.to_string_lossy().ends_with(" (deleted)"))
}

fn system(words: &[&str]) -> Command {
    let (program, arguments) = words.split_first().unwrap_or((&"true", &[]));
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", command::system_path());
    command
}

/// Tells whether anything had to be done.
fn directory(path: &Path, mode: u32) -> io::Result<bool> {
    if fs::metadata(path).is_ok_and(|found| found.is_dir() && found.mode() & 0o7777 == mode) {
        return Ok(false);
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(true)
}

/// Written beside its place and moved there: whoever runs or reads the old one keeps it, and nobody ever sees half of one.
fn file(path: &Path, bytes: &[u8], mode: u32) -> Result<bool> {
    let is_so = fs::metadata(path).is_ok_and(|found| found.mode() & 0o7777 == mode && found.is_file());
    if is_so && fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(false);
    }
    let directory = path.parent().context("a file has no directory")?;
    fs::create_dir_all(directory)?;
    let mut unfinished = tempfile::Builder::new().prefix(".egress-").tempfile_in(directory)?;
    unfinished.write_all(bytes)?;
    unfinished.as_file().set_permissions(Permissions::from_mode(mode))?;
    unfinished.as_file().sync_all()?;
    unfinished.persist(path)?;
    File::open(directory)?.sync_all()?;
    Ok(true)
}

fn is_gone(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn remove_man_pages(directory: &Path) -> Result<bool> {
    let pages = man_pages_in(directory)?;
    pages.iter().try_for_each(fs::remove_file)?;
    Ok(!pages.is_empty())
}

/// Ours: of the program, and of its commands.
fn man_pages_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let pages = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path()));
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_suffix(".1").is_some_and(|stem| stem == "egress" || stem.starts_with("egress-"))
    };
    Ok(pages.collect::<io::Result<Vec<PathBuf>>>()?.into_iter().filter(is_ours).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(doer: &mut Doer, step: &Step, expected: Outcome) {
        assert_eq!(doer.carry_out(step).unwrap(), expected, "{step}");
    }

    fn text(path: &Path, text: &str) -> Step {
        Step::File { path: path.to_owned(), mode: 0o644, contents: Contents::Text(text.to_owned()) }
    }

    #[test]
    fn what_is_so_is_not_done_again() {
        let directory = tempfile::tempdir().unwrap();
        let (place, state) = (directory.path().join("a/b/egress.conf"), directory.path().join("state"));
        let mut doer = Doer::new(None);
        for expected in [Outcome::Changed, Outcome::AlreadySo] {
            check(&mut doer, &text(&place, "one"), expected);
            check(&mut doer, &Step::Directory { path: state.clone(), mode: 0o700 }, expected);
        }
        fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
        check(&mut doer, &Step::Directory { path: state.clone(), mode: 0o700 }, Outcome::Changed);
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o7777, 0o700);
        for expected in [Outcome::Changed, Outcome::AlreadySo] {
            check(&mut doer, &Step::Remove(place.clone()), expected);
            check(&mut doer, &Step::RemoveTree(state.clone()), expected);
        }
    }

    #[test]
    fn whoever_has_the_old_file_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("egress");
        let mut doer = Doer::new(None);
        check(&mut doer, &text(&place, "old"), Outcome::Changed);
        let old = File::open(&place).unwrap();
        check(&mut doer, &text(&place, "new"), Outcome::Changed);
        assert_eq!(io::read_to_string(old).unwrap(), "old");
        assert_eq!(fs::read_to_string(&place).unwrap(), "new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "something unfinished is left");
    }

    #[test]
    fn man_pages_of_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["egress.1", "egress-run.1", "egressive.1", "ls.1"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let step = Step::RemoveManPages(directory.path().to_owned());
        check(&mut Doer::new(None), &step, Outcome::Changed);
        check(&mut Doer::new(None), &step, Outcome::AlreadySo);
        let mut left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["egressive.1", "ls.1"]);
    }
}
