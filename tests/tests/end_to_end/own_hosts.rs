//! Hosts that an operator names are metered and budgeted as the built-in ones; what nobody knows is told of.

use std::fs;

use anyhow::{Result, ensure};
use egress_userspace::domain::{AuditKind, CutCause, GateView, Known};
use harness::world::{Bottle, PATIENCE, curl, until};

use crate::prepared;

const SETTINGS: &str = "\
budget:
  local: 5k
providers:
  local:
    hosts:
      \"*.corp.example\": openai_compatible
  mine:
    hosts:
      claude.corp.example: anthropic
";
const HOSTS: [&str; 2] = ["claude.corp.example", "vllm.corp.example"];

/// The status of a request to this host.
fn ask(bottle: &mut Bottle, host: &str, path: &str) -> Result<String> {
    let request = curl("claude-test+input-5000", true, "-o /dev/null -w '%{http_code}'");
    let request = request.replace("api.anthropic.com", host).replace("/v1/messages", path);
    Ok(bottle.sh(&request)?.output)
}

#[test]
fn a_named_host_counts_for_its_provider() -> Result<()> {
    let Some(mut world) = prepared("hosts of one's own", "")? else { return Ok(()) };
    world.write_settings_for(SETTINGS, &HOSTS)?;
    world.start_daemon()?;
    let mut bottle = world.shell("web", &[])?;
    // Exact before pattern, whatever comes first.
    assert_eq!(ask(&mut bottle, "claude.corp.example", "/v1/messages")?, "200");
    assert_eq!(ask(&mut bottle, "vllm.corp.example", "/v1/messages")?, "200");
    let rows = world.rows("web")?;
    let counted: Vec<_> = rows.iter().map(|row| (row.provider.as_str(), row.host.as_str(), row.known)).collect();
    let expected = [("mine", "claude.corp.example", Known::Reported), ("local", "vllm.corp.example", Known::Reported)];
    assert_eq!(counted, expected);
    assert_eq!(ask(&mut bottle, "vllm.corp.example", "/v1/messages")?, "402", "its budget is gone");
    world.until_gate("web", GateView::Cut(CutCause::Budget), PATIENCE)
}

#[test]
fn an_unknown_path_is_told_of_once() -> Result<()> {
    let Some(mut world) = prepared("unknown paths", "")? else { return Ok(()) };
    world.write_settings_for(SETTINGS, &HOSTS)?;
    world.start_daemon()?;
    let mut bottle = world.shell("web", &[])?;
    for path in ["/v1/novel/1234567890?key=secret", "/v1/novel/9876543210", "/v1/messages/count_tokens"] {
        ask(&mut bottle, "claude.corp.example", path)?;
    }
    let unknown =
        AuditKind::PathUnknown { host: "claude.corp.example".parse()?, target: "POST /v1/novel/*".to_owned() };
    let told = || -> Result<bool> {
        let audit = world.audit(Some("web"))?;
        Ok(audit.iter().filter(|kind| **kind == unknown).count() == 1)
    };
    until("the audit tells it", PATIENCE, told)?;
    let log = fs::read_to_string(&world.names.log)?;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("path=")).collect();
    ensure!(lines.len() == 1 && lines[0].contains("/v1/novel/*"), "{lines:?}");
    ensure!(!log.contains("1234567890") && !log.contains("key=secret"), "{log}");
    let table = world.egress(&["audit"])?.output;
    ensure!(table.contains("POST /v1/novel/* at claude.corp.example is unknown"), "{table}");
    let rows = world.rows("web")?;
    ensure!(rows.len() == 3 && rows.iter().all(|row| row.known == Known::Unmetered), "{rows:?}");
    Ok(())
}
