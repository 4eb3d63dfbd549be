//! Keys, prompts and answers pass through; nothing keeps them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::world::{curl, program};

use crate::prepared;

/// The agent's key.
const KEY: &str = "sk-test-0f1e2d3c4b5a";
/// What it asks.
const PROMPT: &str = "Say something.";
/// What it is told: the provider's filler.
const ANSWER: &str = "lorem";

#[test]
fn keys_prompts_and_answers_are_kept_nowhere() -> Result<()> {
    let Some(mut world) = prepared("secrets", "")? else { return Ok(()) };
    world.daemon_starter = ["env", "EGRESS_LOG=trace"].map(str::to_owned).to_vec();
    world.start_daemon()?;
    let mut bottle = world.shell("web", &[])?;
    let key = format!("-H 'x-api-key: {KEY}' -H 'authorization: Bearer {KEY}'");
    for version in ["--http1.1", "--http2"] {
        for model in ["claude-test", "claude-test+abort-after-2", "claude-test+overloaded"] {
            bottle.sh(&curl(model, true, &format!("{version} {key}")))?;
        }
    }
    let socket = program("test-socket");
    bottle.sh(&format!("{} --key {KEY} gpt-test gpt-test+abort-after-2", socket.display()))?;
    ensure!(bottle.output().contains(ANSWER), "nothing was answered: {}", bottle.output());
    // The socket's handshake has one, too.
    ensure!(world.rows("web")?.len() == 9, "{:?}", world.rows("web")?);
    // Only the proxy speaks HTTP/2: it is heard, and as talkative as it can be.
    let log = fs::read_to_string(&world.names.log)?;
    ensure!(log.lines().any(|line| line.contains("TRACE") && line.contains("h2::")), "the proxy's log is not there");
    assert_holds_none(&world.names.log)?;
    for entry in fs::read_dir(&world.names.home)? {
        let path = entry?.path();
        if path.is_file() {
            assert_holds_none(&path)?;
        }
    }
    Ok(())
}

fn assert_holds_none(path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    for secret in [KEY, PROMPT, ANSWER] {
        let found = bytes.windows(secret.len()).position(|window| window == secret.as_bytes());
        let around =
            found.map(|at| String::from_utf8_lossy(&bytes[at.saturating_sub(200)..at + secret.len()]).into_owned());
        ensure!(around.is_none(), "{} holds {secret:?}: {around:?}", path.display());
    }
    Ok(())
}
