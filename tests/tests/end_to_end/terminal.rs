//! `egress run` on a terminal.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use egress_userspace::control::{Client, ClientError, ErrorCode, RunEvent, RunRequest};
use harness::terminal::Terminal;
use harness::world::World;
use nix::pty::openpty;
use nix::unistd::ttyname;

use crate::world;

fn run(world: &World, line: &str) -> Result<Terminal> {
    Terminal::of(&world.command(&["run", "web", "--", "bash", "-c", line]))
}

#[test]
fn a_command_has_a_terminal_of_the_callers_size() -> Result<()> {
    let Some(world) = world("a terminal", "")? else { return Ok(()) };
    let script = "tty; stty size; trap 'stty size' WINCH; read -r line; echo you said $line; exit 5";
    let mut terminal = run(&world, script)?;
    terminal.until_shown("/dev/console")?;
    terminal.until_shown("31 97")?;
    ensure!(!terminal.is_cooked()?, "the caller's terminal interprets keys itself");
    terminal.keyboard.write_all(b"hello\r")?;
    terminal.until_shown("you said hello")?;
    assert_eq!(terminal.end()?, Some(5));
    ensure!(terminal.is_cooked()?, "the caller's terminal was not put back");
    Ok(())
}

#[test]
fn a_new_size_and_control_c_reach_the_command() -> Result<()> {
    let Some(world) = world("size and Ctrl-C", "")? else { return Ok(()) };
    // A shell that waits for a child ignores a Ctrl-C that the child survived by ending, so that the keystroke has to wait
    // until the shell has become a lone program.
    let script =
        "trap 'stty size; exec sh -c \"echo alone; exec sleep 1000\"' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut terminal = run(&world, script)?;
    terminal.until_shown("ready")?;
    terminal.resize(50, 120)?;
    terminal.until_shown("50 120")?;
    terminal.until_shown("alone")?;
    terminal.keyboard.write_all(b"\x03")?;
    assert_eq!(terminal.end()?, Some(130));
    ensure!(terminal.is_cooked()?, "the caller's terminal was not put back");
    Ok(())
}

#[test]
fn a_terminal_is_given_back_by_a_frozen_command_and_lent_again() -> Result<()> {
    let Some(world) = world("a frozen command on a terminal", "")? else { return Ok(()) };
    let script = "echo run >> /var/tmp/runs; tty; stty size; read -r word; echo heard $word; sleep 60";
    let mut first = run(&world, script)?;
    first.until_shown("31 97")?;
    assert_eq!(world.egress(&["freeze", "web"])?.code, 0);
    assert_eq!(first.end()?, Some(137));
    first.until_shown("web is frozen (by an operator)")?;
    ensure!(first.is_cooked()?, "the terminal is left raw");
    let mut second = Terminal::of(&world.command(&["resume", "web"]))?;
    second.until_shown("/dev/console")?;
    second.until_shown("31 97")?;
    second.keyboard.write_all(b"again\n")?;
    second.until_shown("heard again")?;
    second.keyboard.write_all(b"\x03")?;
    assert_eq!(second.end()?, Some(130));
    ensure!(second.is_cooked()?, "the terminal is left raw");
    Ok(())
}

#[test]
fn what_is_piped_in_on_a_terminal_is_read_from_the_pipe() -> Result<()> {
    let Some(world) = world("a pipe on a terminal", "")? else { return Ok(()) };
    let egress = world.command(&["run", "web", "--", "bash", "-c", "read -r line; echo heard $line; exit 5"]);
    let words = [egress.get_program()].into_iter().chain(egress.get_args());
    let words: Vec<_> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let mut shell = Command::new("sh");
    let mut terminal = Terminal::of(shell.arg("-c").arg(format!("echo piped | {}", words.join(" "))))?;
    terminal.until_shown("heard piped")?;
    assert_eq!(terminal.end()?, Some(5));
    Ok(())
}

/// Nobody's in particular.
const OTHER_USER: u32 = 4242;

/// What asks for a run of `true`, and says of any input that it is the run's terminal.
fn request() -> RunRequest {
    let bytes = |text: &str| text.as_bytes().to_vec();
    RunRequest {
        agent: None,
        budget: Vec::new(),
        extends: None,
        shutdown: None,
        command: vec![bytes("true")],
        environment: vec![(bytes("PATH"), bytes("/usr/bin:/bin"))],
        directory: bytes("/"),
        shared: Vec::new(),
        has_terminal: true,
        image: None,
        variables: Vec::new(),
    }
}

/// Asks as a front-end may that is none of ours.
fn claim(world: &World, input: &impl AsFd) -> Result<Option<i32>, ClientError> {
    let broken = |error: std::io::Error| ClientError::Broken(error.into());
    let null = File::options().write(true).open("/dev/null").map_err(broken)?;
    tokio::runtime::Runtime::new().map_err(broken)?.block_on(async {
        let streams = [input.as_fd(), null.as_fd(), null.as_fd()];
        let mut events = Client::new(&world.names.run).follow_with("bottles/web/run", &request(), streams).await?;
        while let Some(event) = events.next().await? {
            if let RunEvent::Exited { exit_code } = event {
                return Ok(Some(exit_code));
            }
        }
        Ok(None)
    })
}

#[test]
fn nothing_but_a_terminal_of_the_callers_own_is_given_to_the_caller() -> Result<()> {
    let Some(world) = world("claimed terminals", "")? else { return Ok(()) };
    let path = world.names.directory.join("not-a-terminal");
    fs::write(&path, "")?;
    chown(&path, Some(OTHER_USER), Some(OTHER_USER))?;
    assert_eq!(claim(&world, &File::open(&path)?)?, Some(0), "it is an input like any other");
    let status = fs::metadata(&path)?;
    assert_eq!((status.uid(), status.gid()), (OTHER_USER, OTHER_USER), "a file was given away");

    let pty = openpty(None, None)?;
    let name = ttyname(&pty.slave)?;
    assert_eq!(claim(&world, &pty.slave)?, Some(0), "it is the caller's own");
    chown(&name, Some(OTHER_USER), None)?;
    let refused = claim(&world, &pty.slave).err().context("another's terminal is taken")?;
    let ClientError::Refused(error) = refused else { return Err(refused.into()) };
    assert_eq!(error.code, ErrorCode::NotPermitted);
    ensure!(error.message.contains("is user 4242's"), "{error:?}");
    assert_eq!(fs::metadata(&name)?.uid(), OTHER_USER, "a terminal was given away");
    Ok(())
}

#[test]
fn nothing_is_taken_out_of_a_process_by_number() -> Result<()> {
    let Some(world) = world("numbers of descriptors", "")? else { return Ok(()) };
    let mut request = serde_json::to_value(request())?;
    // What front-ends said before streams were sent.
    request["stdio"] = serde_json::json!([0, 1, 2]);
    let client = Client::new(&world.names.run);
    let asked = tokio::runtime::Runtime::new()?.block_on(client.follow("bottles/web/run", &request));
    let Err(ClientError::Refused(error)) = asked else { anyhow::bail!("{asked:?}") };
    assert_eq!(error.code, ErrorCode::Usage);
    ensure!(error.message.contains("this egress is older than the daemon"), "{error:?}");
    ensure!(world.listed("web")?.is_none(), "a bottle was begun");
    Ok(())
}
