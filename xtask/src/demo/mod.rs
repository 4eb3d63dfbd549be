//! `cargo xtask demo`: a bottle spends its budget, and the kernel cuts it. Every claim is checked as it is shown.

mod agent;
mod show;
mod undo;
mod world;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::command;
use crate::need::{self, Group};
use agent::{Agent, BOTTLE};
use show::Show;
use undo::wait_until;
use world::{BUDGET_TOKENS, GATEWAY, World};

/// More requests than the budget can pay for.
const REQUESTS_MAX: usize = 20;
/// How long crossing, last word and cut may take together.
const CUT_MAX: Duration = Duration::from_secs(8);
/// Root in the bottle's own network namespace, with raw sockets.
const BYPASS: &str = include_str!("bypass.py");

/// A title and what it does.
type Step = (&'static str, fn(Show, &World, &mut Agent) -> anyhow::Result<()>);

const STEPS: &[Step] = &[
    ("An ordinary curl makes streaming requests until the budget is crossed", spend),
    ("The next request hears why", hear_why),
    ("The kernel cuts the bottle: connections get no answer at all", be_cut),
    ("Root in the bottle's network namespace tries raw sockets", bypass),
    ("The proxy is killed: the bottle is still cut", kill_proxy),
    ("What the kernel holds (bpftool map dump)", dump_gates),
    ("What the audit says", audit),
];

/// What it shows, step by step.
#[cfg(test)]
pub(crate) fn titles() -> impl Iterator<Item = &'static str> {
    STEPS.iter().map(|(title, _)| *title)
}

pub(crate) fn run(install: bool) -> anyhow::Result<()> {
    need::ensure_root("demo --install")?;
    need::ensure(&[Group::Demo], install)?;
    need::ensure_kernel()?;
    let show = Show::new();
    println!("building egress and a provider …");
    command::run(command::cargo().args(["build", "--workspace", "--bins"]))?;
    undo::catch_interrupts()?;

    let start = Instant::now();
    let total = STEPS.len() + 2;
    show.step(1, total, "A throw-away host: provider and daemon");
    let mut world = World::start(show)?;
    let result = play(show, total, &mut world);
    if result.is_err() {
        show.note("the daemon's last words:");
        show.quote(&world.daemon_log_tail());
    }
    drop(world);
    result?;
    println!();
    show.good(&format!("all of it was seen, nothing is left behind ({:.0} s)", start.elapsed().as_secs_f32()));
    Ok(())
}

fn play(show: Show, total: usize, world: &mut World) -> anyhow::Result<()> {
    show.step(2, total, &format!("A bottle named {BOTTLE} with a budget of {BUDGET_TOKENS} tokens"));
    let mut agent = Agent::start(world)?;
    show.note(&format!("egress run {BOTTLE} --agent demo -- sh"));
    let proxies = agent.shell("env | grep -ic '^https\\?_proxy=' || true")?;
    show.good(&format!("a shell runs in it; proxy variables set: {}", proxies.output.trim()));
    for (index, (title, step)) in STEPS.iter().enumerate() {
        show.step(index + 3, total, title);
        step(show, world, &mut agent).with_context(|| format!("the demonstration stopped at: {title}"))?;
    }
    Ok(())
}

fn spend(show: Show, world: &World, agent: &mut Agent) -> anyhow::Result<()> {
    show.note("curl -N https://api.anthropic.com/v1/messages … \"stream\":true");
    for number in 1..=REQUESTS_MAX {
        let answer = agent.request()?;
        ensure!(
            answer.status == 200,
            "request {number} got status {} (curl {}): {}",
            answer.status,
            answer.exit_code,
            answer.body
        );
        let usage = world.ask(&["usage"])?;
        let (row, used) = (last_row(&usage)?, tokens_used(&usage));
        let (input, output) = (input_tokens(row), number_at(row, "output"));
        show.note(&format!("request {number:>2}: {input:>5} in + {output:>5} out → {used:>5} of {BUDGET_TOKENS} used"));
        if used >= BUDGET_TOKENS {
            ensure!(answer.body.contains("message_stop"), "the response that crossed was not delivered whole");
            show.good("the budget is crossed, by a response that was delivered whole");
            return Ok(());
        }
    }
    bail!("{REQUESTS_MAX} requests did not cross the budget")
}

fn hear_why(show: Show, _world: &World, agent: &mut Agent) -> anyhow::Result<()> {
    let answer = agent.request()?;
    ensure!(answer.body.contains("budget_exhausted"), "the refusal does not say why: {}", answer.body);
    show.quote(&format!("HTTP {}\n{}", answer.status, answer.body));
    show.good("refused inside TLS, in the provider's own error shape; nothing was sent on");
    Ok(())
}

fn be_cut(show: Show, world: &World, agent: &mut Agent) -> anyhow::Result<()> {
    wait_until("the gate to be cut", CUT_MAX, || bottle(world).is_ok_and(|bottle| is_cut(&bottle)))?;
    let before = dropped(&bottle(world)?);
    still_cut(agent)?;
    let after = dropped(&bottle(world)?);
    show.good("curl gave up: not refused, not reset, just silence");
    show.note(&format!("packets the gate has dropped: {before} before, {after} after"));
    ensure!(after > before, "the gate counted no drop");
    Ok(())
}

fn bypass(show: Show, world: &World, _agent: &mut Agent) -> anyhow::Result<()> {
    let bottle = bottle(world)?;
    let text = |key: &str| bottle.get(key).and_then(Value::as_str).map(str::to_owned);
    let pid = number_at(&bottle, "pid").to_string();
    let address = text("address").context("the bottle has no address")?;
    let before = dropped(&bottle);
    let sent = command::output(
        Command::new("nsenter")
            .args(["--target", &pid, "--net", "python3", "-c", BYPASS, GATEWAY, &address])
            .env("PATH", command::system_path()),
    )?;
    show.quote(&sent);
    let frames: u64 = sent.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(u64::MAX);
    let mut after = before;
    wait_until("the gate to count the frames", Duration::from_secs(3), || {
        after = self::bottle(world).map_or(before, |bottle| dropped(&bottle));
        after >= before.saturating_add(frames)
    })?;
    show.good(&format!("the gate dropped them: {before} → {after}"));
    Ok(())
}

fn kill_proxy(show: Show, world: &World, agent: &mut Agent) -> anyhow::Result<()> {
    let pid = world.proxy_pid().context("there is no proxy process")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    show.note(&format!("kill -9 {pid}"));
    still_cut(agent)?;
    show.good("no proxy, and the bottle is still cut: the gate is in the kernel");
    let is_back = || world.proxy_pid().is_some_and(|new| new != pid);
    let took = wait_until("a new proxy", Duration::from_secs(5), is_back)?;
    still_cut(agent)?;
    show.good(&format!("a new proxy is up ({} ms later at most), and the bottle is still cut", took.as_millis()));
    Ok(())
}

fn dump_gates(show: Show, _world: &World, _agent: &mut Agent) -> anyhow::Result<()> {
    let map = World::pins().join("gates");
    show.note(&format!("bpftool map dump pinned {}", map.display()));
    let mut bpftool = Command::new("bpftool");
    let dump = command::output(bpftool.args(["map", "dump", "pinned"]).arg(&map).env("PATH", command::system_path()))?;
    show.quote(&dump);
    ensure!(dump.to_lowercase().contains("cut"), "the map does not say that a gate is cut");
    Ok(())
}

fn audit(show: Show, world: &World, _agent: &mut Agent) -> anyhow::Result<()> {
    show.quote(&command::output(world.egress().arg("audit"))?);
    let rows = world.ask(&["audit"])?.to_string();
    for event in ["bottle_started", "budget_crossed", "gate_cut", "proxy_restarted"] {
        ensure!(rows.contains(event), "the audit has no {event} row");
    }
    show.good("started, crossed, cut, proxy replaced: all on record");
    Ok(())
}

/// Tries to connect; an answer of any kind is an error.
fn still_cut(agent: &mut Agent) -> anyhow::Result<()> {
    // What curl says when nothing answers: the name is not resolved (6), or the time is over (28).
    let done = agent.try_to_connect()?;
    ensure!(matches!(done.exit_code, 6 | 28), "curl ended with {}: {}", done.exit_code, done.output);
    Ok(())
}

/// The demonstration's bottle in `egress list`.
fn bottle(world: &World) -> anyhow::Result<Value> {
    let reply = world.ask(&["list"])?;
    let bottles = reply.get("bottles").and_then(Value::as_array).context("`egress list` lists no bottles")?;
    let found = bottles.iter().find(|bottle| bottle.get("name").and_then(Value::as_str) == Some(BOTTLE));
    found.cloned().with_context(|| format!("`egress list` does not show {BOTTLE}"))
}

fn is_cut(bottle: &Value) -> bool {
    bottle.get("gate").and_then(Value::as_str) == Some("cut")
}

fn dropped(bottle: &Value) -> u64 {
    number_at(bottle, "dropped_packets")
}

fn last_row(usage: &Value) -> anyhow::Result<&Value> {
    usage.get("rows").and_then(Value::as_array).and_then(|rows| rows.last()).context("`egress usage` has no rows")
}

/// Everything the bottle has used, as budgets count it.
fn tokens_used(usage: &Value) -> u64 {
    let sums = usage.get("sums").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    sums.iter().map(|sum| input_tokens(sum) + number_at(sum, "output")).sum()
}

fn input_tokens(row: &Value) -> u64 {
    ["input", "cache_write", "cache_read"].iter().map(|column| number_at(row, column)).sum()
}

fn number_at(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(0)
}
