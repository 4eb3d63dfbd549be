//! Bottles that are stopped: their processes held still, their launch written down, their files given up.
//!
//! A launch is written down only when its bottle is frozen, from the supervisor's own copy: the environment holds secrets,
//! and those of a bottle that just runs are on no disk. Nothing of it is in any error.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::launch::{LaunchSpec, SPEC_NAME};
use super::{NativeRuntime, cgroup, on_thread, step_error};
use crate::bottle::plan::Failure;
use crate::bottle::{BottleError, RunningCommand, SavedLaunch};
use crate::domain::BottleName;

/// In the directory of the bottle's layer.
pub(super) const LAUNCH: &str = "launch.json";
const PRIVATE: u32 = 0o600;

impl NativeRuntime {
    /// Tells the processes of a bottle to stand still; they do within moments. Waits for nothing.
    ///
    /// # Errors
    /// When there is no such bottle or the system refuses.
    pub fn hold(&self, bottle: &BottleName) -> Result<(), BottleError> {
        let hold = || cgroup::hold(&self.group_of(bottle)?);
        hold().map_err(|source| step_error(bottle, Failure { step: "holding its processes", source }))
    }

    /// Lets them go on: undoes [`Self::hold`].
    ///
    /// # Errors
    /// When there is no such bottle or the system refuses.
    pub fn release(&self, bottle: &BottleName) -> Result<(), BottleError> {
        let release = || cgroup::release(&self.group_of(bottle)?);
        release().map_err(|source| step_error(bottle, Failure { step: "letting its processes go on", source }))
    }

    /// Waits until they stand still.
    ///
    /// # Errors
    /// When they do not, or there is no such bottle.
    pub async fn until_held(&self, bottle: &BottleName) -> Result<(), BottleError> {
        let (runtime, name) = (self.clone(), bottle.clone());
        let wait = move || cgroup::until_held(&runtime.group_of(&name)?);
        on_thread(wait).await.map_err(|source| step_error(bottle, Failure { step: "holding its processes", source }))
    }

    /// Whether its processes have been told to stand still.
    #[must_use]
    pub fn is_held(&self, bottle: &BottleName) -> bool {
        self.group_of(bottle).is_ok_and(|group| cgroup::is_held(&group))
    }

    /// Writes down how the command was started, for root alone, beside the bottle's files.
    ///
    /// # Errors
    /// When the command has ended or the system refuses.
    pub fn save_launch(&self, bottle: &BottleName, command: &RunningCommand) -> Result<(), BottleError> {
        let save = || {
            let LaunchSpec { command, environment, directory, shared, caller, .. } =
                spec_of(command.init_pid(), || command.is_running())?;
            write(
                &self.launch_file(bottle),
                &SavedLaunch { command, environment, directory, shared, caller, container: None },
            )
        };
        save().map_err(|source| step_error(bottle, Failure { step: "writing down its launch", source }))
    }

    /// How a frozen bottle's command was started; `None` when that was not written down. It is there until the bottle has
    /// been furnished for it again.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn saved_launch(&self, bottle: &BottleName) -> Result<Option<SavedLaunch>, BottleError> {
        let read = || match fs::read(self.launch_file(bottle)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => serde_json::from_slice(&text?).map(Some).map_err(|_| io::ErrorKind::InvalidData.into()),
        };
        read().map_err(|source| step_error(bottle, Failure { step: "reading how it was launched", source }))
    }

    /// Whether a bottle has files of its own, or a launch written down.
    #[must_use]
    pub fn has_files(&self, bottle: &BottleName) -> bool {
        self.layout(bottle).layer.exists()
    }

    /// Removes a bottle's files and its launch. Nothing may run in it. Fine when there are none.
    ///
    /// # Errors
    /// When something could not be removed; calling again may help.
    pub async fn remove_files(&self, bottle: &BottleName) -> Result<(), BottleError> {
        let layer = self.layout(bottle).layer;
        on_thread(move || layer.remove()).await.map_err(|source| BottleError::NotUndone {
            bottle: bottle.to_string(),
            step: "keeping its files",
            source,
        })
    }

    pub(in crate::bottle) fn launch_file(&self, bottle: &BottleName) -> PathBuf {
        self.layout(bottle).layer.directory().join(LAUNCH)
    }
}

/// What the supervisor was told, which it holds open as long as it lives. It is asked by its number, which is another process's
/// once it has ended: what was opened is read only if it still runs then.
fn spec_of(supervisor: u32, is_running: impl FnOnce() -> bool) -> io::Result<LaunchSpec> {
    for entry in fs::read_dir(format!("/proc/{supervisor}/fd"))? {
        let path = entry?.path();
        // Others of its files may be closed meanwhile.
        let target = fs::read_link(&path).unwrap_or_default();
        if target.to_str().is_some_and(|target| target.starts_with(&format!("/memfd:{SPEC_NAME}"))) {
            let told = File::open(path)?;
            if !is_running() {
                break;
            }
            return serde_json::from_reader(told).map_err(|_| io::ErrorKind::InvalidData.into());
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// All of it or nothing, also when the machine loses power.
pub(in crate::bottle) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(&unfinished)?;
    file.set_permissions(Permissions::from_mode(PRIVATE))?;
    file.write_all(&serde_json::to_vec(value).map_err(|_| io::ErrorKind::InvalidData)?)?;
    file.sync_all()?;
    fs::rename(unfinished, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::io::Seek;
    use std::net::Ipv4Addr;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;
    use crate::bottle::Caller;

    /// As a supervisor holds it.
    fn told() -> File {
        let spec = LaunchSpec {
            bottle: "web".parse().unwrap(),
            gateway: Ipv4Addr::LOCALHOST,
            hidden: Vec::new(),
            ca_pem: String::new(),
            namespace: "".into(),
            group: "".into(),
            record: "".into(),
            command: vec!["id".into()],
            environment: Vec::new(),
            directory: "/".into(),
            layer: "".into(),
            shared: Vec::new(),
            caller: Caller { uid: 0, gid: 0, groups: Vec::new() },
            has_terminal: false,
            view: None,
        };
        let mut file = File::from(memfd_create(SPEC_NAME, MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all(&serde_json::to_vec(&spec).unwrap()).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn what_another_process_says_under_the_number_of_an_ended_supervisor_is_not_heard() {
        let _told = told();
        let told = spec_of(std::process::id(), || true).unwrap();
        assert_eq!(told.command, ["id"]);
        let another = spec_of(std::process::id(), || false).unwrap_err();
        assert_eq!(another.kind(), io::ErrorKind::NotFound);
    }
}
