//! The unit of the service: is it well-formed, and does it give away no more than it did?

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command;

const UNIT: &str = "xtask/package/egress.service";
/// What `systemd-analyze security` may report at most, times ten.
const EXPOSURE_MAX: &str = "--threshold=61";

/// Asks systemd; needs none that runs.
pub(crate) fn check() -> Result<()> {
    let text = fs::read_to_string(command::workspace().join(UNIT)).context(UNIT)?;
    let scratch = tempfile::tempdir()?;
    let unit = scratch.path().join("egress.service");
    // The program need not be installed to look at the unit.
    fs::write(&unit, text.replace("ExecStart=/usr/bin/egress ", "ExecStart=/bin/true "))?;
    let complaints = analyze().args(["verify", "--man=no"]).arg(&unit).output()?;
    let said = String::from_utf8_lossy(&complaints.stderr);
    ensure!(complaints.status.success() && said.trim().is_empty(), "systemd-analyze verify: {}", said.trim());
    let mut security = analyze();
    security.args(["security", "--offline=true", "--no-pager", EXPOSURE_MAX]).arg(&unit);
    let said = command::output(&mut security).context("the unit gives away more than it may")?;
    let score = said.lines().rev().find(|line| line.contains("exposure level")).unwrap_or_default();
    println!("{}", score.trim_start_matches(['→', ' ']));
    Ok(())
}

fn analyze() -> Command {
    let mut command = Command::new("systemd-analyze");
    command.env("PATH", command::system_path());
    command
}
