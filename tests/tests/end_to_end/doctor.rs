//! `egress doctor`, and the daemon's own look at its gates before it promises anything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use egress_userspace::doctor::{self, Names};
use egress_userspace::kernel::{EbpfEnforcer, Enforcer, FakeEnforcer, KernelError, TcAttachment};
use harness::privilege::is_root;
use harness::world::{GATEWAY, PATIENCE, Said, World, until};
use serde_json::Value;

use crate::{prepared, world};

/// Names for what is tried by this process, not by a doctor.
fn names(number: u32) -> Names {
    let name = format!("egress-test-{}-{number}", std::process::id());
    Names {
        directory: std::env::temp_dir().join(&name).join("run"),
        pins: Path::new("/sys/fs/bpf").join(&name),
        bridge: "egress0".to_owned(),
        group: format!("egt{}x{number}", std::process::id()),
        number,
    }
}

#[test]
fn a_gate_that_lies_is_found_out() -> Result<()> {
    if !is_root("a gate that lies")? {
        return Ok(());
    }
    let honest = |pins: &Path| -> Result<Box<dyn Enforcer>, KernelError> {
        Ok(Box::new(EbpfEnforcer::new(pins, TcAttachment::Auto)?))
    };
    ensure!(doctor::self_check(&names(9001), &honest) == Ok(()), "{:?}", doctor::self_check(&names(9001), &honest));
    // Says that it has gates, and has none.
    let liar = |_: &Path| -> Result<Box<dyn Enforcer>, KernelError> { Ok(Box::new(FakeEnforcer::default())) };
    let found = doctor::self_check(&names(9002), &liar);
    ensure!(found.as_ref().is_err_and(|problem| problem.contains("PASSED")), "{found:?}");
    ensure!(!names(9001).pins.exists() && !names(9002).directory.exists(), "something is left");
    Ok(())
}

#[test]
fn a_daemon_that_cannot_enforce_says_so_and_starts_nothing() -> Result<()> {
    let Some(mut world) = prepared("a daemon that cannot enforce", "")? else { return Ok(()) };
    // Where the gate would be tried.
    fs::create_dir_all(&world.names.run)?;
    fs::write(world.names.run.join("self-check"), "in the way")?;
    world.start_daemon()?;
    ensure!(world.status()?.not_enforcing.is_some(), "{:?}", world.status()?);
    ensure!(world.egress(&["status"])?.output.contains("NOT ENFORCING: "), "status is silent");
    ensure!(world.egress(&["list"])?.output.contains("NOT ENFORCING: "), "list is silent");
    let said = world.egress(&["run", "web", "--", "true"])?;
    ensure!(said.code != 0 && said.errors.contains("does not enforce"), "{said:?}");
    ensure!(world.egress(&["audit"])?.code == 0, "it does not serve");

    world.stop_daemon()?;
    fs::remove_file(world.names.run.join("self-check"))?;
    world.start_daemon()?;
    ensure!(world.egress(&["status"])?.output.contains("\nenforcing\n"), "{:?}", world.egress(&["status"])?);
    let mut bottle = world.shell("web", &[])?;
    ensure!(bottle.end()?.code == 0);
    Ok(())
}

#[test]
fn what_was_tried_leaves_nothing() -> Result<()> {
    let Some(world) = world("what was tried", "")? else { return Ok(()) };
    ensure!(!world.names.run.join("self-check").exists() && !world.names.pins.join("self-check").exists());
    ensure!(world.status()?.not_enforcing.is_none(), "{:?} {}", world.status()?, world.log_tail());
    Ok(())
}

/// `egress doctor`, as the host of this world's daemon would run it.
fn doctor(world: &World, words: &[&str]) -> Result<Said> {
    let home = world.names.home.display().to_string();
    let gateway = format!("{GATEWAY}/16");
    let own = ["doctor", "--home", &home, "--gateway", &gateway, "--bridge", &world.names.bridge];
    let mut command = world.command(&[&own, words].concat());
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin").env("NO_COLOR", "1");
    let output = world.host.run(|| Ok(command.output()?))?;
    Ok(Said {
        code: output.status.code().context("signalled")?,
        output: String::from_utf8(output.stdout)?,
        errors: String::from_utf8(output.stderr)?,
    })
}

/// What is said of one thing.
fn verdict(report: &Value, name: &str) -> Result<String> {
    let checks = report["checks"].as_array().context("no checks")?;
    let found = checks.iter().find(|check| check["name"] == name).with_context(|| format!("no {name} in {report}"))?;
    ensure!(found["area"].is_string() && found["says"].is_string(), "{found}");
    Ok(found["verdict"].as_str().context("no verdict")?.to_owned())
}

#[test]
fn a_sound_host_is_found_sound_with_a_daemon_and_without() -> Result<()> {
    let Some(mut world) = prepared("a sound host", "")? else { return Ok(()) };
    fs::set_permissions(&world.names.home, fs::Permissions::from_mode(0o700))?;
    let said = doctor(&world, &[])?;
    ensure!(said.code == 0 && said.output.contains("none passes"), "{said:?}");
    ensure!(!said.output.contains('\u{1b}') && said.output.contains("✓ ok"), "{said:?}");

    world.start_daemon()?;
    let said = doctor(&world, &["--json"])?;
    ensure!(said.code == 0, "{said:?}");
    let report: Value = serde_json::from_str(&said.output)?;
    ensure!(report["holds"] == true, "{report}");
    for name in ["with a gate", "without a gate", "curl", "daemon", "enforcing", "CA", "CA key", "ledger", "settings"] {
        ensure!(verdict(&report, name)? == "holds", "{name}: {report}");
    }
    for name in ["python3", "node", "git", "go"] {
        ensure!(verdict(&report, name)? != "failed", "{name}: {report}");
    }
    // Another test's doctor may be at work.
    let names = fs::read_dir("/sys/fs/bpf")?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut pids = names.filter_map(|name| Some(name.strip_prefix("egress-doctor-")?.to_owned()));
    ensure!(pids.all(|pid| Path::new("/proc").join(pid).exists()), "pins are left");
    ensure!(!world.host.ip("link show")?.contains("egdoctor"), "a bridge is left");
    let listed = world.egress(&["list"])?.output;
    ensure!(!listed.contains("doctor-"), "{listed}");
    Ok(())
}

#[test]
fn what_is_broken_is_named_and_makes_it_fail() -> Result<()> {
    let Some(mut world) = world("what is broken", "")? else { return Ok(()) };
    let broken = |world: &World, name: &str| -> Result<()> {
        let said = doctor(world, &["--json"])?;
        let report: Value = serde_json::from_str(&said.output)?;
        ensure!(said.code == 1 && report["holds"] == false, "{name}: {report}");
        ensure!(verdict(&report, name)? == "failed", "{name}: {report}");
        Ok(())
    };
    let socket = world.names.run.join("control.sock");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    broken(&world, "control socket")?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
    world.stop_daemon()?;

    let key = world.names.home.join("ca/ca.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    broken(&world, "CA key")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;

    let pem = world.names.home.join("ca/ca.pem");
    let sound = fs::read(&pem)?;
    let mut expired = rcgen::CertificateParams::default();
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    fs::write(&pem, expired.self_signed(&rcgen::KeyPair::generate()?)?.pem())?;
    broken(&world, "CA")?;
    fs::write(&pem, sound)?;

    fs::write(world.names.home.join("settings.yml"), "budget: nonsense: more\n")?;
    broken(&world, "settings")?;
    fs::remove_file(world.names.home.join("settings.yml"))?;

    fs::write(world.names.home.join("bot-bottle.db"), vec![7; 9000])?;
    broken(&world, "ledger")
}

#[test]
fn what_a_killed_doctor_left_the_next_one_removes() -> Result<()> {
    for (enforcer, place) in [("ebpf", "pins"), ("nftables", "table")] {
        let Some(world) = prepared("a killed doctor", &format!("enforcer: {enforcer}"))? else { return Ok(()) };
        killed_doctor(&world).with_context(|| format!("with {place}"))?;
    }
    Ok(())
}

fn killed_doctor(world: &World) -> Result<()> {
    let home = world.names.home.display().to_string();
    let mut command = world.command(&["doctor", "--json", "--home", &home]);
    let mut killed = world.host.run(|| Ok(command.stdout(Stdio::null()).spawn()?))?;
    let Names { directory, pins, bridge, .. } = Names::of_process(killed.id());
    let table = pins.file_name().context("pins have a name")?.to_string_lossy().into_owned();
    let has_gate = || Ok::<_, anyhow::Error>(pins.join("gates").exists() || tables(world)?.contains(&table));
    until("it has built its bottle", PATIENCE, || Ok(has_gate()? && world.host.ip("link show")?.contains(&bridge)))?;
    killed.kill()?;
    killed.wait()?;
    ensure!(has_gate()? && directory.exists(), "it had time to tidy up");
    doctor(world, &[])?;
    ensure!(!pins.exists() && !directory.exists(), "its directories are left");
    ensure!(!tables(world)?.contains(&table), "its table is left");
    ensure!(!world.host.ip("link show")?.contains(&bridge), "its bridge is left");
    Ok(())
}

fn tables(world: &World) -> Result<String> {
    let listed = world.host.run(|| Ok(Command::new("nft").args(["list", "tables"]).output()?))?;
    Ok(String::from_utf8(listed.stdout)?)
}

/// Anybody can make directories that are called like those of a doctor that died.
#[test]
fn what_others_make_is_no_leftover() -> Result<()> {
    let Some(world) = world("what others make in the name of a doctor", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    // No process has this number.
    let made = std::env::temp_dir().join("egress-doctor-4194999");
    fs::create_dir_all(made.join("bottles/web"))?;
    let lead = |to: &str, from: &str| std::os::unix::fs::symlink(to, made.join(from));
    lead("/sys/fs/bpf", "bottles/.cgroup").and_then(|()| lead("/sys/fs/bpf", "bottles/web/netns"))?;
    let said = doctor(&world, &[]);
    let is_there = made.join("bottles/.cgroup").is_symlink();
    fs::remove_dir_all(&made)?;
    ensure!(is_there && said?.code == 0, "it was taken for a leftover");
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    Ok(())
}
