//! What a bottle keeps of its own on disk: the files its commands wrote, until the bottle is killed.
//!
//! One directory a bottle, for root alone. In it `files/`: for each of the host's mounts that the bottle sees through an
//! overlay, the overlay's upper and work directory; and `owner`, the user whose files they are.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::files::entry_name;
use super::namespace::tolerate_absence;
use super::removal::remove_tree;

const PRIVATE: u32 = 0o700;
const ROOT: u32 = 0;

/// Where a bottle's layer is.
#[derive(Clone, Debug)]
pub(in crate::bottle) struct Layer {
    directory: PathBuf,
}

/// The two directories of an overlay.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::bottle) struct Pair {
    pub(in crate::bottle) upper: PathBuf,
    pub(in crate::bottle) work: PathBuf,
}

impl Layer {
    pub(in crate::bottle) fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Where everything of it is.
    pub(in crate::bottle) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes sure there is one for `user`. Files that one user's commands left are no other user's to run on: what is private
    /// on the host may have become readable in them. Root may run on anybody's, which is root's from then on: what root's
    /// commands leave is no user's to find.
    pub(in crate::bottle) fn prepare(&self, user: u32) -> io::Result<Result<(), Foreign>> {
        DirBuilder::new().recursive(true).mode(PRIVATE).create(&self.directory)?;
        fs::set_permissions(&self.directory, Permissions::from_mode(PRIVATE))?;
        let file = self.directory.join("owner");
        let owner = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            text => Some(text?.parse().unwrap_or(ROOT)),
        };
        match owner {
            Some(owner) if owner == user => Ok(Ok(())),
            Some(owner) if user != ROOT => Ok(Err(Foreign { owner })),
            Some(_) | None => write_down(&file, user).map(Ok),
        }
    }

    /// The overlay's directories for the mount at `place`, made where they are missing; what is on top looks like what is
    /// below.
    pub(in crate::bottle) fn pair(&self, place: &Path) -> io::Result<Pair> {
        let directory = self.directory.join("files").join(entry_name(place));
        let pair = Pair { upper: directory.join("upper"), work: directory.join("work") };
        DirBuilder::new().recursive(true).mode(PRIVATE).create(&pair.work)?;
        if !pair.upper.exists() {
            let below = fs::metadata(place)?;
            // Under another name until it is as it should be.
            let unfinished = directory.join("unfinished");
            DirBuilder::new().recursive(true).mode(PRIVATE).create(&unfinished)?;
            chown(&unfinished, Some(below.uid()), Some(below.gid()))?;
            fs::set_permissions(&unfinished, Permissions::from_mode(below.mode() & 0o7777))?;
            fs::rename(unfinished, &pair.upper)?;
        }
        Ok(pair)
    }

    /// Whether there is anything.
    pub(in crate::bottle) fn exists(&self) -> bool {
        self.directory.exists()
    }

    /// Removes everything. Nothing may run on it.
    pub(in crate::bottle) fn remove(&self) -> io::Result<()> {
        tolerate_absence(remove_tree(&self.directory))
    }
}

/// On disk before anything of the user's is. Half of it is root's.
fn write_down(file: &Path, owner: u32) -> io::Result<()> {
    let mut file = File::create(file)?;
    file.write_all(owner.to_string().as_bytes())?;
    file.sync_all()
}

/// The files are somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bottle) struct Foreign {
    /// Whose.
    pub(in crate::bottle) owner: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_its_first_users_until_root_has_used_it() {
        let directory = tempfile::tempdir().unwrap();
        let layer = Layer::at(directory.path().join("web"));
        assert!(!layer.exists());
        assert_eq!(layer.prepare(1000).unwrap(), Ok(()));
        let mode = fs::metadata(layer.directory()).unwrap().mode() & 0o7777;
        assert_eq!(mode, PRIVATE);
        let others = Err(Foreign { owner: 1000 });
        for (user, expected) in [(1000, Ok(())), (1001, others), (1000, Ok(())), (ROOT, Ok(()))] {
            assert_eq!(layer.prepare(user).unwrap(), expected, "{user}");
        }
        for (user, expected) in [(1000, Err(Foreign { owner: ROOT })), (ROOT, Ok(()))] {
            assert_eq!(layer.prepare(user).unwrap(), expected, "{user} after root");
        }
        layer.remove().unwrap();
        layer.remove().unwrap();
        assert!(!layer.exists());
        assert_eq!(layer.prepare(1001).unwrap(), Ok(()));
    }

    #[test]
    fn the_top_of_a_mount_looks_like_its_bottom() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("shared");
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, Permissions::from_mode(0o1777)).unwrap();
        let layer = Layer::at(directory.path().join("web"));
        layer.prepare(0).unwrap().unwrap();
        let pair = layer.pair(&place).unwrap();
        assert_eq!(fs::metadata(&pair.upper).unwrap().mode() & 0o7777, 0o1777);
        fs::write(pair.upper.join("kept"), "").unwrap();
        assert_eq!(layer.pair(&place).unwrap(), pair);
        assert!(pair.upper.join("kept").exists() && pair.work.exists());
    }
}
