//! Fuzzing: builds `tests/fuzz` with coverage counters and gives each target its share of executions, one after the other.
//!
//! The corpus in `tests/fuzz/corpus` is the beginning of every run; tests beside the targets replay it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::command;
use crate::need::{self, Group};

/// libFuzzer's instrumentation, without a sanitizer: the code under test has no `unsafe`.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Large windows of decoders come from the kernel, zeroed when touched, instead of being cleared for every input.
const MALLOC: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072");
/// With a target named, build scripts and macros are left without instrumentation.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Longest input, in bytes: everything that matters happens in less.
const INPUT_BYTES_MAX: usize = 4096;
/// One input that takes longer, in seconds, is a finding.
const INPUT_SECONDS_MAX: u32 = 10;
/// Resident memory that is a finding, in MiB.
const MEMORY_MIB_MAX: u32 = 512;
/// Longest input that is kept in the corpus, in bytes, so that the repository stays small.
const KEPT_BYTES_MAX: usize = 1024;

/// What to do.
pub(crate) struct Fuzz<'a> {
    /// Targets whose names contain one of these; all when there are none.
    pub(crate) filter: &'a [String],
    /// Executions of each.
    pub(crate) runs: u64,
    /// Add what was found to the committed corpus, reduced to what reaches more code.
    pub(crate) keep: bool,
    /// Install what is missing.
    pub(crate) install: bool,
}

pub(crate) fn run(fuzz: &Fuzz<'_>) -> anyhow::Result<()> {
    need::ensure(&[Group::Fuzz], fuzz.install)?;
    let fuzzers = build()?;
    let corpus = command::workspace().join("tests/fuzz/corpus");
    let is_wanted =
        |name: &String| fuzz.filter.is_empty() || fuzz.filter.iter().any(|part| name.contains(part.as_str()));
    let targets: Vec<String> = targets(&corpus)?.into_iter().filter(is_wanted).collect();
    if targets.is_empty() {
        bail!("no target in {} is called like {:?}", corpus.display(), fuzz.filter);
    }
    for (number, target) in (1..).zip(&targets) {
        println!("fuzz {target} ({number} of {}), {} executions", targets.len(), fuzz.runs);
        let found = found_directory().join(target);
        fs::create_dir_all(&found)?;
        let committed = corpus.join(target);
        execute(&fuzzers, target, &[format!("-runs={}", fuzz.runs)], &[&found, &committed])?;
        if fuzz.keep {
            let length = format!("-max_len={KEPT_BYTES_MAX}");
            execute(&fuzzers, target, &["-merge=1".to_owned(), length], &[&committed, &found])?;
        }
    }
    Ok(())
}

/// The folder of the targets' programs.
fn build() -> anyhow::Result<PathBuf> {
    let directory = command::target_directory().join("fuzz");
    let mut cargo = command::cargo();
    cargo.current_dir(command::workspace().join("tests/fuzz")).env("RUSTFLAGS", RUSTFLAGS);
    cargo.args(["build", "--release", "--target", TRIPLE, "--target-dir"]).arg(&directory);
    command::run(&mut cargo)?;
    Ok(directory.join(TRIPLE).join("release"))
}

/// Inputs that reached code that no other had reached, over all runs.
fn found_directory() -> PathBuf {
    command::target_directory().join("fuzz/found")
}

fn targets(corpus: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(corpus).with_context(|| format!("{} could not be read", corpus.display()))?;
    let mut names: Vec<String> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<std::io::Result<_>>()?;
    names.sort();
    Ok(names)
}

fn execute(fuzzers: &Path, target: &str, options: &[String], directories: &[&Path]) -> anyhow::Result<()> {
    let crashes = command::target_directory().join("fuzz").join(format!("{target}-"));
    let mut command = Command::new(fuzzers.join(target));
    command.env(MALLOC.0, MALLOC.1).args([
        format!("-max_len={INPUT_BYTES_MAX}"),
        format!("-timeout={INPUT_SECONDS_MAX}"),
        format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
        format!("-artifact_prefix={}", crashes.display()),
        "-print_final_stats=1".to_owned(),
    ]);
    // Of an option that is given twice the last counts.
    command.args(options).args(directories);
    command::run(&mut command).with_context(|| {
        format!(
            "{target} has a finding; its input is {}*, and {} FILE runs it again",
            crashes.display(),
            fuzzers.join(target).display()
        )
    })
}
