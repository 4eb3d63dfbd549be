//! What `egress audit --kernel` shows: gates as the kernel holds them, beside what the ledger wants.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::message::GateDifference;
use crate::domain::{BottleName, CutMode};

/// `GET /v1/audit/kernel?bottle=`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelReply {
    /// `ebpf` or `nftables`.
    pub enforcer: String,
    /// Where the gates are pinned.
    pub pins: String,
    /// By interface.
    pub gates: Vec<KernelGate>,
    /// Where the two say different things.
    pub differences: Vec<GateDifference>,
}

/// One gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelGate {
    /// Whose, as far as the ledger knows.
    pub bottle: Option<BottleName>,
    /// Number of the host end of its veth.
    pub interface: u32,
    /// As the ledger wants it; `None` for a bottle that does not run.
    pub ledger: Option<GateTerms>,
    /// As the kernel holds it.
    pub kernel: Option<GateTerms>,
    /// What is on the interface.
    pub programs: Vec<GateProgram>,
    /// What it has counted.
    pub counters: Vec<GateCounter>,
}

/// What a gate lets through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateTerms {
    /// Nothing at all passes.
    pub is_cut: bool,
    /// `Budget`, `Operator` …, while it is cut.
    pub cut_reason: Option<String>,
    /// What is heard of a cut.
    pub cut_mode: CutMode,
    /// The bottle's address.
    pub address: Ipv4Addr,
    /// The bottle's hardware address, as `02:e9:…`.
    pub mac: String,
    /// The only address it may talk to.
    pub gateway: Ipv4Addr,
    /// TCP ports there.
    pub tcp_ports: Vec<u16>,
    /// UDP port of the resolver there.
    pub dns_port: u16,
}

/// A program, or whatever else makes a gate, on one hook of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateProgram {
    /// `tcx ingress`, `clsact egress` …
    pub hook: String,
    /// Its name.
    pub name: String,
    /// The kernel's number of it.
    pub id: u32,
    /// The kernel's hash of its instructions, as `bpftool prog` prints it.
    pub tag: String,
    /// Nanoseconds a packet takes it, where the kernel measures that (`kernel.bpf_stats_enabled`).
    pub average_ns: Option<u64>,
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateCounter {
    /// `FromBottle` or `ToBottle`.
    pub direction: String,
    /// `Passed`, or why not.
    pub outcome: String,
    /// How many packets; one that is segmented later is one.
    pub packets: u64,
    /// How many bytes, Ethernet header included.
    pub bytes: u64,
}
