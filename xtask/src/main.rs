//! The project's own tools.
#![forbid(unsafe_code)]

mod ebpf;

use clap::{Parser, Subcommand};

/// The project's own tools.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the gate from source and put the object where the binary embeds it.
    Ebpf {
        /// Build it somewhere else and compare with the object that is there.
        #[arg(long)]
        check: bool,
        /// Install what the build needs first (Debian, as root).
        #[arg(long)]
        install: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Ebpf { check, install } => {
            if install {
                ebpf::install_missing()?;
            }
            ebpf::run(check)
        }
    }
}
