//! One test program: its name, how it is started, and a run of it with a time limit.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Deserialize;

use super::tally::Tally;
use crate::command;

/// A suite that takes longer hangs.
const SUITE_SECONDS_MAX: u64 = 20 * 60;
/// How often a long suite says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// A program that runs tests.
#[derive(Clone, Debug)]
pub(super) struct Suite {
    /// `egress-userspace`, `egress-tests/conformance` …
    pub(super) name: String,
    program: PathBuf,
    arguments: Vec<String>,
    directory: PathBuf,
    /// Cargo tells a test program where its package is; cargo itself must not hear of another one.
    is_cargo: bool,
}

/// What came of a run.
pub(super) struct Verdict {
    pub(super) tally: Tally,
    pub(super) output: Vec<String>,
    pub(super) took: Duration,
}

/// A line of cargo's JSON that may name a test program.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

impl Suite {
    /// The test programs among what a cargo build with JSON messages made.
    pub(super) fn of_build(messages: &str) -> Vec<Self> {
        messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Artifact>(line).ok())
            .filter_map(Self::of_artifact)
            .collect()
    }

    fn of_artifact(artifact: Artifact) -> Option<Self> {
        let (target, profile) = (artifact.target?, artifact.profile?);
        if artifact.reason != "compiler-artifact" || !profile.test || target.kind.iter().any(|kind| kind == "bench") {
            return None;
        }
        let directory = artifact.manifest_path?.parent()?.to_path_buf();
        let package = directory.file_name()?.to_string_lossy().into_owned();
        let is_library = target.kind.iter().any(|kind| kind == "lib");
        let name = if is_library || target.name == package { package } else { format!("{package}/{}", target.name) };
        Some(Self { name, program: artifact.executable?, arguments: Vec::new(), directory, is_cargo: false })
    }

    /// The examples in the documentation.
    pub(super) fn documentation() -> Self {
        let program = PathBuf::from(command::cargo().get_program());
        let arguments = ["test", "--quiet", "--workspace", "--doc", "--"].map(str::to_owned).to_vec();
        Self {
            name: "examples in the docs".to_owned(),
            program,
            arguments,
            directory: command::workspace(),
            is_cargo: true,
        }
    }

    /// Runs it; `filter` are parts of test names, any of which may match.
    pub(super) fn run(&self, filter: &[String]) -> anyhow::Result<Verdict> {
        self.run_with(filter, &[])
    }

    /// Runs one test of it, and nothing beside.
    pub(super) fn run_one(&self, test: &str) -> anyhow::Result<Verdict> {
        self.run_with(&[test.to_owned()], &["--exact"])
    }

    fn run_with(&self, filter: &[String], options: &[&str]) -> anyhow::Result<Verdict> {
        let start = Instant::now();
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            // Shows what passed tests print, among it that they were skipped.
            .arg("--show-output")
            .args(options)
            .args(filter)
            .current_dir(&self.directory)
            .env("PATH", command::system_path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command::without_package(&mut command);
        if !self.is_cargo {
            command.env("CARGO_MANIFEST_DIR", &self.directory);
        }
        let mut child = command.spawn().with_context(|| format!("{} could not be started", self.program.display()))?;
        let lines = lines_of(&mut child);
        let (output, is_late) = self.follow(&lines, start);
        if is_late {
            child.kill().context("a suite that hangs could not be ended")?;
        }
        let status = child.wait().context("a suite was lost")?;
        let tally = Tally::read(&output, status.success());
        Ok(Verdict { tally, output, took: start.elapsed() })
    }

    /// Collects lines until the output ends, or the suite is late.
    fn follow(&self, lines: &Receiver<String>, start: Instant) -> (Vec<String>, bool) {
        let mut output = Vec::new();
        let mut spoke = Instant::now();
        loop {
            match lines.recv_timeout(Duration::from_secs(1)) {
                Ok(line) => output.push(line),
                Err(RecvTimeoutError::Disconnected) => return (output, false),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if start.elapsed().as_secs() > SUITE_SECONDS_MAX {
                output.push(format!("ended after {SUITE_SECONDS_MAX} s without a result"));
                return (output, true);
            }
            if spoke.elapsed() > HEARTBEAT {
                spoke = Instant::now();
                let done = output.iter().filter(|line| line.starts_with("test ") && line.contains(" ... ")).count();
                println!("   {} … {done} tests done after {} s", self.name, start.elapsed().as_secs());
            }
        }
    }
}

/// Both outputs of a child, line by line as they come.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, sender);
    }
    receiver
}

fn forward(from: impl Read + Send + 'static, to: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            if to.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_test_programs_of_a_build() {
        let messages = r#"{"reason":"compiler-artifact","manifest_path":"/w/egress-userspace/Cargo.toml","target":{"name":"egress_userspace","kind":["lib"]},"profile":{"test":true},"executable":"/w/t/a"}
{"reason":"compiler-artifact","manifest_path":"/w/egress-userspace/Cargo.toml","target":{"name":"egress","kind":["bin"]},"profile":{"test":false},"executable":"/w/t/egress"}
{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"name":"conformance","kind":["test"]},"profile":{"test":true},"executable":"/w/t/b"}
{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"name":"through","kind":["bench"]},"profile":{"test":true},"executable":"/w/t/c"}
{"reason":"build-finished","success":true}"#;
        let suites = Suite::of_build(messages);
        let names: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(names, ["egress-userspace", "tests/conformance"]);
        assert_eq!(suites[1].directory, PathBuf::from("/w/tests"));
    }
}
