//! What the table says in words: names, and comments that hold what a gate is for people and for the next controller.
//!
//! Pure. A comment of `nft` has at most 128 characters, so what there is to say of a gate is split over its two chains.

use std::net::Ipv4Addr;
use std::str::FromStr;

use egress_common::{CutReason, Direction, Outcome};

use super::super::{Gate, GateStatus, IfIndex};
use crate::domain::{BottleId, CutMode};

/// Elements are interfaces whose gate is cut.
pub(super) const CUT_SET: &str = "cut";
/// How long an IPv4 packet is that is a TCP header of so many words and nothing else.
pub(super) const BARE_SET: &str = "bare-tcp";

pub(super) const DIRECTIONS: [Direction; 2] = [Direction::FromBottle, Direction::ToBottle];

const REASONS: [CutReason; 4] = [CutReason::Budget, CutReason::Operator, CutReason::NotRunning, CutReason::Tampered];

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::FromBottle => "from",
        Direction::ToBottle => "to",
    }
}

/// The chain on an interface's hook.
pub(super) fn chain(direction: Direction, interface: IfIndex) -> String {
    format!("{}-bottle-{}", way(direction), interface.0)
}

/// The chain for packets of a bottle that hears of its cut.
pub(super) fn told_chain(direction: Direction, interface: IfIndex) -> String {
    format!("told-{}-bottle-{}", way(direction), interface.0)
}

/// The set of the gateway's TCP ports that a bottle may use.
pub(super) fn ports_set(interface: IfIndex) -> String {
    format!("tcp-ports-{}", interface.0)
}

pub(super) fn counter(direction: Direction, outcome: Outcome, interface: IfIndex) -> String {
    format!("{}-bottle-{}-{}", way(direction), interface.0, outcome_word(outcome))
}

/// The interface of a chain that carries a gate's comment.
pub(super) fn interface_of(chain: &str, direction: Direction) -> Option<IfIndex> {
    let number = chain.strip_prefix(way(direction))?.strip_prefix("-bottle-")?;
    number.parse().ok().map(IfIndex)
}

fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Cut => "cut",
        Outcome::NoEntry => "no-entry",
        Outcome::Truncated => "truncated",
        Outcome::Vlan => "vlan",
        Outcome::Ipv6 => "ipv6",
        Outcome::EtherType => "ether-type",
        Outcome::SourceMac => "source-mac",
        Outcome::SourceIp => "source-ip",
        Outcome::Arp => "arp",
        Outcome::IpHeader => "ip-header",
        Outcome::Fragment => "fragment",
        Outcome::Destination => "destination",
        Outcome::Protocol => "protocol",
        Outcome::Port => "port",
        Outcome::Reset => "reset",
    }
}

/// The comment of an element of the cut set.
pub(super) fn reason_word(reason: CutReason) -> &'static str {
    match reason {
        CutReason::NotCut => "not cut",
        CutReason::Budget => "budget",
        CutReason::Operator => "operator",
        CutReason::NotRunning => "not running",
        CutReason::Tampered => "tampered",
    }
}

/// Why a gate is cut whose element has this comment; one that makes no sense is nobody's of ours.
pub(super) fn reason(comment: Option<&str>) -> CutReason {
    let known = REASONS.into_iter().find(|reason| Some(reason_word(*reason)) == comment);
    known.unwrap_or(CutReason::Tampered)
}

/// The comment of the chain on a hook. `mark` is the interface's, by which it is known again.
pub(super) fn comment(direction: Direction, gate: &Gate, mark: &str) -> String {
    match direction {
        Direction::FromBottle => {
            let mac = gate.mac.map(|byte| format!("{byte:02x}")).join(":");
            format!("bottle={} address={} mac={mac} gateway={} mark={mark}", gate.bottle.0, gate.address, gate.gateway)
        }
        Direction::ToBottle => {
            let ports: Vec<_> = gate.tcp_ports.iter().map(u16::to_string).collect();
            format!("tcp={} dns={} cut={}", ports.join(","), gate.dns_port, gate.cut_mode.as_str())
        }
    }
}

/// The gate and the mark that both comments together stand for. What cannot be read is zeros, so that it is nobody's gate.
pub(super) fn read(interface: IfIndex, from: &str, to: &str, status: GateStatus) -> (Gate, String) {
    let ports = word(to, "tcp").unwrap_or_default().split(',').filter_map(|port| port.parse().ok()).collect();
    let gate = Gate {
        interface,
        bottle: BottleId(parsed(from, "bottle").unwrap_or(0)),
        mac: word(from, "mac").and_then(mac).unwrap_or_default(),
        address: parsed(from, "address").unwrap_or(Ipv4Addr::UNSPECIFIED),
        gateway: parsed(from, "gateway").unwrap_or(Ipv4Addr::UNSPECIFIED),
        tcp_ports: ports,
        dns_port: parsed(to, "dns").unwrap_or(0),
        status,
        cut_mode: if word(to, "cut") == Some(CutMode::Reset.as_str()) { CutMode::Reset } else { CutMode::Drop },
    };
    (gate, word(from, "mark").unwrap_or_default().to_owned())
}

fn word<'a>(comment: &'a str, name: &str) -> Option<&'a str> {
    comment.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn parsed<T: FromStr>(comment: &str, name: &str) -> Option<T> {
    word(comment, name)?.parse().ok()
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMENT_CHARACTERS_MAX: usize = 128;

    fn check(gate: &Gate) {
        let [from, to] = DIRECTIONS.map(|direction| comment(direction, gate, "ffffffffffffffff"));
        assert!(from.len() <= COMMENT_CHARACTERS_MAX && to.len() <= COMMENT_CHARACTERS_MAX, "{from} {to}");
        let (found, mark) = read(gate.interface, &from, &to, gate.status);
        assert_eq!((&found, mark.as_str()), (gate, "ffffffffffffffff"));
    }

    #[test]
    fn what_is_written_is_read() {
        let gate = Gate {
            interface: IfIndex(7),
            bottle: BottleId(u32::MAX),
            mac: [0xfe; 6],
            address: Ipv4Addr::BROADCAST,
            gateway: Ipv4Addr::new(255, 213, 200, 199),
            tcp_ports: (65528..=65535).collect(),
            dns_port: 65535,
            status: GateStatus::Cut(CutReason::Budget),
            cut_mode: CutMode::Reset,
        };
        check(&gate);
        check(&Gate { tcp_ports: vec![], cut_mode: CutMode::Drop, status: GateStatus::Open, ..gate });
    }

    #[test]
    fn what_makes_no_sense_is_nobodys() {
        let (gate, mark) = read(IfIndex(7), "bottle=x mac=1:2 address=300.1.1.1", "", GateStatus::Open);
        assert_eq!((gate.bottle, gate.mac, gate.address, mark.as_str()), (BottleId(0), [0; 6], [0; 4].into(), ""));
        assert_eq!(gate.cut_mode, CutMode::Drop);
    }

    #[test]
    fn names_say_whose_they_are() {
        assert_eq!(interface_of(&chain(Direction::FromBottle, IfIndex(7)), Direction::FromBottle), Some(IfIndex(7)));
        assert_eq!(interface_of(&chain(Direction::FromBottle, IfIndex(7)), Direction::ToBottle), None);
        assert_eq!(interface_of(&told_chain(Direction::FromBottle, IfIndex(7)), Direction::FromBottle), None);
        assert_eq!(interface_of("from-bottle-x", Direction::FromBottle), None);
    }

    #[test]
    fn reasons_are_words() {
        for known in REASONS {
            assert_eq!(reason(Some(reason_word(known))), known);
        }
        for unknown in [None, Some(""), Some("not cut")] {
            assert_eq!(reason(unknown), CutReason::Tampered);
        }
    }
}
