//! Starting a command: the launch is written down for `bottle-init`, which does the rest on the other side of an `exec`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::command::RunningCommand;
use super::layout::Layout;
use super::{environment, files};
use crate::bottle::{Caller, HostWiring, Launch};
use crate::domain::BottleName;

/// The hidden subcommand that furnishes a bottle and becomes its first process.
pub(super) const SUBCOMMAND: &str = "bottle-init";

/// What the file that tells it is called, where files of a process are listed.
pub(super) const SPEC_NAME: &str = "bottle-launch";

/// Everything `bottle-init` is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LaunchSpec {
    pub(super) bottle: BottleName,
    pub(super) gateway: Ipv4Addr,
    pub(super) hidden: Vec<OsString>,
    pub(super) ca_pem: String,
    pub(super) namespace: OsString,
    pub(super) group: OsString,
    /// Where the supervisor writes who it is and how the command ended, for a daemon that did not start it.
    pub(super) record: OsString,
    pub(super) command: Vec<OsString>,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) directory: OsString,
    /// Where what it writes is kept.
    pub(super) layer: OsString,
    /// Directories of the host that it writes to instead.
    pub(super) shared: Vec<OsString>,
    pub(super) caller: Caller,
    pub(super) has_terminal: bool,
    /// What it sees of the host, if not what the daemon sees.
    pub(super) view: Option<OsString>,
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
    let Launch { command, environment, directory, shared, hidden, caller, stdio, has_terminal, container: _ } = launch;
    // The directory of the whole host is nobody's work.
    let work = Some(directory.clone()).filter(|work| work != Path::new("/"));
    let hidden = wiring.hidden.iter().chain([&wiring.run_directory]).chain(&hidden);
    let spec = write_down(&LaunchSpec {
        environment: environment::inside(bottle, wiring.gateway, environment),
        bottle: bottle.clone(),
        gateway: wiring.gateway,
        hidden: hidden.map(OsString::from).collect(),
        ca_pem: wiring.ca_pem.clone(),
        namespace: layout.namespace.path().into(),
        group: group.into(),
        record: layout.record.clone().into(),
        layer: layout.layer.directory().into(),
        shared: files::shared(work.into_iter().chain(shared)).into_iter().map(OsString::from).collect(),
        command,
        directory: directory.into(),
        caller,
        has_terminal,
        view: wiring.view.0.clone().map(OsString::from),
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
    RunningCommand::started(child, spec)
}

/// In memory only: the environment holds secrets.
fn write_down(spec: &LaunchSpec) -> io::Result<File> {
    let mut file = File::from(memfd_create(SPEC_NAME, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(spec)?)?;
    file.rewind()?;
    Ok(file)
}
