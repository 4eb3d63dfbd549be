//! Gates in the kernel: attach, open, cut, read back.
//!
//! [`Enforcer`] is the boundary. Two things implement it, eBPF and nftables, and a fake for tests; one conformance
//! suite runs over all. Nothing here knows what a token or a request is. Owns `aya`.

mod choice;
mod ebpf;
mod fake;
mod nft;

pub use choice::{Opened, open, open_alone, remove_alone};
pub use ebpf::{EbpfEnforcer, PIN_DIRECTORY, TcAttachment};
#[cfg(test)]
pub(crate) use fake::sample_gate;
pub use fake::{Call, FakeEnforcer};
pub use nft::{NftEnforcer, TABLE_NAME};

use std::net::Ipv4Addr;
use std::path::PathBuf;

use egress_common::{CutReason, Direction, Outcome};
use thiserror::Error;

use crate::domain::{BottleId, CutMode};

/// An interface by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfIndex(pub u32);

impl IfIndex {
    /// Is there an interface of that number in this network namespace?
    #[must_use]
    pub fn exists(self) -> bool {
        nix::net::if_::if_indextoname(self.0).is_ok_and(|name| !name.is_empty())
    }
}

/// Open, or cut and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateStatus {
    /// What the promise allows passes.
    Open,
    /// Nothing passes.
    Cut(CutReason),
}

/// The whole desired state of one gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Host end of the bottle's veth.
    pub interface: IfIndex,
    /// Whose gate.
    pub bottle: BottleId,
    /// The bottle's hardware address.
    pub mac: [u8; 6],
    /// The bottle's address.
    pub address: Ipv4Addr,
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// TCP ports of the gateway it may use; at most `GATE_TCP_PORTS_MAX`.
    pub tcp_ports: Vec<u16>,
    /// UDP port of the resolver.
    pub dns_port: u16,
    /// Open or cut.
    pub status: GateStatus,
    /// What the bottle hears of a cut.
    pub cut_mode: CutMode,
}

/// One counter cell of one gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Which way the packets went.
    pub direction: Direction,
    /// What became of them.
    pub outcome: Outcome,
    /// How many.
    pub packets: u64,
    /// How many bytes, Ethernet header included.
    pub bytes: u64,
}

/// What makes a gate, on one hook of its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// `tcx ingress`, `clsact egress` …
    pub hook: String,
    /// Its name.
    pub name: String,
    /// The kernel's number of it.
    pub id: u32,
    /// The kernel's hash of its instructions.
    pub tag: u64,
    /// Nanoseconds a packet takes it, where the kernel measures that.
    pub average_ns: Option<u64>,
}

/// Why the kernel does not hold what was asked.
#[derive(Debug, Error)]
pub enum KernelError {
    /// A backend does not work here.
    #[error("gates of {backend} cannot be made ({hint})")]
    Load {
        /// `eBPF` or `nftables`.
        backend: &'static str,
        /// What to do about it.
        hint: &'static str,
        /// What aya says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A gate was not attached.
    #[error("attaching the gate to interface {} failed", interface.0)]
    Attach {
        /// Which interface.
        interface: IfIndex,
        /// What the kernel says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A gate on its interface was not looked up or removed.
    #[error("the gate on interface {} could not be {action}", interface.0)]
    Interface {
        /// Which interface.
        interface: IfIndex,
        /// Removed, looked up …
        action: &'static str,
        /// What the kernel says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map was not read or written.
    #[error("the gate map {map} could not be {action}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Read, written, opened …
        action: &'static str,
        /// What the kernel says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The gate has no entry.
    #[error("interface {} has no gate", .0.0)]
    NoGate(IfIndex),
    /// More ports than an entry holds.
    #[error("a gate holds at most {max} TCP ports, {given} were given")]
    TooManyPorts {
        /// The limit.
        max: usize,
        /// What was asked for.
        given: usize,
    },
    /// The pins were made by another version.
    #[error(
        "the gates pinned in {path} speak version {found} of the gate interface, this binary speaks {wanted}: end their bottles, remove {path} and start again"
    )]
    Version {
        /// Where.
        path: PathBuf,
        /// Theirs.
        found: u32,
        /// Ours.
        wanted: u32,
    },
    /// Pins could not be made or removed.
    #[error(
        "the pin directory {path} could not be {action} (`mount -t bpf bpf /sys/fs/bpf` makes room for gates of eBPF, \
         `enforcer: nftables` in settings.yml does without)"
    )]
    Pins {
        /// Where.
        path: PathBuf,
        /// Created, mounted, read …
        action: &'static str,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

/// Holds gates in the kernel. Every call returns when the kernel holds the result; gates outlive the value.
pub trait Enforcer: Send + Sync {
    /// `ebpf`, `nftables` or `fake`, for people.
    fn backend(&self) -> &'static str;

    /// Writes the gate's entry, then attaches it to its interface; repeating it is harmless.
    /// After an error the interface is either without traffic or without a gate and must not be used.
    fn attach(&self, gate: &Gate) -> Result<(), KernelError>;

    /// Opens or cuts an attached gate; the next packet sees it.
    fn set(&self, interface: IfIndex, status: GateStatus) -> Result<(), KernelError>;

    /// [`Self::set`] for many gates, all of them in one moment where the backend can. A gate that is missing or fails does
    /// not keep the others; the first error is told.
    fn set_many(&self, wanted: &[(IfIndex, GateStatus)]) -> Result<(), KernelError> {
        let set = wanted.iter().map(|(interface, status)| self.set(*interface, *status));
        set.fold(Ok(()), Result::and)
    }

    /// Removes gate, entry and counters. An interface that is gone is no error.
    fn detach(&self, interface: IfIndex) -> Result<(), KernelError>;

    /// The kernel's own view of all gates, attached or not; sorted by interface.
    fn gates(&self) -> Result<Vec<Gate>, KernelError>;

    /// Is the gate on its interface in both directions, its program or all of its rules?
    fn is_attached(&self, interface: IfIndex) -> Result<bool, KernelError>;

    /// Is anything of a gate on the interface: one direction of it, another version's program, rules that somebody changed?
    fn is_partly_attached(&self, interface: IfIndex) -> Result<bool, KernelError>;

    /// What is on its interface; nothing where a backend has no programs.
    fn programs(&self, _interface: IfIndex) -> Result<Vec<AttachedProgram>, KernelError> {
        Ok(Vec::new())
    }

    /// What the gate has counted; only non-zero cells.
    fn counters(&self, interface: IfIndex) -> Result<Vec<Counter>, KernelError>;

    /// Drop events since the last call, at most `max`. nftables has none: its counters tell how many packets were dropped
    /// and why, not which.
    fn drop_events(&self, max: usize) -> Result<Vec<egress_common::DropEvent>, KernelError>;
}
