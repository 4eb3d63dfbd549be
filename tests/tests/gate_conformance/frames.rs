//! Every way a packet can break the promise, and every way it can keep it, as frames.

use egress_common::Outcome;
use harness::gate::{BOTTLE, BOTTLE_MAC, DNS_PORT, GATEWAY, HOST, HOST_MAC, TCP_PORTS};
use harness::packet::{self, Ipv4, Marker, arp, ethernet, tag};

/// A frame, and what the gate is to make of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) marker: Marker,
    pub(crate) frame: Vec<u8>,
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const EPHEMERAL: u16 = 50000;
const STRANGER: [u8; 4] = [10, 213, 0, 77];
const STRANGER_MAC: [u8; 6] = [2, 0, 10, 213, 0, 77];
const BROADCAST_MAC: [u8; 6] = [0xff; 6];
const MORE_FRAGMENTS: u16 = 0x2000;

/// A DNS question: what every attack changes one thing of.
const QUESTION: Ipv4 = Ipv4 {
    version_and_length: 0x45,
    total_bytes: None,
    fragment: 0,
    protocol: UDP,
    source: BOTTLE,
    destination: GATEWAY,
    ports: [EPHEMERAL, DNS_PORT],
};

/// The answer to it.
const ANSWER: Ipv4 = Ipv4 { source: GATEWAY, destination: BOTTLE, ports: [DNS_PORT, EPHEMERAL], ..QUESTION };

pub(crate) fn from_bottle() -> Vec<Case> {
    let mut cases = Cases { destination: HOST_MAC, source: BOTTLE_MAC, all: Vec::new() };
    let to = |protocol, port| Ipv4 { protocol, ports: [EPHEMERAL, port], ..QUESTION };
    cases.ipv4("DNS to the gateway", Outcome::Passed, QUESTION);
    for port in TCP_PORTS {
        cases.ipv4("TCP to a port of the gateway that was given", Outcome::Passed, to(TCP, port));
    }
    cases.arp("asking for the gateway", Outcome::Passed, 1, BOTTLE_MAC, BOTTLE, GATEWAY);
    cases.arp("answering the gateway", Outcome::Passed, 2, BOTTLE_MAC, BOTTLE, GATEWAY);

    cases.ipv4("TCP to a port that was not given", Outcome::Port, to(TCP, 22));
    cases.ipv4("TCP to the resolver's port", Outcome::Port, to(TCP, DNS_PORT));
    cases.ipv4("TCP to port 0, which marks an unused place", Outcome::Port, to(TCP, 0));
    cases.ipv4("QUIC", Outcome::Port, to(UDP, 443));
    cases.ipv4("ping", Outcome::Protocol, to(ICMP, 0));
    cases.ipv4("SCTP to a port that was given for TCP", Outcome::Protocol, to(SCTP, 443));
    cases.ipv4("another address of the host", Outcome::Destination, Ipv4 { destination: HOST, ..to(TCP, 443) });
    cases.ipv4("another bottle", Outcome::Destination, Ipv4 { destination: STRANGER, ..QUESTION });
    cases.ipv4("the world", Outcome::Destination, Ipv4 { destination: [192, 0, 2, 1], ..to(TCP, 443) });
    cases.ipv4("broadcast", Outcome::Destination, Ipv4 { destination: [255; 4], ..QUESTION });
    cases.ipv4("multicast", Outcome::Destination, Ipv4 { destination: [224, 0, 0, 251], ..QUESTION });
    cases.ipv4("another's address", Outcome::SourceIp, Ipv4 { source: STRANGER, ..QUESTION });
    cases.ipv4("no address", Outcome::SourceIp, Ipv4 { source: [0; 4], ..QUESTION });
    cases.ipv4("the gateway's own address", Outcome::SourceIp, Ipv4 { source: GATEWAY, ..QUESTION });
    cases.common(QUESTION);

    let claims = [
        ("announcing itself", 1, BOTTLE_MAC, BOTTLE, BOTTLE),
        ("announcing itself in an answer", 2, BOTTLE_MAC, BOTTLE, BOTTLE),
        ("probing for the gateway", 1, BOTTLE_MAC, [0; 4], GATEWAY),
        ("claiming another's address", 2, BOTTLE_MAC, STRANGER, GATEWAY),
        ("claiming the gateway's address", 2, BOTTLE_MAC, GATEWAY, GATEWAY),
        ("claiming another's hardware address", 2, STRANGER_MAC, BOTTLE, GATEWAY),
        ("asking for another bottle", 1, BOTTLE_MAC, BOTTLE, STRANGER),
        ("an operation that is neither", 3, BOTTLE_MAC, BOTTLE, GATEWAY),
    ];
    for (name, operation, mac, sender, target) in claims {
        cases.arp(name, Outcome::Arp, operation, mac, sender, target);
    }
    cases.source = STRANGER_MAC;
    cases.ipv4("another's hardware address", Outcome::SourceMac, QUESTION);
    cases.arp("ARP from another's hardware address", Outcome::SourceMac, 1, BOTTLE_MAC, BOTTLE, GATEWAY);
    cases.all
}

pub(crate) fn to_bottle() -> Vec<Case> {
    let mut cases = Cases { destination: BOTTLE_MAC, source: HOST_MAC, all: Vec::new() };
    let from = |protocol, port| Ipv4 { protocol, ports: [port, EPHEMERAL], ..ANSWER };
    cases.ipv4("DNS from the gateway", Outcome::Passed, ANSWER);
    for port in TCP_PORTS {
        cases.ipv4("TCP from a port of the gateway that was given", Outcome::Passed, from(TCP, port));
    }
    cases.arp("the gateway asking for the bottle", Outcome::Passed, 1, HOST_MAC, GATEWAY, BOTTLE);
    cases.arp("the gateway answering", Outcome::Passed, 2, HOST_MAC, GATEWAY, BOTTLE);

    cases.ipv4("TCP from a port that was not given", Outcome::Port, from(TCP, 22));
    cases.ipv4("UDP from a port that is not the resolver's", Outcome::Port, from(UDP, 443));
    cases.ipv4("ping", Outcome::Protocol, from(ICMP, 0));
    cases.ipv4("for another bottle", Outcome::Destination, Ipv4 { destination: STRANGER, ..ANSWER });
    cases.ipv4("broadcast", Outcome::Destination, Ipv4 { destination: [255; 4], ..ANSWER });
    cases.ipv4("another address of the host", Outcome::SourceIp, Ipv4 { source: HOST, ..from(TCP, 443) });
    cases.ipv4("another bottle", Outcome::SourceIp, Ipv4 { source: STRANGER, ..ANSWER });
    cases.common(ANSWER);
    cases.arp("another address asking", Outcome::Arp, 1, HOST_MAC, HOST, BOTTLE);
    cases.arp("asking for another bottle", Outcome::Arp, 1, HOST_MAC, GATEWAY, STRANGER);
    cases.all
}

struct Cases {
    destination: [u8; 6],
    source: [u8; 6],
    all: Vec<Case>,
}

impl Cases {
    /// What is wrong in either direction, starting from a packet that is right.
    fn common(&mut self, right: Ipv4) {
        self.ipv4("a first fragment", Outcome::Fragment, Ipv4 { fragment: MORE_FRAGMENTS, ..right });
        self.ipv4("a later fragment", Outcome::Fragment, Ipv4 { fragment: 3, ..right });
        self.ipv4("options", Outcome::IpHeader, Ipv4 { version_and_length: 0x46, ..right });
        self.ipv4("a header that is too short", Outcome::IpHeader, Ipv4 { version_and_length: 0x44, ..right });
        self.ipv4("another version under IPv4's type", Outcome::IpHeader, Ipv4 { version_and_length: 0x65, ..right });
        self.ipv4("longer than the frame", Outcome::IpHeader, Ipv4 { total_bytes: Some(1500), ..right });
        self.ipv4("shorter than its headers", Outcome::IpHeader, Ipv4 { total_bytes: Some(27), ..right });
        self.ipv4("shorter than anything", Outcome::IpHeader, Ipv4 { total_bytes: Some(0), ..right });

        self.frame("IPv6", Outcome::Ipv6, packet::IPV6, |marker| right.bytes(marker));
        self.frame("no protocol we know", Outcome::EtherType, packet::EXPERIMENT, |marker| right.bytes(marker));
        self.frame("half a header", Outcome::Truncated, packet::IPV4, |marker| marker.to_vec());
        let tagged = |vlan| move |marker| tag(vlan, packet::IPV4, &right.bytes(marker));
        self.frame("a VLAN", Outcome::Vlan, packet::VLAN, tagged(5));
        self.frame("a VLAN tag that is priority only", Outcome::Vlan, packet::VLAN, tagged(0));
        self.frame("a service VLAN", Outcome::Vlan, packet::SERVICE_VLAN, tagged(5));
        self.frame("a VLAN in a VLAN", Outcome::Vlan, packet::SERVICE_VLAN, |marker| {
            tag(5, packet::VLAN, &tagged(6)(marker))
        });
        let sender_mac = self.source;
        self.frame("ARP for other networks", Outcome::Arp, packet::ARP, |marker| {
            let mut message = arp(1, sender_mac, right.source, right.destination, marker);
            message.splice(4..6, [8, 16]);
            message
        });
    }

    fn ipv4(&mut self, name: &'static str, outcome: Outcome, ipv4: Ipv4) {
        self.frame(name, outcome, packet::IPV4, |marker| ipv4.bytes(marker));
    }

    fn arp(
        &mut self,
        name: &'static str,
        outcome: Outcome,
        operation: u16,
        mac: [u8; 6],
        sender: [u8; 4],
        target: [u8; 4],
    ) {
        let destination = self.destination;
        if operation == 1 {
            self.destination = BROADCAST_MAC;
        }
        self.frame(name, outcome, packet::ARP, |marker| arp(operation, mac, sender, target, marker));
        self.destination = destination;
    }

    fn frame(&mut self, name: &'static str, outcome: Outcome, ether_type: u16, body: impl FnOnce(Marker) -> Vec<u8>) {
        let mut marker = *b"egress-attack-\0\0";
        let number = u16::try_from(self.all.len()).expect("a handful of cases");
        marker[14..].copy_from_slice(&number.to_be_bytes());
        let frame = ethernet(self.destination, self.source, ether_type, &body(marker));
        self.all.push(Case { name, outcome, marker, frame });
    }
}
