//! Removing a tree as deep and as wide as somebody else has made it: without recursion, and with a handful of open files.
//!
//! What is deep is moved up: a directory that is not empty loses its files, and its own directories go to the top of the tree
//! under numbers, where they wait for their turn.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes `path` and everything below it, which nobody changes meanwhile. Another call goes on where one was interrupted.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = openat(CWD, path, DIRECTORY, Mode::empty())?;
    let mut moved = 0;
    let mut emptied = 0;
    while for_each(&top, |name| remove(&top, name, &mut moved))? {
        while emptied < moved {
            let number = waiting(emptied);
            emptied += 1;
            remove(&top, &number, &mut moved)?;
        }
    }
    fs::remove_dir(path)
}

/// Calls `act` with the name of each entry; tells whether there were any. Some may be left out when `act` removes others.
fn for_each(directory: &OwnedFd, mut act: impl FnMut(&CStr) -> io::Result<()>) -> io::Result<bool> {
    let mut had_any = false;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            had_any = true;
            act(entry.file_name())?;
        }
    }
    Ok(had_any)
}

/// Removes an entry of `top`, if it is there; what it has of directories becomes entries of `top`.
fn remove<Name: Arg + Copy>(top: &OwnedFd, name: Name, moved: &mut u64) -> io::Result<()> {
    if remove_simple(top, name)? {
        return Ok(());
    }
    let full = openat(top, name, DIRECTORY, Mode::empty())?;
    let mut lift = |below: &CStr| {
        if remove_simple(&full, below)? { Ok(()) } else { move_up(&full, below, top, moved) }
    };
    while for_each(&full, &mut lift)? {}
    Ok(unlinkat(top, name, AtFlags::REMOVEDIR)?)
}

/// Removes a file or an empty directory; false when it is a directory with something in it.
fn remove_simple<Name: Arg + Copy>(directory: &OwnedFd, name: Name) -> io::Result<bool> {
    let removed = match unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(directory, name, AtFlags::REMOVEDIR),
        file => file,
    };
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn move_up(directory: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        let number = waiting(*moved);
        *moved += 1;
        match renameat(directory, name, top, &number) {
            Ok(()) => return Ok(()),
            // An interrupted removal has left one of that number.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn waiting(number: u64) -> String {
    format!("removed-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    use rustix::fs::mkdirat;

    /// More than the stack below would take, and more files than a process may open by default.
    const LEVELS: u32 = 4_000;
    const STACK_BYTES: usize = 128 << 10;

    fn make_deep(top: &Path) {
        let mut at = openat(CWD, top, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..LEVELS {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn depth_is_no_matter() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        for side in ["one", "two"] {
            fs::create_dir_all(top.join(side)).unwrap();
            make_deep(&top.join(side));
        }
        let small_stack = std::thread::Builder::new().stack_size(STACK_BYTES);
        let path = top.clone();
        small_stack.spawn(move || remove_tree(&path)).unwrap().join().unwrap().unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn what_is_linked_to_stays_and_what_was_left_goes() {
        let directory = tempfile::tempdir().unwrap();
        let (top, kept) = (directory.path().join("top"), directory.path().join("kept"));
        for path in [kept.join("a"), top.join("a/b/c/d"), top.join("a/e/f"), top.join("removed-0/left/over")] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(top.join("a/b/file"), "").unwrap();
        fs::write(top.join("removed-1"), "").unwrap();
        symlink(&kept, top.join("a/b/c/link")).unwrap();
        symlink(&kept, top.join("link")).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists() && kept.join("a").exists());
        assert_eq!(remove_tree(&top).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
