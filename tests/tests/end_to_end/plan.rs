//! What a provider tells of rate limits and plans stands beside the usage.

use anyhow::{Context, Result, ensure};
use harness::world::curl;
use serde_json::Value;

use crate::world;

/// A response header of the provider.
fn reply(name: &str, value: &str) -> String {
    format!("-H 'x-test-reply-{name}: {value}'")
}

#[test]
fn the_windows_of_a_plan_are_kept_and_shown() -> Result<()> {
    let Some(world) = world("plan windows", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let headers = [
        reply("anthropic-ratelimit-unified-status", "allowed"),
        reply("anthropic-ratelimit-unified-5h-utilization", "0.42"),
        reply("anthropic-ratelimit-unified-5h-reset", "4102444800"),
        reply("anthropic-ratelimit-unified-7d-utilization", &"9".repeat(2_000)),
        reply("retry-after", "später"),
        reply("set-cookie", "session=1"),
    ];
    let model = "claude-test+cache-write-10+cache-write-1h-4+output-8+reasoning-5";
    bottle.sh(&curl(model, true, &headers.join(" ")))?;
    let said = world.egress(&["usage", "--json"])?;
    let usage: Value = serde_json::from_str(&said.output)?;
    let row = usage["rows"].as_array().and_then(|rows| rows.first()).context("no row")?;
    let expected = serde_json::json!({
        "anthropic-ratelimit-unified-status": "allowed",
        "anthropic-ratelimit-unified-5h-utilization": "0.42",
        "anthropic-ratelimit-unified-5h-reset": "4102444800",
    });
    assert_eq!(row["limits"], expected);
    assert_eq!([&row["cache_write"], &row["cache_write_1h"], &row["output"], &row["reasoning"]], [10, 4, 8, 5]);
    let table = world.egress(&["usage"])?.output;
    ensure!(table.contains("web claude plan: 5h 42 % used, resets 2") && !table.contains("7d"), "{table}");
    Ok(())
}
