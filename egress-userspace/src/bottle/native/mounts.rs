//! What a bottle sees of the filesystem. Runs as the first process of its namespaces, still with every privilege.
//!
//! The host's files can be read, and written only where they are shared: the rest of what a bottle writes is in its layer.
//! The host's kernel interfaces, sockets, devices and our own state are not there. Nothing mounted here can be taken off from inside: that needs a capability over this mount namespace, and in a
//! user namespace of the bottle's own making the kernel locks inherited mounts together.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::sethostname;

use super::environment::{AUTHORITY, BUNDLE, KEY_STORE};
use super::launch::LaunchSpec;
use super::layer::Layer;
use super::mount_table::{self, Mount};
use super::namespace::unmount;
use super::root::{NewRoot, open_plain};
use super::{devices, files, keystore};

const NO_TEXT: Option<&str> = None;
const NO_DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const NO_PROGRAMS: MsFlags = NO_DEVICES.union(MsFlags::MS_NOEXEC);

/// Our own files inside.
const OURS: &str = "/run/egress";
const RESOLVER: &str = "/run/egress/resolv.conf";
const HOSTS: &str = "/run/egress/hosts";

/// Settings of the machine, and requests to it.
const PROC_READ_ONLY: [&str; 6] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/mtrr", "/proc/sys", "/proc/sysrq-trigger"];
/// What root without capabilities may read and tells of the machine or other users.
const PROC_HIDDEN: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
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
    devices::fresh_dev(terminal.as_ref())?;
    fresh_proc()?;
    fresh_sys()?;
    fresh_run(Path::new("/run"), &found.run_links)?;
    if !fs::symlink_metadata("/var/run").is_ok_and(|entry| entry.is_symlink()) && Path::new("/var/run").is_dir() {
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
        tmpfs(Path::new(OURS), NO_PROGRAMS, "mode=755,size=16m")?;
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
        read_only(Path::new(OURS))?;
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
    let Some(found) = open_plain(path)? else { return Ok(()) };
    let is_directory = fstat(&found)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
    let place = format!("/proc/self/fd/{}", found.as_raw_fd());
    let hidden = if is_directory {
        mount(Some("tmpfs"), &*place, Some("tmpfs"), NO_PROGRAMS | MsFlags::MS_RDONLY, Some("mode=755,size=4k"))
    } else {
        mount(Some("/dev/null"), &*place, NO_TEXT, MsFlags::MS_BIND, NO_TEXT)
    };
    match hidden {
        // Sockets come and go.
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn fresh_proc() -> io::Result<()> {
    mount(Some("proc"), "/proc", Some("proc"), NO_PROGRAMS, NO_TEXT)?;
    for path in PROC_READ_ONLY.into_iter().filter(|path| Path::new(path).exists()) {
        bind_read_only(path, Path::new(path))?;
    }
    PROC_HIDDEN.iter().try_for_each(|path| hide(Path::new(path)))
}

/// A new instance shows this network namespace's devices, and none of what is mounted below the host's.
fn fresh_sys() -> io::Result<()> {
    Ok(mount(Some("sysfs"), "/sys", Some("sysfs"), NO_PROGRAMS | MsFlags::MS_RDONLY, NO_TEXT)?)
}

fn fresh_run(path: &Path, links: &[(PathBuf, PathBuf)]) -> io::Result<()> {
    tmpfs(path, NO_DEVICES, "mode=755,size=64m")?;
    links.iter().try_for_each(|(link, target)| symlink(target, link))?;
    let lock = path.join("lock");
    if fs::symlink_metadata(&lock).is_err() {
        fs::create_dir(&lock)?;
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o1777))?;
    }
    Ok(())
}

/// A fresh, empty, writable filesystem at `path`, which is made if it is missing.
pub(super) fn tmpfs(path: &Path, flags: MsFlags, options: &str) -> io::Result<()> {
    fs::create_dir_all(path)?;
    Ok(mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options))?)
}

/// Puts `source` in the place of `target`.
fn bind(source: &str, target: &Path) -> io::Result<()> {
    Ok(mount(Some(source), target, NO_TEXT, MsFlags::MS_BIND, NO_TEXT)?)
}

fn bind_read_only(source: &str, target: &Path) -> io::Result<()> {
    bind(source, target)?;
    read_only(target)
}

/// A tree and everything mounted in it.
fn read_only_tree(tree: &Path) -> io::Result<()> {
    // A link leads into another of the trees.
    if !fs::symlink_metadata(tree).is_ok_and(|entry| entry.is_dir()) {
        return Ok(());
    }
    mount(Some(tree), tree, NO_TEXT, MsFlags::MS_BIND | MsFlags::MS_REC, NO_TEXT)?;
    let table = mount_table::parse(&fs::read_to_string("/proc/self/mountinfo")?);
    // The table also lists mounts whose place has been deleted.
    let reachable = |mount: &&Mount| mount.point.starts_with(tree) && mount.point.exists();
    table.iter().filter(reachable).try_for_each(|mount| read_only(&mount.point))
}

/// Makes one mount read-only. A remount sets all flags at once, so those it has are said again.
fn read_only(point: &Path) -> io::Result<()> {
    let found = statvfs(point)?.flags();
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
    Ok(mount(NO_TEXT, point, NO_TEXT, flags, NO_TEXT)?)
}
