//! A bottle's `/dev`: the devices every program expects, its terminal, and none of the machine's.

use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknod};
use nix::unistd::{Gid, Uid, fchown, ttyname};
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::termios::isatty;

use super::mounts::{fresh, tmpfs};
use crate::bottle::Caller;

/// Name, major and minor number (Documentation/admin-guide/devices.txt of the kernel).
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Name and target.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Of a new instance, as every mount is. Group `tty` on every system that has it.
const TERMINALS: [(&str, &str); 3] = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];

/// Major numbers of the inner ends of pseudo-terminals (the same list).
const PSEUDO_TERMINALS: RangeInclusive<u32> = 136..=143;

/// Whose this terminal is, if it is one that a front-end can have made for a run: the inner end of a pseudo-terminal, still in
/// use. Nothing else is ever given to a caller.
///
/// # Errors
/// When the system cannot say.
pub fn terminal_owner(descriptor: &impl AsFd) -> io::Result<Option<u32>> {
    // What the kernel knows: a file system that a user serves is not asked, as it need not answer.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let status = statx(descriptor, "", flags, StatxFlags::BASIC_STATS)?;
    let is_device = FileType::from_raw_mode(status.stx_mode.into()) == FileType::CharacterDevice;
    let is_inner_end = is_device && PSEUDO_TERMINALS.contains(&status.stx_rdev_major);
    Ok((is_inner_end && isatty(descriptor)).then_some(status.stx_uid))
}

/// The command's terminal, a mount of that one file that is nowhere yet: the host's `/dev` will be out of sight.
#[derive(Debug)]
pub(super) struct Terminal(OwnedFd);

impl Terminal {
    /// The terminal on the standard input, which is given to the caller. None when this mount namespace has no name for it;
    /// it works all the same.
    ///
    /// This process may give away any file of the host, and the standard input is whatever somebody chose.
    pub(super) fn find(caller: &Caller) -> io::Result<Option<Self>> {
        let input = io::stdin();
        terminal_owner(&input)?.ok_or(Errno::ENOTTY)?;
        fchown(input.as_fd(), Some(Uid::from_raw(caller.uid)), Some(Gid::from_raw(caller.gid)))?;
        let Ok(path) = ttyname(input.as_fd()) else { return Ok(None) };
        let held = open_tree(CWD, &path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        let is_same = fstat(&held)?.st_rdev == fstat(input.as_fd())?.st_rdev;
        Ok(is_same.then_some(Self(held)))
    }
}

/// Replaces `/dev`. The terminal is `/dev/console`, where `ttyname` finds it although it is none of the fresh `/dev/pts`.
pub(super) fn fresh_dev(terminal: Option<&Terminal>) -> io::Result<()> {
    let dev = Path::new("/dev");
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    tmpfs(dev, quiet, "755", "64k")?;
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    LINKS.iter().try_for_each(|(name, target)| symlink(target, dev.join(name)))?;
    fresh("tmpfs", &dev.join("shm"), quiet | MountAttrFlags::MOUNT_ATTR_NODEV, &[("mode", "1777")])?;
    fresh("devpts", &dev.join("pts"), quiet, &TERMINALS)?;
    if let Some(Terminal(held)) = terminal {
        let console = dev.join("console");
        File::create_new(&console)?;
        move_mount(held, "", CWD, &console, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{OpenOptionsExt, chown};

    use nix::fcntl::OFlag;
    use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
    use nix::unistd::geteuid;

    use super::*;

    fn check(what: &str, descriptor: &impl AsFd, expected: Option<u32>) {
        assert_eq!(terminal_owner(descriptor).unwrap(), expected, "{what}");
    }

    #[test]
    fn only_the_inner_end_of_a_pseudo_terminal_has_an_owner() {
        let me = geteuid().as_raw();
        // Not for programs that other tests start meanwhile: they would keep it from being hung up.
        let outer = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&outer).unwrap();
        unlockpt(&outer).unwrap();
        let path = ptsname_r(&outer).unwrap();
        let inner = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(&path).unwrap();
        check("the inner end", &inner, Some(me));
        check("the outer end", &outer, None);
        let unopened = rustix::fs::open(&path, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        check("a name of the inner end", &unopened, None);
        if me == 0 {
            chown(&path, Some(4242), None).unwrap();
            check("another's", &inner, Some(4242));
        }
        drop(outer);
        check("one that was hung up", &inner, None);
        check("a file", &tempfile::tempfile().unwrap(), None);
        check("a pipe", &io::pipe().unwrap().0, None);
        check("another device", &File::open("/dev/null").unwrap(), None);
    }
}
