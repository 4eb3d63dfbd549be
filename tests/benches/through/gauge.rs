//! What is read from outside while a load runs: memory of processes, the kernel's account of its programs, the daemon's log.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// The gate's programs, as the kernel knows them.
const GATE_PROGRAMS: [&str; 2] = ["from_bottle", "to_bottle"];

/// Bytes of a process's memory, its share of what several have mapped.
pub(crate) fn memory_bytes(pid: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
    let kibibytes: u64 = line.split_whitespace().next().context("Pss is no number")?.parse()?;
    Ok(kibibytes << 10)
}

/// A process's children.
pub(crate) fn children(pid: u32) -> Result<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    children.split_whitespace().map(|child| Ok(child.parse()?)).collect()
}

/// The kernel measures how long its programs run, as long as this lives.
pub(crate) struct ProgramStatistics {
    before: String,
}

/// How often the gate's programs have run and how long that took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GateRuns {
    pub(crate) count: u64,
    pub(crate) nanoseconds: u64,
}

#[derive(Deserialize)]
struct Program {
    #[serde(default)]
    name: String,
    #[serde(default)]
    run_time_ns: u64,
    #[serde(default)]
    run_cnt: u64,
}

impl ProgramStatistics {
    pub(crate) fn enable() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS)?;
        fs::write(STATISTICS, "1")?;
        Ok(Self { before })
    }

    /// Since the programs were loaded, while statistics were on.
    pub(crate) fn read(&self) -> Result<GateRuns> {
        let output = Command::new("bpftool").args(["prog", "show", "--json"]).output().context("bpftool is missing")?;
        ensure!(output.status.success(), "bpftool prog show: {}", String::from_utf8_lossy(&output.stderr));
        let programs: Vec<Program> = serde_json::from_slice(&output.stdout)?;
        let gates = programs.iter().filter(|program| GATE_PROGRAMS.contains(&program.name.as_str()));
        Ok(gates.fold(GateRuns::default(), |sum, one| GateRuns {
            count: sum.count + one.run_cnt,
            nanoseconds: sum.nanoseconds + one.run_time_ns,
        }))
    }
}

impl Drop for ProgramStatistics {
    fn drop(&mut self) {
        let _ = fs::write(STATISTICS, &self.before);
    }
}

/// One crossing, microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crossing {
    /// From the commit of the settlement to the kernel holding the cut.
    pub(crate) commit_to_cut: f64,
    /// Of it, the write of the gate's map.
    pub(crate) map_write: f64,
}

/// Every crossing in the log of a daemon that logs commits: each cut and the commit right before it.
pub(crate) fn crossings(log: &str) -> Vec<Crossing> {
    let mut committed = None;
    let mut crossings = Vec::new();
    for line in log.lines() {
        let Some(at) = microseconds_of_day(line) else { continue };
        if line.contains("ledger::writer: committed") {
            committed = Some(at);
        } else if let (Some(write), Some(before)) = (field(line, "write_us="), committed)
            && line.contains(": cut ")
        {
            crossings.push(Crossing { commit_to_cut: at - before, map_write: write });
        }
    }
    crossings
}

/// Of a line's `2000-01-01T12:34:56.123456Z`.
fn microseconds_of_day(line: &str) -> Option<f64> {
    let (_, time) = line.split_whitespace().next()?.strip_suffix('Z')?.split_once('T')?;
    let mut parts = time.splitn(3, ':');
    let mut next = || parts.next()?.parse::<f64>().ok();
    let (hours, minutes, seconds) = (next()?, next()?, next()?);
    Some(((hours * 60.0 + minutes) * 60.0 + seconds) * 1e6)
}

fn field(line: &str, name: &str) -> Option<f64> {
    let (_, rest) = line.split_once(name)?;
    rest.split_whitespace().next()?.parse().ok()
}
