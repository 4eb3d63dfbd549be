//! Where gates live on while nobody runs: the pin directory.
//!
//! `<pins>/<map>` for every map, `<pins>/links/<ifindex>-<ingress|egress>` for every tcx link. Knows paths, the BPF
//! file system and the version of what is pinned; nothing of what the maps hold.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData};
use aya::programs::TcAttachType;
use egress_common::ABI_VERSION;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::super::{IfIndex, KernelError};

/// Where the kernel's documentation and every tool expect the BPF file system.
const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// Every map of the program, by the name it has there and in the pin directory.
pub(super) const MAPS: [&str; 6] = ["gates", "counters", "drop_events", "drop_rates", "reset_rates", ABI_MAP];
pub(super) const ABI_MAP: &str = "abi";

/// The pin directory.
pub(super) struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// Makes the directory, on a BPF file system that is mounted if need be, and looks at what it holds.
    pub(super) fn open(directory: &Path) -> Result<Self, KernelError> {
        let pins = Self { directory: directory.to_owned() };
        if directory.starts_with(BPF_FILE_SYSTEM) {
            mount_once(Path::new(BPF_FILE_SYSTEM)).map_err(|source| pins.failed("mounted", source))?;
        }
        fs::create_dir_all(pins.links()).map_err(|source| pins.failed("created", source))?;
        pins.check_version()?;
        Ok(pins)
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn link(&self, interface: IfIndex, hook: TcAttachType) -> PathBuf {
        let hook = match hook {
            TcAttachType::Ingress => "ingress",
            TcAttachType::Egress => "egress",
            TcAttachType::Custom(_) => "custom",
        };
        self.links().join(format!("{}-{hook}", interface.0))
    }

    /// Where a link is until it takes the place of [`Self::link`].
    pub(super) fn next_link(&self, interface: IfIndex, hook: TcAttachType) -> PathBuf {
        let mut pin = self.link(interface, hook).into_os_string();
        // Names with a dot are the kernel's there.
        pin.push("-next");
        pin.into()
    }

    /// Removes a pin; one that is not there is no error.
    pub(super) fn remove(&self, pin: &Path) -> Result<(), KernelError> {
        match fs::remove_file(pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("cleaned", error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    /// The version is the last thing a first loader writes and the first thing the next one reads. Maps without one
    /// were left by a loader that died before it attached anything.
    fn check_version(&self) -> Result<(), KernelError> {
        let found = self.found_version()?;
        if found == ABI_VERSION {
            return Ok(());
        }
        if found != 0 || self.holds_links()? {
            return Err(KernelError::Version { path: self.directory.clone(), found, wanted: ABI_VERSION });
        }
        MAPS.iter().try_for_each(|name| self.remove(&self.map(name)))
    }

    /// 0 when there is none.
    fn found_version(&self) -> Result<u32, KernelError> {
        let path = self.map(ABI_MAP);
        if !path.exists() {
            return Ok(0);
        }
        let unreadable =
            |source: aya::maps::MapError| KernelError::Map { map: ABI_MAP, action: "read", source: source.into() };
        let map = MapData::from_pin(path).and_then(Map::from_map_data).map_err(unreadable)?;
        let versions: Array<MapData, u32> = map.try_into().map_err(unreadable)?;
        versions.get(&0, 0).map_err(unreadable)
    }

    fn holds_links(&self) -> Result<bool, KernelError> {
        let mut links = fs::read_dir(self.links()).map_err(|source| self.failed("read", source))?;
        Ok(links.next().is_some())
    }

    fn failed(&self, action: &'static str, source: io::Error) -> KernelError {
        KernelError::Pins { path: self.directory.clone(), action, source }
    }
}

/// Mounts the BPF file system unless it is. Whoever else wants to waits: a second mount would hide the pins in the first.
fn mount_once(point: &Path) -> io::Result<()> {
    let _turn = Flock::lock(File::open(point)?, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    if statfs(point)?.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("bpf"), point, Some("bpf"), flags, Some("mode=0700"))?)
}
