//! A bottle's own root: the host's files below, what the bottle writes on top, the work shared.
//!
//! Everything of the host is opened by its real path before the root changes; everything is put in place afterwards, by the
//! same path and through no link. What a bottle has left in its layer can so lead nothing of ours astray: a file of the host
//! is seen at its own path in the bottle or nowhere, because the overlay follows no redirects.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, open_tree,
};

use super::files;
use super::layer::Layer;
use super::mount_table::Mount;
use super::whiteout::white_out;

const NO_TEXT: Option<&str> = None;
const THIS: &str = ".";
/// Of a directory that something is mounted on.
const PLACE_MODE: Mode = Mode::from_raw_mode(0o755);

/// No redirects: they would show files of the host under other paths than those that are hidden. No index and no metadata
/// copies: the layer is used by one overlay after another, and holds whole files.
const OVERLAY_OPTIONS: [(&str, &str); 3] = [("redirect_dir", "nofollow"), ("index", "off"), ("metacopy", "off")];

/// A mount that is nowhere yet, and where it belongs.
struct Unplaced {
    place: PathBuf,
    tree: OwnedFd,
    kind: Kind,
}

enum Kind {
    /// Writes go to the layer.
    Layered,
    /// The host's own, not to be written: its options without that.
    ReadOnly(MsFlags),
    /// The host's own.
    Shared,
}

/// A root that has been made and not entered.
pub(super) struct NewRoot {
    root: OwnedFd,
    /// In the order in which they are put in place.
    mounts: Vec<Unplaced>,
    /// A directory to mount the root on, for a moment.
    stage: PathBuf,
}

impl NewRoot {
    /// Makes it from the mounts of this namespace. `hidden` will be covered anyway.
    pub(super) fn make(layer: &Layer, table: &[Mount], shared: &[PathBuf], hidden: &[PathBuf]) -> io::Result<Self> {
        let whole = table.iter().rev().find(|mount| mount.point == Path::new("/"));
        let root = overlay(layer, Path::new("/"), whole, hidden).map_err(|error| no_overlay(layer, &error))?;
        let elsewhere = [shared, hidden].concat();
        let mut mounts: Vec<Unplaced> = files::file_mounts(table, &elsewhere)
            .into_iter()
            .filter_map(|mount| layered(layer, mount, hidden))
            .collect();
        for place in shared {
            let tree = share(place).map_err(|error| in_context(&error, place, "cannot be shared with the bottle"))?;
            mounts.push(Unplaced { place: place.clone(), tree, kind: Kind::Shared });
        }
        Ok(Self { root, mounts, stage: layer.directory().to_owned() })
    }

    /// Makes it the root of every process of this mount namespace; the host's is out of reach then.
    pub(super) fn enter(self) -> io::Result<()> {
        move_mount(&self.root, "", CWD, &self.stage, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        chdir(&self.stage)?;
        // The old root comes to lie on the new one, and is taken off from there.
        pivot_root(THIS, THIS)?;
        umount2(THIS, MntFlags::MNT_DETACH)?;
        chdir("/")?;
        self.mounts.iter().try_for_each(Unplaced::put_in_place)
    }
}

impl Unplaced {
    fn put_in_place(&self) -> io::Result<()> {
        let target = open_plain(&self.place)?;
        match (&self.kind, target) {
            (Kind::Shared, None) => {
                let left = "is not what it is on the host: an earlier command of this bottle removed or replaced it; \
                            `egress kill` gives the bottle's files up";
                Err(io::Error::other(format!("{} {left}", self.place.display())))
            }
            // The bottle has removed where it was.
            (Kind::Layered | Kind::ReadOnly(_), None) => Ok(()),
            (kind, Some(target)) => {
                put(&self.tree, &target)?;
                let Kind::ReadOnly(options) = kind else { return Ok(()) };
                let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | *options;
                Ok(mount(NO_TEXT, &self.place, NO_TEXT, flags, NO_TEXT)?)
            }
        }
    }
}

/// Opens a path without following a link anywhere on the way. None when there is nothing that can be reached so.
pub(super) fn open_plain(path: &Path) -> io::Result<Option<OwnedFd>> {
    match openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens what is at `path` below `directory`, which is of our own making: that a link or a file is in the way is an error.
/// None when there is nothing.
pub(super) fn open_below(directory: &OwnedFd, path: &str) -> io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH;
    match openat2(directory, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A filesystem of `kind` that is nowhere yet.
pub(super) fn filesystem(kind: &str, attributes: MountAttrFlags, options: &[(&str, &str)]) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", kind)?;
    for (option, value) in options {
        fsconfig_set_string(&context, *option, *value)?;
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Puts a mount that is nowhere yet in the place of what was opened.
pub(super) fn put(mount: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", place, "", flags)?)
}

/// A mount of what was opened, with everything mounted in it if `how` says so; it is nowhere yet.
pub(super) fn clone_of(opened: &OwnedFd, how: OpenTreeFlags) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(opened, "", flags | how)?)
}

/// The directory at `path` to mount something of our own on. The directory above it is one, by no link; whatever else an
/// earlier command of the bottle has put in its place is removed from the layer.
pub(super) fn own_place(path: &Path) -> io::Result<OwnedFd> {
    let unusable = || io::Error::other(format!("{} cannot be made a directory", path.display()));
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Err(unusable()) };
    let above = open_plain(above)?.ok_or_else(unusable)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    let open = || openat2(&above, name, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH);
    match open() {
        Ok(found) => return Ok(found),
        Err(Errno::NOENT) => {}
        Err(Errno::LOOP | Errno::NOTDIR) => unlinkat(&above, name, AtFlags::empty())?,
        Err(error) => return Err(error.into()),
    }
    mkdirat(&above, name, PLACE_MODE)?;
    Ok(open()?)
}

/// The mount at `place`, writes to it going to the layer.
fn overlay(layer: &Layer, place: &Path, below: Option<&Mount>, hidden: &[PathBuf]) -> io::Result<OwnedFd> {
    let pair = layer.pair(place)?;
    let files = hidden.iter().filter(|path| path.starts_with(place) && path.is_file());
    files.into_iter().try_for_each(|file| white_out(&pair.upper, place, file))?;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let directory = |path: &Path| open_plain(path)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
    let parts = [
        ("lowerdir", directory(place)?),
        ("upperdir", fs::File::open(&pair.upper)?.into()),
        ("workdir", fs::File::open(&pair.work)?.into()),
    ];
    for (part, opened) in &parts {
        // No path of the host's stands in the mount table, and none has to be escaped.
        fsconfig_set_string(&context, *part, format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
    }
    for (option, value) in OVERLAY_OPTIONS {
        fsconfig_set_string(&context, option, value)?;
    }
    fsconfig_create(&context)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, below.is_some_and(|mount| mount.has("noexec")));
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A mount below the root. Where the kernel takes no overlay of it, it is the host's and read-only; where not even that can
/// be had, it is not in the bottle.
fn layered(layer: &Layer, mount: &Mount, hidden: &[PathBuf]) -> Option<Unplaced> {
    let place = mount.point.clone();
    if !mount.has("ro")
        && let Ok(tree) = overlay(layer, &place, Some(mount), hidden)
    {
        return Some(Unplaced { place, tree, kind: Kind::Layered });
    }
    let tree = clone_at(&place, OpenTreeFlags::empty()).ok()?;
    let mut options = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    options.set(MsFlags::MS_NOEXEC, mount.has("noexec"));
    Some(Unplaced { place, tree, kind: Kind::ReadOnly(options) })
}

/// A directory of the host with everything mounted in it.
fn share(place: &Path) -> io::Result<OwnedFd> {
    if !place.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    clone_at(place, OpenTreeFlags::AT_RECURSIVE)
}

fn clone_at(place: &Path, how: OpenTreeFlags) -> io::Result<OwnedFd> {
    // By its real path: it will be in the same place inside, behind the same directories.
    clone_of(&open_plain(place)?.ok_or(io::ErrorKind::NotFound)?, how)
}

fn in_context(error: &io::Error, path: &Path, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{} {what}: {error}", path.display()))
}

fn no_overlay(layer: &Layer, error: &io::Error) -> io::Error {
    let hint = "the kernel needs overlay filesystems, and ext4, xfs, btrfs or tmpfs there";
    let what = format!("cannot hold what the bottle writes ({hint})");
    in_context(error, layer.directory(), &what)
}
