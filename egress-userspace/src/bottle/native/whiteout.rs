//! Files of the host that are not in a bottle's layers, whatever its commands do.
//!
//! What is mounted on a file goes along when the file is renamed, and whoever may change mounts in a namespace of their own
//! can rename what is mounted on; the next run would see the file under its new name. So an overlay is told that the file has
//! been removed.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, makedev, mkdirat, mknodat, openat, unlinkat,
};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const PRIVATE: Mode = Mode::RWXU;

/// Takes `file` out of the overlay of what is mounted at `place`, whose upper directory is not in use.
pub(super) fn white_out(upper: &Path, place: &Path, file: &Path) -> io::Result<()> {
    let (Ok(relative), Some(name)) = (file.strip_prefix(place), file.file_name()) else { return Ok(()) };
    let mut at = openat(CWD, upper, DIRECTORY, Mode::empty())?;
    let mut below = place.to_owned();
    for part in relative.parent().into_iter().flat_map(Path::components) {
        let Component::Normal(part) = part else { return Err(io::ErrorKind::InvalidInput.into()) };
        below.push(part);
        at = match openat(&at, part, DIRECTORY, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => directory_like(&below, &at, part)?,
            // What is there covers the whole directory.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
    }
    match unlinkat(&at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        // A directory covers the file.
        Err(Errno::ISDIR) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    // What overlays take for a removed file (Documentation/filesystems/overlayfs.rst of the kernel).
    Ok(mknodat(&at, name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))?)
}

/// Makes a directory that looks like the one of the host that it is to be merged with.
fn directory_like(below: &Path, at: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let like = fs::symlink_metadata(below)?;
    mkdirat(at, name, PRIVATE)?;
    let made = openat(at, name, DIRECTORY, Mode::empty())?;
    fchown(&made, Some(Uid::from_raw(like.uid())), Some(Gid::from_raw(like.gid())))?;
    fchmod(&made, Mode::from_raw_mode(like.mode() & 0o7777))?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    #[test]
    fn a_removed_file_is_left_whatever_was_there() {
        let host = tempfile::tempdir().unwrap();
        let (upper, place) = (host.path().join("upper"), host.path().join("place"));
        let file = place.join("a/b/key");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::set_permissions(place.join("a/b"), fs::Permissions::from_mode(0o1775)).unwrap();
        fs::create_dir(&upper).unwrap();
        let found = |path: &str| fs::symlink_metadata(upper.join(path));
        for _ in 0..2 {
            white_out(&upper, &place, &file).unwrap();
            let left = found("a/b/key").unwrap();
            assert!(left.file_type().is_char_device() && left.rdev() == 0);
        }
        assert_eq!(found("a/b").unwrap().mode() & 0o7777, 0o1775);
        fs::remove_file(upper.join("a/b/key")).unwrap();
        fs::write(upper.join("a/b/key"), "copied up").unwrap();
        white_out(&upper, &place, &file).unwrap();
        assert!(found("a/b/key").unwrap().file_type().is_char_device());
        fs::remove_dir_all(upper.join("a")).unwrap();
        symlink(place.join("a"), upper.join("a")).unwrap();
        white_out(&upper, &place, &file).unwrap();
        assert!(!file.exists() && found("a").unwrap().is_symlink());
        white_out(&upper, &place, Path::new("/elsewhere/key")).unwrap();
    }
}
