//! What a bottle sees of the filesystem. Runs as the first process of its namespaces, still with every privilege.
//!
//! The host's files can be read, and written only where they are shared: the rest of what a bottle writes is in its layer.
//! The host's kernel interfaces, sockets, devices and our own state are not there. Nothing mounted here can be taken off from inside: that needs a capability over this mount namespace, and in a
//! user namespace of the bottle's own making the kernel locks inherited mounts together.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::sethostname;
use rustix::mount::{MountAttrFlags, OpenTreeFlags};

use super::environment::{AUTHORITY, BUNDLE, KEY_STORE};
use super::launch::LaunchSpec;
use super::layer::Layer;
use super::mount_table;
use super::namespace::unmount;
use super::root::{NewRoot, clone_of, filesystem, open_below, open_plain, own_place, put};
use super::{devices, files, keystore};

const NO_TEXT: Option<&str> = None;
const NO_DEVICES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
const NO_PROGRAMS: MountAttrFlags = NO_DEVICES.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Our own files inside.
const OURS: &str = "/run/egress";
const RESOLVER: &str = "/run/egress/resolv.conf";
const HOSTS: &str = "/run/egress/hosts";

/// Settings of the machine, and requests to it, below `/proc`.
const PROC_READ_ONLY: [&str; 6] = ["bus", "fs", "irq", "mtrr", "sys", "sysrq-trigger"];
/// What root without capabilities may read there and tells of the machine or other users.
const PROC_HIDDEN: [&str; 13] = [
    "acpi",
    "asound",
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
];

/// Makes the bottle's view. `sockets` is the host's table of Unix sockets.
pub(super) fn furnish(spec: &LaunchSpec, sockets: &str) -> io::Result<()> {
    mount(NO_TEXT, "/", NO_TEXT, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NO_TEXT)?;
    let table = mount_table::parse(&fs::read_to_string("/proc/self/mountinfo")?);
    let found = Found::look(spec);
    let hidden = hidden(spec, sockets);
    let terminal = if spec.has_terminal { devices::Terminal::find(&spec.caller)? } else { None };
    let layer = Layer::at(PathBuf::from(&spec.layer));
    let shared: Vec<PathBuf> = spec.shared.iter().map(PathBuf::from).collect();
    NewRoot::make(&layer, &table, &shared, &hidden)?.enter()?;
    // Files are covered by its null device.
    devices::fresh_dev(terminal.as_ref())?;
    // What has been opened is mounted on by its name in this.
    fresh_proc()?;
    // A new instance shows this network namespace's devices, and none of what is mounted below the host's.
    fresh("sysfs", Path::new("/sys"), NO_PROGRAMS | MountAttrFlags::MOUNT_ATTR_RDONLY, &[])?;
    fresh_run(Path::new("/run"), &found.run_links)?;
    if let Some(found) = open_plain(Path::new("/var/run"))?
        && is_directory(&found)?
    {
        fresh_run(Path::new("/var/run"), &[])?;
    }
    if spec.caller.uid == 0 {
        files::SYSTEM_TREES.iter().try_for_each(|tree| read_only_tree(Path::new(tree)))?;
    }
    hide_the_host(&hidden)?;
    found.put_in_place(spec)?;
    sethostname(spec.bottle.as_str())?;
    Ok(())
}

/// What is read before the root is changed: things elsewhere may link into the host's `/run`.
struct Found {
    resolver: PathBuf,
    hosts: Option<PathBuf>,
    bundles: BTreeSet<PathBuf>,
    key_stores: BTreeSet<PathBuf>,
    system_roots: String,
    run_links: Vec<(PathBuf, PathBuf)>,
}

impl Found {
    fn look(spec: &LaunchSpec) -> Self {
        let system_bundle = files::SYSTEM_BUNDLES.iter().find_map(|path| fs::read_to_string(path).ok());
        Self {
            resolver: end_of_links(Path::new("/etc/resolv.conf")),
            hosts: fs::canonicalize("/etc/hosts").ok(),
            bundles: existing(files::SYSTEM_BUNDLES.map(PathBuf::from)),
            key_stores: existing(files::KEY_STORES.map(PathBuf::from).into_iter().chain(stores_of_javas(spec))),
            system_roots: system_bundle.unwrap_or_default(),
            run_links: links_in(Path::new("/run")),
        }
    }

    /// In a filesystem of their own, so that nothing in a bottle is a file of the host's, not even read-only.
    fn put_in_place(&self, spec: &LaunchSpec) -> io::Result<()> {
        let ours = tmpfs(Path::new(OURS), NO_PROGRAMS, "755", "16m")?;
        fs::create_dir(Path::new(OURS).join("ca"))?;
        fs::write(AUTHORITY, &spec.ca_pem)?;
        let bundle = files::bundle(&self.system_roots, &spec.ca_pem);
        fs::write(BUNDLE, &bundle)?;
        fs::write(KEY_STORE, keystore::from_pem(&bundle))?;
        fs::write(RESOLVER, files::resolver(spec.gateway))?;
        fs::write(HOSTS, files::hosts(&spec.bottle))?;
        for file in [AUTHORITY, BUNDLE, KEY_STORE, RESOLVER, HOSTS] {
            fs::set_permissions(file, fs::Permissions::from_mode(0o444))?;
        }
        read_only(&ours)?;
        if !self.resolver.exists() && self.resolver.starts_with("/run") {
            self.resolver.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&self.resolver, "")?;
        }
        bind_read_only(RESOLVER, &self.resolver)?;
        self.hosts.iter().try_for_each(|hosts| bind_read_only(HOSTS, hosts))?;
        for (ours, theirs) in [(BUNDLE, &self.bundles), (KEY_STORE, &self.key_stores)] {
            theirs.iter().filter(|file| file.exists()).try_for_each(|file| bind_read_only(ours, file))?;
        }
        Ok(())
    }
}

/// The files among them, each once although several names may lead to it.
fn existing(paths: impl IntoIterator<Item = PathBuf>) -> BTreeSet<PathBuf> {
    paths.into_iter().filter_map(|path| fs::canonicalize(path).ok()).filter(|path| path.is_file()).collect()
}

/// The key stores of the installed Javas and of the caller's own.
fn stores_of_javas(spec: &LaunchSpec) -> Vec<PathBuf> {
    let own = spec.environment.iter().find(|(name, _)| name == "JAVA_HOME").map(|(_, home)| PathBuf::from(home));
    let installed = files::JAVAS.iter().flat_map(fs::read_dir).flatten().flatten().map(|java| java.path());
    installed.chain(own).map(|java| java.join(files::KEY_STORE_OF_A_JAVA)).collect()
}

/// Follows a link even when it leads nowhere (yet).
fn end_of_links(path: &Path) -> PathBuf {
    if let Ok(end) = fs::canonicalize(path) {
        return end;
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::read_link(path).map_or_else(|_| path.to_owned(), |target| files::without_dots(&parent.join(target)))
}

/// Some systems keep the way to their programs there.
fn links_in(directory: &Path) -> Vec<(PathBuf, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), fs::read_link(entry.path()).ok()?))).collect()
}

/// Real paths of what must not be seen: they are the same inside, and no link that a bottle made leads us past them.
fn hidden(spec: &LaunchSpec, sockets: &str) -> Vec<PathBuf> {
    // A terminal multiplexer's server runs whatever its user asks it to, outside.
    let multiplexer = PathBuf::from(format!("/tmp/tmux-{}", spec.caller.uid));
    let ours = spec.hidden.iter().map(PathBuf::from);
    let places = ours.chain(files::HIDDEN.iter().map(PathBuf::from)).chain([multiplexer]);
    let is_socket = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|entry| entry.file_type().is_socket());
    let sockets = files::socket_paths(sockets).into_iter().filter(is_socket);
    places.chain(sockets).filter_map(|path| fs::canonicalize(path).ok()).collect()
}

fn hide_the_host(hidden: &[PathBuf]) -> io::Result<()> {
    let table = mount_table::parse(&fs::read_to_string("/proc/self/mountinfo")?);
    // Handles of other bottles' namespaces: a copy here would keep them from ending.
    table.iter().filter(|mount| mount.kind == "nsfs").try_for_each(|handle| unmount(&handle.point))?;
    files::stray_kernel_mounts(&table).try_for_each(hide)?;
    hidden.iter().try_for_each(|path| hide(path))
}

/// Puts nothing in the place of `path`, if there is such a path and no link on it.
fn hide(path: &Path) -> io::Result<()> {
    open_plain(path)?.map_or(Ok(()), |found| cover(&found))
}

/// Puts nothing in the place of what was opened.
fn cover(found: &OwnedFd) -> io::Result<()> {
    let place = name_of(found);
    let hidden = if is_directory(found)? {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
        mount(Some("tmpfs"), &*place, Some("tmpfs"), flags, Some("mode=755,size=4k"))
    } else {
        mount(Some("/dev/null"), &*place, NO_TEXT, MsFlags::MS_BIND, NO_TEXT)
    };
    match hidden {
        // Sockets come and go.
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_directory(found: &OwnedFd) -> io::Result<bool> {
    Ok(fstat(found)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

/// An opened file's path. It is what it says because this `/proc` is ours, on a directory of the root.
fn name_of(opened: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", opened.as_raw_fd())
}

fn fresh_proc() -> io::Result<()> {
    let proc = fresh("proc", Path::new("/proc"), NO_PROGRAMS, &[])?;
    let found = |name: &&str| open_below(&proc, name).transpose();
    PROC_READ_ONLY.iter().filter_map(found).try_for_each(|place| {
        let place = place?;
        bind_read_only_on(&place, &place)
    })?;
    PROC_HIDDEN.iter().filter_map(found).try_for_each(|place| cover(&place?))
}

fn fresh_run(path: &Path, links: &[(PathBuf, PathBuf)]) -> io::Result<()> {
    tmpfs(path, NO_DEVICES, "755", "64m")?;
    links.iter().try_for_each(|(link, target)| symlink(target, link))?;
    let lock = path.join("lock");
    if fs::symlink_metadata(&lock).is_err() {
        fs::create_dir(&lock)?;
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o1777))?;
    }
    Ok(())
}

/// A fresh, empty, writable filesystem at `path`.
pub(super) fn tmpfs(path: &Path, attributes: MountAttrFlags, mode: &str, size: &str) -> io::Result<OwnedFd> {
    fresh("tmpfs", path, attributes, &[("mode", mode), ("size", size)])
}

/// Mounts a fresh filesystem on the directory at `path`, which is made if there is none. It is mounted on what has been
/// opened: a link that an earlier command of the bottle left there leads nowhere.
pub(super) fn fresh(
    kind: &str,
    path: &Path,
    attributes: MountAttrFlags,
    options: &[(&str, &str)],
) -> io::Result<OwnedFd> {
    let mounted = filesystem(kind, attributes, options)?;
    put(&mounted, &own_place(path)?)?;
    Ok(mounted)
}

/// Puts `source`, which cannot be written so, in the place of `target`.
fn bind_read_only(source: &str, target: &Path) -> io::Result<()> {
    let open = |path: &Path| open_plain(path)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
    bind_read_only_on(&open(Path::new(source))?, &open(target)?)
}

fn bind_read_only_on(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let bound = clone_of(source, OpenTreeFlags::empty())?;
    put(&bound, target)?;
    read_only(&bound)
}

/// A tree and everything mounted in it.
fn read_only_tree(tree: &Path) -> io::Result<()> {
    // A link leads into another of the trees.
    if !fs::symlink_metadata(tree).is_ok_and(|entry| entry.is_dir()) {
        return Ok(());
    }
    let Some(found) = open_plain(tree)? else { return Ok(()) };
    put(&clone_of(&found, OpenTreeFlags::AT_RECURSIVE)?, &found)?;
    let table = mount_table::parse(&fs::read_to_string("/proc/self/mountinfo")?);
    let points = table.iter().map(|mount| &mount.point).filter(|point| point.starts_with(tree));
    // The table also lists mounts whose place has been deleted.
    points.filter_map(|point| open_plain(point).transpose()).try_for_each(|point| read_only(&point?))
}

/// Makes the mount whose topmost directory or file was opened read-only. A remount sets all flags at once, so those it has
/// are said again.
fn read_only(mounted: &OwnedFd) -> io::Result<()> {
    let found = fstatvfs(mounted)?.flags();
    let kept = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    let kept = kept
        .into_iter()
        .filter(|(has, _)| found.contains(*has))
        .fold(MsFlags::empty(), |flags, (_, flag)| flags | flag);
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | kept;
    Ok(mount(NO_TEXT, &*name_of(mounted), NO_TEXT, flags, NO_TEXT)?)
}
