//! The SDKs and the agents that the suites in `tests/tests/clients` run, at the versions that `tests/clients` pins. They go
//! into cargo's output directory, once for each set of versions, and are no part of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, anyhow};

use crate::command;
use crate::need;

/// In each directory: the pins that it was installed from. The suites read it too.
const STAMP: &str = "installed";

/// Programs that are installed together.
struct Set {
    what: &'static str,
    /// The committed file that names every version; others that are needed are beside it.
    pins: &'static str,
    /// Where they go, below `target/clients`.
    directory: &'static str,
    /// Installs from the first directory, of the pins, into the second.
    install: fn(&Path, &Path) -> anyhow::Result<()>,
    /// Is what the stamp speaks of still there?
    is_there: fn(&Path) -> bool,
}

const SETS: [Set; 3] = [
    Set {
        what: "the Python SDKs",
        pins: "requirements.txt",
        directory: "python",
        install: install_python,
        is_there: has_python,
    },
    Set {
        what: "the Node SDKs",
        pins: "package-lock.json",
        directory: "node",
        install: |sources, directory| install_node(sources, directory, &[]),
        is_there: |directory| directory.join("node_modules").is_dir(),
    },
    Set {
        what: "the agents",
        pins: "agents/package-lock.json",
        directory: "agents",
        install: install_agents,
        is_there: |directory| ["claude", "codex", "gemini"].iter().all(|name| agent(directory, name).exists()),
    },
];

/// Installs what is not there yet. Where that fails, the suites that need it skip themselves, unless everything must run.
pub(super) fn ensure(install: bool) -> anyhow::Result<()> {
    // Without root those suites are skipped anyway.
    if !command::is_root() {
        return Ok(());
    }
    let (sources, target) = (command::workspace().join("tests/clients"), command::target_directory().join("clients"));
    let insisting = need::as_root("test --install clients");
    let made = thread::scope(|scope| {
        let start = |set: &'static Set| scope.spawn(|| set.ensure(&sources, &target.join(set.directory)));
        let begun: Vec<_> = SETS.iter().map(|set| (set, start(set))).collect();
        let end = |(set, thread): (_, thread::ScopedJoinHandle<'_, _>)| {
            (set, thread.join().unwrap_or_else(|_| Err(anyhow!("the installer panicked"))))
        };
        begun.into_iter().map(end).collect::<Vec<(&Set, anyhow::Result<()>)>>()
    });
    for (set, made) in made {
        match made.with_context(|| format!("{} could not be installed", set.what)) {
            Ok(()) => {}
            Err(error) if install || command::is_ci() => return Err(error),
            Err(error) => println!("{error:#}\nthe tests that use them are skipped; to insist on them: {insisting}"),
        }
    }
    Ok(())
}

impl Set {
    fn ensure(&self, sources: &Path, directory: &Path) -> anyhow::Result<()> {
        let pins = sources.join(self.pins);
        let wanted = fs::read(&pins).with_context(|| format!("cannot read {}", pins.display()))?;
        let stamp = directory.join(STAMP);
        if fs::read(&stamp).is_ok_and(|found| found == wanted) && (self.is_there)(directory) {
            return Ok(());
        }
        println!("installing {} in {} …", self.what, directory.display());
        let start = Instant::now();
        if directory.exists() {
            fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        (self.install)(pins.parent().unwrap_or(sources), directory)?;
        // Last: without it, whatever is there counts for nothing.
        fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
        println!("installed {} in {:.0} s", self.what, start.elapsed().as_secs_f32());
        Ok(())
    }
}

fn install_python(sources: &Path, directory: &Path) -> anyhow::Result<()> {
    command::run(Command::new("python3").args(["-m", "venv"]).arg(directory))?;
    let mut pip = Command::new(python(directory));
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--requirement"]);
    command::run(pip.arg(sources.join("requirements.txt")))
}

/// Another Python than the one it was made with does not find its packages.
fn has_python(directory: &Path) -> bool {
    let find = "import importlib.util, sys; sys.exit(importlib.util.find_spec('anthropic') is None)";
    Command::new(python(directory)).args(["-c", find]).status().is_ok_and(|status| status.success())
}

fn python(directory: &Path) -> PathBuf {
    directory.join("bin/python")
}

fn install_node(sources: &Path, directory: &Path, options: &[&str]) -> anyhow::Result<()> {
    for name in ["package.json", "package-lock.json", ".npmrc"] {
        fs::copy(sources.join(name), directory.join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    command::run(Command::new("npm").args(["ci", "--loglevel=error"]).args(options).current_dir(directory))
}

/// Their packages bring their programs along; of the scripts that would run, others build what is not used here.
fn install_agents(sources: &Path, directory: &Path) -> anyhow::Result<()> {
    install_node(sources, directory, &["--ignore-scripts"])?;
    let script = "node_modules/@anthropic-ai/claude-code/install.cjs";
    command::run(Command::new("node").arg(script).current_dir(directory))
}

fn agent(directory: &Path, name: &str) -> PathBuf {
    directory.join("node_modules/.bin").join(name)
}
