//! Starting a command: the launch is written down for `bottle-init`, which does the rest on the other side of an `exec`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::environment;
use super::layout::Layout;
use crate::bottle::{Caller, HostWiring, Launch};
use crate::domain::BottleName;

/// The hidden subcommand that furnishes a bottle and becomes its first process.
pub(super) const SUBCOMMAND: &str = "bottle-init";

/// Added to a signal's number where a process that died by it has to have an exit code.
pub(super) const SIGNALLED: i32 = 128;

/// Everything `bottle-init` is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LaunchSpec {
    pub(super) bottle: BottleName,
    pub(super) gateway: Ipv4Addr,
    pub(super) hidden: Vec<OsString>,
    pub(super) ca_pem: String,
    pub(super) namespace: OsString,
    pub(super) group: OsString,
    pub(super) command: Vec<OsString>,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) directory: OsString,
    pub(super) caller: Caller,
    pub(super) has_terminal: bool,
}

/// A command that was started in a bottle. Keep it until the command has ended; dropping it leaves a command that runs
/// running, and makes one that has not begun yet fail.
#[derive(Debug)]
pub struct RunningCommand {
    child: Child,
    init_pid: u32,
    /// Read by the new process through `/proc`; it must stay open until then.
    _spec: File,
}

impl RunningCommand {
    /// The process on the host that stands for the command: it lives as long and takes its signals.
    #[must_use]
    pub fn init_pid(&self) -> u32 {
        self.init_pid
    }

    /// Waits for the end: the command's exit code, or 128 and the number of the signal it died by. Cancel-safe.
    ///
    /// # Errors
    /// When the system refuses to wait.
    pub async fn wait(&mut self) -> io::Result<i32> {
        self.child.wait().await.map(exit_code)
    }

    /// Sends a signal to the command's process group. `SIGKILL` ends everything the command started.
    ///
    /// # Errors
    /// When there is no such signal, or the command has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::try_from(signal)?;
        // Known only while the process has not been waited for: its number is not somebody else's.
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }
}

/// Starts `launch` through `executable`.
pub(super) fn start(
    executable: &Path,
    wiring: &HostWiring,
    bottle: &BottleName,
    layout: &Layout,
    group: PathBuf,
    launch: Launch,
) -> io::Result<RunningCommand> {
    let Launch { command, environment, directory, caller, stdio, has_terminal } = launch;
    let hidden = wiring.hidden.iter().chain([&wiring.run_directory]);
    let spec = write_down(&LaunchSpec {
        environment: environment::inside(bottle, wiring.gateway, environment),
        bottle: bottle.clone(),
        gateway: wiring.gateway,
        hidden: hidden.map(OsString::from).collect(),
        ca_pem: wiring.ca_pem.clone(),
        namespace: layout.namespace.clone().into(),
        group: group.into(),
        command,
        directory: directory.into(),
        caller,
        has_terminal,
    })?;
    let [input, output, errors] = stdio;
    let child = Command::new(executable)
        .arg(SUBCOMMAND)
        // The file is not inherited: another command that is being started meanwhile would get it too.
        .arg(format!("/proc/{}/fd/{}", std::process::id(), spec.as_raw_fd()))
        .env_clear()
        .current_dir("/")
        // A terminal's Ctrl-C that is meant for the daemon is not meant for bottles.
        .process_group(0)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output))
        .stderr(Stdio::from(errors))
        .spawn()?;
    let init_pid = child.id().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(RunningCommand { child, init_pid, _spec: spec })
}

/// In memory only: the environment holds secrets.
fn write_down(spec: &LaunchSpec) -> io::Result<File> {
    let mut file = File::from(memfd_create("bottle-launch", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(spec)?)?;
    file.rewind()?;
    Ok(file)
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| SIGNALLED + signal)).unwrap_or(SIGNALLED)
}
