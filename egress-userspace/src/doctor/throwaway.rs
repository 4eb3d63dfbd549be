//! A bottle to be attacked: built as every bottle is, under names of its own, with nothing running in it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use tokio::runtime::Runtime;

use super::DoctorError;
use super::attacks::Parties;
use super::raw_socket::{RawSocket, Wire};
use crate::bottle::{BottleError, BottleSpec, BuiltBottle, HostView, HostWiring, NativeRuntime};
use crate::domain::{BottleId, BottleName, CutMode};
use crate::kernel::{Gate, GateStatus, IfIndex, remove_alone};

/// Networks between test equipment (RFC 2544): nobody's.
const BENCHMARK_NETWORK: u32 = 0xc612_0000;
/// Addresses of one throw-away bottle.
const ADDRESSES_EACH: u32 = 4;
/// How many fit.
const PLACES: u32 = (1 << 17) / ADDRESSES_EACH;

const TCP_PORTS: [u16; 3] = [8080, 443, 80];
const DNS_PORT: u16 = 53;
/// No bottle of a ledger has this number.
const NOBODY: BottleId = BottleId(0);
const INNER_INTERFACE: &str = "eth0";

/// What a throw-away bottle is called and where its things are.
#[derive(Clone, Debug)]
pub struct Names {
    /// Its run directory; removed with it.
    pub directory: PathBuf,
    /// Where its gate is pinned; removed with it.
    pub pins: PathBuf,
    /// Its bridge.
    pub bridge: String,
    /// Its control group.
    pub group: String,
    /// Tells it from others.
    pub number: u32,
}

/// Whose network it is joined to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The host's.
    Host,
    /// A namespace of its own, which ends with the work.
    Private,
}

/// It. The thread that built it is in the host's, or the private, namespace.
pub(super) struct Throwaway {
    runtime: NativeRuntime,
    tokio: Runtime,
    spec: BottleSpec,
    names: Names,
    gateway: Ipv4Addr,
    built: BuiltBottle,
}

/// One side of a gate.
pub(super) struct Side {
    socket: RawSocket,
    wire: Wire,
}

impl Side {
    fn open(interface: u32) -> io::Result<Self> {
        Ok(Self { socket: RawSocket::open(0)?, wire: Wire::find(interface)? })
    }

    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(&self.wire, frame)
    }
}

impl Throwaway {
    /// Builds it; its host end is down.
    pub(super) fn build(names: &Names) -> Result<Self, DoctorError> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DoctorError::Thread)?;
        let place = BENCHMARK_NETWORK + (names.number % PLACES) * ADDRESSES_EACH;
        let [gateway, address] = [place + 1, place + 2].map(Ipv4Addr::from_bits);
        let runtime = runtime(names, gateway);
        let name = bottle_name(names)?;
        let [a, b, c, d] = address.octets();
        let spec = BottleSpec { name, address, mac: [2, 0, a, b, c, d] };
        let built = tokio.block_on(async {
            runtime.prepare_host().await?;
            runtime.build(&spec).await
        });
        match built {
            Ok(built) => Ok(Self { runtime, tokio, spec, names: names.clone(), gateway, built }),
            Err(error) => {
                // The first error is the one to tell.
                let _ = remove(names);
                Err(error.into())
            }
        }
    }

    pub(super) fn bring_up(&self) -> Result<(), DoctorError> {
        Ok(self.tokio.block_on(self.runtime.bring_up(&self.spec, &self.built))?)
    }

    pub(super) fn gate(&self) -> Gate {
        Gate {
            interface: IfIndex(self.built.interface),
            bottle: NOBODY,
            mac: self.spec.mac,
            address: self.spec.address,
            gateway: self.gateway,
            tcp_ports: TCP_PORTS.to_vec(),
            dns_port: DNS_PORT,
            status: GateStatus::Open,
            cut_mode: CutMode::Drop,
        }
    }

    pub(super) fn parties(&self) -> Result<Parties, DoctorError> {
        let wire = Wire::find(self.built.interface).map_err(DoctorError::Frames)?;
        Ok(Parties {
            bottle: self.spec.address.octets(),
            bottle_mac: self.spec.mac,
            gateway: self.gateway.octets(),
            host_mac: wire.mac().unwrap_or_default(),
            host: Ipv4Addr::LOCALHOST.octets(),
            stranger: (self.gateway.to_bits() + 2).to_be_bytes(),
            tcp_ports: TCP_PORTS,
            dns_port: DNS_PORT,
            run: self.names.number,
        })
    }

    pub(super) fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    pub(super) fn host_side(&self) -> Result<Side, DoctorError> {
        Side::open(self.built.interface).map_err(DoctorError::Frames)
    }

    pub(super) fn bottle_side(&self) -> Result<Side, DoctorError> {
        self.inside(|| Side::open(nix::net::if_::if_nametoindex(INNER_INTERFACE)?))
    }

    /// Runs work in its namespace.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T, DoctorError> {
        self.runtime.inside(&self.spec.name, work).map_err(DoctorError::Frames)
    }

    /// Removes all of it.
    pub(super) fn remove(self) -> Result<(), DoctorError> {
        remove(&self.names)
    }
}

/// Does work on a thread in one place; namespaces belong to threads.
pub(super) fn on_thread<T: Send>(
    place: Place,
    work: impl FnOnce() -> Result<T, DoctorError> + Send,
) -> Result<T, DoctorError> {
    let body = || {
        if place == Place::Private {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|error| DoctorError::Thread(error.into()))?;
        }
        work()
    };
    let panicked = |_| Err(DoctorError::Thread(io::Error::other("the thread panicked")));
    thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(panicked)
}

/// Removes whatever there is of a throw-away bottle of this name.
pub(super) fn remove(names: &Names) -> Result<(), DoctorError> {
    let runtime = runtime(names, Ipv4Addr::UNSPECIFIED);
    let own = bottle_name(names)?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DoctorError::Thread)?;
    let removed: Result<(), BottleError> = tokio.block_on(async {
        // Another name may have been used here before.
        let leftovers = runtime.leftovers()?;
        let others = leftovers.iter().filter(|name| name.as_str().starts_with(BOTTLE_PREFIX));
        for name in others.chain([&own]) {
            runtime.take_down(name).await?;
        }
        runtime.remove_host().await
    });
    remove_alone(&names.pins)?;
    for directory in [&names.pins, &names.directory] {
        match fs::remove_dir_all(directory) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(DoctorError::Left { path: directory.clone(), source });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(removed?)
}

fn bottle_name(names: &Names) -> Result<BottleName, DoctorError> {
    let unlikely = |_| DoctorError::Thread(io::Error::other("no name for a bottle"));
    format!("{BOTTLE_PREFIX}{}", names.number).parse().map_err(unlikely)
}

fn runtime(names: &Names, gateway: Ipv4Addr) -> NativeRuntime {
    let wiring = HostWiring {
        bridge: names.bridge.clone(),
        gateway,
        run_directory: names.directory.join("bottles"),
        layers: names.directory.join("layers"),
        hidden: Vec::new(),
        ca_pem: String::new(),
        view: HostView::default(),
    };
    NativeRuntime::new(wiring).with_group(names.group.clone())
}

/// Begins the names of the doctor's own bridges.
const BRIDGE_PREFIX: &str = "egdoctor";
/// Begins the names of its bottles.
const BOTTLE_PREFIX: &str = "doctor-";
/// Where its directories are: nobody but root can put anything there.
const DIRECTORIES: &str = "/run";
/// Begins the names of its directories.
const DIRECTORY_PREFIX: &str = "egress-doctor-";
const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

impl Names {
    /// Those of the doctor of one process.
    #[must_use]
    pub fn of_process(pid: u32) -> Self {
        Self {
            directory: Path::new(DIRECTORIES).join(format!("{DIRECTORY_PREFIX}{pid}")),
            pins: Path::new(BPF_FILE_SYSTEM).join(format!("{DIRECTORY_PREFIX}{pid}")),
            bridge: format!("{BRIDGE_PREFIX}{pid}"),
            group: format!("{BRIDGE_PREFIX}{pid}"),
            number: pid,
        }
    }
}

/// Removes what doctors have left that were killed.
pub(super) fn remove_leftovers() -> Result<(), DoctorError> {
    let places = [DIRECTORIES, BPF_FILE_SYSTEM, "/sys/class/net"];
    let entries = places.iter().flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut dead: Vec<u32> = names.filter_map(|name| pid_of(&name)).filter(|pid| !is_alive(*pid)).collect();
    dead.sort_unstable();
    dead.dedup();
    dead.into_iter().try_for_each(|pid| remove(&Names::of_process(pid)))
}

fn pid_of(name: &str) -> Option<u32> {
    name.strip_prefix(DIRECTORY_PREFIX).or_else(|| name.strip_prefix(BRIDGE_PREFIX))?.parse().ok()
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
