//! What an estimate costs: it stands before every request.

use std::time::{Duration, Instant};

use egress_userspace::domain::Api;
use serde_json::json;

use super::error::estimate;

/// The largest beginning of a body that is looked at, in bytes.
const PREFIX_BYTES: usize = 4 << 20;
const ROUNDS: u32 = 20;

pub(crate) fn run() {
    let code = include_str!("samples/rust.txt");
    let cases = [
        ("a question", "Why is the sky blue?".to_owned()),
        ("a file of 20 kB", code.repeat(20_000 / code.len())),
        ("a session of 400 kB", code.repeat(400_000 / code.len())),
        ("as much as is read", code.repeat(PREFIX_BYTES / code.len())),
        ("as much, of one letter", "a".repeat(PREFIX_BYTES)),
        ("as much, of blanks", " ".repeat(PREFIX_BYTES)),
        ("as much, of rare characters", ('\u{4e00}'..'\u{9f00}').cycle().step_by(7).take(PREFIX_BYTES / 3).collect()),
        ("as much, escaped", "\n\"".repeat(PREFIX_BYTES / 4)),
    ];
    println!("\n{:<30}{:>12}{:>12}", "time of an estimate", "bytes", "ms");
    for (name, text) in cases {
        let body = json!({ "model": "claude-opus-4-8", "messages": [{ "role": "user", "content": text }] }).to_string();
        let body = body.get(..PREFIX_BYTES.min(body.len())).map_or(body.as_bytes(), str::as_bytes);
        let mut fastest = Duration::MAX;
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            std::hint::black_box(estimate(Api::Anthropic, "/v1/messages", body));
            fastest = fastest.min(begun.elapsed());
        }
        println!("{name:<30}{:>12}{:>12.2}", body.len(), fastest.as_secs_f64() * 1000.0);
    }
}
