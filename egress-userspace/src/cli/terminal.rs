//! The caller's terminal, lent to a command in a bottle through a pseudo-terminal of its own.
//!
//! The command never gets the caller's terminal itself: it could otherwise read and write it after it has ended.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::pty::openpty;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{tcgetwinsize, tcsetwinsize};

/// Bytes copied at once.
const COPY_BYTES: usize = 16 * 1024;

/// Of a terminal that does not say.
const COLUMNS_USUAL: usize = 80;

/// The standard streams a command gets, and the pseudo-terminal behind them if there is one.
pub(super) struct Streams {
    terminal: Option<Terminal>,
}

struct Terminal {
    ours: OwnedFd,
    theirs: Option<OwnedFd>,
    reads_stdin: bool,
    saved: Option<Termios>,
    output: Option<std::thread::JoinHandle<()>>,
}

impl Streams {
    /// A pseudo-terminal where the caller's streams are terminals, the streams themselves where not.
    pub(super) fn open() -> Result<Self> {
        if !(std::io::stdin().is_terminal() || std::io::stdout().is_terminal()) {
            return Ok(Self { terminal: None });
        }
        let size = caller_size();
        let pair = openpty(None, None).context("no pseudo-terminal is to be had: is /dev/pts mounted?")?;
        if let Some(size) = size {
            tcsetwinsize(&pair.slave, size).context("the terminal's size could not be set")?;
        }
        let reads_stdin = std::io::stdin().is_terminal();
        let terminal = Terminal { ours: pair.master, theirs: Some(pair.slave), reads_stdin, saved: None, output: None };
        Ok(Self { terminal: Some(terminal) })
    }

    /// What becomes the command's streams.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        let theirs = self.terminal.as_ref().and_then(|terminal| terminal.theirs.as_ref()).map(AsFd::as_fd);
        [stdin(), stdout(), stderr()].map(|own| theirs.filter(|_| own.is_terminal()).unwrap_or(own))
    }

    /// Whether the command gets a terminal of its own.
    pub(super) fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// The command has its copies: starts to carry bytes, the caller's terminal in raw mode.
    pub(super) fn start(&mut self) -> Result<()> {
        let Some(terminal) = &mut self.terminal else { return Ok(()) };
        terminal.theirs = None;
        let from_command = File::from(terminal.ours.try_clone()?);
        terminal.output = Some(std::thread::spawn(move || carry(from_command, std::io::stdout())));
        if terminal.reads_stdin {
            let stdin = std::io::stdin();
            let before = tcgetattr(stdin.as_fd())?;
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw)?;
            terminal.saved = Some(before);
            let to_command = File::from(terminal.ours.try_clone()?);
            std::thread::spawn(move || carry(std::io::stdin(), to_command));
        }
        Ok(())
    }

    /// The caller's window has changed.
    pub(super) fn resize(&self) {
        if let (Some(terminal), Some(size)) = (&self.terminal, caller_size()) {
            // A size that cannot be set is no reason to end the command.
            let _ = tcsetwinsize(&terminal.ours, size);
        }
    }

    /// The command has ended: carries what it still wrote and puts the caller's terminal back.
    pub(super) fn finish(&mut self) {
        let Some(terminal) = &mut self.terminal else { return };
        if let Some(output) = terminal.output.take() {
            let _ = output.join();
        }
        terminal.put_back();
    }
}

impl Terminal {
    fn put_back(&mut self) {
        if let Some(saved) = self.saved.take() {
            let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSADRAIN, &saved);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.put_back();
    }
}

/// How wide standard output is.
pub(super) fn columns() -> usize {
    let size = tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let said = || std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    size.filter(|columns| *columns > 0).or_else(said).unwrap_or(COLUMNS_USUAL)
}

/// Does the caller's locale have more than ASCII?
pub(super) fn is_unicode() -> bool {
    let said = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    said.is_some_and(|locale| locale.to_ascii_lowercase().replace('-', "").ends_with("utf8"))
}

fn caller_size() -> Option<rustix::termios::Winsize> {
    tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()
}

/// Copies until one end is closed (a pseudo-terminal whose last holder has gone reports EIO).
fn carry(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or(&[]);
                if to.write_all(bytes).and_then(|()| to.flush()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
