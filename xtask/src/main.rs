//! The project's own tools: `cargo xtask --help`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for a terminal: printing is what it does")]

mod bench;
mod ci;
mod command;
mod demo;
mod docs;
mod ebpf;
mod fuzz;
mod install;
mod need;
mod test;
mod tidy;
mod unit;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use fuzz::Fuzz;
use install::deb::Deb;
use install::{Install, Uninstall};
use need::Group;

/// The project's own tools.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Rebuild the committed eBPF object from its source.
    Ebpf {
        /// Change nothing; fail when the committed object is not what the source gives.
        #[arg(long)]
        check: bool,
    },
    /// Run every test, the privileged ones included (as root).
    Test {
        /// Install what the machine lacks.
        #[arg(long)]
        install: bool,
        /// Only tests whose name, or the name of whose suite, contains one of these.
        filter: Vec<String>,
    },
    /// Show the whole path: a bottle spends its budget and the kernel cuts it (as root).
    Demo {
        /// Install what the machine lacks.
        #[arg(long)]
        install: bool,
    },
    /// Check the documentation and build its book into target/book.
    Docs {
        /// Write the pages anew that are made from the types.
        #[arg(long)]
        write: bool,
        /// Record the demonstration and the dashboard anew (as root).
        #[arg(long)]
        record: bool,
        /// Install what the machine lacks.
        #[arg(long)]
        install: bool,
    },
    /// Install egress on this host, or bring it up to date: program, service, completions, man pages (as root).
    Install(Install),
    /// Remove what was installed; asks before the ledger goes (as root).
    Uninstall(Uninstall),
    /// Make a Debian package.
    Deb(Deb),
    /// Measure egress against a direct connection and a plain TLS relay (as root).
    Bench {
        /// Install what the machine lacks.
        #[arg(long)]
        install: bool,
    },
    /// Look for bytes that break what must hold of the meter, whatever the bytes are.
    Fuzz {
        /// Install what the machine lacks.
        #[arg(long)]
        install: bool,
        /// Executions of each target.
        #[arg(long, default_value_t = 1_000_000)]
        runs: u64,
        /// Add what was found to the committed corpus.
        #[arg(long)]
        keep: bool,
        /// Only targets whose name contains one of these.
        target: Vec<String>,
    },
    /// What the continuous integration checks besides tests: formatting, lints, docs, house rules, the eBPF object.
    Ci {
        /// Install what the machine lacks.
        #[arg(long)]
        install: bool,
    },
    /// Check the house rules: imports, purity, sizes, owners of dependencies, words.
    Tidy,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Ebpf { check } => {
            need::ensure(&[Group::Ebpf], false)?;
            ebpf::run(check)
        }
        Task::Test { install, filter } => test::run(install, &filter),
        Task::Demo { install } => demo::run(install),
        Task::Docs { write, record, install } => docs::run(docs::Wanted { write, record, install }),
        Task::Install(arguments) => install::install(&arguments),
        Task::Uninstall(arguments) => install::uninstall(&arguments),
        Task::Deb(arguments) => install::deb::run(&arguments),
        Task::Bench { install } => bench::run(install),
        Task::Fuzz { install, runs, keep, target } => fuzz::run(&Fuzz { filter: &target, runs, keep, install }),
        Task::Ci { install } => ci::run(install),
        Task::Tidy => tidy::run(),
    }
}
