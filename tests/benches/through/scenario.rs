//! What is measured: each function makes one load and returns its numbers.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::load::Measured;

use crate::gauge::{self, Crossing, ProgramStatistics};
use crate::world::{Way, World};

/// What is asked of the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A small answer in one piece.
    Json,
    /// An event stream as fast as it goes: 2,000 deltas, 300 kB.
    Sse,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Json, Self::Sse];

    fn body(self) -> &'static str {
        match self {
            Self::Json => {
                r#"{"model":"claude-test","max_tokens":100,"messages":[{"role":"user","content":"Tell me about bottles."}]}"#
            }
            Self::Sse => {
                r#"{"model":"claude-test+deltas-2000+delta-bytes-48","max_tokens":9000,"stream":true,"messages":[{"role":"user","content":"Tell me about bottles."}]}"#
            }
        }
    }
}

/// How many streams are measured, and how long each time, in seconds.
pub(crate) const STREAMS: [(usize, f64); 3] = [(1, 1.0), (64, 1.5), (1_000, 2.0)];
/// Streams whose events are timed.
pub(crate) const SLOW_STREAMS: usize = 200;
/// Streams that are held open to weigh them.
const HELD_STREAMS: usize = 1_000;
/// Crossings that are timed.
const CROSSINGS: usize = 15;
/// Between two events of a slow stream: what a fast model does.
const SLOW: &str = r#"{"model":"claude-test+delay-50+deltas-50+stamp","max_tokens":9000,"stream":true,"messages":[]}"#;
/// Fits a small budget as far as the request tells, and uses more.
const CROSSING: &str = r#"{"model":"claude-test+input-5000","max_tokens":100,"messages":[]}"#;
/// Twelve seconds of an idle stream.
const HELD: &str = r#"{"model":"claude-test+delay-1000+deltas-12","max_tokens":9000,"stream":true,"messages":[]}"#;

fn words(body: &str, streams: usize, more: &[&str]) -> Vec<String> {
    let mut words = vec!["--body".to_owned(), body.to_owned(), "--streams".to_owned(), streams.to_string()];
    words.extend(more.iter().map(|word| (*word).to_owned()));
    words
}

/// As many requests as go.
pub(crate) fn throughput(world: &World, way: Way, kind: Kind, streams: usize, seconds: f64) -> Result<Measured> {
    let time = seconds.to_string();
    world.load(way, &words(kind.body(), streams, &["--seconds", &time, "--warm-up"]))
}

/// How late events of slow streams arrive.
pub(crate) fn event_delay(world: &World, way: Way) -> Result<Measured> {
    let count = SLOW_STREAMS.to_string();
    let spread = (50_000 / SLOW_STREAMS).to_string();
    let more = ["--requests", &count, "--spread-us", &spread, "--event-times"];
    world.load(way, &words(SLOW, SLOW_STREAMS, &more))
}

/// Bytes of memory that one open stream costs these processes. Measured on processes that have served little.
pub(crate) fn bytes_per_stream(world: &World, way: Way, pids: &[u32]) -> Result<f64> {
    let memory = || pids.iter().map(|pid| gauge::memory_bytes(*pid)).sum::<Result<u64>>();
    throughput(world, way, Kind::Json, 1, 0.2)?;
    let idle = memory()?;
    let count = HELD_STREAMS.to_string();
    let mut load = world.start_load(way, "bench", &[], &words(HELD, HELD_STREAMS, &["--requests", &count]))?;
    let mut most = idle;
    // Read all along: the peak is what a host must have.
    while load.try_wait()?.is_none() {
        most = most.max(memory()?);
        std::thread::sleep(Duration::from_millis(250));
    }
    let output = load.wait_with_output()?;
    let measured: Measured = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{way:?}: {}", String::from_utf8_lossy(&output.stderr)))?;
    anyhow::ensure!(measured.requests == HELD_STREAMS, "only {} streams were open", measured.requests);
    Ok((most - idle) as f64 / HELD_STREAMS as f64)
}

/// What the gate costs per packet, in nanoseconds, the statistics' own clock included.
pub(crate) fn gate_cost(world: &World) -> Result<f64> {
    let statistics = ProgramStatistics::enable()?;
    let before = statistics.read()?;
    let load = world.start_load(Way::Egress, "bench", &[], &words(Kind::Json.body(), 64, &["--seconds", "1.5"]))?;
    std::thread::sleep(Duration::from_secs(1));
    // Read while the bottle lives: its programs may go with it.
    let after = statistics.read()?;
    load.wait_with_output()?;
    let packets = after.count.saturating_sub(before.count).max(1);
    Ok(after.nanoseconds.saturating_sub(before.nanoseconds) as f64 / packets as f64)
}

/// Bottles with a budget that their first request crosses; without drain and last word the cut follows at once.
pub(crate) fn crossings(world: &mut World) -> Result<Vec<Crossing>> {
    world.restart_daemon("info,egress_userspace::ledger=debug")?;
    for number in 0..CROSSINGS {
        // It is cut under way: that it fails is the point.
        let load = world.start_load(
            Way::Egress,
            &format!("cross-{number}"),
            &["--budget", "claude=1000"],
            &words(CROSSING, 1, &["--requests", "1"]),
        )?;
        std::thread::sleep(Duration::from_millis(700));
        World::end_load(load);
    }
    Ok(gauge::crossings(&world.daemon_log()?))
}
