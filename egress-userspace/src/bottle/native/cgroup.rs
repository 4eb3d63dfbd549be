//! A bottle's control group: every process of the bottle is in it and none can leave, so it is what kills them all.
//!
//! Needs cgroup v2 mounted anywhere, alone or beside v1, and no controllers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::mount_table;
use super::namespace::{tolerate_absence, unmount};

/// How long killed processes may take to be gone.
const EMPTY_SECONDS_MAX: u64 = 10;
/// How long processes may take to stand still: one that waits for a disk does not until it has been served.
const HELD_SECONDS_MAX: u64 = 5;
const POLL_MILLISECONDS: u64 = 2;

/// Where the groups are kept: the first cgroup v2 mount that shows the whole tree. If there is none, it is mounted at
/// `own_mount`, which only this host's root sees.
pub(in crate::bottle) fn tree(own_mount: &Path) -> io::Result<PathBuf> {
    if let Some(found) = mounted()? {
        return Ok(found);
    }
    fs::create_dir_all(own_mount)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match mount(Some("cgroup2"), own_mount, Some("cgroup2"), flags, None::<&str>) {
        Ok(()) => Ok(own_mount.to_owned()),
        // Somebody else was a moment faster.
        Err(Errno::EBUSY) => mounted()?.ok_or_else(|| Errno::EBUSY.into()),
        Err(error) => Err(error.into()),
    }
}

fn mounted() -> io::Result<Option<PathBuf>> {
    let mounts = mount_table::parse(&fs::read_to_string("/proc/thread-self/mountinfo")?);
    let found = mounts.into_iter().find(|mount| mount.kind == "cgroup2" && mount.root == Path::new("/"));
    Ok(found.map(|found| found.point))
}

/// Removes the directory of all bottles' groups, which are gone, and takes `own_mount` off again, if it was needed.
pub(in crate::bottle) fn forget(own_mount: &Path, group: &str) -> io::Result<()> {
    if let Some(tree) = mounted()? {
        tolerate_absence(fs::remove_dir(tree.join(group)))?;
    }
    unmount(own_mount)?;
    tolerate_absence(fs::remove_dir(own_mount))
}

/// Makes the group, which must not exist.
pub(in crate::bottle) fn create(group: &Path) -> io::Result<()> {
    group.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::create_dir(group)
}

/// Moves this process into the group.
pub(in crate::bottle) fn join(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
}

/// Tells every process in the group to stand still.
pub(in crate::bottle) fn hold(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.freeze"), "1")
}

/// Lets them go on.
pub(in crate::bottle) fn release(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.freeze"), "0")
}

/// Whether they have been told so.
pub(in crate::bottle) fn is_held(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
}

/// Waits until they stand still.
pub(in crate::bottle) fn until_held(group: &Path) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(HELD_SECONDS_MAX);
    while !fs::read_to_string(group.join("cgroup.events"))?.lines().any(|line| line == "frozen 1") {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(POLL_MILLISECONDS));
    }
    Ok(())
}

/// Kills every process in the group, waits until they are gone and removes it.
pub(in crate::bottle) fn remove(group: &Path) -> io::Result<()> {
    tolerate_absence(fs::write(group.join("cgroup.kill"), "1"))?;
    let deadline = Instant::now() + Duration::from_secs(EMPTY_SECONDS_MAX);
    loop {
        let error = match tolerate_absence(remove_tree(group)) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // The kernel refuses until the last process is gone; no other error passes by waiting.
        if error.kind() != io::ErrorKind::ResourceBusy || Instant::now() > deadline {
            return Err(error);
        }
        thread::sleep(Duration::from_millis(POLL_MILLISECONDS));
    }
}

/// Root in a bottle may have made groups below its own. Files in them go with their directory.
fn remove_tree(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
