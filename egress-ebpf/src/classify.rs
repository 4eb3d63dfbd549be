//! One packet and what the gate knows of its bottle, to one [`Outcome`].
//!
//! Pure: bytes and values in, a value out. Knows nothing of maps, helpers or packet buffers. Everything that is not
//! named here is dropped.

use core::mem::MaybeUninit;

use egress_common::{Direction, GATE_TCP_PORTS_MAX, GateState, Outcome};

/// Bytes every packet the promise allows has: Ethernet and ARP, or Ethernet, IPv4 and UDP.
pub const PREFIX_BYTES: usize = ETHERNET_BYTES + 28;

const ETHERNET_BYTES: usize = 14;
const IPV4_HEADER_BYTES: u16 = 20;
const UDP_HEADER_BYTES: u16 = 8;
const TCP_HEADER_BYTES: u16 = 20;

const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_ARP: u16 = 0x0806;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
/// Tags of IEEE 802.1Q, 802.1ad, and what was used for the latter before.
const ETHER_TYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

const IP_PROTOCOL_TCP: u8 = 6;
const IP_PROTOCOL_UDP: u8 = 17;
/// Version 4, five words of header: no options.
const IPV4_PLAIN_HEADER: u8 = 0x45;
/// "More fragments" and the offset; all zero in a packet that is whole.
const IPV4_FRAGMENT_BITS: u16 = 0x3fff;

/// Hardware type Ethernet, protocol type IPv4, their address lengths (RFC 826).
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;

/// What decides about a packet; a gate entry without what is only for people.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// As it stands in the map, which another program could have written: anything but `Open` is cut.
    pub state: u32,
    /// As it stands in the map: anything but `Reset` is silence.
    pub cut_mode: u32,
    /// The bottle's hardware address.
    pub mac: [u8; 6],
    /// The bottle's address.
    pub ipv4: [u8; 4],
    /// The gateway's address.
    pub gateway: [u8; 4],
    /// UDP port of the resolver; 0 is none.
    pub dns_port: u16,
    /// TCP ports of the gateway; 0 marks an unused place.
    pub tcp_ports: [u16; GATE_TCP_PORTS_MAX],
}

/// A packet as far as the gate looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// The kernel has taken a VLAN tag off the bytes and keeps it beside them.
    pub vlan_tagged: bool,
    /// Bytes from the Ethernet header on.
    pub length: u32,
    /// The first of them; zeros when there are fewer.
    pub prefix: Prefix,
}

/// The first bytes of a frame, placed so that what follows the Ethernet header is aligned: addresses and lengths are loaded
/// as words then, not byte by byte.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    shift: MaybeUninit<[u8; 2]>,
    /// As they stand in the frame.
    pub bytes: [u8; PREFIX_BYTES],
}

impl Prefix {
    /// These bytes.
    #[inline(always)]
    #[must_use]
    pub fn new(bytes: [u8; PREFIX_BYTES]) -> Self {
        Self { shift: MaybeUninit::uninit(), bytes }
    }
}

/// What people are told of a dropped packet; zeros where the packet has no such field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// As in the Ethernet header.
    pub ether_type: u16,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
    /// IP protocol number.
    pub protocol: u8,
    /// TCP or UDP destination port.
    pub destination_port: u16,
}

struct Ethernet {
    source: [u8; 6],
    ether_type: u16,
}

struct Arp {
    kind: [u8; 6],
    operation: u16,
    sender_mac: [u8; 6],
    sender: [u8; 4],
    target: [u8; 4],
}

struct Ipv4 {
    version_and_length: u8,
    total_bytes: u16,
    fragment: u16,
    protocol: u8,
    source: [u8; 4],
    destination: [u8; 4],
    source_port: u16,
    destination_port: u16,
}

/// Which side of the veth must have sent a packet, and to whom.
struct Parties {
    sender: [u8; 4],
    receiver: [u8; 4],
}

/// Decides about one packet. The state is looked at before the packet is.
#[inline(always)]
#[must_use]
pub fn classify(rules: Option<&Rules>, direction: Direction, packet: &Packet) -> Outcome {
    let Some(rules) = rules else { return Outcome::NoEntry };
    if rules.state != GateState::Open as u32 {
        return Outcome::Cut;
    }
    match judge(rules, direction, packet) {
        Ok(()) => Outcome::Passed,
        Err(outcome) => outcome,
    }
}

/// Reads what people are told of a dropped packet.
#[inline(always)]
#[must_use]
pub fn describe(packet: &Packet) -> Flow {
    let Some((ethernet, body)) = Ethernet::read(&packet.prefix.bytes) else { return Flow::default() };
    let ether_type = ethernet.ether_type;
    let ipv4 = if ether_type == ETHER_TYPE_IPV4 { Ipv4::read(body) } else { None };
    let Some(ipv4) = ipv4 else { return Flow { ether_type, ..Flow::default() } };
    let has_ports = (ipv4.protocol == IP_PROTOCOL_TCP || ipv4.protocol == IP_PROTOCOL_UDP)
        && ipv4.version_and_length == IPV4_PLAIN_HEADER
        && ipv4.fragment & IPV4_FRAGMENT_BITS == 0;
    Flow {
        ether_type,
        source: ipv4.source,
        destination: ipv4.destination,
        protocol: ipv4.protocol,
        destination_port: if has_ports { ipv4.destination_port } else { 0 },
    }
}

/// Would an open gate let it through?
#[inline(always)]
pub(crate) fn judge(rules: &Rules, direction: Direction, packet: &Packet) -> Result<(), Outcome> {
    if packet.vlan_tagged {
        return Err(Outcome::Vlan);
    }
    require(packet.length >= PREFIX_BYTES as u32, Outcome::Truncated)?;
    let (ethernet, body) = Ethernet::read(&packet.prefix.bytes).ok_or(Outcome::Truncated)?;
    let parties = match direction {
        Direction::FromBottle => Parties { sender: rules.ipv4, receiver: rules.gateway },
        Direction::ToBottle => Parties { sender: rules.gateway, receiver: rules.ipv4 },
    };
    match ethernet.ether_type {
        ETHER_TYPE_IPV4 => {
            check_source_mac(rules, direction, &ethernet)?;
            let ipv4 = Ipv4::read(body).ok_or(Outcome::Truncated)?;
            check_ipv4_header(&ipv4, packet.length)?;
            check_addresses(&ipv4, &parties)?;
            check_transport(rules, direction, &ipv4)
        }
        ETHER_TYPE_ARP => {
            check_source_mac(rules, direction, &ethernet)?;
            let arp = Arp::read(body).ok_or(Outcome::Truncated)?;
            check_arp(rules, direction, &arp, &parties)
        }
        ETHER_TYPE_IPV6 => Err(Outcome::Ipv6),
        tag if ETHER_TYPES_VLAN.contains(&tag) => Err(Outcome::Vlan),
        _ => Err(Outcome::EtherType),
    }
}

/// Towards the bottle the hardware address is the host's own and nobody's claim.
#[inline(always)]
fn check_source_mac(rules: &Rules, direction: Direction, ethernet: &Ethernet) -> Result<(), Outcome> {
    match direction {
        Direction::FromBottle => require(ethernet.source == rules.mac, Outcome::SourceMac),
        Direction::ToBottle => Ok(()),
    }
}

/// Options could route the packet elsewhere, and move the ports away from where they are read.
#[inline(always)]
fn check_ipv4_header(ipv4: &Ipv4, length: u32) -> Result<(), Outcome> {
    require(ipv4.version_and_length == IPV4_PLAIN_HEADER, Outcome::IpHeader)?;
    // Shorter than the frame is fine: Ethernet pads.
    let present = length.saturating_sub(ETHERNET_BYTES as u32);
    require(u32::from(ipv4.total_bytes) <= present, Outcome::IpHeader)?;
    require(ipv4.total_bytes >= IPV4_HEADER_BYTES, Outcome::IpHeader)
}

#[inline(always)]
fn check_addresses(ipv4: &Ipv4, parties: &Parties) -> Result<(), Outcome> {
    require(ipv4.source == parties.sender, Outcome::SourceIp)?;
    require(ipv4.fragment & IPV4_FRAGMENT_BITS == 0, Outcome::Fragment)?;
    require(ipv4.destination == parties.receiver, Outcome::Destination)
}

/// The port that counts is always the gateway's.
#[inline(always)]
fn check_transport(rules: &Rules, direction: Direction, ipv4: &Ipv4) -> Result<(), Outcome> {
    let port = match direction {
        Direction::FromBottle => ipv4.destination_port,
        Direction::ToBottle => ipv4.source_port,
    };
    let (header_bytes, given) = match ipv4.protocol {
        IP_PROTOCOL_TCP => (TCP_HEADER_BYTES, is_given(&rules.tcp_ports, port)),
        IP_PROTOCOL_UDP => (UDP_HEADER_BYTES, port == rules.dns_port),
        _ => return Err(Outcome::Protocol),
    };
    require(ipv4.total_bytes >= IPV4_HEADER_BYTES + header_bytes, Outcome::IpHeader)?;
    require(given && port != 0, Outcome::Port)
}

/// Written without early exit: eight comparisons cost less than eight branches, for the verifier too.
#[inline(always)]
fn is_given(ports: &[u16; GATE_TCP_PORTS_MAX], port: u16) -> bool {
    ports.iter().fold(false, |found, given| found | (*given == port))
}

/// A question or an answer between the bottle and the gateway about each other. Announcements (sender asks for
/// itself), probes (sender has no address) and claims to be somebody else are none.
#[inline(always)]
fn check_arp(rules: &Rules, direction: Direction, arp: &Arp, parties: &Parties) -> Result<(), Outcome> {
    require(arp.kind == ARP_ETHERNET_IPV4, Outcome::Arp)?;
    require(arp.operation == ARP_REQUEST || arp.operation == ARP_REPLY, Outcome::Arp)?;
    let own_mac = match direction {
        Direction::FromBottle => arp.sender_mac == rules.mac,
        Direction::ToBottle => true,
    };
    require(own_mac && arp.sender == parties.sender && arp.target == parties.receiver, Outcome::Arp)
}

#[inline(always)]
fn require(holds: bool, otherwise: Outcome) -> Result<(), Outcome> {
    if holds { Ok(()) } else { Err(otherwise) }
}

impl Ethernet {
    #[inline(always)]
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (_destination, bytes) = bytes.split_first_chunk::<6>()?;
        let (source, bytes) = bytes.split_first_chunk()?;
        let (ether_type, body) = bytes.split_first_chunk()?;
        Some((Self { source: *source, ether_type: u16::from_be_bytes(*ether_type) }, body))
    }
}

impl Arp {
    #[inline(always)]
    fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, bytes) = bytes.split_first_chunk()?;
        let (operation, bytes) = bytes.split_first_chunk()?;
        let (sender_mac, bytes) = bytes.split_first_chunk()?;
        let (sender, bytes) = bytes.split_first_chunk()?;
        let (_target_mac, bytes) = bytes.split_first_chunk::<6>()?;
        let (target, _) = bytes.split_first_chunk()?;
        Some(Self {
            kind: *kind,
            operation: u16::from_be_bytes(*operation),
            sender_mac: *sender_mac,
            sender: *sender,
            target: *target,
        })
    }
}

impl Ipv4 {
    /// The ports are where they stand after a header without options; whoever uses them has checked that.
    #[inline(always)]
    fn read(bytes: &[u8]) -> Option<Self> {
        let ([version_and_length, _service], bytes) = bytes.split_first_chunk()?;
        let (total_bytes, bytes) = bytes.split_first_chunk()?;
        let (_identification, bytes) = bytes.split_first_chunk::<2>()?;
        let (fragment, bytes) = bytes.split_first_chunk()?;
        let ([_time_to_live, protocol], bytes) = bytes.split_first_chunk()?;
        let (_checksum, bytes) = bytes.split_first_chunk::<2>()?;
        let (source, bytes) = bytes.split_first_chunk()?;
        let (destination, bytes) = bytes.split_first_chunk()?;
        let (source_port, bytes) = bytes.split_first_chunk()?;
        let (destination_port, _) = bytes.split_first_chunk()?;
        Some(Self {
            version_and_length: *version_and_length,
            total_bytes: u16::from_be_bytes(*total_bytes),
            fragment: u16::from_be_bytes(*fragment),
            protocol: *protocol,
            source: *source,
            destination: *destination,
            source_port: u16::from_be_bytes(*source_port),
            destination_port: u16::from_be_bytes(*destination_port),
        })
    }
}

#[cfg(test)]
mod tests;
