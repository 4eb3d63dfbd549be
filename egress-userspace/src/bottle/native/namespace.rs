//! Named network namespaces: one is kept alive by a bind mount of its handle on a file.
//!
//! A namespace belongs to a thread. Everything here that enters one does so on a thread made for it, which ends there.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

const NO_TEXT: Option<&str> = None;

/// The mounts that bottles are made from, and that keep what outlives a daemon: a service may have a view of the host of its
/// own, in which files are read-only or missing, and which ends with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView(pub Option<PathBuf>);

impl HostView {
    /// Enters it with the calling thread, or process that has no other threads.
    pub(in crate::bottle) fn enter(&self) -> io::Result<()> {
        let Some(path) = &self.0 else { return Ok(()) };
        let mounts = File::open(path)?;
        // Threads share a root and a directory, which must not change under the others.
        unshare(CloneFlags::CLONE_FS)?;
        Ok(setns(mounts, CloneFlags::CLONE_NEWNS)?)
    }
}

/// The file that keeps a namespace: its handle is mounted on it.
#[derive(Clone, Debug)]
pub(in crate::bottle) struct Kept {
    path: PathBuf,
    view: HostView,
}

impl Kept {
    /// The namespace at `path` among these mounts, if there is one.
    pub(in crate::bottle) fn at(path: PathBuf, view: HostView) -> Self {
        Self { path, view }
    }

    /// Where it is.
    pub(in crate::bottle) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a fresh namespace and keeps it; there is none so far.
    pub(in crate::bottle) fn create(&self) -> io::Result<()> {
        self.mount_on_new_file(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            self.mount(Path::new("/proc/thread-self/ns/net"))
        })
    }

    /// Keeps a namespace that somebody else made; there is none so far.
    pub(in crate::bottle) fn keep(&self, namespace: &File) -> io::Result<()> {
        let handle = format!("/proc/thread-self/fd/{}", namespace.as_raw_fd());
        self.mount_on_new_file(|| self.mount(Path::new(&handle)))
    }

    /// Lets go of it, if there is one. It ends with the last process in it.
    pub(in crate::bottle) fn remove(&self) -> io::Result<()> {
        self.in_view(|| unmount(&self.path))?;
        tolerate_absence(fs::remove_file(&self.path))
    }

    /// Its handle.
    pub(in crate::bottle) fn open(&self) -> io::Result<File> {
        self.in_view(|| File::open(&self.path))
    }

    /// Which namespace it is, if there is one.
    pub(in crate::bottle) fn number(&self) -> Option<u64> {
        Some(self.open().ok()?.metadata().ok()?.ino())
    }

    /// Runs `work` in it.
    pub(in crate::bottle) fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let namespace = self.open()?;
        on_own_thread(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    fn mount_on_new_file(&self, mount: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
        File::create_new(&self.path)?;
        let mounted = self.in_view(mount);
        if mounted.is_err() {
            fs::remove_file(&self.path)?;
        }
        mounted
    }

    fn mount(&self, handle: &Path) -> io::Result<()> {
        Ok(mount(Some(handle), &self.path, NO_TEXT, MsFlags::MS_BIND, NO_TEXT)?)
    }

    fn in_view<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_own_thread(|| {
            self.view.enter()?;
            work()
        })
    }
}

/// Takes off everything mounted at `path`, if anything.
pub(in crate::bottle) fn unmount(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Not, or no longer, a mount.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
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
