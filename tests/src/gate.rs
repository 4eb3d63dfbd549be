//! One bottle and its host as two network namespaces, and the backends whose gates are tried between them.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use anyhow::{Context, Result};
use egress_common::{Direction, Outcome};
use egress_userspace::doctor::attacks::{self, Parties};
use egress_userspace::domain::{BottleId, CutMode};
use egress_userspace::kernel::{
    EbpfEnforcer, Enforcer, FakeEnforcer, Gate, GateStatus, IfIndex, NftEnforcer, TABLE_NAME, TcAttachment,
};

use crate::netns::NetNs;
use crate::packet::{self, Marker, RawSocket, Wire};

/// The gateway's address; the host has it.
pub const GATEWAY: [u8; 4] = [10, 213, 0, 1];
/// Another address of the host.
pub const HOST: [u8; 4] = [10, 213, 0, 9];
/// The bottle's address.
pub const BOTTLE: [u8; 4] = [10, 213, 0, 2];
/// The bottle's hardware address.
pub const BOTTLE_MAC: [u8; 6] = [2, 0, 10, 213, 0, 2];
/// The hardware address of the host end.
pub const HOST_MAC: [u8; 6] = [2, 0, 10, 213, 0, 1];
/// The TCP ports of the gateway that the bottle is given.
pub const TCP_PORTS: [u16; 3] = [8080, 443, 80];
/// The UDP port of the resolver.
pub const DNS_PORT: u16 = 53;
/// All of them, as attacks name them.
pub const PARTIES: Parties = Parties {
    bottle: BOTTLE,
    bottle_mac: BOTTLE_MAC,
    gateway: GATEWAY,
    host_mac: HOST_MAC,
    host: HOST,
    stranger: [10, 213, 0, 77],
    tcp_ports: TCP_PORTS,
    dns_port: DNS_PORT,
    run: 0,
};
/// The bottle's number.
pub const BOTTLE_ID: BottleId = BottleId(42);
/// How long something that will happen may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A host and a bottle joined by a veth pair, the host's end `gate0`, the bottle's `eth0`.
#[derive(Debug)]
pub struct World {
    /// Where the gate and the gateway are.
    pub host: NetNs,
    /// Where the attacker is.
    pub bottle: NetNs,
    /// `gate0`.
    pub interface: IfIndex,
    /// `eth0`, in the bottle.
    pub inner: u32,
}

/// What implements [`Enforcer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In memory.
    Fake,
    /// eBPF on tcx links.
    Tcx,
    /// eBPF on clsact filters.
    Clsact,
    /// A table of nftables.
    Nftables,
}

/// A pin directory of this test's own, removed with it.
#[derive(Debug)]
pub struct PinDirectory(PathBuf);

/// Who would see a packet that got past the gate.
#[derive(Debug)]
pub struct Witness(Vec<RawSocket>);

/// One side of a gate, to send from.
#[derive(Debug)]
pub struct Line {
    socket: RawSocket,
    wire: Wire,
}

impl World {
    /// Makes both, with addresses and routes as a bottle gets them.
    pub fn new() -> Result<Self> {
        let (host, bottle) = (NetNs::new()?, NetNs::new()?);
        host.ip(&format!("address add {}/32 dev lo", address(GATEWAY)))?;
        host.ip(&format!("address add {}/32 dev lo", address(HOST)))?;
        let mut world = Self { host, bottle, interface: IfIndex(0), inner: 0 };
        world.plug_in(100)?;
        Ok(world)
    }

    /// Joins host and bottle by a new veth pair whose host end has this number.
    pub fn plug_in(&mut self, index: u32) -> Result<()> {
        let ends = format!(
            "link add gate0 index {index} address {} type veth peer name eth0 address {} netns {}",
            mac(HOST_MAC),
            mac(BOTTLE_MAC),
            self.bottle.path()
        );
        self.host.ip(&ends)?;
        self.host.ip("link set gate0 up")?;
        self.bottle.ip("link set eth0 up")?;
        self.bottle.ip(&format!("address add {}/32 dev eth0", address(BOTTLE)))?;
        self.bottle.ip(&format!("route add {} dev eth0", address(GATEWAY)))?;
        self.bottle.ip(&format!("route add default via {}", address(GATEWAY)))?;
        self.host.ip(&format!("route add {} dev gate0 src {}", address(BOTTLE), address(GATEWAY)))?;
        self.interface = IfIndex(self.host.interface("gate0")?);
        self.inner = self.bottle.interface("eth0")?;
        Ok(())
    }

    /// The gate this bottle gets.
    #[must_use]
    pub fn gate(&self) -> Gate {
        gate(self.interface)
    }

    /// Sees what comes out of the gate at the host, of the kinds that [`attacks::from_bottle`] has.
    pub fn witness_at_host(&self) -> Result<Witness> {
        self.witness_of(vec![packet::IPV4, packet::ARP, packet::IPV6, packet::VLAN, packet::EXPERIMENT])
    }

    /// Sees every kind of frame that attacks have. It takes the kernel a while to be rid of it.
    pub fn witness_of_all_at_host(&self) -> Result<Witness> {
        self.witness_of(attacks::ether_types())
    }

    fn witness_of(&self, kinds: Vec<u16>) -> Result<Witness> {
        self.host.run(|| Ok(Witness(kinds.into_iter().map(RawSocket::open).collect::<io::Result<_>>()?)))
    }

    /// Sees what comes out of the gate in the bottle.
    pub fn witness_in_bottle(&self) -> Result<Witness> {
        self.bottle.run(|| Ok(Witness(vec![RawSocket::open(packet::ALL)?])))
    }

    /// Sends a frame through the gate from the side it comes from.
    pub fn send(&self, direction: Direction, frame: &[u8]) -> Result<()> {
        self.storm(direction, frame, 1)
    }

    /// Sends it so often, as fast as can be.
    pub fn storm(&self, direction: Direction, frame: &[u8], times: usize) -> Result<()> {
        let line = self.line(direction)?;
        (0..times).try_for_each(|_| line.send(frame))
    }

    /// Sends frames from the side they come from.
    pub fn line(&self, direction: Direction) -> Result<Line> {
        let (from, interface) = match direction {
            Direction::FromBottle => (&self.bottle, self.inner),
            Direction::ToBottle => (&self.host, self.interface.0),
        };
        // EtherType 0: it is to send, not to receive.
        Self::line_in(from, interface)
    }

    /// Sends out of an interface of some namespace.
    pub fn line_in(namespace: &NetNs, interface: u32) -> Result<Line> {
        namespace.run(|| Ok(Line { socket: RawSocket::open(0)?, wire: Wire::find(interface)? }))
    }
}

impl Line {
    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        Ok(self.socket.send(&self.wire, frame)?)
    }
}

impl Witness {
    /// Does a frame with this marker arrive?
    pub fn sees(&self, marker: Marker) -> bool {
        until(PATIENCE, || self.has_seen(marker))
    }

    /// Has one arrived by now?
    #[must_use]
    pub fn has_seen(&self, marker: Marker) -> bool {
        self.0.iter().fold(false, |seen, socket| seen | socket.has_received(marker))
    }
}

impl Backend {
    /// A new value of it, for the namespace it is called in. The same pin directory means the same gates; a table of
    /// nftables is the namespace's.
    pub fn open(self, pins: &Path) -> Result<Box<dyn Enforcer>> {
        Ok(match self {
            Self::Fake => Box::new(FakeEnforcer::default()),
            Self::Tcx => Box::new(EbpfEnforcer::new(pins, TcAttachment::Tcx)?),
            Self::Clsact => Box::new(EbpfEnforcer::new(pins, TcAttachment::Clsact)?),
            Self::Nftables => Box::new(NftEnforcer::new(TABLE_NAME)?),
        })
    }
}

impl PinDirectory {
    /// A name nobody has; what dead runs have left is removed.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self(PathBuf::from(format!("{PIN_PREFIX}{}-{number}", std::process::id()))))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PinDirectory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

const PIN_PREFIX: &str = "/sys/fs/bpf/egress-test-";

fn remove_leftovers() {
    for entry in fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten() {
        let path = entry.path();
        let owner =
            path.to_str().and_then(|path| path.strip_prefix(PIN_PREFIX)).and_then(|name| name.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            fs::remove_dir_all(path).ok();
        }
    }
}

/// The gate of the world's bottle on some interface.
#[must_use]
pub fn gate(interface: IfIndex) -> Gate {
    Gate {
        interface,
        bottle: BOTTLE_ID,
        mac: BOTTLE_MAC,
        address: address(BOTTLE),
        gateway: address(GATEWAY),
        tcp_ports: TCP_PORTS.to_vec(),
        dns_port: DNS_PORT,
        status: GateStatus::Open,
        cut_mode: CutMode::Drop,
    }
}

/// Packets counted in one cell.
pub fn counted(gates: &dyn Enforcer, interface: IfIndex, direction: Direction, outcome: Outcome) -> Result<u64> {
    let counters = gates.counters(interface).context("reading counters")?;
    let cell = counters.iter().find(|cell| cell.direction == direction && cell.outcome == outcome);
    Ok(cell.map_or(0, |cell| cell.packets))
}

/// Waits until something holds; false when it does not in time.
pub fn until(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// An address as the standard library has it.
#[must_use]
pub fn address(octets: [u8; 4]) -> Ipv4Addr {
    Ipv4Addr::from(octets)
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
