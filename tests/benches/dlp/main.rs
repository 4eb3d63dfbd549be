//! What looking for secrets costs: a body of 10 MB through the proxy with detectors on, beside off, in one run; and the
//! detectors alone.
//!
//! Prints medians over interleaved rounds and ratios; asserts nothing, because what else a machine does is not egress's fault.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "the tables are this program's output, and its world fails by panicking"
)]
#![expect(dead_code, reason = "the world of the proxy's tests can do more than is measured")]

#[path = "../../tests/proxy_path/client.rs"]
mod client;
#[path = "../../tests/proxy_path/provider.rs"]
mod provider;
#[path = "../../tests/proxy_path/world.rs"]
mod world;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use egress_userspace::domain::{DetectorRule, LooksFor, OutboundOnMatch, Route, RouteFile};
use egress_userspace::policy::dlp::{Detectors, Layers, Redactor, Sought, Wanted};
use hyper::{Request, Response, Version};

use client::{Client, Names, Way};
use world::{ROUTED, World};

const BODY_BYTES: usize = 10 << 20;
const PIECE_BYTES: usize = 16 << 10;
const ROUNDS: usize = 15;
/// A pattern of an operator's, for the second engine.
const PATTERN: &str = "PROJ-[0-9]{4}-[A-Z]{2}";

/// Sources as agents send them: the product's own, as text in JSON.
fn body() -> Bytes {
    let source = include_str!("../../../egress-userspace/src/policy/dlp/scan.rs");
    let content = serde_json::to_string(&source.repeat(BODY_BYTES / source.len() + 1)).unwrap();
    let mut body = format!("{{\"messages\":[{{\"role\":\"user\",\"content\":{content}}}]}}").into_bytes();
    body.truncate(BODY_BYTES);
    body.into()
}

fn file(outbound: OutboundOnMatch, pattern: Option<&str>) -> RouteFile {
    let rule = |pattern: &str| DetectorRule {
        name: "ticket".to_owned(),
        looks_for: LooksFor::Pattern(pattern.to_owned()),
        line: 1,
    };
    RouteFile {
        outbound: Some(outbound),
        detectors: pattern.map(rule).into_iter().collect(),
        routes: vec![Route::to(ROUTED.parse().unwrap(), "routes.yaml:1".to_owned())],
        ..RouteFile::default()
    }
}

/// Sends the body once; how long it took until it was answered.
async fn sent(world: &World, client: &mut Client, body: &Bytes) -> Duration {
    let start = Instant::now();
    let answering = async {
        let asked = world.provider.asked().await;
        assert_eq!(asked.body.len(), body.len());
        asked.empty(Response::builder());
    };
    let (response, ()) = tokio::join!(client.send_to(ROUTED, Request::post("/"), "/x", body.clone()), answering);
    assert_eq!(response.unwrap().status(), 200);
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

fn line(name: &str, seconds: f64, of: f64) {
    let megabytes = BODY_BYTES as f64 / 1e6;
    println!("  {name:<44} {:>8.1} ms {:>8.0} MB/s {:>6.2}", seconds * 1e3, megabytes / seconds, of / seconds);
}

async fn through() {
    let body = body();
    let modes = [
        ("off", file(OutboundOnMatch::Off, None)),
        ("block", file(OutboundOnMatch::Block, None)),
        ("redact", file(OutboundOnMatch::Redact, None)),
        ("block, and a pattern of an operator's", file(OutboundOnMatch::Block, Some(PATTERN))),
    ];
    let mut times = vec![Vec::new(); modes.len()];
    let world = World::start().await;
    for _ in 0..ROUNDS {
        for ((_, file), times) in modes.iter().zip(&mut times) {
            world.route(file.clone());
            tokio::time::sleep(Duration::from_millis(50)).await;
            let names = Names { connect: ROUTED, sni: ROUTED };
            let mut client = Client::open_as(&world, Way::Transparent, Version::HTTP_11, names).await.unwrap();
            times.push(sent(&world, &mut client, &body).await);
        }
    }
    println!(
        "10 MB through the proxy, TLS on both sides, medians of {ROUNDS}; the last column is throughput by that of off"
    );
    let seconds: Vec<f64> = times.into_iter().map(median).collect();
    for ((name, _), of_mode) in modes.iter().zip(&seconds) {
        line(name, *of_mode, seconds[0]);
    }
}

fn alone() {
    let body = body();
    let pattern = vec![("ticket".to_owned(), Sought::Pattern(PATTERN.to_owned()))];
    let built_in = Wanted { has_built_in: true, ..Wanted::default() };
    let base64 = Bytes::from("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZn".repeat(BODY_BYTES / 44).into_bytes());
    let cases = [
        ("built-in detectors", built_in.clone(), &body),
        ("and a pattern of an operator's", Wanted { sought: pattern, ..built_in.clone() }, &body),
        ("built-in detectors, all of it base64", built_in, &base64),
    ];
    println!("the detectors alone, on one CPU; the last column is throughput by that of copying");
    let mut copied = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for piece in body.chunks(PIECE_BYTES) {
            black_box(piece.to_vec());
        }
        copied.push(start.elapsed());
    }
    let copied = median(copied);
    line("copied", copied, copied);
    for (name, wanted, body) in cases {
        let detectors = Arc::new(Detectors::new(&wanted).unwrap());
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let mut redactor = Redactor::new(&detectors, Layers::Body);
            for piece in body.chunks(PIECE_BYTES) {
                black_box(redactor.push(piece));
            }
            black_box(redactor.finish());
            times.push(start.elapsed());
        }
        line(name, median(times), copied);
    }
}

fn main() {
    // `cargo test --benches` and the like call every benchmark.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    alone();
    tokio::runtime::Runtime::new().unwrap().block_on(through());
}
