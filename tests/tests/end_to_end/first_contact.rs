//! What somebody sees who has just begun: whatever is missing is said in one sentence, with what to type.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::terminal::Terminal;
use harness::world::{GATEWAY, Names, Said, program};

use crate::{prepared, world};

/// Of the implementation, and nobody's business.
const INNARDS: [&str; 7] = ["panicked", "backtrace", "Some(", "Err(", "Os {", "Error(", "unwrap"];

/// What was said last is one sentence that holds all of this; the exit code is this one.
fn check(situation: &str, said: &Said, expected: &[&str], code: i32) -> Result<()> {
    let text = said.errors.trim_end();
    let sentence = text.lines().next_back().unwrap_or_default();
    ensure!(said.code == code, "{situation}: it ended with {}: {text}", said.code);
    ensure!(sentence.starts_with("egress: "), "{situation}: {text}");
    for part in expected {
        ensure!(sentence.contains(part), "{situation}: it does not say {part:?}: {sentence}");
    }
    let shown = INNARDS.iter().find(|word| text.contains(**word));
    ensure!(shown.is_none(), "{situation}: {shown:?} in {text}");
    Ok(())
}

/// The same of a command of which nothing else is printed.
fn check_alone(situation: &str, said: &Said, expected: &[&str], code: i32) -> Result<()> {
    check(situation, said, expected, code)?;
    ensure!(said.errors.lines().count() == 1 && said.output.is_empty(), "{situation}: {said:?}");
    Ok(())
}

/// A command line that is wrong: what is shown is how it is written.
fn check_usage(situation: &str, said: &Said, expected: &[&str]) -> Result<()> {
    ensure!(said.code == 2, "{situation}: {said:?}");
    for part in expected {
        ensure!(said.errors.contains(part), "{situation}: it does not say {part:?}: {}", said.errors);
    }
    Ok(())
}

#[test]
fn a_command_line_that_is_wrong() -> Result<()> {
    let Some(world) = prepared("wrong command lines", "")? else { return Ok(()) };
    let cases: [(&[&str], &[&str]); 6] = [
        (&[], &["Usage: egress", "Begin with `egress doctor`"]),
        (&["run", "web"], &["<CMD>", "Usage: egress run <BOTTLE> -- <CMD>..."]),
        (&["run", "web", "curl"], &["unexpected argument 'curl'", "-- <CMD>"]),
        (&["rnu", "web"], &["unrecognized subcommand 'rnu'"]),
        (&["run", "Web", "--", "true"], &["\"Web\" is not a bottle name"]),
        (&["run", "web", "--budget", "claude=lots", "--", "true"], &["lots", "5M"]),
    ];
    for (arguments, expected) in cases {
        check_usage(&arguments.join(" "), &world.egress(arguments)?, expected)?;
    }
    for variable in ["BOT_BOTTLE_HOME", "EGRESS_RUN_DIR"] {
        let mut command = Command::new(program("egress"));
        command.args(["settings", "check"]).env(variable, "some/place").current_dir("/usr");
        let said = world.fail_to_start(&mut command)?;
        check_usage(variable, &said, &["'some/place'", "write the whole path, /usr/some/place"])?;
    }
    Ok(())
}

#[test]
fn without_a_daemon() -> Result<()> {
    let Some(world) = prepared("no daemon", "")? else { return Ok(()) };
    let commands: [&[&str]; 5] =
        [&["list"], &["status"], &["cut", "web"], &["run", "web", "--", "true"], &["audit", "--follow"]];
    for arguments in commands {
        let expected = ["no egress daemon listens on", "start one with `egress daemon`"];
        check_alone(&arguments.join(" "), &world.egress(arguments)?, &expected, 3)?;
    }
    let said = world.as_nobody(&["list"])?;
    check_alone("an ordinary user", &said, &["start one with `sudo egress daemon`"], 3)?;
    // The service's unit, and nothing that listens where a service would.
    let mut command = Command::new("unshare");
    let service = "mount -t tmpfs none /etc/systemd && mkdir /etc/systemd/system && \
                   touch /etc/systemd/system/egress.service && mount -t tmpfs none /run && exec \"$0\" list";
    command.args(["--mount", "sh", "-c", service]).arg(program("egress"));
    check_alone("a service", &world.fail_to_start(&mut command)?, &["start one with `systemctl start egress`"], 3)?;
    let mut terminal = Terminal::of(&world.command(&["list"]))?;
    terminal.until_shown("start one with `egress daemon`")?;
    assert_eq!(terminal.end()?, Some(3));
    Ok(())
}

#[test]
fn without_root() -> Result<()> {
    let Some(world) = prepared("no root", "")? else { return Ok(()) };
    let said = world.as_nobody(&["daemon"])?;
    check_alone("a daemon of nobody's", &said, &["needs root: run `sudo egress daemon`"], 4)?;
    let settings = world.names.home.join("settings.yml");
    fs::set_permissions(&settings, Permissions::from_mode(0o600))?;
    let home = world.names.home.display().to_string();
    for what in ["settings", "routes"] {
        let said = world.as_nobody(&[what, "check", "--home", &home])?;
        check_alone(what, &said, &["settings.yml could not be read", "put `sudo` before the command"], 4)?;
    }
    Ok(())
}

#[test]
fn a_home_that_is_none() -> Result<()> {
    let Some(world) = prepared("a home that is none", "")? else { return Ok(()) };
    let place = world.names.directory.join("place");
    let names = Names { home: place.join("home"), ..world.names.clone() };
    let start = || world.daemon_command(&names, GATEWAY);
    fs::write(&place, "")?;
    let said = world.fail_to_start(&mut start())?;
    check("below a file", &said, &["could not be made", "choose another with --home"], 1)?;
    fs::remove_file(&place)?;
    fs::create_dir(&place)?;
    let said = world.fail_to_start(&mut on_read_only(&place, &start()))?;
    check("a disk that is read only", &said, &["Read-only file system", "can be written to with --home"], 1)?;
    fs::create_dir_all(place.join("home/settings.yml"))?;
    let said = world.fail_to_start(&mut start())?;
    check("a directory for settings", &said, &["settings.yml could not be read", "move that directory away"], 1)?;
    fs::remove_dir(place.join("home/settings.yml"))?;
    fs::write(place.join("home/settings.yml"), [0xff, 0xfe])?;
    let said = world.fail_to_start(&mut start())?;
    check("settings in another encoding", &said, &["settings.yml could not be read", "write it in UTF-8"], 1)?;
    fs::remove_file(place.join("home/settings.yml"))?;
    let home = names.home.display().to_string();
    let said = world.egress(&["settings", "check", "--home", &home, "other.yml"])?;
    check_alone("a file that is not there", &said, &["there is no other.yml: name a file that is there"], 1)?;
    fs::write(place.join("home/settings.yaml"), "budget:\n  claude: 5M\n")?;
    let misnamed = ["settings.yaml is not read: rename it settings.yml"];
    check("settings with the ending of routes", &world.fail_to_start(&mut start())?, &misnamed, 1)?;
    let said = world.egress(&["settings", "check", "--home", &home])?;
    check_alone("the same, checked", &said, &misnamed, 1)?;
    fs::remove_file(place.join("home/settings.yaml"))?;
    let said = world.egress(&["settings", "check", "--home", &home])?;
    ensure!(said.code == 0 && said.output.ends_with("settings.yml: the defaults are in force\n"), "{said:?}");
    Ok(())
}

/// The command where this directory is on a file system that cannot be written to.
fn on_read_only(directory: &Path, command: &Command) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", "mount -t tmpfs -o ro none \"$0\" && exec \"$@\""]).arg(directory);
    unshare.arg(command.get_program()).args(command.get_args());
    unshare
}

#[test]
fn no_place_for_gates() -> Result<()> {
    let Some(world) = prepared("no place for gates", "enforcer: ebpf")? else { return Ok(()) };
    let names = Names { pins: "/proc/egress".into(), ..world.names.clone() };
    let said = world.fail_to_start(&mut world.daemon_command(&names, GATEWAY))?;
    let expected = ["the pin directory /proc/egress could not be created", "mount -t bpf", "enforcer: nftables"];
    check("no file system for pins", &said, &expected, 1)
}

#[test]
fn a_daemon_that_runs() -> Result<()> {
    let Some(world) = world("first contact with a daemon", "")? else { return Ok(()) };
    let expected = ["you may not control egress", "put `sudo` before the command", "usermod"];
    check_alone("a user who is in no group", &world.as_nobody(&["list"])?, &expected, 4)?;
    let said = world.egress(&["list"])?;
    ensure!(said.code == 0 && said.output.contains("start one with `egress run NAME -- COMMAND`"), "{said:?}");
    let said = world.egress(&["cut", "web"])?;
    check_alone("a bottle that is none", &said, &["there is no bottle web: `egress list` shows those there are"], 1)?;
    let said = world.egress(&["run", "web", "--", "no-such-command"])?;
    check_alone("a command that is none", &said, &["no-such-command"], 127)?;
    let mut bottle = world.shell("web", &[])?;
    let said = world.egress(&["run", "web", "--", "true"])?;
    check_alone("a bottle that runs", &said, &["bottle web is already running: `egress list` shows it"], 1)?;
    let asked = bottle.sh("curl -s -w '\\n%{http_code}' --resolve example.com:443:10.213.0.1 https://example.com/")?;
    let (body, status) = asked.output.rsplit_once('\n').context("no status")?;
    ensure!(status == "403", "{asked:?}");
    for part in ["example.com is not on the allowlist of bottle web", "`- host: example.com` under `routes:`"] {
        ensure!(body.contains(part), "it does not say {part:?}: {body}");
    }
    Ok(())
}

#[test]
fn a_directory_that_is_not_for_bottles() -> Result<()> {
    let Some(world) = world("first contact from directories", "")? else { return Ok(()) };
    let ours = world.names.home.join("notes");
    fs::create_dir(&ours)?;
    let own = tempfile::Builder::new().prefix("egress-test-").tempdir_in("/run")?;
    let unseen = format!("bottles do not see {}", own.path().display());
    let unshared = format!("{} cannot be shared with a bottle, as egress itself keeps", ours.display());
    for (directory, expected, code) in [
        (own.path(), [&*unseen, "`cd` to a directory outside /run first"], 126),
        (&ours, [&*unshared, "run the command in a directory of its own"], 2),
    ] {
        let mut run = world.command(&["run", "web", "--", "true"]);
        let said = world.fail_to_start(run.current_dir(directory))?;
        check_alone("a directory that is not for bottles", &said, &expected, code)?;
    }
    Ok(())
}

#[test]
fn a_second_daemon() -> Result<()> {
    let Some(world) = world("first contact with a second daemon", "")? else { return Ok(()) };
    let said = world.fail_to_start(&mut world.daemon_command(&world.names, GATEWAY))?;
    check("the same one again", &said, &["in use by another egress daemon", "stop that one"], 1)
}
