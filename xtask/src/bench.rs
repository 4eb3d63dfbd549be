//! Measurements: readies the machine, then runs the benchmark program of the tests crate in a release build.

use crate::command;
use crate::need::{self, Group};

/// The benchmark target of the tests crate: direct, through egress and through nginx, in the same run.
const BENCHMARK: &str = "through";

pub(crate) fn run(install: bool) -> anyhow::Result<()> {
    need::ensure_root("bench --install")?;
    need::ensure(&[Group::Bench], install)?;
    need::ensure_kernel()?;
    command::run(command::cargo().args(["build", "--release", "--workspace", "--bins"]))?;
    command::run(
        command::cargo()
            .args(["bench", "--package", "egress-tests", "--bench", BENCHMARK])
            .env("PATH", command::system_path()),
    )
}
