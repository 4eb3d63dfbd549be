//! Every way a packet can break the promise, and every way it can keep it, as frames, each with what a gate makes of it.
//!
//! [`from_bottle`] and [`to_bottle`] have one of each kind that a gate tells apart; [`further`] has what attackers send.

mod further;

use egress_common::Outcome;

use super::frame::{self, Ipv4, Marker, SYN, TCP, UDP, arp, ethernet, tag};

pub use further::{ether_types, further};

/// Who is on either side of a gate.
#[derive(Clone, Copy, Debug)]
pub struct Parties {
    /// The bottle's address.
    pub bottle: [u8; 4],
    /// Its hardware address.
    pub bottle_mac: [u8; 6],
    /// The gateway's address.
    pub gateway: [u8; 4],
    /// The hardware address of the host end of the veth.
    pub host_mac: [u8; 6],
    /// Another address of the host.
    pub host: [u8; 4],
    /// Another bottle's address.
    pub stranger: [u8; 4],
    /// The TCP ports of the gateway that the bottle is given.
    pub tcp_ports: [u16; 3],
    /// The UDP port of the resolver.
    pub dns_port: u16,
    /// Tells the frames of one run from those of another.
    pub run: u32,
}

/// A frame, and what a gate is to make of it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What it is; the same text may stand for several frames.
    pub name: &'static str,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Tells it from every other frame of the run.
    pub marker: Marker,
    /// From the Ethernet header on.
    pub frame: Vec<u8>,
}

const ICMP: u8 = frame::ICMP;
const SCTP: u8 = 132;
const EPHEMERAL: u16 = 50000;
const STRANGER_MAC: [u8; 6] = [2, 0, 10, 213, 0, 77];
const BROADCAST_MAC: [u8; 6] = [0xff; 6];
const MORE_FRAGMENTS: u16 = 0x2000;
/// Documentation's own network (RFC 5737): nobody is there.
const WORLD: [u8; 4] = [192, 0, 2, 1];

/// What a bottle may send, and one of each kind of what it may not.
#[must_use]
pub fn from_bottle(parties: &Parties) -> Vec<Attempt> {
    let Parties { bottle, bottle_mac, gateway, host, stranger, .. } = *parties;
    let mut attempts = Attempts::new(parties, 0, parties.host_mac, bottle_mac);
    let question = question(parties);
    let to = |protocol, port| Ipv4 { protocol, ports: [EPHEMERAL, port], ..question };
    attempts.ipv4("DNS to the gateway", Outcome::Passed, question);
    for port in parties.tcp_ports {
        attempts.ipv4("TCP to a port of the gateway that was given", Outcome::Passed, to(TCP, port));
    }
    attempts.arp("asking for the gateway", Outcome::Passed, (1, bottle_mac, bottle, gateway));
    attempts.arp("answering the gateway", Outcome::Passed, (2, bottle_mac, bottle, gateway));

    attempts.ipv4("TCP to a port that was not given", Outcome::Port, to(TCP, 22));
    attempts.ipv4("TCP to the resolver's port", Outcome::Port, to(TCP, parties.dns_port));
    attempts.ipv4("TCP to port 0, which marks an unused place", Outcome::Port, to(TCP, 0));
    attempts.ipv4("QUIC", Outcome::Port, to(UDP, 443));
    attempts.ipv4("ping", Outcome::Protocol, to(ICMP, 0));
    attempts.ipv4("SCTP to a port that was given for TCP", Outcome::Protocol, to(SCTP, 443));
    attempts.ipv4("another address of the host", Outcome::Destination, Ipv4 { destination: host, ..to(TCP, 443) });
    attempts.ipv4("another bottle", Outcome::Destination, Ipv4 { destination: stranger, ..question });
    attempts.ipv4("the world", Outcome::Destination, Ipv4 { destination: WORLD, ..to(TCP, 443) });
    attempts.ipv4("broadcast", Outcome::Destination, Ipv4 { destination: [255; 4], ..question });
    attempts.ipv4("multicast", Outcome::Destination, Ipv4 { destination: [224, 0, 0, 251], ..question });
    attempts.ipv4("another's address", Outcome::SourceIp, Ipv4 { source: stranger, ..question });
    attempts.ipv4("no address", Outcome::SourceIp, Ipv4 { source: [0; 4], ..question });
    attempts.ipv4("the gateway's own address", Outcome::SourceIp, Ipv4 { source: gateway, ..question });
    attempts.common(question);

    let claims = [
        ("announcing itself", (1, bottle_mac, bottle, bottle)),
        ("announcing itself in an answer", (2, bottle_mac, bottle, bottle)),
        ("probing for the gateway", (1, bottle_mac, [0; 4], gateway)),
        ("claiming another's address", (2, bottle_mac, stranger, gateway)),
        ("claiming the gateway's address", (2, bottle_mac, gateway, gateway)),
        ("claiming another's hardware address", (2, STRANGER_MAC, bottle, gateway)),
        ("asking for another bottle", (1, bottle_mac, bottle, stranger)),
        ("an operation that is neither", (3, bottle_mac, bottle, gateway)),
    ];
    for (name, message) in claims {
        attempts.arp(name, Outcome::Arp, message);
    }
    attempts.source = STRANGER_MAC;
    attempts.ipv4("another's hardware address", Outcome::SourceMac, question);
    attempts.arp("ARP from another's hardware address", Outcome::SourceMac, (1, bottle_mac, bottle, gateway));
    attempts.all
}

/// What a bottle may be sent, and one of each kind of what it may not.
#[must_use]
pub fn to_bottle(parties: &Parties) -> Vec<Attempt> {
    let Parties { bottle, host_mac, gateway, host, stranger, .. } = *parties;
    let mut attempts = Attempts::new(parties, 1, parties.bottle_mac, host_mac);
    let answer =
        Ipv4 { source: gateway, destination: bottle, ports: [parties.dns_port, EPHEMERAL], ..question(parties) };
    let from = |protocol, port| Ipv4 { protocol, ports: [port, EPHEMERAL], ..answer };
    attempts.ipv4("DNS from the gateway", Outcome::Passed, answer);
    for port in parties.tcp_ports {
        attempts.ipv4("TCP from a port of the gateway that was given", Outcome::Passed, from(TCP, port));
    }
    attempts.arp("the gateway asking for the bottle", Outcome::Passed, (1, host_mac, gateway, bottle));
    attempts.arp("the gateway answering", Outcome::Passed, (2, host_mac, gateway, bottle));

    attempts.ipv4("TCP from a port that was not given", Outcome::Port, from(TCP, 22));
    attempts.ipv4("UDP from a port that is not the resolver's", Outcome::Port, from(UDP, 443));
    attempts.ipv4("ping", Outcome::Protocol, from(ICMP, 0));
    attempts.ipv4("for another bottle", Outcome::Destination, Ipv4 { destination: stranger, ..answer });
    attempts.ipv4("broadcast", Outcome::Destination, Ipv4 { destination: [255; 4], ..answer });
    attempts.ipv4("another address of the host", Outcome::SourceIp, Ipv4 { source: host, ..from(TCP, 443) });
    attempts.ipv4("another bottle", Outcome::SourceIp, Ipv4 { source: stranger, ..answer });
    attempts.common(answer);
    attempts.arp("another address asking", Outcome::Arp, (1, host_mac, host, bottle));
    attempts.arp("asking for another bottle", Outcome::Arp, (1, host_mac, gateway, stranger));
    attempts.all
}

/// A DNS question: what every attack changes one thing of.
fn question(parties: &Parties) -> Ipv4 {
    Ipv4 {
        version_and_length: 0x45,
        service: 0,
        total_bytes: None,
        fragment: 0,
        protocol: UDP,
        source: parties.bottle,
        destination: parties.gateway,
        ports: [EPHEMERAL, parties.dns_port],
        flags: SYN,
    }
}

struct Attempts {
    destination: [u8; 6],
    source: [u8; 6],
    marker: Marker,
    all: Vec<Attempt>,
}

/// Operation, sender's hardware address, sender, target.
type Arp = (u16, [u8; 6], [u8; 4], [u8; 4]);

impl Attempts {
    /// Of one list of one run, between these hardware addresses.
    fn new(parties: &Parties, list: u8, destination: [u8; 6], source: [u8; 6]) -> Self {
        let [a, b, c, d] = parties.run.to_be_bytes();
        let [e, f, g, h, i, j, k, l, m] = *b"egress-at";
        let marker = [e, f, g, h, i, j, k, l, m, list, a, b, c, d, 0, 0];
        Self { destination, source, marker, all: Vec::new() }
    }

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

        self.frame("IPv6", Outcome::Ipv6, frame::IPV6, |marker| right.bytes(marker));
        self.frame("no protocol we know", Outcome::EtherType, frame::EXPERIMENT, |marker| right.bytes(marker));
        self.frame("half a header", Outcome::Truncated, frame::IPV4, |marker| marker.to_vec());
        let tagged = |vlan| move |marker| tag(vlan, frame::IPV4, &right.bytes(marker));
        self.frame("a VLAN", Outcome::Vlan, frame::VLAN, tagged(5));
        self.frame("a VLAN tag that is priority only", Outcome::Vlan, frame::VLAN, tagged(0));
        self.frame("a service VLAN", Outcome::Vlan, frame::SERVICE_VLAN, tagged(5));
        self.frame("a VLAN in a VLAN", Outcome::Vlan, frame::SERVICE_VLAN, |marker| {
            tag(5, frame::VLAN, &tagged(6)(marker))
        });
        let sender_mac = self.source;
        self.frame("ARP for other networks", Outcome::Arp, frame::ARP, |marker| {
            let mut message = arp(1, sender_mac, right.source, right.destination, marker);
            message.splice(4..6, [8, 16]);
            message
        });
    }

    fn ipv4(&mut self, name: &'static str, outcome: Outcome, ipv4: Ipv4) {
        self.frame(name, outcome, frame::IPV4, |marker| ipv4.bytes(marker));
    }

    fn arp(&mut self, name: &'static str, outcome: Outcome, (operation, mac, sender, target): Arp) {
        let destination = self.destination;
        if operation == 1 {
            self.destination = BROADCAST_MAC;
        }
        self.frame(name, outcome, frame::ARP, |marker| arp(operation, mac, sender, target, marker));
        self.destination = destination;
    }

    fn frame(&mut self, name: &'static str, outcome: Outcome, ether_type: u16, body: impl FnOnce(Marker) -> Vec<u8>) {
        let [high, low] = u16::try_from(self.all.len()).unwrap_or(u16::MAX).to_be_bytes();
        let mut marker = self.marker;
        let [.., first, second] = &mut marker;
        (*first, *second) = (high, low);
        let frame = ethernet(self.destination, self.source, ether_type, &body(marker));
        self.all.push(Attempt { name, outcome, marker, frame });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::doctor::raw_socket::holds;

    const PARTIES: Parties = Parties {
        bottle: [198, 18, 0, 2],
        bottle_mac: [2, 0, 0, 0, 0, 2],
        gateway: [198, 18, 0, 1],
        host_mac: [2, 0, 0, 0, 0, 1],
        host: [127, 0, 0, 1],
        stranger: [198, 18, 0, 3],
        tcp_ports: [8080, 443, 80],
        dns_port: 53,
        run: 7,
    };

    #[test]
    fn every_frame_has_its_own_marker_and_every_outcome_a_frame() {
        let lists = [from_bottle(&PARTIES), to_bottle(&PARTIES), further(&PARTIES)];
        let all: Vec<&Attempt> = lists.iter().flatten().collect();
        let markers: BTreeSet<Marker> = all.iter().map(|attempt| attempt.marker).collect();
        assert_eq!(markers.len(), all.len());
        for attempt in &all {
            assert!(holds(&attempt.frame, attempt.marker), "{}", attempt.name);
        }
        let states = [Outcome::Cut, Outcome::NoEntry, Outcome::Reset];
        for outcome in Outcome::ALL.into_iter().filter(|outcome| !states.contains(outcome)) {
            assert!(all.iter().any(|attempt| attempt.outcome == outcome), "{outcome:?}");
        }
    }
}
