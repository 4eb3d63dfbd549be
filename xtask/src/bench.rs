//! Measurements: readies the machine, then runs the benchmark program of the tests crate in a release build.

use std::fs;

use anyhow::bail;

use crate::command;
use crate::need::{self, Group};

/// The benchmark target of the tests crate: direct, through egress and through nginx, in the same run.
const BENCHMARK: &str = "through";

pub(crate) fn run(install: bool) -> anyhow::Result<()> {
    need::ensure_root("bench --install")?;
    need::ensure(&[Group::Bench], install)?;
    need::ensure_kernel()?;
    let source = command::workspace().join("tests/benches").join(format!("{BENCHMARK}.rs"));
    if fs::metadata(&source).is_err() {
        bail!("there is no benchmark {}: add it to the tests crate", source.display());
    }
    command::run(command::cargo().args(["build", "--release", "--workspace", "--bins"]))?;
    command::run(
        command::cargo()
            .args(["bench", "--package", "egress-tests", "--bench", BENCHMARK])
            .env("PATH", command::system_path()),
    )
}
