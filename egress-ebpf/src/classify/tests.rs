//! Cases of the decision, byte by byte.

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const BOTTLE: [u8; 4] = [10, 213, 0, 2];
const GATEWAY: [u8; 4] = [10, 213, 0, 1];
const OTHER: [u8; 4] = [10, 213, 0, 9];
const UDP: u8 = IP_PROTOCOL_UDP;
const TCP: u8 = IP_PROTOCOL_TCP;

const RULES: Rules = Rules {
    state: GateState::Open as u32,
    cut_mode: 0,
    mac: MAC,
    ipv4: BOTTLE,
    gateway: GATEWAY,
    dns_port: 53,
    tcp_ports: [8080, 443, 80, 0, 0, 0, 0, 0],
};

/// Bytes and where they go: what a case changes of the frame it starts from.
type Change<'a> = (usize, &'a [u8]);

fn frame(base: &[u8; PREFIX_BYTES], changes: &[Change<'_>]) -> Packet {
    let mut prefix = *base;
    for (offset, bytes) in changes {
        prefix[*offset..][..bytes.len()].copy_from_slice(bytes);
    }
    Packet { vlan_tagged: false, length: 60, prefix: Prefix::new(prefix) }
}

fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, ports: [u16; 2]) -> [u8; PREFIX_BYTES] {
    let mut frame = [0; PREFIX_BYTES];
    frame[6..12].copy_from_slice(&MAC);
    frame[12..14].copy_from_slice(&ETHER_TYPE_IPV4.to_be_bytes());
    frame[14..18].copy_from_slice(&[IPV4_PLAIN_HEADER, 0, 0, 40]);
    frame[22..24].copy_from_slice(&[64, protocol]);
    frame[26..30].copy_from_slice(&source);
    frame[30..34].copy_from_slice(&destination);
    frame[34..36].copy_from_slice(&ports[0].to_be_bytes());
    frame[36..38].copy_from_slice(&ports[1].to_be_bytes());
    frame
}

fn question() -> [u8; PREFIX_BYTES] {
    ipv4(BOTTLE, GATEWAY, UDP, [50_000, 53])
}

fn arp(sender: [u8; 4], target: [u8; 4]) -> [u8; PREFIX_BYTES] {
    let mut frame = [0; PREFIX_BYTES];
    frame[6..12].copy_from_slice(&MAC);
    frame[12..14].copy_from_slice(&ETHER_TYPE_ARP.to_be_bytes());
    frame[14..20].copy_from_slice(&ARP_ETHERNET_IPV4);
    frame[20..22].copy_from_slice(&ARP_REQUEST.to_be_bytes());
    frame[22..28].copy_from_slice(&MAC);
    frame[28..32].copy_from_slice(&sender);
    frame[38..42].copy_from_slice(&target);
    frame
}

fn check(direction: Direction, packet: &Packet, expected: Outcome) {
    assert_eq!(classify(Some(&RULES), direction, packet), expected, "{direction:?} {packet:02x?}");
}

fn sent(base: &[u8; PREFIX_BYTES], changes: &[Change<'_>], expected: Outcome) {
    check(Direction::FromBottle, &frame(base, changes), expected);
}

#[test]
fn no_entry_and_no_open_state_is_decided_before_the_packet_is_looked_at() {
    let nonsense = Packet { vlan_tagged: true, length: 0, prefix: Prefix::new([0xff; PREFIX_BYTES]) };
    for direction in [Direction::FromBottle, Direction::ToBottle] {
        for packet in [nonsense, frame(&question(), &[])] {
            assert_eq!(classify(None, direction, &packet), Outcome::NoEntry);
            for state in [0, GateState::Cut as u32, 3, u32::MAX] {
                let rules = Rules { state, ..RULES };
                assert_eq!(classify(Some(&rules), direction, &packet), Outcome::Cut, "state {state}");
            }
        }
    }
}

#[test]
fn a_bottle_reaches_the_ports_it_was_given() {
    sent(&question(), &[], Outcome::Passed);
    for port in [8080, 443, 80] {
        sent(&ipv4(BOTTLE, GATEWAY, TCP, [1, port]), &[], Outcome::Passed);
        sent(&ipv4(BOTTLE, GATEWAY, UDP, [1, port]), &[], Outcome::Port);
    }
    for port in [0, 1, 22, 53, 79, 8081, u16::MAX] {
        sent(&ipv4(BOTTLE, GATEWAY, TCP, [443, port]), &[], Outcome::Port);
    }
    for protocol in (0..=255).filter(|protocol| ![TCP, UDP].contains(protocol)) {
        sent(&ipv4(BOTTLE, GATEWAY, protocol, [1, 443]), &[], Outcome::Protocol);
    }
}

#[test]
fn no_resolver_means_no_port_0() {
    let rules = Rules { dns_port: 0, ..RULES };
    let packet = frame(&ipv4(BOTTLE, GATEWAY, UDP, [1, 0]), &[]);
    assert_eq!(classify(Some(&rules), Direction::FromBottle, &packet), Outcome::Port);
}

#[test]
fn the_gateway_answers_from_those_ports() {
    let check =
        |base: [u8; PREFIX_BYTES], expected| check(Direction::ToBottle, &frame(&base, &[(6, &OTHER_MAC)]), expected);
    check(ipv4(GATEWAY, BOTTLE, UDP, [53, 9]), Outcome::Passed);
    check(ipv4(GATEWAY, BOTTLE, TCP, [443, 9]), Outcome::Passed);
    check(ipv4(GATEWAY, BOTTLE, TCP, [9, 443]), Outcome::Port);
    check(ipv4(OTHER, BOTTLE, TCP, [443, 9]), Outcome::SourceIp);
    check(ipv4(GATEWAY, OTHER, TCP, [443, 9]), Outcome::Destination);
    check(arp(GATEWAY, BOTTLE), Outcome::Passed);
    check(arp(OTHER, BOTTLE), Outcome::Arp);
    check(arp(GATEWAY, OTHER), Outcome::Arp);
}

#[test]
fn a_bottle_is_nobody_else() {
    sent(&question(), &[(6, &OTHER_MAC)], Outcome::SourceMac);
    sent(&arp(BOTTLE, GATEWAY), &[(6, &OTHER_MAC)], Outcome::SourceMac);
    sent(&question(), &[(26, &OTHER)], Outcome::SourceIp);
    sent(&question(), &[(26, &GATEWAY)], Outcome::SourceIp);
    sent(&question(), &[(30, &OTHER)], Outcome::Destination);
}

#[test]
fn arp_is_about_the_bottle_and_the_gateway() {
    sent(&arp(BOTTLE, GATEWAY), &[], Outcome::Passed);
    sent(&arp(BOTTLE, GATEWAY), &[(20, &ARP_REPLY.to_be_bytes())], Outcome::Passed);
    sent(&arp(BOTTLE, GATEWAY), &[(20, &[0, 3])], Outcome::Arp);
    sent(&arp(BOTTLE, GATEWAY), &[(22, &OTHER_MAC)], Outcome::Arp);
    sent(&arp(BOTTLE, BOTTLE), &[], Outcome::Arp);
    sent(&arp([0; 4], GATEWAY), &[], Outcome::Arp);
    sent(&arp(GATEWAY, GATEWAY), &[], Outcome::Arp);
    sent(&arp(BOTTLE, OTHER), &[], Outcome::Arp);
    for (offset, byte) in [(15, 6), (16, 7), (18, 8), (19, 16)] {
        sent(&arp(BOTTLE, GATEWAY), &[(offset, &[byte])], Outcome::Arp);
    }
}

#[test]
fn only_plain_ipv4_headers() {
    for first in (0..=255).filter(|first| *first != IPV4_PLAIN_HEADER) {
        sent(&question(), &[(14, &[first])], Outcome::IpHeader);
    }
    // A frame of 60 bytes has room for 46; UDP needs 28 of them, TCP 40.
    for (total, udp, tcp) in [
        (0, Outcome::IpHeader, Outcome::IpHeader),
        (27, Outcome::IpHeader, Outcome::IpHeader),
        (28, Outcome::Passed, Outcome::IpHeader),
        (39, Outcome::Passed, Outcome::IpHeader),
        (40, Outcome::Passed, Outcome::Passed),
        (46, Outcome::Passed, Outcome::Passed),
        (47, Outcome::IpHeader, Outcome::IpHeader),
        (u16::MAX, Outcome::IpHeader, Outcome::IpHeader),
    ] {
        let total = total.to_be_bytes();
        sent(&question(), &[(16, &total)], udp);
        sent(&ipv4(BOTTLE, GATEWAY, TCP, [1, 443]), &[(16, &total)], tcp);
    }
}

#[test]
fn no_fragments() {
    sent(&question(), &[(20, &[0x40, 0])], Outcome::Passed);
    for bits in [[0x20, 0], [0, 1], [0x1f, 0xff], [0x60, 0]] {
        sent(&question(), &[(20, &bits)], Outcome::Fragment);
    }
}

#[test]
fn no_other_link_layers() {
    for (ether_type, expected) in [
        (0x86dd, Outcome::Ipv6),
        (0x8100, Outcome::Vlan),
        (0x88a8, Outcome::Vlan),
        (0x9100, Outcome::Vlan),
        (0x0000, Outcome::EtherType),
        (0x8847, Outcome::EtherType),
        (0x8864, Outcome::EtherType),
        (0xffff, Outcome::EtherType),
    ] {
        sent(&question(), &[(12, &u16::to_be_bytes(ether_type))], expected);
    }
    let tagged = Packet { vlan_tagged: true, ..frame(&question(), &[]) };
    check(Direction::FromBottle, &tagged, Outcome::Vlan);
    check(Direction::ToBottle, &tagged, Outcome::Vlan);
}

#[test]
fn short_frames_are_not_judged_by_what_they_lack() {
    let short = Packet { length: 41, ..frame(&question(), &[]) };
    check(Direction::FromBottle, &short, Outcome::Truncated);
    let exact = Packet { length: 42, ..frame(&question(), &[(16, &[0, 28])]) };
    check(Direction::FromBottle, &exact, Outcome::Passed);
}

/// Whatever one byte of a good frame becomes, the frame passes only if that byte says nothing the promise is about.
#[test]
fn every_byte_that_matters_is_looked_at() {
    /// Destination hardware address, service type, identification, time to live, checksum, the client's port, the UDP
    /// length and checksum.
    const FREE: [core::ops::Range<usize>; 6] = [0..6, 15..16, 18..20, 22..23, 24..26, 34..36];
    for offset in 0..38 {
        if FREE.iter().any(|free| free.contains(&offset)) {
            continue;
        }
        for value in (0..=255).filter(|value| *value != question()[offset]) {
            let packet = frame(&question(), &[(offset, &[value])]);
            let outcome = classify(Some(&RULES), Direction::FromBottle, &packet);
            // A length within the frame, "do not fragment" and the evil bit are as good.
            let harmless = match offset {
                17 => (28..=46).contains(&value),
                20 => value & 0x3f == 0,
                _ => false,
            };
            assert_eq!(outcome == Outcome::Passed, harmless, "byte {offset} = {value}: {outcome:?}");
        }
    }
}

#[test]
fn what_people_are_told_is_what_the_packet_says() {
    let flow = describe(&frame(&ipv4(BOTTLE, OTHER, UDP, [9, 443]), &[]));
    let expected =
        Flow { ether_type: 0x0800, source: BOTTLE, destination: OTHER, protocol: UDP, destination_port: 443 };
    assert_eq!(flow, expected);
    let fragment = describe(&frame(&question(), &[(20, &[0, 9])]));
    assert_eq!(fragment.destination_port, 0);
    let arp = describe(&frame(&arp(BOTTLE, OTHER), &[]));
    assert_eq!(arp, Flow { ether_type: 0x0806, ..Flow::default() });
}
