//! Measurements: readies the machine, then runs the benchmark programs of the tests crate in a release build.

use crate::command;
use crate::need::{self, Group};

/// The benchmarks of the tests crate: how far off the offline estimate is; the meter alone; detectors on beside off; the ledger
/// alone; gates beside a bare veth; then direct, through egress and through nginx, in the same run.
const BENCHMARKS: [&str; 6] = ["estimate", "meter", "dlp", "ledger", "gate", "through"];

pub(crate) fn run(install: bool) -> anyhow::Result<()> {
    need::ensure_root("bench --install")?;
    need::ensure(&[Group::Bench], install)?;
    need::ensure_kernel()?;
    command::run(command::cargo().args(["build", "--release", "--workspace", "--bins"]))?;
    for benchmark in BENCHMARKS {
        let arguments = ["bench", "--package", "egress-tests", "--bench", benchmark];
        command::run(command::cargo().args(arguments).env("PATH", command::system_path()))?;
    }
    Ok(())
}
