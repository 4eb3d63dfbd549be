//! A world in which something happens, and `egress top` on the caller's terminal: what is recorded for the documentation.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::provider::{HOST, OPENAI_HOST};
use harness::world::{Bottle, World};

const SETTINGS: &str = "budget:\n  claude: 5M\nlast_word: 500ms";
/// Until there are rates to be seen.
const WARM_UP: Duration = Duration::from_secs(25);

/// Somebody who asks and asks.
struct Agent {
    bottle: &'static str,
    options: &'static [&'static str],
    host: &'static str,
    path: &'static str,
    model: &'static str,
    /// What the provider does.
    directives: [(&'static str, u32); 4],
    pause: &'static str,
}

const AGENTS: [Agent; 3] = [
    Agent {
        bottle: "web",
        options: &["--agent", "reviewer", "--budget", "claude=60k", "--shutdown", "freeze"],
        host: HOST,
        path: "v1/messages",
        model: "claude-sonnet-4-5",
        directives: [("input", 700), ("output", 900), ("deltas", 30), ("delay", 40)],
        pause: "0.3",
    },
    Agent {
        bottle: "docs",
        options: &["--agent", "writer", "--budget", "claude=400k/day"],
        host: HOST,
        path: "v1/messages",
        model: "claude-haiku-4-5",
        directives: [("input", 300), ("output", 400), ("deltas", 20), ("delay", 90)],
        pause: "2",
    },
    Agent {
        bottle: "api-tests",
        options: &["--budget", "codex=54k"],
        host: OPENAI_HOST,
        path: "v1/chat/completions",
        model: "gpt-5.1",
        directives: [("input", 900), ("output", 1500), ("deltas", 30), ("delay", 60)],
        pause: "1",
    },
];

impl Agent {
    fn start(&self, world: &World) -> Result<Bottle> {
        let Self { bottle, options, host, path, model, directives, pause } = self;
        let told: String = directives.iter().map(|(name, value)| format!(" -H 'x-test-{name}: {value}'")).collect();
        let body = format!(
            r#"{{"model":"{model}","max_tokens":2000,"stream":true,"messages":[{{"role":"user","content":"Go on."}}]}}"#
        );
        let ask = format!(
            "curl -s -m 60 -o /dev/null https://{host}/{path} -H 'content-type: application/json'{told} -d '{body}'"
        );
        world.run(bottle, options, &format!("while :; do {ask}; sleep {pause}; done"))
    }
}

fn main() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "bottles need root");
    let world = World::start(SETTINGS)?;
    let mut bottles = AGENTS.iter().map(|agent| agent.start(&world)).collect::<Result<Vec<_>>>()?;
    bottles.push(world.run("nightly", &["--budget", "claude=1M/day"], "sleep 1000")?);
    sleep(WARM_UP);
    let top = world.command(&["top"]);
    let mut command = Command::new(top.get_program());
    command.args(top.get_args()).env("XDG_STATE_HOME", world.names.directory.join("state"));
    let status = command.status().context("egress top")?;
    ensure!(status.success(), "egress top: {status}");
    Ok(())
}
