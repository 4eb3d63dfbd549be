//! Taking a world's traces off the machine: processes, control groups, mounts, directories, pins.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::names::{GROUP_PREFIX, Names, PINS, PREFIX};

/// How long killed processes may take to leave their group.
const EMPTY_MAX: Duration = Duration::from_secs(5);

/// What runs of a world on the host.
const PROGRAMS: [&str; 6] = ["egress", "dockerd", "containerd", "containerd-shim-runc-v2", "podman", "conmon"];

static DEAD: Once = Once::new();

/// Removes the worlds of test processes that were killed, once.
pub(super) fn remove_dead() {
    DEAD.call_once(|| {
        let places = [Some(std::env::temp_dir()), Some(PathBuf::from(PINS)), tree()];
        let names = places.into_iter().flatten().flat_map(|place| entries(&place));
        let worlds: BTreeSet<(u32, u32)> = names.filter_map(|name| world_of(&name)).collect();
        for (pid, number) in worlds {
            let is_dead = i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH));
            if is_dead {
                remove(&Names::of(pid, number));
            }
        }
    });
}

/// Removes one world. Whatever is not there is as good as removed.
pub(super) fn remove(names: &Names) {
    end_processes(names);
    end_containers(&names.directory);
    remove_engine_groups(&names.engine_group());
    for tree in tree().into_iter().chain([names.run.join("bottles/.cgroup")]) {
        // That of bottles, and that of a daemon's self-check which was killed.
        let is_own = |name: &String| name.starts_with(&names.bridge) && world_of(name) == world_of(&names.bridge);
        entries(&tree).iter().filter(|name| is_own(name)).for_each(|name| remove_group(&tree.join(name)));
    }
    unmount_below(&names.directory);
    let _ = fs::remove_dir_all(&names.directory);
    let _ = fs::remove_dir_all(&names.pins);
}

/// What cgroup v2 shows on this machine.
#[must_use]
pub(super) fn tree() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut words = head.split(' ').skip(3);
        let (root, point) = (words.next()?, words.next()?);
        (tail.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    })
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn world_of(name: &str) -> Option<(u32, u32)> {
    let of_directory = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    let of_group = || name.strip_prefix(GROUP_PREFIX).and_then(|rest| rest.split_once('x'));
    let (pid, number) = of_directory.or_else(of_group)?;
    let digits = number.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    Some((pid.parse().ok()?, digits.parse().ok()?))
}

/// Kills processes of ours that were given a path of this world.
fn end_processes(names: &Names) {
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('\0').map(Path::new);
        let name = words.next().and_then(Path::file_name).unwrap_or_default();
        let is_ours = PROGRAMS.iter().any(|program| name == *program);
        if is_ours && words.any(|word| word.starts_with(&names.directory) || word.starts_with(&names.pins)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Kills processes whose root is in this directory: those of containers whose engine was killed.
fn end_containers(directory: &Path) {
    let place = directory.display().to_string();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let mounts = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"));
        if root.is_some_and(|root| root.contains(&place)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The control groups of an engine: with version 1 it has one of every kind.
fn remove_engine_groups(group: &str) {
    let group = group.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let places = entries(root).into_iter().map(|kind| root.join(kind).join(group)).chain([root.join(group)]);
    for place in places.filter(|place| place.exists()) {
        remove_group(&place);
    }
}

fn remove_group(group: &Path) {
    let _ = fs::write(group.join("cgroup.kill"), "1");
    let deadline = Instant::now() + EMPTY_MAX;
    while remove_groups_below(group).is_err_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy)
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn remove_groups_below(group: &Path) -> std::io::Result<()> {
    // With version 1 nothing that stands still can be killed: an engine that was killed has left it so.
    let _ = fs::write(group.join("freezer.state"), "THAWED");
    for entry in fs::read_dir(group)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_groups_below(&entry.path())?;
    }
    fs::remove_dir(group)
}

/// The innermost first.
fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    let mut points: Vec<&Path> = points.filter(|point| point.starts_with(directory)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
    for point in points {
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
}
