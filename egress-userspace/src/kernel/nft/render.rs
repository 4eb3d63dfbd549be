//! A gate as chains and rules of nftables: what passes, and under what everything else is counted.
//!
//! Pure. The decisions are those of the eBPF program (`egress-ebpf/src/classify.rs` and `reset.rs`), in its order. What
//! may pass is said first and positively, each kind of packet by one rule that checks everything; the rules after that
//! only tell drops apart. So a rule that is missing never lets more through: chains drop what nothing accepts.

use std::collections::BTreeSet;

use egress_common::{Direction, Outcome, RESETS_PER_WINDOW};

use super::super::Gate;
use super::expression::{Base, Comparison, Expression, MetaKey, Verdict};
use super::label::{self, BARE_SET, CUT_SET, DIRECTIONS};
use crate::domain::CutMode;

pub(super) type Rule = Vec<Expression>;

/// All of one gate but whether it is cut, which is an element of the cut set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    /// In an order in which each goes only to earlier ones.
    pub(super) chains: Vec<Chain>,
    /// Elements of the set of ports.
    pub(super) ports: BTreeSet<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: String,
    /// On the interface's hook; it drops what no rule accepts.
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) direction: Direction,
    pub(super) device: String,
    pub(super) comment: String,
}

const ETHERNET_BYTES: u32 = 14;
/// Ethernet and ARP, or Ethernet, IPv4 and UDP.
const PREFIX_BYTES: u32 = ETHERNET_BYTES + 28;
const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_TYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHER_TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ETHER_TYPES_VLAN: [[u8; 2]; 3] = [[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]];
const IPV4_PLAIN_HEADER: u8 = 0x45;
const IPV4_FRAGMENT_BITS: [u8; 2] = [0x3f, 0xff];
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_REPLY: [u8; 2] = [0, 2];
const TCP: u8 = 6;
const UDP: u8 = 17;
const RST: u8 = 0x04;
/// The upper half of the byte that says how many words a TCP header has.
const TCP_WORDS: u8 = 0xf0;
/// IPv4 and TCP headers without options, IPv4 and UDP headers.
const TCP_PACKET_BYTES: u16 = 40;
const UDP_PACKET_BYTES: u16 = 28;

/// A register for most, and the one four bytes after it.
const REGISTER: u32 = 1;
const NEXT_REGISTER: u32 = 9;

/// The elements of the set of packets that are a TCP header and nothing else: total length, then words of that header.
pub(super) fn bare_tcp() -> Vec<[u8; 8]> {
    let element = |words: u16| {
        let [high, low] = (20 + words * 4).to_be_bytes();
        let [_, words] = (words << 4).to_be_bytes();
        [high, low, 0, 0, words, 0, 0, 0]
    };
    (5..=15).map(element).collect()
}

/// Every cell that a gate may count in.
pub(super) fn cells() -> impl Iterator<Item = (Direction, Outcome)> {
    let all = DIRECTIONS.into_iter().flat_map(|direction| Outcome::ALL.map(|outcome| (direction, outcome)));
    // A chain is its own entry, and towards the bottle the hardware address is the host's.
    all.filter(|cell| cell.1 != Outcome::NoEntry && *cell != (Direction::ToBottle, Outcome::SourceMac))
}

/// Bytes that the kernel does not count from where the chain of this direction stands: the Ethernet header.
pub(super) fn uncounted_bytes(direction: Direction) -> u32 {
    match direction {
        Direction::FromBottle => ETHERNET_BYTES,
        Direction::ToBottle => 0,
    }
}

/// The gate on a device that carries this mark.
pub(super) fn render(gate: &Gate, device: &str, mark: &str) -> Rendered {
    let mut chains = Vec::new();
    for direction in DIRECTIONS {
        let side = Side { gate, direction };
        let when_cut = match gate.cut_mode {
            CutMode::Drop => side.drop(Outcome::Cut),
            CutMode::Reset => {
                let told = side.told();
                let goto = Expression::Verdict(Verdict::GoTo(told.name.clone()));
                chains.push(told);
                vec![goto]
            }
        };
        let hook = Hook { direction, device: device.to_owned(), comment: label::comment(direction, gate, mark) };
        let rules = side.rules(when_cut);
        chains.push(Chain { name: label::chain(direction, gate.interface), hook: Some(hook), rules });
    }
    // Port 0 marks an unused place.
    let ports = gate.tcp_ports.iter().copied().filter(|port| *port != 0).collect();
    Rendered { chains, ports }
}

/// One direction of a gate.
struct Side<'a> {
    gate: &'a Gate,
    direction: Direction,
}

impl Side<'_> {
    fn rules(&self, when_cut: Rule) -> Vec<Rule> {
        let interface = match self.direction {
            Direction::FromBottle => MetaKey::Input,
            Direction::ToBottle => MetaKey::Output,
        };
        let is_cut = vec![
            Expression::Meta { key: interface, register: REGISTER },
            Expression::Lookup { set: CUT_SET.to_owned(), register: REGISTER },
        ];
        let mut rules = vec![[is_cut, when_cut].concat()];
        rules.extend([self.tcp(), self.udp(), self.arp()].map(|passes| [passes, self.pass(Outcome::Passed)].concat()));
        rules.extend(self.told_apart().into_iter().map(|(rule, outcome)| [rule, self.drop(outcome)].concat()));
        rules
    }

    /// What a cut gate does that tells: resets go in, and nothing else.
    fn told(&self) -> Chain {
        let flags = load(Base::Transport, 13, 1);
        let told = match self.direction {
            Direction::FromBottle => {
                let burst = RESETS_PER_WINDOW;
                let limit = Expression::Limit { per_second: u64::from(RESETS_PER_WINDOW), burst };
                let answer = vec![limit, self.count(Outcome::Reset), Expression::RejectWithReset];
                vec![self.tcp(), vec![flags, mask(&[RST]), is(&[0])], answer]
            }
            Direction::ToBottle => {
                let bare = vec![
                    load(Base::Network, 2, 2),
                    Expression::Payload { base: Base::Transport, offset: 12, length: 1, register: NEXT_REGISTER },
                    Expression::Mask { register: NEXT_REGISTER, mask: vec![TCP_WORDS] },
                    Expression::Lookup { set: BARE_SET.to_owned(), register: REGISTER },
                ];
                vec![self.tcp(), vec![flags, mask(&[RST]), is_not(&[0])], bare, self.pass(Outcome::Reset)]
            }
        };
        let name = label::told_chain(self.direction, self.gate.interface);
        Chain { name, hook: None, rules: vec![told.concat(), self.drop(Outcome::Cut)] }
    }

    /// TCP with a port of the gateway that was given.
    fn tcp(&self) -> Rule {
        let port =
            vec![self.port(), Expression::Lookup { set: label::ports_set(self.gate.interface), register: REGISTER }];
        [self.ipv4(TCP, TCP_PACKET_BYTES), port].concat()
    }

    /// UDP with the port of the resolver.
    fn udp(&self) -> Rule {
        let port = vec![self.port(), is(&self.gate.dns_port.to_be_bytes()), is_not(&[0, 0])];
        [self.ipv4(UDP, UDP_PACKET_BYTES), port].concat()
    }

    /// A whole packet between bottle and gateway with a plain header.
    fn ipv4(&self, protocol: u8, bytes_min: u16) -> Rule {
        let [sender, receiver] = self.parties();
        let mut rule = self.ethernet(ETHER_TYPE_IPV4);
        rule.extend([load(Base::Network, 0, 1), is(&[IPV4_PLAIN_HEADER])]);
        rule.extend([load(Base::Network, 6, 2), mask(&IPV4_FRAGMENT_BITS), is(&[0, 0])]);
        rule.extend([load(Base::Network, 12, 4), is(&sender)]);
        rule.extend([load(Base::Network, 16, 4), is(&receiver)]);
        rule.extend([protocol_of_a_sound_packet(), is(&[protocol])]);
        rule.extend([load(Base::Network, 2, 2), compare(Comparison::AtLeast, &bytes_min.to_be_bytes())]);
        rule
    }

    /// A question or an answer between the two about each other.
    fn arp(&self) -> Rule {
        let [sender, receiver] = self.parties();
        let mut rule = self.ethernet(ETHER_TYPE_ARP);
        rule.extend([load(Base::Network, 0, 6), is(&ARP_ETHERNET_IPV4)]);
        let at_least = compare(Comparison::AtLeast, &ARP_REQUEST);
        rule.extend([load(Base::Network, 6, 2), at_least, compare(Comparison::AtMost, &ARP_REPLY)]);
        if self.direction == Direction::FromBottle {
            rule.extend([load(Base::Network, 8, 6), is(&self.gate.mac)]);
        }
        rule.extend([load(Base::Network, 14, 4), is(&sender)]);
        rule.extend([load(Base::Network, 24, 4), is(&receiver)]);
        rule
    }

    fn ethernet(&self, ether_type: [u8; 2]) -> Rule {
        let mut rule = vec![load(Base::Link, 12, 2), is(&ether_type)];
        rule.extend(self.length(Comparison::AtLeast));
        if self.direction == Direction::FromBottle {
            rule.extend([load(Base::Link, 6, 6), is(&self.gate.mac)]);
        }
        rule
    }

    /// Everything that is left, in the order in which it is told apart; the last rules take all that came so far.
    fn told_apart(&self) -> Vec<(Rule, Outcome)> {
        let [sender, receiver] = self.parties();
        let ether_type = |wanted: [u8; 2]| vec![load(Base::Link, 12, 2), is(&wanted)];
        let vlan = ETHER_TYPES_VLAN.map(|tag| (ether_type(tag), Outcome::Vlan));
        let truncated = (self.length(Comparison::Less), Outcome::Truncated);
        // From the bottle the kernel has taken tags off before anybody measures; the other way they are still bytes.
        let mut rules = match self.direction {
            Direction::FromBottle => vlan.into_iter().chain([truncated]).collect::<Vec<_>>(),
            Direction::ToBottle => [truncated].into_iter().chain(vlan).collect(),
        };
        rules.push((ether_type(ETHER_TYPE_IPV6), Outcome::Ipv6));
        let unknown = vec![load(Base::Link, 12, 2), is_not(&ETHER_TYPE_IPV4), is_not(&ETHER_TYPE_ARP)];
        rules.push((unknown, Outcome::EtherType));
        if self.direction == Direction::FromBottle {
            rules.push((vec![load(Base::Link, 6, 6), is_not(&self.gate.mac)], Outcome::SourceMac));
        }
        rules.push((ether_type(ETHER_TYPE_ARP), Outcome::Arp));
        rules.push((vec![load(Base::Network, 0, 1), is_not(&[IPV4_PLAIN_HEADER])], Outcome::IpHeader));
        let sound =
            |rest: Rule| [vec![protocol_of_a_sound_packet(), compare(Comparison::AtLeast, &[0])], rest].concat();
        let fragment = vec![load(Base::Network, 6, 2), mask(&IPV4_FRAGMENT_BITS), is_not(&[0, 0])];
        rules.push((sound(vec![load(Base::Network, 12, 4), is_not(&sender)]), Outcome::SourceIp));
        rules.push((sound(fragment), Outcome::Fragment));
        rules.push((sound(vec![load(Base::Network, 16, 4), is_not(&receiver)]), Outcome::Destination));
        rules.push((vec![protocol_of_a_sound_packet(), is_not(&[TCP]), is_not(&[UDP])], Outcome::Protocol));
        for (protocol, bytes_min) in [(TCP, TCP_PACKET_BYTES), (UDP, UDP_PACKET_BYTES)] {
            let short = compare(Comparison::Less, &bytes_min.to_be_bytes());
            let rule = vec![protocol_of_a_sound_packet(), is(&[protocol]), load(Base::Network, 2, 2), short];
            rules.push((rule, Outcome::IpHeader));
        }
        rules.push((sound(vec![]), Outcome::Port));
        rules.push((vec![], Outcome::IpHeader));
        rules
    }

    /// Compares the packet's length with the least that any packet has.
    fn length(&self, operation: Comparison) -> Rule {
        let least = PREFIX_BYTES - uncounted_bytes(self.direction);
        let length = Expression::Meta { key: MetaKey::Length, register: REGISTER };
        vec![length, Expression::ToNetworkOrder { register: REGISTER }, compare(operation, &least.to_be_bytes())]
    }

    /// The gateway's port.
    fn port(&self) -> Expression {
        match self.direction {
            Direction::FromBottle => load(Base::Transport, 2, 2),
            Direction::ToBottle => load(Base::Transport, 0, 2),
        }
    }

    /// Sender and receiver.
    fn parties(&self) -> [[u8; 4]; 2] {
        let (bottle, gateway) = (self.gate.address.octets(), self.gate.gateway.octets());
        match self.direction {
            Direction::FromBottle => [bottle, gateway],
            Direction::ToBottle => [gateway, bottle],
        }
    }

    fn pass(&self, outcome: Outcome) -> Rule {
        vec![self.count(outcome), Expression::Verdict(Verdict::Accept)]
    }

    fn drop(&self, outcome: Outcome) -> Rule {
        vec![self.count(outcome), Expression::Verdict(Verdict::Drop)]
    }

    fn count(&self, outcome: Outcome) -> Expression {
        Expression::Count { counter: label::counter(self.direction, outcome, self.gate.interface) }
    }
}

/// The kernel knows it only of a packet whose IPv4 header is not longer than its total length, and that not longer than
/// the packet; the rule does not match others.
fn protocol_of_a_sound_packet() -> Expression {
    Expression::Meta { key: MetaKey::Protocol, register: REGISTER }
}

fn load(base: Base, offset: u32, length: u32) -> Expression {
    Expression::Payload { base, offset, length, register: REGISTER }
}

fn mask(bits: &[u8]) -> Expression {
    Expression::Mask { register: REGISTER, mask: bits.to_vec() }
}

fn is(value: &[u8]) -> Expression {
    compare(Comparison::Equal, value)
}

fn is_not(value: &[u8]) -> Expression {
    compare(Comparison::NotEqual, value)
}

fn compare(operation: Comparison, value: &[u8]) -> Expression {
    Expression::Compare { register: REGISTER, operation, value: value.to_vec() }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::super::super::{GateStatus, IfIndex};
    use super::*;
    use crate::domain::BottleId;

    /// A gate as the file has it that is kept beside the code.
    fn check(cut_mode: CutMode, expected: &str) {
        let gate = Gate {
            interface: IfIndex(7),
            bottle: BottleId(42),
            mac: [2, 0, 10, 213, 0, 2],
            address: [10, 213, 0, 2].into(),
            gateway: [10, 213, 0, 1].into(),
            tcp_ports: vec![8080, 443, 80, 0],
            dns_port: 53,
            status: GateStatus::Open,
            cut_mode,
        };
        let rendered = render(&gate, "gate0", "1f");
        let mut text = format!("ports {:?}\n", rendered.ports);
        for chain in &rendered.chains {
            writeln!(text, "\nchain {}", chain.name).unwrap();
            if let Some(hook) = &chain.hook {
                writeln!(text, "  on {} {:?}: {}", hook.device, hook.direction, hook.comment).unwrap();
            }
            for rule in &chain.rules {
                let steps: Vec<_> = rule.iter().map(ToString::to_string).collect();
                writeln!(text, "  {}", steps.join("; ")).unwrap();
            }
        }
        assert_eq!(text, expected, "rendered:\n{text}");
    }

    #[test]
    fn a_gate_is_what_the_file_says() {
        check(CutMode::Drop, include_str!("testdata/drop.txt"));
        check(CutMode::Reset, include_str!("testdata/reset.txt"));
    }

    #[test]
    fn every_cell_is_counted_in_by_a_gate_that_tells() {
        let expected = include_str!("testdata/reset.txt");
        for (direction, outcome) in cells() {
            let name = label::counter(direction, outcome, IfIndex(7));
            assert!(expected.contains(&format!("count {name};")), "{name}");
        }
    }

    #[test]
    fn a_bare_header_is_as_long_as_it_says() {
        let elements = bare_tcp();
        assert_eq!(elements.first(), Some(&[0, 40, 0, 0, 0x50, 0, 0, 0]));
        assert_eq!(elements.last(), Some(&[0, 80, 0, 0, 0xf0, 0, 0, 0]));
    }
}
