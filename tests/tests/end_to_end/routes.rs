//! Routes files of a running daemon: what they open and close, what is wrong with them, what is learned for them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use egress_userspace::control::{BottlesReply, StatusReply};
use egress_userspace::domain::{AuditKind, RefusalReason, RouteCheck};
use harness::world::{Bottle, PATIENCE, World, until};

use crate::prepared;

/// Nobody's: what is used there is not counted.
const TOOLS: &str = "tools.corp.example";
const HOSTS: [&str; 2] = ["api.anthropic.com", TOOLS];
/// Also when its name leads nowhere.
const URL: &str = "--resolve tools.corp.example:443:10.213.0.1 https://tools.corp.example/v1/messages";
const OPEN: &str = "routes:\n  - host: tools.corp.example\n    methods: GET, POST\n";

fn world(what: &str) -> Result<Option<World>> {
    let Some(mut world) = prepared(what, "")? else { return Ok(None) };
    world.write_settings_for("", &HOSTS)?;
    world.start_daemon()?;
    Ok(Some(world))
}

fn write(world: &World, file: &str, text: &str) -> Result<()> {
    let path = world.names.home.join(file);
    fs::create_dir_all(path.parent().context("a directory")?)?;
    Ok(fs::write(path, text)?)
}

/// The status that the proxy or the host answers, and the body.
fn ask(bottle: &mut Bottle, url: &str) -> Result<(String, String)> {
    let done = bottle.sh(&format!("curl -s --max-time 10 -X POST -d '{{}}' -w '\\n%{{http_code}}' {url}"))?;
    let (body, status) = done.output.rsplit_once('\n').unwrap_or(("", &done.output));
    Ok((status.to_owned(), body.to_owned()))
}

fn until_status(bottle: &mut Bottle, what: &str, status: &str) -> Result<()> {
    until(what, PATIENCE, || Ok(ask(bottle, URL)?.0 == status))
}

#[test]
fn files_are_in_force_when_they_are_sound_and_nothing_is_lost_when_not() -> Result<()> {
    let Some(world) = world("routes files")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let mut other = world.shell("other", &[])?;
    // Its name leads nowhere; through the proxy it is refused, and by name.
    assert_ne!(bottle.sh("getent hosts tools.corp.example")?.code, 0);
    let (status, body) = ask(&mut bottle, URL)?;
    ensure!(status == "403" && body.contains("not on the allowlist of bottle web"), "{status} {body}");
    let refused = |target: &str| AuditKind::RequestRefused {
        reason: RefusalReason::HostNotAllowed,
        host: TOOLS.parse().ok(),
        target: target.to_owned(),
        rule: None,
        count: 1,
    };
    let told = world.audit(Some("web"))?;
    ensure!(told.contains(&refused("POST /v1/messages")) && told.contains(&refused("DNS")), "{told:?}");

    write(&world, "routes/web.yaml", OPEN)?;
    until_status(&mut bottle, "its own file opens it", "200")?;
    assert_eq!(ask(&mut bottle, "https://tools.corp.example/v1/messages")?.0, "200", "and its name leads here");
    assert_eq!(world.rows("web")?.len(), 0, "it is nobody's");
    assert_eq!(ask(&mut other, URL)?.0, "403", "another bottle's file");

    write(&world, "routes/web.yaml", "routes:\n  - host: tools.corp.example\n    methds: GET\n")?;
    let complaint =
        || -> Result<String> { Ok(world.json::<StatusReply>(&["status"])?.settings_problem.unwrap_or_default()) };
    until(
        "the mistake is told",
        PATIENCE,
        || Ok(complaint()?.contains("routes/web.yaml:3:5: unknown key \"methds\"")),
    )?;
    ensure!(world.json::<BottlesReply>(&["list"])?.settings_problem.is_some(), "the list does not tell of it");
    assert_eq!(ask(&mut bottle, "https://tools.corp.example/v1/messages")?.0, "200", "it is as it was");

    fs::remove_file(world.names.home.join("routes/web.yaml"))?;
    until_status(&mut bottle, "without the file it is closed", "403")?;
    until("nothing is wrong", PATIENCE, || Ok(complaint()?.is_empty()))?;
    write(&world, "routes.yaml", OPEN)?;
    until_status(&mut bottle, "the host's file opens it", "200")?;
    until_status(&mut other, "for every bottle", "200")?;
    ensure!(world.audit(None)?.contains(&AuditKind::RoutesReloaded), "not on record");
    Ok(())
}

#[test]
fn a_secret_that_is_not_to_be_had_is_told_and_nothing_goes_without_it() -> Result<()> {
    let Some(world) = world("a missing secret")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let inject = "    auth_scheme: bearer\n    token_file: tools.key\n";
    write(&world, "routes.yaml", &format!("{OPEN}{inject}"))?;
    let problem =
        || -> Result<String> { Ok(world.json::<StatusReply>(&["status"])?.settings_problem.unwrap_or_default()) };
    until("it is told", PATIENCE, || Ok(problem()?.contains("requests that need it are refused: the file tools.key")))?;
    let (status, body) = ask(&mut bottle, URL)?;
    ensure!(status == "403" && body.contains("credential_missing"), "{status} {body}");
    ensure!(world.served().is_empty(), "it has left without");
    let key = world.names.home.join("tools.key");
    fs::write(&key, "s3cret-of-the-host")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    until_status(&mut bottle, "with it, requests go", "200")?;
    until("nothing is wrong", PATIENCE, || Ok(problem()?.is_empty()))
}

#[test]
fn a_daemon_with_a_wrong_file_does_not_start() -> Result<()> {
    let Some(world) = prepared("a wrong routes file", "")? else { return Ok(()) };
    write(&world, "routes.yaml", "routes:\n  - host: \"*.com\"\n")?;
    let mut daemon = world.daemon_command(&world.names, harness::world::GATEWAY);
    let said = world.fail_to_start(&mut daemon)?;
    ensure!(said.code == 1 && said.errors.contains("routes.yaml:2:11: \"*.com\" is not a host of a route"), "{said:?}");
    Ok(())
}

#[test]
fn what_a_bottle_tries_is_learned_and_what_is_learned_opens_it() -> Result<()> {
    let Some(world) = world("learning routes")? else { return Ok(()) };
    let tries = "curl -s -o /dev/null https://tools.corp.example/; \
                 curl -s -o /dev/null -X POST -d x --resolve tools.corp.example:443:10.213.0.1 \
                 https://tools.corp.example/v1/messages; true";
    let ended = world.run("web", &["--learn"], tries)?.end()?;
    ensure!(ended.code == 0, "{ended:?}");
    let (_, learned) = ended.errors.split_once("# What bottle web tried").context("nothing was learned")?;
    let expected = "routes:\n  - host: tools.corp.example\n    methods: POST\n    paths:\n      - '/v1/messages'";
    ensure!(learned.contains(expected), "{learned}");
    let again = world.egress(&["routes", "learn", "web"])?;
    ensure!(again.code == 0 && again.output.contains(expected), "{again:?}");

    write(&world, "routes/web.yaml", &again.output)?;
    let mut bottle = world.shell("web", &[])?;
    until_status(&mut bottle, "what was learned opens it", "200")
}

#[test]
fn a_check_says_what_would_become_of_a_request() -> Result<()> {
    let Some(world) = prepared("routes check", "bottles:\n  web:\n  child:\n    extends: web")? else { return Ok(()) };
    write(&world, "routes/web.yaml", OPEN)?;
    let home = world.names.home.to_str().context("a path")?;
    let check = |arguments: &[&str]| world.egress(&[&["routes", "check", "--home", home], arguments].concat());
    let said = check(&["--bottle", "child", "https://tools.corp.example/x"])?;
    ensure!(said.code == 0 && said.output.contains("allowed by routes/web.yaml:2"), "{said:?}");
    let said = check(&["--bottle", "child", "--method", "DELETE", "tools.corp.example"])?;
    ensure!(said.code == 1 && said.output.contains("refused"), "{said:?}");
    let said = check(&["tools.corp.example", "--json"])?;
    let answer = serde_json::from_str::<RouteCheck>(&said.output)?.answer.context("no answer")?;
    ensure!(said.code == 1 && !answer.is_allowed, "{answer:?}");
    Ok(())
}
