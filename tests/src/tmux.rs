//! A real terminal, kept by a tmux of its own, with a person before it who reads and presses keys.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

use crate::world::{PATIENCE, until};

/// A terminal with a shell on it. Dropped, it is closed, and its tmux ends.
#[derive(Debug)]
pub struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    /// Opens one of this size. `directory` is the test's own; files of programs on the terminal are kept there, too.
    pub fn open(directory: &std::path::Path, (columns, lines): (u16, u16)) -> Result<Self> {
        let tmux = Self { socket: directory.join("tmux.sock") };
        let (columns, lines) = (columns.to_string(), lines.to_string());
        let mut command = tmux.command(&["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &lines, "sh"]);
        command
            .env("LC_ALL", "C.UTF-8")
            .env("XDG_STATE_HOME", directory.join("state"))
            .env("PS1", "$ ")
            .env_remove("TMUX");
        done(&command.stdout(Stdio::null()).output()?)?;
        Ok(tmux)
    }

    /// Types a line to the shell.
    pub fn type_line(&self, line: &str) -> Result<()> {
        self.tell(&["send-keys", "-l", line])?;
        self.press("Enter")
    }

    /// Types a command of `egress` to the shell, after these assignments of variables.
    pub fn type_egress(&self, variables: &str, egress: &Command) -> Result<()> {
        let words = std::iter::once(egress.get_program()).chain(egress.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        self.type_line(&format!("{variables} {}", words.join(" ")))
    }

    /// Presses one key, by tmux's name of it.
    pub fn press(&self, key: &str) -> Result<()> {
        self.tell(&["send-keys", key]).map(|_| ())
    }

    /// Another size.
    pub fn resize(&self, columns: u16, lines: u16) -> Result<()> {
        self.tell(&["resize-window", "-x", &columns.to_string(), "-y", &lines.to_string()]).map(|_| ())
    }

    /// What is on the screen.
    pub fn screen(&self) -> Result<String> {
        self.tell(&["capture-pane", "-p"])
    }

    /// The line of the screen that begins with this word, whatever mark stands before it.
    pub fn line(&self, word: &str) -> Result<Option<String>> {
        let screen = self.screen()?;
        let starts = |line: &&str| line.trim_start_matches([' ', '▌', '>']).split(' ').next() == Some(word);
        Ok(screen.lines().find(starts).map(str::to_owned))
    }

    /// Waits until the screen shows this.
    pub fn until_shown(&self, text: &str) -> Result<()> {
        self.until(&format!("shows {text:?}"), |screen| screen.contains(text))
    }

    /// Waits until the screen is so.
    pub fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> Result<()> {
        until(&format!("the screen {what}"), PATIENCE * 2, || Ok(is_so(&self.screen()?)))
            .with_context(|| self.screen().unwrap_or_default())
    }

    /// Waits until the line that begins with this word holds this, too.
    pub fn until_line(&self, word: &str, text: &str) -> Result<()> {
        let is_so = || Ok(self.line(word)?.is_some_and(|line| line.contains(text)));
        until(&format!("the line of {word} holds {text:?}"), PATIENCE * 2, is_so)
            .with_context(|| self.screen().unwrap_or_default())
    }

    /// The process that the shell waits for, if there is one.
    pub fn foreground(&self) -> Result<Option<i32>> {
        let shell = self.tell(&["list-panes", "-F", "#{pane_pid}"])?;
        let shell = shell.trim();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
        children.split_whitespace().next().map(|child| child.parse().context("no number")).transpose()
    }

    fn tell(&self, words: &[&str]) -> Result<String> {
        done(&self.command(words).output()?)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-u").arg("-S").arg(&self.socket).args(words).stdin(Stdio::null());
        command
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // It fails only when it has ended.
        let _ = self.command(&["kill-server"]).output();
    }
}

fn done(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "tmux: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
