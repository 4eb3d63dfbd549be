//! The files a bottle sees instead of the host's, and which of the host's things it does not see. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::mount_table::Mount;
use crate::domain::BottleName;

/// Where the systems keep the roots that programs trust; the first that exists is taken for the host's.
pub(in crate::bottle) const SYSTEM_BUNDLES: [&str; 7] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-bundle.crt",
];

/// Where Java keeps its roots; more of them are below each of [`JAVAS`].
pub(in crate::bottle) const KEY_STORES: [&str; 3] =
    ["/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts", "/etc/pki/ca-trust/extracted/java/cacerts"];

/// Directories of Javas.
pub(super) const JAVAS: [&str; 2] = ["/usr/lib/jvm", "/opt/java"];

/// Below a Java.
pub(super) const KEY_STORE_OF_A_JAVA: &str = "lib/security/cacerts";

/// What leads to the host although it is a file: sockets of services that act on behalf of whoever connects, and the
/// insides of other containers. `/run` is fresh anyway.
pub(in crate::bottle) const HIDDEN: [&str; 9] = [
    "/tmp/.X11-unix",
    "/tmp/.ICE-unix",
    "/var/run/docker.sock",
    "/var/run/containerd",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/lxd",
    "/var/lib/incus",
];

/// Only root may change these on a host. Root in a bottle, though without capabilities, owns them.
pub(in crate::bottle) const SYSTEM_TREES: [&str; 11] =
    ["/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr", "/var/lib/systemd", "/var/spool"];

/// Windows into the kernel and other namespaces: outside the places where a bottle gets its own, nobody misses them.
const KERNEL_FILESYSTEMS: [&str; 16] = [
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "mqueue",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tracefs",
];

/// A bottle has its own.
pub(in crate::bottle) const FRESH: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];

/// The resolver's settings: ours is the only one, and near. It does not answer a bottle that is cut, whose clients are not to
/// wait for it as long as they would for one far away.
pub(in crate::bottle) fn resolver(gateway: Ipv4Addr) -> String {
    format!("nameserver {gateway}\noptions timeout:1 attempts:3\n")
}

/// The names a bottle knows without asking. The host's may lead to addresses that cannot be reached from inside.
pub(super) fn hosts(bottle: &BottleName) -> String {
    format!("127.0.0.1\tlocalhost {bottle}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
}

/// The system's roots and ours.
pub(in crate::bottle) fn bundle(system: &str, authority: &str) -> String {
    let line_end = if system.is_empty() || system.ends_with('\n') { "" } else { "\n" };
    format!("{system}{line_end}{authority}")
}

/// The absolute path without `.` and `..`, by its text alone.
pub(in crate::bottle) fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => plain.push(component),
        }
    }
    plain
}

/// Mounts of kernel filesystems that the bottle's own do not cover.
pub(super) fn stray_kernel_mounts(table: &[Mount]) -> impl Iterator<Item = &Path> {
    let stray = |mount: &&Mount| KERNEL_FILESYSTEMS.contains(&mount.kind.as_str()) && !is_fresh(&mount.point);
    table.iter().filter(stray).map(|mount| mount.point.as_path())
}

/// Mounts below `/` that hold files and are on no path a bottle has its own, shared or hidden view of. Outer ones first, the
/// topmost of each place.
pub(super) fn file_mounts<'table>(table: &'table [Mount], elsewhere: &[PathBuf]) -> Vec<&'table Mount> {
    let holds_files = |mount: &&Mount| {
        let is_kernels = KERNEL_FILESYSTEMS.contains(&mount.kind.as_str()) || mount.kind == "nsfs";
        !is_kernels && mount.point != Path::new("/") && !is_fresh(&mount.point)
    };
    let is_elsewhere = |mount: &&Mount| elsewhere.iter().any(|path| mount.point.starts_with(path));
    let found = table.iter().filter(holds_files).filter(|mount| !is_elsewhere(mount));
    found.map(|mount| (mount.point.as_path(), mount)).collect::<BTreeMap<_, _>>().into_values().collect()
}

/// Directories to share, the outermost only. What a bottle has its own of is not shared.
pub(in crate::bottle) fn shared(directories: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let wanted: BTreeSet<PathBuf> = directories.into_iter().filter(|path| !is_fresh(path)).collect();
    let is_inside = |path: &Path| path.ancestors().skip(1).any(|outer| wanted.contains(outer));
    wanted.iter().filter(|path| !is_inside(path)).cloned().collect()
}

/// A mount's place as the name of one directory entry.
pub(super) fn entry_name(place: &Path) -> OsString {
    let place = place.strip_prefix("/").ok().filter(|rest| !rest.as_os_str().is_empty()).unwrap_or(place);
    let escaped = |byte: &u8| match byte {
        b'/' => b"%2f".to_vec(),
        b'%' => b"%25".to_vec(),
        other => vec![*other],
    };
    OsString::from_vec(place.as_os_str().as_bytes().iter().flat_map(escaped).collect())
}

/// What to do about a working directory that is not there inside. It would have been shared if that could be: `--share` is no help.
pub(super) fn unseen(directory: &Path) -> String {
    let place = directory.display();
    let Some(fresh) = FRESH.iter().find(|fresh| directory.starts_with(fresh)) else {
        return format!("bottles do not see {place}: `cd` to another directory first");
    };
    format!("bottles do not see {place}, as each has a {fresh} of its own: `cd` to a directory outside {fresh} first")
}

fn is_fresh(path: &Path) -> bool {
    FRESH.iter().any(|fresh| path.starts_with(fresh))
}

/// Paths of the host's Unix sockets, from `/proc/net/unix`: seven fields, then the path, if it has one.
pub(super) fn socket_paths(table: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| line.find('/').and_then(|start| line.get(start..)).map(PathBuf::from);
    table.lines().skip(1).filter(|line| !line.contains(" @")).filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(point: &str, kind: &str) -> Mount {
        Mount { point: point.into(), root: "/".into(), kind: kind.to_owned(), options: Vec::new() }
    }

    fn paths<const COUNT: usize>(paths: [&str; COUNT]) -> Vec<PathBuf> {
        paths.map(PathBuf::from).to_vec()
    }

    #[test]
    fn a_directory_that_is_not_there_inside_is_named_with_what_to_do() {
        for (directory, expected) in [
            (
                "/run/u",
                "bottles do not see /run/u, as each has a /run of its own: `cd` to a directory outside /run first",
            ),
            ("/srv/runs", "bottles do not see /srv/runs: `cd` to another directory first"),
        ] {
            assert_eq!(unseen(Path::new(directory)), expected);
        }
    }

    #[test]
    fn mounts_that_hold_files_are_layered_outer_ones_first() {
        let table = [
            mount("/", "ext4"),
            mount("/srv/u/disk", "xfs"),
            mount("/srv", "ext4"),
            mount("/srv", "btrfs"),
            mount("/run/media/stick", "vfat"),
            mount("/dev/shm", "tmpfs"),
            mount("/srv/netns/a", "nsfs"),
            mount("/srv/root/proc", "proc"),
            mount("/data/project/disk", "ext4"),
            mount("/tmp", "tmpfs"),
        ];
        let found = file_mounts(&table, &paths(["/data/project"]));
        let found: Vec<_> = found.iter().map(|mount| (mount.point.to_str().unwrap(), mount.kind.as_str())).collect();
        assert_eq!(found, [("/srv", "btrfs"), ("/srv/u/disk", "xfs"), ("/tmp", "tmpfs")]);
    }

    #[test]
    fn what_is_shared_is_shared_once() {
        let shared = shared(paths(["/data/a/b", "/data/a", "/data/ab", "/run/user/1", "/data/a", "/dev"]));
        assert_eq!(shared, paths(["/data/a", "/data/ab"]));
    }

    #[test]
    fn places_are_names_and_no_two_the_same() {
        for (place, name) in
            [("/", "%2f"), ("/home", "home"), ("/a/b", "a%2fb"), ("/a%2fb", "a%252fb"), ("/%2f", "%252f")]
        {
            assert_eq!(entry_name(Path::new(place)), name, "{place}");
        }
    }

    #[test]
    fn a_bundle_without_a_final_line_end_is_not_glued() {
        assert_eq!(bundle("-----END CERTIFICATE-----", "-----BEGIN"), "-----END CERTIFICATE-----\n-----BEGIN");
        assert_eq!(bundle("", "-----BEGIN"), "-----BEGIN");
    }

    #[test]
    fn links_of_resolvers_are_plain() {
        let plain = without_dots(Path::new("/etc/../run/./systemd/resolve/stub-resolv.conf"));
        assert_eq!(plain, Path::new("/run/systemd/resolve/stub-resolv.conf"));
        assert_eq!(without_dots(Path::new("/../../run")), Path::new("/run"));
    }

    #[test]
    fn stray_windows_into_the_kernel_are_found() {
        let table =
            [mount("/proc", "proc"), mount("/srv/root/proc", "proc"), mount("/home", "ext4"), mount("/bpf", "bpf")];
        let stray: Vec<_> = stray_kernel_mounts(&table).collect();
        assert_eq!(stray, [Path::new("/srv/root/proc"), Path::new("/bpf")]);
    }

    #[test]
    fn sockets_with_a_path_are_found_once() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 20163 /tmp/tmux-1000/default\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 20164 /tmp/tmux-1000/default\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 20165 @/tmp/.X11-unix/X0\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 20166\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 20167 /srv/two words\n";
        let paths: Vec<_> = socket_paths(table).into_iter().collect();
        assert_eq!(paths, [PathBuf::from("/srv/two words"), PathBuf::from("/tmp/tmux-1000/default")]);
    }
}
