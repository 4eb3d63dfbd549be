//! What the continuous integration checks besides tests. Every check runs, so that one run names everything.

use std::time::Instant;

use anyhow::bail;

use crate::need::{self, Group};
use crate::{command, docs, ebpf, tidy, unit};

/// A name and what it does.
type Check = (&'static str, fn() -> anyhow::Result<()>);

/// Cheap ones first.
const CHECKS: &[Check] = &[
    ("fmt", format),
    ("tidy", tidy::run),
    ("docs", docs::build),
    ("unit", unit::check),
    ("clippy", clippy),
    ("doc", doc),
    ("ebpf --check", || ebpf::run(true)),
];

pub(crate) fn run(install: bool) -> anyhow::Result<()> {
    need::ensure(&[Group::Ebpf, Group::Docs, Group::Check], install)?;
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
    match ebpf_manifest() {
        Some(manifest) => command::run(command::cargo().args(["fmt", "--check", "--manifest-path", &manifest])),
        None => Ok(()),
    }
}

/// Of the eBPF crate only the library: its program compiles for the bpf target alone.
fn clippy() -> anyhow::Result<()> {
    command::run(command::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let Some(manifest) = ebpf_manifest() else {
        return Ok(());
    };
    let target = command::ebpf_host_directory();
    let mut cargo = command::cargo();
    cargo.args(["clippy", "--lib", "--tests", "--manifest-path", &manifest, "--target-dir"]).arg(target);
    command::run(cargo.args(["--", "-D", "warnings"]))
}

fn doc() -> anyhow::Result<()> {
    let mut cargo = command::cargo();
    command::run(cargo.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

/// The eBPF crate is a workspace of its own: it is built for another target by another toolchain.
fn ebpf_manifest() -> Option<String> {
    let manifest = command::workspace().join("egress-ebpf/Cargo.toml");
    manifest.exists().then(|| manifest.display().to_string())
}
