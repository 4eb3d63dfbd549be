//! `egress run` on a terminal.

use std::io::Write;

use anyhow::{Result, ensure};
use harness::terminal::Terminal;
use harness::world::World;

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
