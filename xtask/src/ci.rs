//! What the continuous integration checks besides tests. Every check runs, so that one run names everything.

use std::process::Command;
use std::time::Instant;

use anyhow::bail;

use crate::need::{self, Group};
use crate::{command, ebpf, tidy};

/// A name and what it does.
type Check = (&'static str, fn() -> anyhow::Result<()>);

/// Cheap ones first.
const CHECKS: &[Check] =
    &[("fmt", format), ("tidy", tidy::run), ("clippy", clippy), ("doc", doc), ("ebpf --check", || ebpf::run(true))];

pub(crate) fn run(install: bool) -> anyhow::Result<()> {
    need::ensure(&[Group::Ebpf], install)?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        println!("── {name}");
        let start = Instant::now();
        let verdict = check();
        let seconds = start.elapsed().as_secs_f32();
        match verdict {
            Ok(()) => println!("── {name}: ok, {seconds:.1} s"),
            Err(error) => {
                println!("── {name}: FAILED, {seconds:.1} s: {error:#}");
                failed.push(*name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("these checks failed: {}", failed.join(", "));
    }
    println!("all {} checks hold", CHECKS.len());
    Ok(())
}

fn format() -> anyhow::Result<()> {
    command::run(command::cargo().args(["fmt", "--all", "--check"]))?;
    // Its own workspace: it is built for another target with another toolchain.
    if command::workspace().join("egress-ebpf/Cargo.toml").exists() {
        command::run(command::cargo().args(["fmt", "--manifest-path", "egress-ebpf/Cargo.toml", "--check"]))?;
    }
    Ok(())
}

fn clippy() -> anyhow::Result<()> {
    command::run(command::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn doc() -> anyhow::Result<()> {
    let mut cargo: Command = command::cargo();
    command::run(cargo.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}
