//! What a cut gate does with TCP when the bottle is to hear of the cut: resets go in, and nothing else.
//!
//! Pure, as [`crate::classify`] is. Only what an open gate would let through is answered, so that nothing is told to a
//! packet that lies about where it comes from.

use egress_common::{CutMode, Direction};

use crate::classify::{PREFIX_BYTES, Packet, Rules, judge};

/// Bytes of a TCP header without options.
pub const TCP_HEADER_BYTES: usize = 20;
/// Where it begins, after Ethernet and an IPv4 header without options.
pub const TCP_OFFSET: usize = 34;
/// Bytes of an answer: Ethernet, IPv4 and TCP without options or data.
pub const ANSWER_BYTES: usize = TCP_OFFSET + TCP_HEADER_BYTES;

const IPV4_HEADER_BYTES: u16 = 20;
const IP_PROTOCOL_TCP: u8 = 6;
const ANSWER_IPV4_BYTES: u16 = (ANSWER_BYTES - 14) as u16;
const TIME_TO_LIVE: u8 = 64;
const DO_NOT_FRAGMENT: u16 = 0x4000;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What becomes of a packet at a cut gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Dropped in silence.
    Silence,
    /// A reset without data, on its way to the bottle: let through.
    Pass,
    /// Dropped, and answered with this frame.
    Answer([u8; ANSWER_BYTES]),
}

/// Whether a gate with these rules, when it is cut, says so to anybody.
#[inline(always)]
#[must_use]
pub fn is_told(rules: &Rules) -> bool {
    rules.cut_mode == CutMode::Reset as u32
}

/// Decides about a packet at a cut gate that tells. `tcp` are the bytes from [`TCP_OFFSET`] on.
#[inline(always)]
#[must_use]
pub fn verdict(rules: &Rules, direction: Direction, packet: &Packet, tcp: &[u8; TCP_HEADER_BYTES]) -> Verdict {
    if judge(rules, direction, packet).is_err() {
        return Verdict::Silence;
    }
    let Some((total_bytes, protocol)) = ipv4(&packet.prefix.bytes) else { return Verdict::Silence };
    if protocol != IP_PROTOCOL_TCP {
        return Verdict::Silence;
    }
    let tcp = Tcp::read(tcp, total_bytes);
    match direction {
        Direction::ToBottle if tcp.flags & RST != 0 && tcp.data_bytes == 0 => Verdict::Pass,
        Direction::FromBottle if tcp.flags & RST == 0 => Verdict::Answer(answer(&packet.prefix.bytes, &tcp)),
        Direction::ToBottle | Direction::FromBottle => Verdict::Silence,
    }
}

struct Tcp {
    ports: [u8; 4],
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    data_bytes: u32,
}

impl Tcp {
    #[inline(always)]
    fn read(bytes: &[u8; TCP_HEADER_BYTES], total_bytes: u16) -> Self {
        let [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, offset, flags, ..] = *bytes;
        let header_bytes = u32::from(offset >> 4) * 4;
        Self {
            ports: [s0, s1, d0, d1],
            sequence: u32::from_be_bytes([q0, q1, q2, q3]),
            acknowledged: u32::from_be_bytes([a0, a1, a2, a3]),
            flags,
            // A header that claims to be longer than the packet leaves no data.
            data_bytes: u32::from(total_bytes).saturating_sub(u32::from(IPV4_HEADER_BYTES) + header_bytes),
        }
    }
}

/// Total length and protocol.
#[inline(always)]
fn ipv4(prefix: &[u8; PREFIX_BYTES]) -> Option<(u16, u8)> {
    let total = prefix.get(16..18)?.first_chunk()?;
    Some((u16::from_be_bytes(*total), *prefix.get(23)?))
}

/// A reset as RFC 9293 (3.10.7.1) has it for a segment to a connection that does not exist.
#[inline(always)]
fn answer(prefix: &[u8; PREFIX_BYTES], tcp: &Tcp) -> [u8; ANSWER_BYTES] {
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *prefix;
    let [.., i0, i1, i2, i3, j0, j1, j2, j3, _, _, _, _, _, _, _, _] = *prefix;
    let [p0, p1, q0, q1] = tcp.ports;
    let (sequence, acknowledged, flags) = if tcp.flags & ACK != 0 {
        (tcp.acknowledged, 0, RST)
    } else {
        let ends = u32::from(tcp.flags & SYN != 0) + u32::from(tcp.flags & FIN != 0);
        (0, tcp.sequence.wrapping_add(tcp.data_bytes).wrapping_add(ends), RST | ACK)
    };
    let [q_0, q_1, q_2, q_3] = sequence.to_be_bytes();
    let [a_0, a_1, a_2, a_3] = acknowledged.to_be_bytes();
    let [l0, l1] = ANSWER_IPV4_BYTES.to_be_bytes();
    let [f0, f1] = DO_NOT_FRAGMENT.to_be_bytes();
    // Sent the other way: what was the destination is the source.
    let addresses = [j0, j1, j2, j3, i0, i1, i2, i3];
    let ip = [0x45, 0, l0, l1, 0, 0, f0, f1, TIME_TO_LIVE, IP_PROTOCOL_TCP];
    let [c0, c1] = checksum(sum(&ip) + sum(&addresses)).to_be_bytes();
    let segment = [q0, q1, p0, p1, q_0, q_1, q_2, q_3, a_0, a_1, a_2, a_3, 5 << 4, flags, 0, 0];
    let pseudo = u32::from(IP_PROTOCOL_TCP) + TCP_HEADER_BYTES as u32;
    let [t0, t1] = checksum(sum(&segment) + sum(&addresses) + pseudo).to_be_bytes();
    let [v, tos, l0, l1, n0, n1, f0, f1, ttl, protocol] = ip;
    let [a, b, c, d, e, f, g, h] = addresses;
    let [g0, g1, g2, g3, g4, g5, g6, g7, g8, g9, g10, g11, g12, g13, g14, g15] = segment;
    [
        s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5, 0x08, 0x00, v, tos, l0, l1, n0, n1, f0, f1, ttl, protocol, c0,
        c1, a, b, c, d, e, f, g, h, g0, g1, g2, g3, g4, g5, g6, g7, g8, g9, g10, g11, g12, g13, g14, g15, t0, t1, 0, 0,
    ]
}

/// The sum of 16-bit words that a checksum is the complement of.
#[inline(always)]
fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut sum = 0;
    for pair in bytes.chunks_exact(2) {
        if let [high, low] = pair {
            sum += u32::from(u16::from_be_bytes([*high, *low]));
        }
    }
    sum
}

#[inline(always)]
fn checksum(sum: u32) -> u16 {
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !(folded as u16)
}

#[cfg(test)]
mod tests {
    use egress_common::GateState;

    use super::*;
    use crate::classify::Prefix;

    const BOTTLE: [u8; 4] = [10, 213, 0, 2];
    const GATEWAY: [u8; 4] = [10, 213, 0, 1];
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const RULES: Rules = Rules {
        state: GateState::Cut as u32,
        cut_mode: CutMode::Reset as u32,
        mac: MAC,
        ipv4: BOTTLE,
        gateway: GATEWAY,
        dns_port: 53,
        tcp_ports: [8080, 443, 80, 0, 0, 0, 0, 0],
    };
    const CLIENT: u16 = 50_000;

    /// A segment between bottle and gateway.
    #[derive(Clone, Copy)]
    struct Segment {
        direction: Direction,
        port: u16,
        sequence: u32,
        acknowledged: u32,
        flags: u8,
        header_words: u8,
        data_bytes: u16,
        protocol: u8,
    }

    const SYN_SEGMENT: Segment = Segment {
        direction: Direction::FromBottle,
        port: 443,
        sequence: 1000,
        acknowledged: 0,
        flags: SYN,
        header_words: 10,
        data_bytes: 0,
        protocol: IP_PROTOCOL_TCP,
    };

    impl Segment {
        fn frame(self) -> (Packet, [u8; TCP_HEADER_BYTES]) {
            let (from, to, ports) = match self.direction {
                Direction::FromBottle => ((MAC, BOTTLE), (HOST_MAC, GATEWAY), [CLIENT, self.port]),
                Direction::ToBottle => ((HOST_MAC, GATEWAY), (MAC, BOTTLE), [self.port, CLIENT]),
            };
            let total = 20 + u16::from(self.header_words) * 4 + self.data_bytes;
            let mut bytes = [&to.0[..], &from.0, &[8, 0, 0x45, 0]].concat();
            bytes.extend(total.to_be_bytes());
            bytes.extend([0, 7, 0x40, 0, 64, self.protocol, 0, 0]);
            bytes.extend(from.1);
            bytes.extend(to.1);
            let mut tcp = ports.map(u16::to_be_bytes).concat();
            tcp.extend(self.sequence.to_be_bytes());
            tcp.extend(self.acknowledged.to_be_bytes());
            tcp.extend([self.header_words << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
            bytes.extend(&tcp);
            let packet = Packet {
                vlan_tagged: false,
                length: 14 + u32::from(total),
                prefix: Prefix::new(*bytes.first_chunk().unwrap()),
            };
            (packet, tcp.try_into().unwrap())
        }

        fn verdict(self) -> Verdict {
            let (packet, tcp) = self.frame();
            verdict(&RULES, self.direction, &packet, &tcp)
        }
    }

    /// The answer's sequence, acknowledgement and flags.
    fn answered(segment: Segment, expected: (u32, u32, u8)) {
        let Verdict::Answer(frame) = segment.verdict() else { panic!("no answer") };
        let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        assert_eq!((word(38), word(42), frame[47]), expected);
        assert_eq!([&frame[..6], &frame[6..12]], [&MAC[..], &HOST_MAC]);
        assert_eq!([&frame[26..30], &frame[30..34]], [&GATEWAY[..], &BOTTLE]);
        assert_eq!(frame[34..38], [segment.port.to_be_bytes(), CLIENT.to_be_bytes()].concat());
        assert_eq!(frame[16..18], [0, 40]);
        let whole: [u8; 20] = frame[14..34].try_into().unwrap();
        assert_eq!(checksum(sum(&whole)), 0, "of the IPv4 header");
        let addresses: [u8; 8] = frame[26..34].try_into().unwrap();
        let tcp: [u8; 20] = frame[34..].try_into().unwrap();
        assert_eq!(checksum(sum(&addresses) + sum(&tcp) + 26), 0, "of the TCP header");
        // What the gate on the way to the bottle makes of it.
        let back = Packet { vlan_tagged: false, length: 54, prefix: Prefix::new(*frame.first_chunk().unwrap()) };
        assert_eq!(verdict(&RULES, Direction::ToBottle, &back, &tcp), Verdict::Pass);
    }

    #[test]
    fn what_an_open_gate_would_pass_is_answered_as_if_nobody_listened() {
        answered(SYN_SEGMENT, (0, 1001, RST | ACK));
        let data = Segment { flags: ACK, acknowledged: 77, data_bytes: 500, header_words: 8, ..SYN_SEGMENT };
        answered(data, (77, 0, RST));
        answered(Segment { flags: SYN, data_bytes: 3, ..SYN_SEGMENT }, (0, 1004, RST | ACK));
        answered(Segment { flags: FIN, sequence: u32::MAX, ..SYN_SEGMENT }, (0, 0, RST | ACK));
    }

    #[test]
    fn a_reset_is_not_answered_and_what_would_not_pass_meets_silence() {
        for segment in [
            Segment { flags: RST, ..SYN_SEGMENT },
            Segment { flags: RST | ACK, ..SYN_SEGMENT },
            Segment { port: 22, ..SYN_SEGMENT },
            Segment { protocol: 17, port: 53, ..SYN_SEGMENT },
        ] {
            assert_eq!(segment.verdict(), Verdict::Silence);
        }
        let (mut packet, tcp) = SYN_SEGMENT.frame();
        packet.prefix.bytes[29] = 9;
        assert_eq!(verdict(&RULES, Direction::FromBottle, &packet, &tcp), Verdict::Silence, "another's address");
        packet = SYN_SEGMENT.frame().0;
        packet.vlan_tagged = true;
        assert_eq!(verdict(&RULES, Direction::FromBottle, &packet, &tcp), Verdict::Silence, "a VLAN");
    }

    #[test]
    fn only_resets_without_data_reach_the_bottle() {
        let to_bottle = Segment { direction: Direction::ToBottle, ..SYN_SEGMENT };
        for flags in [RST, RST | ACK] {
            assert_eq!(Segment { flags, header_words: 8, ..to_bottle }.verdict(), Verdict::Pass);
            assert_eq!(Segment { flags, data_bytes: 1, ..to_bottle }.verdict(), Verdict::Silence);
            assert_eq!(Segment { flags, port: 22, ..to_bottle }.verdict(), Verdict::Silence);
        }
        for flags in [SYN | ACK, ACK, FIN | ACK, 0] {
            assert_eq!(Segment { flags, ..to_bottle }.verdict(), Verdict::Silence);
        }
    }

    #[test]
    fn only_one_mode_tells() {
        assert!(is_told(&RULES));
        for cut_mode in [0, CutMode::Drop as u32, 3] {
            assert!(!is_told(&Rules { cut_mode, ..RULES }));
        }
    }
}
