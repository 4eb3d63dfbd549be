//! What is exported, read as Prometheus reads it, held against the ledger, the kernel and what happened.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use egress_userspace::control::KernelReply;
use egress_userspace::domain::{AuditKind, CutCause, GateView, RefusalReason, Tokens};
use harness::world::{GATEWAY, PATIENCE, World, curl, until};
use serde::Deserialize;

use crate::world;

/// 1,100 tokens.
const REQUEST: &str = "claude-test+input-400+cache-read-200+cache-write-100+output-400+deltas-10";
/// Debian's own, which knows Debian's modules.
const PYTHON: &str = "/usr/bin/python3";
const PORT: u16 = 9464;
const ANOTHER_PORT: u16 = 9465;

#[derive(Debug, Deserialize)]
struct Metric {
    name: String,
    r#type: String,
    help: String,
    samples: Vec<Sample>,
}

#[derive(Debug, Deserialize)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Everything that a scrape says.
struct Scrape(Vec<Metric>);

impl Scrape {
    fn read(text: &str) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("openmetrics.py");
        let mut parser =
            Command::new(PYTHON).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context(PYTHON)?;
        parser.stdin.take().context("no input")?.write_all(text.as_bytes())?;
        let output = parser.wait_with_output()?;
        ensure!(output.status.success(), "the parser refuses it: {text}");
        Ok(Self(serde_json::from_slice(&output.stdout)?))
    }

    fn of(world: &World) -> Result<Self> {
        let said = world.egress(&["metrics"])?;
        ensure!(said.code == 0, "{said:?}");
        Self::read(&said.output)
    }

    /// The sum of the samples of this name that have all of these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let samples = self.0.iter().flat_map(|metric| &metric.samples).filter(|sample| sample.name == name);
        let has = |sample: &&Sample| {
            labels.iter().all(|(label, value)| sample.labels.get(*label).map_or("", String::as_str) == *value)
        };
        samples.filter(has).map(|sample| sample.value).sum()
    }
}

/// One request to the port, on the host.
fn ask(world: &World, port: u16, request: &str) -> Result<String> {
    world.host.run(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

fn scrape_port(world: &World) -> Result<Scrape> {
    let answer = ask(world, PORT, "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    let (head, text) = answer.split_once("\r\n\r\n").context("no head")?;
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    ensure!(head.starts_with("HTTP/1.1 200") && head.to_lowercase().contains(kind), "{head}");
    Scrape::read(text)
}

/// Refused requests as the audit counts them.
fn refused(world: &World, wanted: RefusalReason) -> Result<u64> {
    let count = |kind: AuditKind| {
        let AuditKind::RequestRefused { reason, count, .. } = kind else { return 0 };
        if reason == wanted { count } else { 0 }
    };
    Ok(world.audit(Some("web"))?.into_iter().map(count).sum())
}

/// Tokens and requests are what the ledger holds.
fn assert_usage(world: &World, scrape: &Scrape) -> Result<()> {
    let usage = world.usage()?;
    let sum = usage.sums.first().context("nothing was used")?;
    let who = [
        ("bottle", "web"),
        ("provider", "claude"),
        ("gen_ai_provider_name", "anthropic"),
        ("gen_ai_agent_name", "reviewer"),
    ];
    for (kind, tokens) in [
        ("input", sum.usage.input_total()),
        ("output", sum.usage.output),
        ("cache_read_input", sum.usage.cache_read),
        ("cache_write_input", sum.usage.cache_write),
    ] {
        let name = format!("gen_ai_client_inference_usage_{kind}_tokens_total");
        assert_eq!(scrape.sum(&name, &who), tokens.0 as f64, "{kind}");
    }
    let who = [("bottle", "web"), ("agent", "reviewer"), ("provider", "claude")];
    assert_eq!(scrape.sum("egress_requests_total", &who), sum.requests as f64);
    let whole = [("known", "reported"), ("outcome", "complete")];
    assert_eq!(scrape.sum("egress_requests_total", &whole), sum.requests as f64);
    Ok(())
}

#[test]
fn the_numbers_are_right_and_survive() -> Result<()> {
    let settings = format!("budget:\n  claude: 5k\nmetrics: 127.0.0.1:{PORT}\nlast_word: 1s");
    let Some(mut world) = world("metrics", &settings)? else { return Ok(()) };
    let mut bottle = world.shell("web", &["--agent", "reviewer"])?;
    bottle.sh("curl -s --max-time 5 https://nowhere.example/")?;
    for _ in 0..5 {
        assert_eq!(bottle.ask(REQUEST)?.status, 200);
    }
    assert_eq!(bottle.ask(REQUEST)?.status, 402);
    world.until_gate("web", GateView::Cut(CutCause::Budget), PATIENCE)?;
    until("the proxy has told its share", PATIENCE, || {
        let scrape = Scrape::of(&world)?;
        Ok(scrape.sum("egress_refusals_total", &[("reason", "budget_exhausted")]) == 1.0)
    })?;
    let scrape = scrape_port(&world)?;
    assert_usage(&world, &scrape)?;
    assert_described(&scrape);
    let host = [("scope", "host"), ("provider", "claude")];
    for (amount, tokens) in [("limit", 5_000.0), ("used", 5_500.0), ("held", 0.0), ("remaining", 0.0)] {
        assert_eq!(scrape.sum(&format!("egress_budget_{amount}_tokens"), &host), tokens, "{amount}");
    }
    let nowhere = refused(&world, RefusalReason::HostNotAllowed)?;
    assert_eq!(
        scrape.sum("egress_refusals_total", &[("bottle", "web"), ("reason", "host_not_allowed")]),
        nowhere as f64
    );
    ensure!(nowhere > 0, "the name was not refused");
    assert_eq!(scrape.sum("egress_cut_duration_seconds_count", &[("cause", "budget")]), 1.0);
    assert_eq!(scrape.sum("egress_gate_cut", &[("bottle", "web")]), 1.0);
    assert_eq!(scrape.sum("egress_bottles", &[("state", "running")]), 1.0);
    assert_times(&scrape);
    assert_gates(&world, &mut bottle)?;

    world.kill_proxy()?;
    until("the proxy is replaced", PATIENCE, || {
        let scrape = Scrape::of(&world)?;
        Ok(scrape.sum("egress_proxy_restarts_total", &[]) == 1.0 && scrape.sum("egress_proxy_up", &[]) == 1.0)
    })?;
    assert_usage(&world, &Scrape::of(&world)?)?;
    world.stop_daemon()?;
    world.start_daemon()?;
    let scrape = Scrape::of(&world)?;
    assert_usage(&world, &scrape)?;
    assert_eq!(scrape.sum("egress_proxy_restarts_total", &[]), 0.0);
    Ok(())
}

fn assert_described(scrape: &Scrape) {
    let kinds: BTreeMap<&str, &str> =
        scrape.0.iter().map(|metric| (metric.name.as_str(), metric.r#type.as_str())).collect();
    for (name, kind) in [
        ("gen_ai_client_inference_usage_input_tokens", "counter"),
        ("gen_ai_client_token_usage", "histogram"),
        ("gen_ai_client_operation_duration_seconds", "histogram"),
        ("egress_budget_remaining_tokens", "gauge"),
        ("egress_refusals", "counter"),
        ("egress_cut_duration_seconds", "histogram"),
        ("egress_build_info", "gauge"),
    ] {
        assert_eq!(kinds.get(name), Some(&kind), "{name}");
    }
    assert!(scrape.0.iter().all(|metric| !metric.help.is_empty()));
}

/// Of five requests and one that was refused.
fn assert_times(scrape: &Scrape) {
    let work = [("bottle", "web"), ("gen_ai_operation_name", "chat"), ("error_type", "")];
    for (name, labels, expected) in [
        ("gen_ai_client_operation_duration_seconds_count", &work[..], 5.0),
        ("gen_ai_client_operation_time_to_first_chunk_seconds_count", &work[..2], 5.0),
        ("gen_ai_client_token_usage_count", &[("gen_ai_token_type", "output")], 5.0),
        ("gen_ai_client_token_usage_sum", &[("gen_ai_token_type", "output")], 2_000.0),
        ("gen_ai_client_token_usage_sum", &[("gen_ai_token_type", "input")], 3_500.0),
        ("egress_ledger_command_duration_seconds_count", &[("command", "settle")], 5.0),
        ("egress_proxy_duration_seconds_count", &[("stage", "forward")], 5.0),
        ("egress_proxy_duration_seconds_count", &[("stage", "settle")], 5.0),
    ] {
        assert_eq!(scrape.sum(name, labels), expected, "{name} {labels:?}");
    }
    // One more was asked about, unless it was refused for what the proxy knew already.
    let asked = scrape.sum("egress_proxy_duration_seconds_count", &[("stage", "admit")]);
    assert!((5.0..=6.0).contains(&asked), "{asked}");
    assert!(scrape.sum("egress_ledger_commit_duration_seconds_count", &[]) >= 10.0);
}

/// Gates have counted what the kernel says; nothing passes a cut one, so that nothing changes in between.
fn assert_gates(world: &World, bottle: &mut harness::world::Bottle) -> Result<()> {
    bottle.sh(&curl(REQUEST, false, "--connect-timeout 1 --max-time 1"))?;
    let kernel = || world.json::<KernelReply>(&["audit", "--kernel"]);
    let count = |reply: &KernelReply, outcome: &str| -> u64 {
        let cells = reply.gates.iter().flat_map(|gate| &gate.counters).filter(|cell| cell.outcome == outcome);
        cells.map(|cell| cell.packets).sum()
    };
    until("two looks agree", PATIENCE, || {
        let before = kernel()?;
        let scrape = Scrape::of(world)?;
        let is_same = |outcome: &str, word: &str| {
            let packets = scrape.sum("egress_gate_packets_total", &[("bottle", "web"), ("outcome", word)]);
            packets == count(&before, outcome) as f64 && packets > 0.0
        };
        Ok(is_same("Passed", "passed") && is_same("Cut", "cut"))
    })
}

/// On the host's loopback, and so in no bottle.
#[test]
fn the_port_is_the_hosts_alone() -> Result<()> {
    let Some(world) = world("the port for metrics", &format!("metrics: 127.0.0.1:{PORT}"))? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    until("the port is open", PATIENCE, || Ok(scrape_port(&world).is_ok()))?;
    for address in ["127.0.0.1".to_owned(), GATEWAY.to_string(), "localhost".to_owned()] {
        let done = bottle.sh(&format!("curl -s --noproxy '*' --max-time 2 http://{address}:{PORT}/metrics"))?;
        ensure!(done.code != 0 && !done.output.contains("egress_"), "{address}: {done:?}");
    }
    // Through the proxy neither.
    let through = format!("curl -s --max-time 5 -x http://{GATEWAY}:8080 http://127.0.0.1:{PORT}/metrics");
    let done = bottle.sh(&through)?;
    ensure!(!done.output.contains("egress_build"), "{done:?}");

    let answer = ask(&world, PORT, "GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n")?;
    ensure!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let answer = ask(&world, PORT, "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")?;
    ensure!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    let long = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    ensure!(!ask(&world, PORT, &long).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")), "a head without end");

    world.write_settings(&format!("metrics: 0.0.0.0:{PORT}"))?;
    until("the address is refused", PATIENCE, || {
        Ok(world.status()?.settings_problem.is_some_and(|problem| problem.contains("settings.yml:1:10")))
    })?;
    scrape_port(&world).context("what was in force still is")?;
    world.write_settings(&format!("metrics: 127.0.0.1:{ANOTHER_PORT}"))?;
    let request = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
    until("it has moved", PATIENCE, || Ok(ask(&world, ANOTHER_PORT, request).is_ok() && scrape_port(&world).is_err()))?;
    world.write_settings("")?;
    until("it is closed", PATIENCE, || Ok(ask(&world, ANOTHER_PORT, request).is_err()))
}

/// An operator's cuts are timed one by one, also when all come at once.
#[test]
fn every_cut_is_timed() -> Result<()> {
    let Some(world) = world("cuts are timed", "")? else { return Ok(()) };
    let _bottles = [world.shell("one", &[])?, world.shell("two", &[])?];
    assert_eq!(world.egress(&["cut", "one"])?.code, 0);
    assert_eq!(world.egress(&["restore", "one"])?.code, 0);
    assert_eq!(world.egress(&["cut", "--all"])?.code, 0);
    let scrape = Scrape::of(&world)?;
    assert_eq!(scrape.sum("egress_cut_duration_seconds_count", &[("cause", "operator")]), 3.0);
    assert_eq!(scrape.sum("egress_gate_cut", &[]), 2.0);
    ensure!(world.usage()?.sums.iter().all(|sum| sum.usage.total() == Tokens::ZERO), "nothing was used");
    Ok(())
}
