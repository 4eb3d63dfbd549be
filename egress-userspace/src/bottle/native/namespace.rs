//! Named network namespaces: one is kept alive by a bind mount of its handle on a file.
//!
//! A namespace belongs to a thread. Everything here that enters one does so on a thread made for it, which ends there.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

const NO_TEXT: Option<&str> = None;

/// Makes a fresh namespace and keeps it at `path`, which must not exist.
pub(in crate::bottle) fn create(path: &Path) -> io::Result<()> {
    File::create_new(path)?;
    let made = on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), path, NO_TEXT, MsFlags::MS_BIND, NO_TEXT)?;
        Ok(())
    });
    if made.is_err() {
        fs::remove_file(path)?;
    }
    made
}

/// Lets go of the namespace kept at `path`, if any. It ends with the last process in it.
pub(in crate::bottle) fn remove(path: &Path) -> io::Result<()> {
    unmount(path)?;
    tolerate_absence(fs::remove_file(path))
}

/// Takes off everything mounted at `path`, if anything.
pub(in crate::bottle) fn unmount(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            // Not, or no longer, a mount.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs `work` in the namespace kept at `path`.
pub(in crate::bottle) fn inside<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    on_own_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// "It is already gone" is what an undo wants.
pub(in crate::bottle) fn tolerate_absence(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let panicked = |_| Err(io::Error::other("the thread in the namespace panicked"));
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(panicked)
}
