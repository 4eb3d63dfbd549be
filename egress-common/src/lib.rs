//! The contract between the gate in the kernel and the controller in user space.
//!
//! Layout only, no logic: both sides read these bytes, `bpftool` prints these names. Integers are in host order
//! unless a field says otherwise; IPv4 addresses are `[u8; 4]` in the order they stand in a packet.
#![no_std]
#![forbid(unsafe_code)]

use core::mem::size_of;

/// Raised whenever a layout or the meaning of a field changes. Pinned maps of another version are not adopted.
pub const ABI_VERSION: u32 = 2;

/// TCP ports of the gateway a bottle may be given.
pub const GATE_TCP_PORTS_MAX: usize = 8;
/// Bottles one host can hold.
pub const GATES_MAX: u32 = 4096;
/// Bytes of the ring buffer of drop events.
pub const DROP_EVENTS_BYTES: u32 = 256 * 1024;
/// Drop events one gate may report in one window; the rest is only counted.
pub const DROP_EVENTS_PER_WINDOW: u32 = 32;
/// Resets one cut gate may answer with in one window; what asks beyond that hears nothing.
pub const RESETS_PER_WINDOW: u32 = 64;
/// Length of a rate window.
pub const RATE_WINDOW_NS: u64 = 1_000_000_000;

/// Whether a gate lets anything through.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// What the promise allows passes.
    Open = 1,
    /// Nothing passes, in either direction.
    Cut = 2,
}

/// Why a gate is cut.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutReason {
    /// The gate is open.
    NotCut = 0,
    /// A budget is used up.
    Budget = 1,
    /// An operator said so.
    Operator = 2,
    /// The bottle has ended or is being built.
    NotRunning = 3,
    /// The controller found the gate in a state it did not leave it in.
    Tampered = 4,
}

/// What a bottle whose gate is cut hears of it.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutMode {
    /// TCP that an open gate would let through is answered with a reset, so that clients fail at once.
    Reset = 1,
    /// Nothing.
    Drop = 2,
}

/// What a gate knows of its bottle. Key: the ifindex of the host end of the veth.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateEntry {
    /// Equal to the key. The kernel may give an element to another gate while a program is still reading it; reading
    /// this field after all others tells.
    pub ifindex: u32,
    /// Looked at before the packet is.
    pub state: GateState,
    /// `NotCut` while open.
    pub cut_reason: CutReason,
    /// What is heard of a cut; anything but `Reset` is nothing.
    pub cut_mode: CutMode,
    /// The ledger's number of the bottle.
    pub bottle_id: u32,
    /// The bottle's only address.
    pub ipv4: [u8; 4],
    /// The only address it may talk to.
    pub gateway: [u8; 4],
    /// The bottle's only hardware address.
    pub mac: [u8; 6],
    /// UDP port of the resolver on the gateway.
    pub dns_port: u16,
    /// TCP ports of the gateway; 0 marks an unused place.
    pub tcp_ports: [u16; GATE_TCP_PORTS_MAX],
    /// Keeps the size a multiple of the alignment.
    pub reserved: u32,
    /// When this entry was last written, nanoseconds of the monotonic clock.
    pub changed_at_ns: u64,
}

/// As the bottle sees it.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the bottle to the host.
    FromBottle = 1,
    /// From the host to the bottle.
    ToBottle = 2,
}

/// What the gate did with a packet, and why.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Let through.
    Passed = 0,
    /// The gate is cut.
    Cut = 1,
    /// The interface has a gate but the gate has no entry.
    NoEntry = 2,
    /// Shorter than any packet the promise allows.
    Truncated = 3,
    /// Carries a VLAN tag.
    Vlan = 4,
    /// Is IPv6.
    Ipv6 = 5,
    /// Neither IPv4 nor ARP.
    EtherType = 6,
    /// The source hardware address is not the bottle's.
    SourceMac = 7,
    /// The source address is not the bottle's (or, towards it, the gateway's).
    SourceIp = 8,
    /// ARP about anything but the bottle and the gateway.
    Arp = 9,
    /// Not a plain 20-byte IPv4 header.
    IpHeader = 10,
    /// A fragment.
    Fragment = 11,
    /// To an address that is not the gateway's (or, towards it, the bottle's).
    Destination = 12,
    /// Neither TCP nor UDP.
    Protocol = 13,
    /// A port that was not given to the bottle.
    Port = 14,
    /// The gate is cut, and TCP is reset. From the bottle: dropped, and answered with a reset. To the bottle: a reset
    /// without data, let through.
    Reset = 15,
}

impl Outcome {
    /// Every outcome, in order of value.
    pub const ALL: [Self; 16] = [
        Self::Passed,
        Self::Cut,
        Self::NoEntry,
        Self::Truncated,
        Self::Vlan,
        Self::Ipv6,
        Self::EtherType,
        Self::SourceMac,
        Self::SourceIp,
        Self::Arp,
        Self::IpHeader,
        Self::Fragment,
        Self::Destination,
        Self::Protocol,
        Self::Port,
        Self::Reset,
    ];
}

/// One counter cell.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets (a segmentation-offloaded one counts once).
    pub packets: u64,
    /// Bytes from the Ethernet header on.
    pub bytes: u64,
}

/// What a gate made of the packets of one direction: one cell for each [`Outcome`], in that order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the outcome of its name")]
pub struct Tallies {
    pub passed: Tally,
    pub cut: Tally,
    pub no_entry: Tally,
    pub truncated: Tally,
    pub vlan: Tally,
    pub ipv6: Tally,
    pub ether_type: Tally,
    pub source_mac: Tally,
    pub source_ip: Tally,
    pub arp: Tally,
    pub ip_header: Tally,
    pub fragment: Tally,
    pub destination: Tally,
    pub protocol: Tally,
    pub port: Tally,
    pub reset: Tally,
}

/// Everything a gate has counted, kept per CPU. Key: the ifindex of the host end of the veth. Made when the gate is attached.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateCounters {
    /// What the bottle sent.
    pub from_bottle: Tallies,
    /// What it was sent.
    pub to_bottle: Tallies,
}

/// One dropped packet, as reported through the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropEvent {
    /// Nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// Host end of the veth.
    pub ifindex: u32,
    /// 0 when the gate has no entry.
    pub bottle_id: u32,
    /// Which way the packet went.
    pub direction: Direction,
    /// Why it was dropped.
    pub outcome: Outcome,
    /// Bytes from the Ethernet header on.
    pub length: u32,
    /// Source address of an IPv4 packet, else zeros.
    pub source: [u8; 4],
    /// Destination address of an IPv4 packet, else zeros.
    pub destination: [u8; 4],
    /// As in the Ethernet header, in host order.
    pub ether_type: u16,
    /// TCP or UDP destination port, else 0.
    pub destination_port: u16,
    /// IP protocol number of an IPv4 packet, else 0.
    pub protocol: u8,
    /// Keeps the size a multiple of the alignment.
    pub reserved: [u8; 3],
}

/// How often a gate has done in the current window what it may not do too often.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateWindow {
    /// Start of the window, nanoseconds of the monotonic clock.
    pub started_ns: u64,
    /// How often since.
    pub taken: u32,
    /// Keeps the size a multiple of the alignment.
    pub reserved: u32,
}

const _: () = assert!(size_of::<GateEntry>() == 64);
const _: () = assert!(size_of::<Tally>() == 16);
const _: () = assert!(size_of::<Tallies>() == Outcome::ALL.len() * size_of::<Tally>());
const _: () = assert!(size_of::<GateCounters>() == 2 * size_of::<Tallies>());
const _: () = assert!(size_of::<DropEvent>() == 48);
const _: () = assert!(size_of::<RateWindow>() == 16);
