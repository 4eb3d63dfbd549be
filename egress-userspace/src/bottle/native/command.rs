//! A command that runs in a bottle, started by this daemon or by one before it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::Child;
use tokio::sync::watch;

use super::record;

/// Added to a signal's number where a process that died by it has to have an exit code.
pub(in crate::bottle) const SIGNALLED: i32 = 128;

/// What a command that nobody saw end is taken to have ended with: 128 + SIGKILL.
const UNSEEN: i32 = SIGNALLED + 9;

/// A command that was started in a bottle. Dropping it leaves the command running.
#[derive(Debug)]
pub struct RunningCommand {
    process: Process,
    init_pid: u32,
    handle: Arc<OwnedFd>,
}

#[derive(Debug)]
enum Process {
    /// Ours; the file is read by the new process through `/proc` and must stay open until then.
    Child { child: Child, _spec: File },
    /// Somebody else's: the kernel tells when it ends, its record tells how.
    Adopted { ended: watch::Receiver<bool>, record: PathBuf },
}

/// Sends signals to a command, never to another process that got its number.
#[derive(Clone, Debug)]
pub struct Signaller(Arc<OwnedFd>);

impl Signaller {
    /// Sends a signal to the command's process group. `SIGKILL` ends everything the command started.
    ///
    /// # Errors
    /// When there is no such signal, or the command has ended.
    pub fn send(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(pidfd_send_signal(&self.0, signal)?)
    }
}

impl RunningCommand {
    pub(in crate::bottle) fn started(child: Child, spec: File) -> io::Result<Self> {
        let init_pid = child.id().ok_or(io::ErrorKind::NotFound)?;
        let handle = Arc::new(open(init_pid)?);
        Ok(Self { process: Process::Child { child, _spec: spec }, init_pid, handle })
    }

    /// The command whose supervisor wrote `record` and is still in `group`.
    pub(in crate::bottle) fn adopt(record: &Path, group: &Path) -> io::Result<Option<Self>> {
        let Some((init_pid, None)) = record::read(record)? else { return Ok(None) };
        let Ok(handle) = open(init_pid) else { return Ok(None) };
        // Only now: the handle is of whoever has the number, and this says who that is.
        let members = match fs::read_to_string(group.join("cgroup.procs")) {
            // It was being taken down.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            members => members?,
        };
        if !members.lines().any(|line| line.parse() == Ok(init_pid)) {
            return Ok(None);
        }
        let ended = watch_for_end(handle.try_clone()?)?;
        let process = Process::Adopted { ended, record: record.to_owned() };
        Ok(Some(Self { process, init_pid, handle: Arc::new(handle) }))
    }

    /// The process on the host that stands for the command: it lives as long and takes its signals.
    #[must_use]
    pub fn init_pid(&self) -> u32 {
        self.init_pid
    }

    /// Whether that process has not ended. Until it has, its number is nobody else's.
    pub(super) fn is_running(&self) -> bool {
        // Readable once it has; what cannot be asked is taken to have ended.
        let mut ended = [PollFd::new(self.handle.as_fd(), PollFlags::POLLIN)];
        poll(&mut ended, PollTimeout::ZERO) == Ok(0)
    }

    /// Something to send it signals with.
    #[must_use]
    pub fn signaller(&self) -> Signaller {
        Signaller(Arc::clone(&self.handle))
    }

    /// Waits for the end: the command's exit code, or 128 and the number of the signal it died by. Cancel-safe.
    ///
    /// # Errors
    /// When the system refuses to wait.
    pub async fn wait(&mut self) -> io::Result<i32> {
        match &mut self.process {
            Process::Child { child, .. } => child.wait().await.map(exit_code),
            Process::Adopted { ended, record } => {
                // The watching thread ends only with the process.
                let _ended = ended.wait_for(|ended| *ended).await;
                Ok(record::read(record)?.and_then(|(_, exit_code)| exit_code).unwrap_or(UNSEEN))
            }
        }
    }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// A thread that sleeps until the process has ended: its handle is readable then.
fn watch_for_end(handle: OwnedFd) -> io::Result<watch::Receiver<bool>> {
    let (ended, receiver) = watch::channel(false);
    let sleep = move || {
        let mut readable = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
        while let Err(Errno::EINTR) = poll(&mut readable, PollTimeout::NONE) {}
        ended.send_replace(true);
    };
    std::thread::Builder::new().name("adopted".to_owned()).spawn(sleep)?;
    Ok(receiver)
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| SIGNALLED + signal)).unwrap_or(SIGNALLED)
}

#[cfg(test)]
mod tests {
    use tokio::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_command_runs_until_it_has_ended() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let mut command = RunningCommand::started(child, File::open("/dev/null").unwrap()).unwrap();
        assert!(command.is_running());
        command.signaller().send(9).unwrap();
        assert_eq!(command.wait().await.unwrap(), SIGNALLED + 9);
        assert!(!command.is_running());
    }
}
