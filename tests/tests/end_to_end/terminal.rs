//! `egress run` on a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use harness::world::{PATIENCE, World, until};
use nix::pty::{Winsize, openpty};

use crate::world;

/// A terminal with `egress run` on it.
struct Terminal {
    front: Child,
    keyboard: File,
    ours: OwnedFd,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    fn run(world: &World, line: &str) -> Result<Self> {
        Self::of(&world.command(&["run", "web", "--", "bash", "-c", line]))
    }

    fn of(egress: &Command) -> Result<Self> {
        let size = Winsize { ws_row: 31, ws_col: 97, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None)?;
        // The terminal controls the front-end, so that the kernel tells it of a new size.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(egress.get_program()).args(egress.get_args());
        let stream = || Ok::<_, std::io::Error>(Stdio::from(pair.slave.try_clone()?));
        let front = command.stdin(stream()?).stdout(stream()?).stderr(stream()?).spawn()?;
        let mut reader = File::from(pair.master.try_clone()?);
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = reader.read(&mut buffer) {
                let text = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned();
                shown.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Ok(Self { front, keyboard: File::from(pair.master), ours: pair.slave, screen })
    }

    fn until_shown(&self, text: &str) -> Result<()> {
        let is_shown = || Ok(self.screen.lock().unwrap_or_else(PoisonError::into_inner).contains(text));
        until(&format!("the screen shows {text:?}"), PATIENCE, is_shown).with_context(|| format!("{:?}", self.screen))
    }

    fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let mut stty = Command::new("stty");
        stty.args(["rows", &rows.to_string(), "cols", &columns.to_string()]);
        ensure!(stty.stdin(Stdio::from(self.ours.try_clone()?)).status()?.success(), "stty failed");
        Ok(())
    }

    /// Is the caller's terminal as it was?
    fn is_cooked(&self) -> Result<bool> {
        let output = Command::new("stty").arg("-a").stdin(Stdio::from(self.ours.try_clone()?)).output()?;
        let modes = String::from_utf8(output.stdout)?;
        let is_on = |mode: &str| modes.split_whitespace().any(|word| word == mode);
        Ok(["icanon", "echo", "isig"].into_iter().all(is_on))
    }

    fn end(&mut self) -> Result<Option<i32>> {
        until("the front-end ends", PATIENCE, || Ok(self.front.try_wait()?.is_some()))?;
        Ok(self.front.wait()?.code())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.front.kill();
        let _ = self.front.wait();
    }
}

#[test]
fn a_command_has_a_terminal_of_the_callers_size() -> Result<()> {
    let Some(world) = world("a terminal", "")? else { return Ok(()) };
    let script = "tty; stty size; trap 'stty size' WINCH; read -r line; echo you said $line; exit 5";
    let mut terminal = Terminal::run(&world, script)?;
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
    let mut terminal = Terminal::run(&world, script)?;
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
    let mut first = Terminal::run(&world, script)?;
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
