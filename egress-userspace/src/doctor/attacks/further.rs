//! What attackers send to get out: tunnels, other networks' protocols, the host's helpers, spoofed and odd packets.

use egress_common::Outcome;

use super::super::frame::{
    self, ACK, ARP, FIN, ICMP, Ipv4, Marker, OLD_SERVICE_VLAN, PSH, RST, SYN, TCP, UDP, URG, VLAN, arp, checksum, ipv6,
    tag,
};
use super::{Attempt, Attempts, MORE_FRAGMENTS, Parties, STRANGER_MAC, WORLD, question};

/// Where clouds answer with credentials.
const METADATA: [u8; 4] = [169, 254, 169, 254];
/// Resolvers that anybody may ask.
const PUBLIC_RESOLVER: [u8; 4] = [8, 8, 8, 8];
const PUBLIC_HTTPS_RESOLVER: [u8; 4] = [1, 1, 1, 1];
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
const RARP: u16 = 0x8035;
const WAKE_ON_LAN: u16 = 0x0842;
/// The most that a frame of an ordinary MTU carries behind IPv4 and ICMP.
const TUNNEL_BYTES: usize = 1400;
/// Allowed by the gate, whatever flags a segment has.
const ODD_FLAGS: [(&str, u8); 6] = [
    ("null", 0),
    ("xmas", FIN | PSH | URG),
    ("FIN", FIN),
    ("SYN and FIN", SYN | FIN),
    ("SYN and RST", SYN | RST),
    ("ACK", ACK),
];

/// What attackers send from a bottle.
#[must_use]
pub fn further(parties: &Parties) -> Vec<Attempt> {
    let mut attempts = Attempts::new(parties, 2, parties.host_mac, parties.bottle_mac);
    let question = question(parties);
    addresses(&mut attempts, parties, question);
    ports(&mut attempts, question);
    tunnels(&mut attempts, question);
    icmp(&mut attempts, question);
    fragments_and_options(&mut attempts, question);
    segments(&mut attempts, parties, question);
    neighbours(&mut attempts, parties);
    other_networks(&mut attempts, parties, question);
    attempts.all
}

fn addresses(attempts: &mut Attempts, parties: &Parties, question: Ipv4) {
    let tcp = |destination, port| Ipv4 { protocol: TCP, destination, ports: [50_000, port], ..question };
    let udp = |destination, port| Ipv4 { destination, ports: [50_000, port], ..question };
    let [a, b, ..] = parties.gateway;
    for (name, packet) in [
        ("the metadata address", tcp(METADATA, 80)),
        ("the host's loopback", tcp(LOOPBACK, 443)),
        ("the host's ssh at another address", tcp(parties.host, 22)),
        ("a proxy port at another address of the host", tcp(parties.host, 8080)),
        ("the resolver at another address of the host", udp(parties.host, parties.dns_port)),
        ("another bottle over TCP", tcp(parties.stranger, 443)),
        ("another resolver", udp(PUBLIC_RESOLVER, 53)),
        ("another resolver over TCP", tcp(PUBLIC_RESOLVER, 53)),
        ("DNS over TLS", tcp(PUBLIC_RESOLVER, 853)),
        ("DNS over HTTPS by address", tcp(PUBLIC_HTTPS_RESOLVER, 443)),
        ("QUIC to the world", udp(WORLD, 443)),
        ("multicast DNS", udp([224, 0, 0, 251], 5353)),
        ("LLMNR", udp([224, 0, 0, 252], 5355)),
        ("SSDP", udp([239, 255, 255, 250], 1900)),
        ("IGMP", Ipv4 { protocol: 2, destination: [224, 0, 0, 22], ..question }),
        ("directed broadcast", udp([a, b, 255, 255], parties.dns_port)),
        ("the network's own address", udp([a, b, 0, 0], parties.dns_port)),
        ("no address at all", udp([0; 4], parties.dns_port)),
        ("a reserved address", udp([240, 0, 0, 1], parties.dns_port)),
        ("itself", udp(parties.bottle, parties.dns_port)),
    ] {
        attempts.ipv4(name, Outcome::Destination, packet);
    }
    for (name, source) in [
        ("from the world", WORLD),
        ("from the host's loopback", LOOPBACK),
        ("from another address of the host", parties.host),
        ("from everybody", [255; 4]),
        ("from a group", [224, 0, 0, 1]),
    ] {
        attempts.ipv4(name, Outcome::SourceIp, Ipv4 { source, ..question });
        let segment = Ipv4 { protocol: TCP, source, ports: [50_000, 443], ..question };
        attempts.ipv4(name, Outcome::SourceIp, segment);
    }
    let dhcp = Ipv4 { source: [0; 4], destination: [255; 4], ports: [68, 67], ..question };
    attempts.ipv4("DHCP", Outcome::SourceIp, dhcp);
    attempts.source = STRANGER_MAC;
    attempts.ipv4("another bottle in full", Outcome::SourceMac, Ipv4 { source: parties.stranger, ..question });
    attempts.source = parties.host_mac;
    attempts.ipv4("the host in full", Outcome::SourceMac, Ipv4 { source: parties.gateway, ..question });
    attempts.source = [0xff; 6];
    attempts.ipv4("a hardware address of everybody", Outcome::SourceMac, question);
    attempts.source = parties.bottle_mac;
}

/// Services of the host, and ports that a connection tracker would open others for.
fn ports(attempts: &mut Attempts, question: Ipv4) {
    for (name, protocol, port) in [
        ("FTP, which has a helper", TCP, 21),
        ("IRC, which has a helper", TCP, 6667),
        ("SIP, which has a helper", UDP, 5060),
        ("TFTP, which has a helper", UDP, 69),
        ("PPTP, which has a helper", TCP, 1723),
        ("NetBIOS, which has a helper", UDP, 137),
        ("SNMP, which has a helper", UDP, 161),
        ("DNS over TLS to the gateway", TCP, 853),
        ("VXLAN", UDP, 4789),
        ("Geneve", UDP, 6081),
        ("WireGuard", UDP, 51820),
        ("waking a host over UDP", UDP, 9),
        ("UDP to port 0", UDP, 0),
        ("UDP to the explicit proxy's port", UDP, 8080),
        ("the port beyond the last", TCP, 65_535),
        ("Docker's port", TCP, 2375),
    ] {
        attempts.ipv4(name, Outcome::Port, Ipv4 { protocol, ports: [50_000, port], ..question });
    }
    let from_zero = Ipv4 { protocol: TCP, ports: [0, 22], ..question };
    attempts.ipv4("TCP from port 0", Outcome::Port, from_zero);
    attempts.ipv4("marked for other treatment", Outcome::Port, Ipv4 { service: 0xb8, ..from_zero });
}

/// Packets in packets, and protocols that carry them.
fn tunnels(attempts: &mut Attempts, question: Ipv4) {
    for (name, protocol) in [
        ("IP in IP", 4),
        ("IPv6 in IP", 41),
        ("GRE", 47),
        ("ESP", 50),
        ("AH", 51),
        ("L2TP", 115),
        ("IGMP to the gateway", 2),
        ("UDP-Lite", 136),
        ("DCCP", 33),
        ("OSPF", 89),
        ("VRRP", 112),
        ("protocol 0", 0),
        ("protocol 255", 255),
    ] {
        attempts.frame(name, Outcome::Protocol, frame::IPV4, |marker| {
            let inner = Ipv4 { protocol: TCP, destination: WORLD, ..question }.bytes(marker);
            Ipv4 { protocol, ..question }.carrying(&[], &inner)
        });
    }
}

fn icmp(attempts: &mut Attempts, question: Ipv4) {
    let outer = Ipv4 { protocol: ICMP, ..question };
    for (name, kind, padding) in [
        ("an echo request", 8, 40),
        ("an ICMP tunnel", 8, TUNNEL_BYTES),
        ("an echo reply, which nobody asked for", 0, 40),
        ("an ICMP redirect", 5, 40),
        ("an ICMP timestamp", 13, 12),
        ("an address mask request", 17, 12),
        ("a router advertisement", 9, 40),
        ("unreachable", 3, 40),
    ] {
        attempts.frame(name, Outcome::Protocol, frame::IPV4, |marker| {
            let message = [&[kind, 0, 0, 0, 0, 1, 0, 1][..], &marker, &vec![0x5a; padding]].concat();
            outer.carrying(&[], &with_checksum(message, 2))
        });
    }
}

fn fragments_and_options(attempts: &mut Attempts, question: Ipv4) {
    let segment = Ipv4 { protocol: TCP, ports: [50_000, 443], ..question };
    for (name, fragment) in [
        ("the first of overlapping fragments", MORE_FRAGMENTS),
        ("a fragment over the ports of the first", MORE_FRAGMENTS | 1),
        ("the last fragment", 8),
        ("a fragment beyond the longest packet", 0x1fff),
        ("a fragment that must not be one", 0x4000 | MORE_FRAGMENTS),
    ] {
        attempts.ipv4(name, Outcome::Fragment, Ipv4 { fragment, ..segment });
    }
    attempts.frame("a tiny first fragment", Outcome::Fragment, frame::IPV4, |marker| {
        let ports = [195, 80, 1, 187, 0, 0, 0, 1];
        let packet = Ipv4 { fragment: MORE_FRAGMENTS, total_bytes: Some(28), ..segment }.carrying(&[], &ports);
        // Behind the packet, where Ethernet pads.
        [packet, marker.to_vec()].concat()
    });
    let [a, b, c, d] = WORLD;
    for (name, option) in [
        ("record route", [7, 7, 4, 0, 0, 0, 0, 0]),
        ("a timestamp option", [68, 8, 5, 0, 0, 0, 0, 0]),
        ("loose source routing", [131, 7, 4, a, b, c, d, 0]),
        ("strict source routing", [137, 7, 4, a, b, c, d, 0]),
        ("router alert", [148, 4, 0, 0, 1, 1, 1, 0]),
        ("an option that does not end", [7, 255, 4, 0, 0, 0, 0, 0]),
    ] {
        attempts.frame(name, Outcome::IpHeader, frame::IPV4, |marker| {
            Ipv4 { version_and_length: 0x47, ..segment }.carrying(&option, &segment.segment(&marker))
        });
    }
    attempts.ipv4("the longest header", Outcome::IpHeader, Ipv4 { version_and_length: 0x4f, ..segment });
    attempts.ipv4("IPv6's version under IPv4's type", Outcome::IpHeader, Ipv4 { version_and_length: 0x60, ..segment });
}

/// A gate looks at ports, not at flags: what goes to a port that was given reaches the host's TCP, which decides.
fn segments(attempts: &mut Attempts, parties: &Parties, question: Ipv4) {
    let to = |port, flags| Ipv4 { protocol: TCP, ports: [50_001, port], flags, ..question };
    let [given, ..] = parties.tcp_ports;
    for (name, flags) in ODD_FLAGS {
        attempts.ipv4(name, Outcome::Passed, to(given, flags));
        attempts.ipv4(name, Outcome::Port, to(22, flags));
    }
    attempts.ipv4(
        "TCP from port 0 to a port that was given",
        Outcome::Passed,
        Ipv4 { ports: [0, given], ..to(given, SYN) },
    );
    attempts.ipv4("DSCP and ECN", Outcome::Passed, Ipv4 { service: 0xff, ..question });
    attempts.frame("a segment without a whole header", Outcome::IpHeader, frame::IPV4, |marker| {
        let packet = Ipv4 { total_bytes: Some(39), ..to(given, SYN) };
        packet.carrying(&[], &packet.segment(&marker))
    });
}

fn neighbours(attempts: &mut Attempts, parties: &Parties) {
    let Parties { bottle, bottle_mac, gateway, stranger, host, .. } = *parties;
    for (name, message) in [
        ("poisoning the host's entry of another bottle", (1, bottle_mac, stranger, gateway)),
        ("poisoning it unasked", (2, bottle_mac, stranger, stranger)),
        ("announcing the gateway", (1, bottle_mac, gateway, gateway)),
        ("being the gateway to another bottle", (2, bottle_mac, gateway, stranger)),
        ("asking for another address of the host", (1, bottle_mac, bottle, host)),
        ("asking for nobody", (1, bottle_mac, bottle, [0; 4])),
        ("RARP's operation", (3, bottle_mac, bottle, bottle)),
        ("inverse ARP", (8, bottle_mac, bottle, gateway)),
    ] {
        attempts.arp(name, Outcome::Arp, message);
    }
    attempts.frame("ARP of another kind of hardware", Outcome::Arp, ARP, |marker| {
        let mut message = arp(1, bottle_mac, bottle, gateway, marker);
        message.splice(0..2, [0, 6]);
        message
    });
    attempts.frame("ARP that is cut short", Outcome::Truncated, ARP, |marker| {
        let message = arp(1, bottle_mac, bottle, gateway, marker);
        [message.get(..8).unwrap_or_default(), &marker].concat()
    });
    attempts.frame("RARP", Outcome::EtherType, RARP, |marker| arp(3, bottle_mac, bottle, bottle, marker));
}

/// What is not IPv4 at all.
fn other_networks(attempts: &mut Attempts, parties: &Parties, question: Ipv4) {
    ipv6_packets(attempts);
    for (name, outer, inner) in [
        ("ARP in a VLAN", VLAN, ARP),
        ("a VLAN with priority", VLAN, frame::IPV4),
        ("IPv6 in a VLAN", VLAN, frame::IPV6),
        ("what was a service VLAN once", OLD_SERVICE_VLAN, frame::IPV4),
        ("the same VLAN twice", VLAN, VLAN),
    ] {
        let vlan = if name.ends_with("priority") { 7 << 13 } else { 100 };
        attempts.frame(name, Outcome::Vlan, outer, |marker| {
            let body =
                if inner == VLAN { tag(100, frame::IPV4, &question.bytes(marker)) } else { question.bytes(marker) };
            tag(vlan, inner, &body)
        });
    }
    for (name, ether_type) in OTHER_TYPES {
        attempts.frame(name, Outcome::EtherType, ether_type, |marker| question.bytes(marker));
    }
    let [a, b, c, d, e, f] = parties.bottle_mac;
    attempts.frame("waking a host", Outcome::EtherType, WAKE_ON_LAN, |marker| {
        [&[0xff; 6][..], &[a, b, c, d, e, f].repeat(16), &marker].concat()
    });
}

/// EtherTypes of protocols that a kernel or a switch may know; below 0x600 it is a length (IEEE 802.3).
const OTHER_TYPES: [(&str, u16); 14] = [
    ("an LLC frame", 0x0034),
    ("a spanning tree's length", 0x0026),
    ("LLDP", 0x88cc),
    ("MPLS", 0x8847),
    ("MPLS multicast", 0x8848),
    ("PPPoE discovery", 0x8863),
    ("a PPPoE session", 0x8864),
    ("EAP over LAN", 0x888e),
    ("MACsec", 0x88e5),
    ("precision time", 0x88f7),
    ("Ethernet in Ethernet", 0x6558),
    ("mesh", 0x4305),
    ("a service tag of a provider's", 0x88e7),
    ("a loop test", 0x9000),
];

/// What to listen for to see every frame of these lists. (Listening for everything would see packets before a gate does.)
#[must_use]
pub fn ether_types() -> Vec<u16> {
    /// As which the kernel gives out frames with a length: with LLC's header and without.
    const WITH_LENGTH: [u16; 2] = [4, 1];
    let common = [frame::IPV4, ARP, frame::IPV6, VLAN, frame::EXPERIMENT, OLD_SERVICE_VLAN, RARP, WAKE_ON_LAN];
    let others = OTHER_TYPES.iter().map(|(_, ether_type)| *ether_type).filter(|ether_type| *ether_type >= 0x600);
    common.into_iter().chain(WITH_LENGTH).chain(others).collect()
}

fn ipv6_packets(attempts: &mut Attempts) {
    const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    const GLOBAL: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const ALL_ROUTERS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    const ICMPV6: u8 = 58;
    for (name, source, destination, kind) in [
        ("IPv6 to the world", GLOBAL, GLOBAL, 128),
        ("IPv6 on the link", LINK_LOCAL, ALL_NODES, 128),
        ("neighbour solicitation", LINK_LOCAL, ALL_NODES, 135),
        ("neighbour advertisement", LINK_LOCAL, ALL_NODES, 136),
        ("router solicitation", LINK_LOCAL, ALL_ROUTERS, 133),
        ("router advertisement, IPv6", LINK_LOCAL, ALL_NODES, 134),
        ("MLD report", LINK_LOCAL, ALL_ROUTERS, 143),
    ] {
        attempts.frame(name, Outcome::Ipv6, frame::IPV6, |marker| {
            ipv6(source, destination, ICMPV6, &[&[kind, 0, 0, 0, 0, 0, 0, 0][..], &marker].concat())
        });
    }
    for (name, next_header) in [("TCP over IPv6", TCP), ("an IPv6 fragment", 44), ("hop-by-hop options", 0)] {
        attempts.frame(name, Outcome::Ipv6, frame::IPV6, |marker: Marker| {
            ipv6(GLOBAL, GLOBAL, next_header, &[&[TCP, 0, 0, 1, 0, 0, 0, 0][..], &marker].concat())
        });
    }
}

/// Writes the checksum of a whole message into it.
fn with_checksum(mut message: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = checksum(&message).to_be_bytes();
    message.splice(at..at + 2, sum);
    message
}
