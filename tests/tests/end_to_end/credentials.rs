//! The operator's credentials reach providers, and nothing else; an agent's own stay in its bottle.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::world::{Bottle, PATIENCE, World, curl, until};

use crate::prepared;

/// The agent's key.
const AGENT: &str = "sk-agent-0f1e2d3c4b5a";
/// The operator's, one after the other.
const OURS: [&str; 2] = ["sk-ours-a1b2c3d4e5f6", "sk-ours-f6e5d4c3b2a1"];
/// The operator's in the daemon's environment.
const IN_ENVIRONMENT: &str = "sk-ours-112233445566";
const FILE: &str = "keys/claude";
const ROUTES: &str = "routes:
  - host: api.anthropic.com
    auth_scheme: header:x-api-key
    token_file: keys/claude
    git_push: [refs/heads/bottle/*]
  - host: api.openai.com
    auth_scheme: bearer
    token_env: OUR_KEY
";

fn write_key(world: &World, key: &str, mode: u32) -> Result<()> {
    let path = world.names.home.join(FILE);
    fs::create_dir_all(path.parent().context("it is in a directory")?)?;
    fs::write(&path, format!("{key}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// Asks once; returns the answer's status and what the provider was presented with, if it was asked.
fn ask(world: &World, bottle: &mut Bottle) -> Result<(String, Vec<String>)> {
    let before = world.served().len();
    let key = format!("-H 'x-api-key: {AGENT}' -H 'authorization: Bearer {AGENT}' -w ' %{{http_code}}'");
    let done = bottle.sh(&curl("claude-test", false, &key))?;
    let status = done.output.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    let presented = world.served().into_iter().skip(before).flat_map(|served| served.presented);
    Ok((status, presented.collect()))
}

#[test]
fn credentials_of_routes_follow_their_files_and_are_kept_nowhere() -> Result<()> {
    let Some(mut world) = prepared("credentials", "")? else { return Ok(()) };
    world.daemon_starter =
        ["env".to_owned(), "EGRESS_LOG=trace".to_owned(), format!("OUR_KEY={IN_ENVIRONMENT}")].to_vec();
    write_key(&world, OURS[0], 0o600)?;
    world.write_routes(ROUTES)?;
    world.start_daemon()?;
    let mut bottle = world.shell("web", &[])?;
    let presents = |key: &str| Ok(("200".to_owned(), vec![key.to_owned()]));
    let check = |bottle: &mut Bottle, expected: Result<(String, Vec<String>)>| {
        let expected = expected?;
        until(&format!("{expected:?}"), PATIENCE, || Ok(ask(&world, bottle)? == expected))
    };
    check(&mut bottle, presents(OURS[0]))?;
    let from_environment =
        format!("curl -s --max-time 30 https://api.openai.com/v1/models -H 'authorization: {AGENT}'");
    bottle.sh(&from_environment)?;
    let presented = world.served().last().context("nothing was asked")?.presented.clone();
    ensure!(presented == [format!("Bearer {IN_ENVIRONMENT}")], "{presented:?}");

    write_key(&world, OURS[1], 0o600)?;
    check(&mut bottle, presents(OURS[1]))?;
    write_key(&world, OURS[1], 0o644)?;
    check(&mut bottle, Ok(("403".to_owned(), Vec::new())))?;
    let log = fs::read_to_string(&world.names.log)?;
    ensure!(log.contains("(mode 644): chmod 600 it"), "nobody is told what is wrong: {}", world.log_tail());
    write_key(&world, OURS[0], 0o600)?;
    check(&mut bottle, presents(OURS[0]))?;
    // The proxy's process starts anew with what routes name.
    world.kill_proxy()?;
    until("there is a proxy", PATIENCE, || Ok(ask(&world, &mut bottle).is_ok_and(|(status, _)| status == "200")))?;
    check(&mut bottle, presents(OURS[0]))?;
    // What is pushed is looked at in the sandbox, on a thread of its own.
    let pushed = bottle.sh("printf 0001 | curl -s --data-binary @- https://api.anthropic.com/r/git-receive-pack")?;
    ensure!(pushed.output.contains("egress: this push to api.anthropic.com/r is refused"), "{}", pushed.output);
    check(&mut bottle, presents(OURS[0]))?;

    world.write_routes("")?;
    check(&mut bottle, Ok(("403".to_owned(), Vec::new())))?;
    let said = world.egress(&["audit", "--json"])?;
    for reason in ["credential_missing", "credential_not_allowed", "git_forbidden"] {
        ensure!(said.output.contains(reason), "no row tells of {reason}: {}", said.output);
    }
    let found = bottle.sh("env; cat /proc/self/mountinfo")?;
    for secret in OURS.into_iter().chain([IN_ENVIRONMENT]) {
        ensure!(!found.output.contains(secret) && !said.output.contains(secret), "{secret} is in the bottle");
    }
    assert_holds_none(&world.names.log)?;
    for entry in fs::read_dir(&world.names.home)? {
        let path = entry?.path();
        if path.is_file() {
            assert_holds_none(&path)?;
        }
    }
    Ok(())
}

fn assert_holds_none(path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    for secret in OURS.into_iter().chain([IN_ENVIRONMENT, AGENT]) {
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        ensure!(!found, "{} holds {secret:?}", path.display());
    }
    Ok(())
}

#[test]
fn a_file_with_a_credential_is_hidden_wherever_it_is() -> Result<()> {
    let Some(mut world) = prepared("a credential elsewhere", "")? else { return Ok(()) };
    let place = world.names.directory.join("elsewhere");
    let file = place.join("key");
    fs::create_dir(&place)?;
    fs::write(&file, OURS[0])?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let (place, file) = (place.display().to_string(), file.display());
    world.write_routes(&format!(
        "routes:\n  - host: api.anthropic.com\n    auth_scheme: header:x-api-key\n    token_file: {file}\n"
    ))?;
    world.start_daemon()?;
    let mut bottle = world.shell("web", &[])?;
    assert_eq!(ask(&world, &mut bottle)?, ("200".to_owned(), vec![OURS[0].to_owned()]));
    let done = bottle.sh(&format!("ls {place} && cat {file}; true"))?;
    ensure!(!done.output.contains("sk-ours"), "{done:?}");
    let shared = world.egress(&["run", "api", "--share", &place, "--", "cat", &file.to_string()])?;
    ensure!(shared.code == 2 && shared.errors.contains("cannot be shared with a bottle"), "{shared:?}");
    Ok(())
}
