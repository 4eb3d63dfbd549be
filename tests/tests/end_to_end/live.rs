//! What front-ends that show everything are told as it happens.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use egress_userspace::control::{
    AuditReply, BottleInfo, BottleRoutesReply, BottlesReply, Client, ErrorCode, LiveBottle, LiveEvent, LiveGate,
    LiveSnapshot,
};
use egress_userspace::domain::{AuditKind, CutCause, GateView, PermitId, Tokens, Verdict};
use harness::follow::Follower;
use harness::world::{PATIENCE, World, until};
use serde_json::Value;

use crate::{prepared, world};

/// Where detectors look.
const WATCHED: &str = "tools.corp.example";
/// Made up, in the shape that AWS gives its keys; in pieces, so that nobody takes it for one that is lost here.
const KEY: &str = concat!("AKIA", "Q3ZB7XKLM2PNRTVW");
/// Half a second, 500 tokens.
const REQUEST: &str = "claude-test+input-400+output-100+deltas-10+delay-50";
/// Updates of a bottle in a second, at most.
const UPDATES_PER_SECOND_MAX: usize = 4;

/// What is looked for among events: a kind, and what there is of one to look at.
macro_rules! heard {
    ($kind:pat => $found:expr) => {
        |event: &LiveEvent| if let $kind = event { $found } else { None }
    };
}

/// A follower that has had its snapshot.
fn follow(world: &World) -> Result<(Follower<LiveEvent>, LiveSnapshot)> {
    let mut follower = Follower::of(world, "live");
    let snapshot = heard!(LiveEvent::Snapshot(snapshot) => Some(*snapshot.clone()));
    let snapshot = follower.until("a snapshot", snapshot)?;
    ensure!(matches!(follower.heard().first(), Some(LiveEvent::Snapshot(_))), "the snapshot is not the first");
    Ok((follower, snapshot))
}

/// Every bottle it has heard of, as often as it has.
fn bottles(follower: &Follower<LiveEvent>) -> Vec<LiveBottle> {
    follower.heard().iter().filter_map(heard!(LiveEvent::Bottle { bottle } => Some(*bottle.clone()))).collect()
}

fn until_web(
    follower: &mut Follower<LiveEvent>,
    what: &str,
    is_so: impl Fn(&BottleInfo) -> bool,
) -> Result<LiveBottle> {
    let is_it = |info: &BottleInfo| info.name.as_str() == "web" && is_so(info);
    follower.until(what, heard!(LiveEvent::Bottle { bottle } => is_it(&bottle.info).then(|| *bottle.clone())))
}

fn until_audit(follower: &mut Follower<LiveEvent>, kind: &AuditKind) -> Result<()> {
    follower.until(&format!("{kind:?}"), heard!(LiveEvent::Audit { row } => (row.kind == *kind).then_some(())))
}

/// What counts of a bottle: its gate counts on.
fn without_counters(info: BottleInfo) -> BottleInfo {
    BottleInfo { dropped_packets: 0, ..info }
}

fn listed(world: &World) -> Result<Vec<BottleInfo>> {
    Ok(world.json::<BottlesReply>(&["list"])?.bottles.into_iter().map(without_counters).collect())
}

fn used_by(info: &BottleInfo) -> (u64, u64, Option<u64>) {
    let claude = info.budgets.iter().find(|view| view.provider.as_str() == "claude");
    let host = claude.and_then(|view| view.chain.last());
    host.map_or((0, 0, None), |host| (host.used.0, host.held.0, host.limit.map(|limit| limit.0)))
}

fn watched_world() -> Result<Option<World>> {
    let Some(mut world) = prepared("a live view", "")? else { return Ok(None) };
    world.write_settings_for("budget:\n  claude: 10k", &["api.anthropic.com", WATCHED])?;
    world.write_routes(&format!(
        "auth: passthrough\napproval_timeout: 60s\nroutes:\n  - host: {WATCHED}\n    outbound_on_match: supervise\n"
    ))?;
    world.start_daemon()?;
    Ok(Some(world))
}

#[test]
fn a_follower_sees_a_bottle_from_its_start_to_its_end() -> Result<()> {
    let Some(world) = watched_world()? else { return Ok(()) };
    let (mut follower, start) = follow(&world)?;
    assert_eq!((start.bottles, start.requests, start.approvals), (vec![], vec![], vec![]));
    assert_eq!(start.status, world.status()?);

    let mut web = world.shell("web", &["--agent", "reviewer"])?;
    let runs = until_web(&mut follower, "web runs", |info| info.pid.is_some() && info.interface.is_some())?;
    assert_eq!(without_counters(runs.info), listed(&world)?.remove(0));

    assert_eq!(web.ask(REQUEST)?.status, 200);
    let request =
        follower.until("a request is admitted", heard!(LiveEvent::Admitted { request } => Some(request.clone())))?;
    assert_eq!((request.bottle.as_str(), request.provider.as_str()), ("web", "claude"));
    assert_eq!((request.target.as_str(), request.model.as_deref()), ("POST /v1/messages", Some(REQUEST)));
    ensure!(request.agent.is_some_and(|agent| agent.as_str() == "reviewer"), "no agent");
    let is_it = |permit: PermitId| permit == request.permit;
    let settled = heard!(LiveEvent::Settled { permit, usage } => is_it(*permit).then(|| usage.clone()));
    let row = follower.until("it is settled", settled)?;
    assert_eq!((row.usage.input, row.usage.output), (Tokens(400), Tokens(100)));
    assert_eq!(world.rows("web")?, [*row]);
    // The bottle is told of before its requests.
    let told: Vec<(u64, u64, Option<u64>)> = bottles(&follower).iter().map(|bottle| used_by(&bottle.info)).collect();
    ensure!(
        told.contains(&(0, request.held.0, Some(10_000))) && told.last() == Some(&(500, 0, Some(10_000))),
        "{told:?}"
    );
    let passed = |gate: &LiveGate| gate.bottle.as_str() == "web" && gate.counts.passed_bytes_to_bottle > 0;
    follower
        .until("what passed its gate", heard!(LiveEvent::Gates { gates } => gates.iter().any(passed).then_some(())))?;

    let cut = GateView::Cut(CutCause::Operator);
    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    until_web(&mut follower, "web is cut", |info| info.gate == cut)?;
    until_audit(&mut follower, &AuditKind::GateCut { cause: CutCause::Operator })?;
    web.sh("curl -s --max-time 1 https://api.anthropic.com; true")?;
    follower.until(
        "drops",
        heard!(LiveEvent::Gates { gates } => gates.iter().any(|gate| gate.dropped_packets > 0).then_some(())),
    )?;
    assert_eq!(world.egress(&["restore", "web"])?.code, 0);
    until_web(&mut follower, "web is open", |info| info.gate == GateView::Open)?;
    assert_eq!(world.egress(&["budget", "set", "claude=20k"])?.code, 0);
    until_web(&mut follower, "another budget", |info| used_by(info) == (500, 0, Some(20_000)))?;
    drop(web);
    follower.until("web is gone", heard!(LiveEvent::Gone { name } => (name.as_str() == "web").then_some(())))?;
    let (_, again) = follow(&world)?;
    assert_eq!((again.bottles, again.requests), (vec![], vec![]));
    Ok(())
}

#[test]
fn a_follower_sees_questions_the_proxy_and_the_settings() -> Result<()> {
    let Some(world) = watched_world()? else { return Ok(()) };
    let (mut follower, start) = follow(&world)?;
    let mut web = world.shell("web", &[])?;
    web.begin(&format!("curl -s --max-time 60 -d 'aws={KEY}' https://{WATCHED}/v1/messages"))?;
    let daemon = heard!(LiveEvent::Daemon { status } => Some(status.clone()));
    follower.until("one is open", |event| daemon(event).filter(|status| status.open_approvals == 1))?;
    let question = heard!(LiveEvent::Approval { approval } => Some(approval.clone()));
    let asked = follower.until("a question", question)?;
    assert_eq!((asked.bottle.as_str(), asked.host.as_str(), asked.verdict), ("web", WATCHED, None));
    let (_, meanwhile) = follow(&world)?;
    assert_eq!((meanwhile.approvals, meanwhile.status.open_approvals), (vec![*asked.clone()], 1));
    assert_eq!(world.egress(&["approvals", "deny", &asked.id.to_string()])?.code, 0);
    let decided = follower.until("a decision", question)?;
    assert_eq!((decided.id, decided.verdict), (asked.id, Some(Verdict::Denied)));
    web.end_of_command(PATIENCE)?;

    let killed = world.kill_proxy()?;
    assert_eq!(start.status.proxy_pid, Some(killed));
    let status = follower.until("another proxy", |event| {
        daemon(event).filter(|status| status.proxy_pid.is_some_and(|pid| pid != killed))
    })?;
    ensure!(status.settings_problem.is_none() && status.open_approvals == 0, "{status:?}");
    world.write_routes("routes: nonsense\n")?;
    follower.until("a problem", |event| daemon(event).filter(|status| status.settings_problem.is_some()))?;
    world.write_routes("routes: []\n")?;
    follower.until("no problem", |event| daemon(event).filter(|status| status.settings_problem.is_none()))?;
    until_audit(&mut follower, &AuditKind::RoutesReloaded)
}

#[test]
fn a_snapshot_is_what_everybody_else_is_told() -> Result<()> {
    let Some(mut world) = watched_world()? else { return Ok(()) };
    let (mut web, _api) = (world.shell("web", &["--agent", "reviewer"])?, world.shell("api", &[])?);
    assert_eq!(web.ask(REQUEST)?.status, 200);
    assert_eq!(world.egress(&["cut", "api"])?.code, 0);
    let (before, _) = follow(&world)?;
    world.kill_daemon_and_proxy()?;
    before.end()?;
    world.start_daemon()?;
    // Front-ends come back within a moment, and a bottle is as it is to be then.
    until("the bottles are taken up", PATIENCE, || Ok(listed(&world)?.iter().all(|info| info.pid.is_some())))?;
    let (_follower, snapshot) = follow(&world)?;
    let bottles: Vec<BottleInfo> = snapshot.bottles.into_iter().map(|bottle| without_counters(bottle.info)).collect();
    assert_eq!(bottles, listed(&world)?);
    assert_eq!(bottles.iter().map(used_by).collect::<Vec<_>>(), [(500, 0, Some(10_000)); 2]);
    assert_eq!(snapshot.status, world.status()?);
    assert_eq!(snapshot.audit, world.json::<AuditReply>(&["audit", "--last", "200"])?.rows);
    Ok(())
}

#[test]
fn a_follower_of_nothing_hears_that_the_daemon_lives() -> Result<()> {
    let Some(world) = world("a daemon that has nothing to tell", "")? else { return Ok(()) };
    let (mut follower, _) = follow(&world)?;
    follower.until("that it lives", heard!(LiveEvent::Alive => Some(())))?;
    follower.until("that it lives, again", heard!(LiveEvent::Alive => Some(())))
}

/// Sends the request and reads nothing.
fn silent(world: &World) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(world.names.run.join("control.sock"))?;
    stream.write_all(b"GET /v1/live HTTP/1.1\r\nhost: egress\r\n\r\n")?;
    Ok(stream)
}

/// 120 requests at once, thrice, while one follower reads nothing: they are answered, another follower hears of all of them,
/// and is not drowned. The one that read nothing has the last word, too, once it reads.
#[test]
fn a_follower_that_does_not_read_holds_nobody_up() -> Result<()> {
    const REQUESTS: usize = 360;
    let Some(world) = world("a silent follower", "")? else { return Ok(()) };
    let mut web = world.shell("web", &[])?;
    let mut silent = silent(&world)?;
    let (follower, _) = follow(&world)?;
    let began = Instant::now();
    for _ in 0..3 {
        let line = "curl -sZ --parallel-immediate --parallel-max 120 --max-time 60 -o /dev/null -w '%{http_code}\\n' \
             'https://api.anthropic.com/v1/messages?n=[1-120]' -H 'content-type: application/json' \
             -d '{\"model\":\"claude-test+input-1+output-1+deltas-1\",\"max_tokens\":9,\"stream\":true,\"messages\":[]}' 2>&1";
        let done = web.sh(line)?;
        ensure!(done.output.lines().filter(|code| *code == "200").count() == REQUESTS / 3, "{}", done.output);
    }
    let settled = |follower: &Follower<LiveEvent>| -> BTreeSet<PermitId> {
        follower.heard().iter().filter_map(heard!(LiveEvent::Settled { permit, .. } => Some(*permit))).collect()
    };
    until("all are settled", PATIENCE, || Ok(settled(&follower).len() == REQUESTS))?;
    let updates = bottles(&follower).len();
    let seconds = usize::try_from(began.elapsed().as_secs())? + 1;
    ensure!(updates > 1 && updates <= UPDATES_PER_SECOND_MAX * seconds + 1, "{updates} updates in {seconds} s");

    silent.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut heard, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok(length @ 1..) = silent.read(&mut buffer) {
        heard.extend_from_slice(&buffer[..length]);
    }
    let used = format!("\"used\":{}", 2 * REQUESTS);
    ensure!(String::from_utf8_lossy(&heard).contains(&used), "{} bytes without {used}", heard.len());
    Ok(())
}

#[test]
fn a_bottles_routes_are_those_it_is_told_of() -> Result<()> {
    let Some(world) = watched_world()? else { return Ok(()) };
    let mut web = world.shell("web", &[])?;
    let runtime = tokio::runtime::Runtime::new()?;
    let client = Client::new(&world.names.run);
    let routes = |name: &str| {
        let path = format!("bottles/{name}/routes");
        runtime.block_on(client.get::<BottleRoutesReply>(&path))
    };
    let told: Value = serde_json::from_str(&web.sh("curl -s http://_egress.local/allowlist")?.output)?;
    let reply = routes("web")?;
    assert_eq!((reply.bottle.as_str(), &serde_json::to_value(&reply.routes)?), ("web", &told["allowlist"]));
    assert_eq!(reply.routes[0].host, WATCHED);
    world.write_routes("routes:\n  - host: other.example\n")?;
    until("other routes", PATIENCE, || Ok(routes("web")?.routes[0].host == "other.example"))?;
    // As it would be, ended too.
    drop(web);
    until("web has ended", PATIENCE, || Ok(world.listed("web")?.is_none()))?;
    assert_eq!(routes("web")?.routes[0].host, "other.example");
    let unknown = routes("nobody").err().context("it is known")?;
    let egress_userspace::control::ClientError::Refused(error) = unknown else { anyhow::bail!("{unknown}") };
    assert_eq!(error.code, ErrorCode::NotFound);
    Ok(())
}
