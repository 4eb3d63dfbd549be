//! `cargo xtask test`: builds once, runs every suite, and closes with one line of counts.

mod again;
mod clients;
mod suite;
mod tally;

use std::process::Stdio;
use std::thread;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};

use crate::command;
use crate::need::{self, Group};
use suite::{Suite, Verdict};
use tally::Tally;

pub(crate) fn run(install: bool, filter: &[String]) -> anyhow::Result<()> {
    need::ensure(&[Group::Test], install)?;
    prepare_privileges()?;
    let start = Instant::now();
    // What the network has to bring comes while this machine builds.
    let clients = thread::spawn(move || clients::ensure(install));
    println!("building …");
    let suites = suites();
    clients.join().map_err(|_| anyhow!("the installer panicked"))??;
    let suites = suites?;
    println!("built in {:.0} s", start.elapsed().as_secs_f32());

    let mut total = Tally::default();
    let mut failed = Vec::new();
    for suite in &suites {
        let verdict = run_suite(suite, filter)?;
        total += verdict.tally;
        failed.extend(again::failed(&verdict.output, verdict.tally.failed).into_iter().map(|test| (suite, test)));
    }
    if command::is_ci() {
        total.forgive(again::run(&failed)?);
    }
    println!("{:.0} s in all", start.elapsed().as_secs_f32());
    println!("{total}");
    verdict(total, !filter.is_empty())
}

/// Without root the privileged tests skip themselves; in the continuous integration that is an error from the start.
fn prepare_privileges() -> anyhow::Result<()> {
    if command::is_root() {
        return need::ensure_kernel();
    }
    if command::is_ci() {
        return need::ensure_root("test --install");
    }
    println!("not root: tests that need it are skipped. To run them too: {}", need::as_root("test"));
    Ok(())
}

fn suites() -> anyhow::Result<Vec<Suite>> {
    let mut suites = workspace_suites()?;
    suites.extend(ebpf_suites()?);
    suites.push(Suite::documentation());
    Ok(suites)
}

/// The binaries are built with the tests: the privileged suites start them.
fn workspace_suites() -> anyhow::Result<Vec<Suite>> {
    let arguments = ["build", "--workspace", "--bins", "--tests", "--message-format=json-render-diagnostics"];
    build(&arguments).map(|messages| Suite::of_build(&messages))
}

/// What can be tested of the eBPF program without a kernel: its library, built for this machine.
fn ebpf_suites() -> anyhow::Result<Vec<Suite>> {
    let manifest = command::workspace().join("egress-ebpf/Cargo.toml");
    if !manifest.exists() {
        return Ok(Vec::new());
    }
    let (manifest, target) = (manifest.display().to_string(), command::ebpf_host_directory());
    let target = target.display().to_string();
    let arguments = ["test", "--no-run", "--lib", "--manifest-path", &manifest, "--target-dir", &target];
    build(&[&arguments[..], &["--message-format=json-render-diagnostics"]].concat())
        .map(|messages| Suite::of_build(&messages))
}

/// Runs cargo with its progress shown and returns its JSON messages.
fn build(arguments: &[&str]) -> anyhow::Result<String> {
    let output =
        command::cargo().args(arguments).stderr(Stdio::inherit()).output().context("cargo could not be started")?;
    if !output.status.success() {
        bail!("the build failed");
    }
    String::from_utf8(output.stdout).context("cargo's messages are no UTF-8")
}

/// A filter that names the suite runs all of it; another one chooses tests.
fn run_suite(suite: &Suite, filter: &[String]) -> anyhow::Result<Verdict> {
    let is_whole = filter.iter().any(|part| suite.name.contains(part.as_str()));
    let verdict = suite.run(if is_whole { &[] } else { filter })?;
    let tally = verdict.tally;
    // Where nothing matched or nothing is, there is nothing to say.
    if tally.total() == 0 {
        return Ok(verdict);
    }
    let mark = if tally.failed > 0 { "✗" } else { "✓" };
    println!("{mark}  {:<36} {tally}  ({:.1} s)", suite.name, verdict.took.as_secs_f32());
    if tally.failed > 0 {
        for line in &verdict.output {
            println!("   | {line}");
        }
    }
    Ok(verdict)
}

fn verdict(total: Tally, is_filtered: bool) -> anyhow::Result<()> {
    if total.failed > 0 {
        bail!("{} tests failed; what they printed stands above", total.failed);
    }
    if total.skipped > total.excused && command::is_ci() {
        bail!("{} tests were skipped: here everything must run", total.skipped - total.excused);
    }
    if total.total() == 0 {
        bail!(if is_filtered { "no test has such a name" } else { "there were no tests" });
    }
    Ok(())
}
