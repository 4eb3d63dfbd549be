//! A terminal, with a person before it.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use nix::pty::{Winsize, openpty};

use crate::world::{PATIENCE, until};

/// A terminal with `egress` on it. Dropped, it is closed.
#[derive(Debug)]
pub struct Terminal {
    front: Child,
    /// Where keys are pressed.
    pub keyboard: File,
    ours: OwnedFd,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a command of `egress` on a terminal of 31 rows and 97 columns.
    pub fn of(egress: &Command) -> Result<Self> {
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

    /// Waits until the screen shows this.
    pub fn until_shown(&self, text: &str) -> Result<()> {
        let is_shown = || Ok(self.screen.lock().unwrap_or_else(PoisonError::into_inner).contains(text));
        until(&format!("the screen shows {text:?}"), PATIENCE, is_shown).with_context(|| format!("{:?}", self.screen))
    }

    /// Changes its size.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let mut stty = Command::new("stty");
        stty.args(["rows", &rows.to_string(), "cols", &columns.to_string()]);
        ensure!(stty.stdin(Stdio::from(self.ours.try_clone()?)).status()?.success(), "stty failed");
        Ok(())
    }

    /// Is the caller's terminal as it was?
    pub fn is_cooked(&self) -> Result<bool> {
        let output = Command::new("stty").arg("-a").stdin(Stdio::from(self.ours.try_clone()?)).output()?;
        let modes = String::from_utf8(output.stdout)?;
        let is_on = |mode: &str| modes.split_whitespace().any(|word| word == mode);
        Ok(["icanon", "echo", "isig"].into_iter().all(is_on))
    }

    /// Waits for the end of the front-end; its exit code.
    pub fn end(&mut self) -> Result<Option<i32>> {
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
