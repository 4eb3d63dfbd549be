//! Everything a world has outside its namespace is named after the test's process and a number.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::leftovers;

/// The gateway's address in every world.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
/// Begins the names of directories.
pub(super) const PREFIX: &str = "egress-test-";
/// Begins the names of bridges and control groups; a bridge's name has 15 bytes at most.
pub(super) const GROUP_PREFIX: &str = "egt";
/// Where gates are pinned.
pub(super) const PINS: &str = "/sys/fs/bpf";

static LAST: AtomicU32 = AtomicU32::new(0);

/// Where a world is.
#[derive(Clone, Debug)]
pub struct Names {
    /// Holds everything but the pins.
    pub directory: PathBuf,
    /// The daemon's home.
    pub home: PathBuf,
    /// Its run directory.
    pub run: PathBuf,
    /// Its pins.
    pub pins: PathBuf,
    /// Its bridge and its control group.
    pub bridge: String,
    /// What it logs.
    pub log: PathBuf,
}

impl Names {
    /// Names nobody has.
    pub(super) fn fresh() -> Self {
        Self::of(std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
    }

    /// Where its bottles' control groups are, once there was one.
    #[must_use]
    pub fn group(&self) -> Option<PathBuf> {
        let own = self.run.join("bottles/.cgroup");
        leftovers::tree().into_iter().chain([own]).map(|tree| tree.join(&self.bridge)).find(|group| group.exists())
    }

    /// The control group of a container engine in the world.
    #[must_use]
    pub fn engine_group(&self) -> String {
        format!("/{}d", self.bridge)
    }

    /// The names of one world of one process.
    pub(super) fn of(pid: u32, number: u32) -> Self {
        let name = format!("{PREFIX}{pid}-{number}");
        let directory = std::env::temp_dir().join(&name);
        Self {
            home: directory.join("home"),
            run: directory.join("run"),
            log: directory.join("daemon.log"),
            pins: PathBuf::from(PINS).join(name),
            bridge: format!("{GROUP_PREFIX}{pid}x{number}"),
            directory,
        }
    }
}
