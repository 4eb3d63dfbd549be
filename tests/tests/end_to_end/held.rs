//! Requests in which a detector finds something, from the bottle to the operator and on: held, passed, refused, remembered.

use std::fs;

use anyhow::{Context, Result, ensure};
use egress_userspace::control::ApprovalsReply;
use egress_userspace::domain::{ApprovalRow, AuditKind, RefusalReason, Verdict};
use harness::world::{Bottle, PATIENCE, World, until};

use crate::prepared;

/// Nobody's hosts.
const HOSTS: [&str; 2] = ["tools.corp.example", "other.corp.example"];
/// Made up, in the shape that AWS gives its keys; in pieces, so that nobody takes it for one that is lost here.
const KEY: &str = concat!("AKIA", "Q3ZB7XKLM2PNRTVW");

fn world(what: &str, on_match: &str, timeout: &str) -> Result<Option<World>> {
    let Some(mut world) = prepared(what, "")? else { return Ok(None) };
    world.write_settings_for("", &HOSTS)?;
    let routes = HOSTS.map(|host| format!("  - host: {host}\n    outbound_on_match: {on_match}\n")).concat();
    fs::write(world.names.home.join("routes.yaml"), format!("approval_timeout: {timeout}\nroutes:\n{routes}"))?;
    world.start_daemon()?;
    Ok(Some(world))
}

/// A request that brings the key; what comes of it is the command's output: the body, and the status in the last line.
fn sending(host: &str) -> String {
    let body = format!(r#"{{"model":"claude-test","aws":"{KEY}"}}"#);
    format!("curl -s --max-time 60 -w '\\n%{{http_code}}' -d '{body}' https://{host}/v1/messages")
}

/// Ends what was begun.
fn answered(bottle: &mut Bottle) -> Result<(String, String)> {
    let done = bottle.end_of_command(PATIENCE)?;
    let (body, status) = done.output.rsplit_once('\n').context("no status")?;
    Ok((status.to_owned(), body.to_owned()))
}

fn ask(bottle: &mut Bottle, host: &str) -> Result<(String, String)> {
    bottle.begin(&sending(host))?;
    answered(bottle)
}

fn rows(world: &World, arguments: &[&str]) -> Result<Vec<ApprovalRow>> {
    Ok(world.json::<ApprovalsReply>(&[&["approvals", "list"], arguments].concat())?.approvals)
}

/// The only question that waits, once it does.
fn waiting(world: &World) -> Result<ApprovalRow> {
    until("a request waits", PATIENCE, || Ok(rows(world, &[])?.len() == 1))?;
    rows(world, &[])?.pop().context("it has gone")
}

/// The key is in no file of the daemon's.
fn is_nowhere(world: &World) -> Result<()> {
    let mut files = vec![world.names.log.clone()];
    for entry in fs::read_dir(&world.names.home)? {
        files.push(entry?.path());
    }
    for file in files.into_iter().filter(|file| file.is_file()) {
        let bytes = fs::read(&file)?;
        ensure!(!bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()), "the key is in {}", file.display());
    }
    Ok(())
}

#[test]
fn an_operator_is_asked_and_what_is_approved_for_good_is_not_asked_again() -> Result<()> {
    let Some(mut world) = world("held requests", "supervise", "60s")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    bottle.begin(&sending(HOSTS[0]))?;
    let question = waiting(&world)?;
    assert_eq!((question.host.as_str(), question.target.as_str()), (HOSTS[0], "POST /v1/messages"));
    ensure!(world.served().is_empty(), "it has left");
    let id = question.id.to_string();
    assert_eq!(world.egress(&["approvals", "approve", &id])?.code, 0);
    assert_eq!(answered(&mut bottle)?.0, "200");
    assert_eq!(world.served().len(), 1);

    bottle.begin(&sending(HOSTS[0]))?;
    let id = waiting(&world)?.id.to_string();
    assert_eq!(world.egress(&["approvals", "approve", &id, "--always"])?.code, 0);
    assert_eq!(answered(&mut bottle)?.0, "200");
    assert_eq!(ask(&mut bottle, HOSTS[0])?.0, "200", "it is remembered");
    world.kill_daemon_and_proxy()?;
    world.start_daemon()?;
    assert_eq!(ask(&mut bottle, HOSTS[0])?.0, "200", "over a restart");

    bottle.begin(&sending(HOSTS[1]))?;
    let id = waiting(&world)?.id.to_string();
    assert_eq!(world.egress(&["approvals", "deny", &id])?.code, 0);
    let (status, body) = answered(&mut bottle)?;
    ensure!(status == "403" && body.contains("sensitive_data") && !body.contains(KEY), "{status} {body}");
    assert_eq!(world.served().len(), 4, "another host was reached");
    let audit = world.audit(Some("web"))?;
    let decided = audit.iter().filter(|kind| matches!(kind, AuditKind::ApprovalDecided { .. })).count();
    assert_eq!(decided, 3, "{audit:?}");
    ensure!(audit.iter().any(is_refused), "{audit:?}");
    is_nowhere(&world)
}

fn is_refused(kind: &AuditKind) -> bool {
    matches!(kind, AuditKind::RequestRefused { reason: RefusalReason::SensitiveData, rule: Some(_), .. })
}

#[test]
fn without_an_answer_nothing_leaves() -> Result<()> {
    let Some(world) = world("nobody answers", "supervise", "1s")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    assert_eq!(ask(&mut bottle, HOSTS[0])?.0, "403");
    assert_eq!(rows(&world, &["--all"])?[0].verdict, Some(Verdict::Expired));
    ensure!(world.served().is_empty(), "it has left");
    is_nowhere(&world)
}

#[test]
fn a_cut_ends_what_waits() -> Result<()> {
    let Some(world) = world("cut while it waits", "supervise", "60s")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    bottle.begin(&sending(HOSTS[0]))?;
    waiting(&world)?;
    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    assert_eq!(answered(&mut bottle)?.0, "000");
    until("the question is closed", PATIENCE, || Ok(rows(&world, &[])?.is_empty()))?;
    assert_eq!(rows(&world, &["--all"])?[0].verdict, Some(Verdict::Abandoned));
    ensure!(world.served().is_empty(), "it has left");
    Ok(())
}

#[test]
fn what_is_blocked_is_refused_and_what_is_redacted_goes_without_it() -> Result<()> {
    let Some(world) = world("blocked and redacted", "block", "60s")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let (status, body) = ask(&mut bottle, HOSTS[0])?;
    ensure!(status == "403" && body.contains("aws-access-key") && !body.contains(KEY), "{status} {body}");
    ensure!(world.served().is_empty() && world.audit(Some("web"))?.iter().any(is_refused), "it has left");

    let routes = fs::read_to_string(world.names.home.join("routes.yaml"))?.replace("block", "redact");
    fs::write(world.names.home.join("routes.yaml"), routes)?;
    until("the routes are in force", PATIENCE, || Ok(ask(&mut bottle, HOSTS[0])?.0 == "200"))?;
    let redacted = |kind: &AuditKind| matches!(kind, AuditKind::DataRedacted { is_outbound: true, count: 1, .. });
    until("it is told", PATIENCE, || Ok(world.audit(Some("web"))?.iter().any(redacted)))?;
    is_nowhere(&world)
}
