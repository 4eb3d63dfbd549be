//! Bytes of the gate's maps to values and back.
//!
//! Pure. Anything may have been written to a map, so nothing is read as an enum: an entry that makes no sense is cut,
//! as the program in the kernel sees it.

use std::net::Ipv4Addr;

use egress_common::{
    CutMode as EntryCutMode, CutReason, Direction, DropEvent, GATE_TCP_PORTS_MAX, GateCounters, GateEntry, GateState,
    Outcome,
};

use super::super::{Counter, Gate, GateStatus, IfIndex, KernelError};
use crate::domain::{BottleId, CutMode};

pub(super) type EntryBytes = [u8; size_of::<GateEntry>()];
/// The cells of a [`GateCounters`], packets and bytes of each.
pub(super) type CounterWords = [u64; size_of::<GateCounters>() / size_of::<u64>()];
/// None counted anything.
pub(super) const NOTHING_COUNTED: CounterWords = [0; size_of::<GateCounters>() / size_of::<u64>()];

pub(super) const DIRECTIONS: [Direction; 2] = [Direction::FromBottle, Direction::ToBottle];

/// The entry that makes the kernel hold `gate`.
pub(super) fn encode_entry(gate: &Gate, changed_at_ns: u64) -> Result<EntryBytes, KernelError> {
    let (state, reason) = match gate.status {
        GateStatus::Open => (GateState::Open, CutReason::NotCut),
        GateStatus::Cut(reason) => (GateState::Cut, reason),
    };
    let cut_mode = match gate.cut_mode {
        CutMode::Reset => EntryCutMode::Reset,
        CutMode::Drop => EntryCutMode::Drop,
    };
    let mut bytes = Writer::new();
    bytes.put(gate.interface.0.to_ne_bytes());
    bytes.put((state as u32).to_ne_bytes());
    bytes.put((reason as u32).to_ne_bytes());
    bytes.put((cut_mode as u32).to_ne_bytes());
    bytes.put(gate.bottle.0.to_ne_bytes());
    bytes.put(gate.address.octets());
    bytes.put(gate.gateway.octets());
    bytes.put(gate.mac);
    bytes.put(gate.dns_port.to_ne_bytes());
    for port in ports(&gate.tcp_ports)? {
        bytes.put(port.to_ne_bytes());
    }
    bytes.put([0; size_of::<u32>()]);
    bytes.put(changed_at_ns.to_ne_bytes());
    Ok(bytes.finish())
}

/// The gate an entry stands for. Its key says which interface; the copy in the entry is the program's.
pub(super) fn decode_entry(interface: IfIndex, bytes: &EntryBytes) -> Gate {
    let mut bytes = Reader(bytes);
    let _ifindex = bytes.word();
    let (state, reason) = (bytes.word(), bytes.word());
    Gate {
        interface,
        status: status(state, reason),
        cut_mode: cut_mode(bytes.word()),
        bottle: BottleId(bytes.word()),
        address: Ipv4Addr::from(bytes.take::<4>()),
        gateway: Ipv4Addr::from(bytes.take::<4>()),
        mac: bytes.take(),
        dns_port: u16::from_ne_bytes(bytes.take()),
        tcp_ports: (0..GATE_TCP_PORTS_MAX)
            .map(|_| u16::from_ne_bytes(bytes.take()))
            .filter(|port| *port != 0)
            .collect(),
    }
}

/// What a gate has counted, summed over CPUs; only non-zero cells.
pub(super) fn decode_counters(per_cpu: &[&CounterWords]) -> Vec<Counter> {
    let mut sums = NOTHING_COUNTED;
    for words in per_cpu {
        sums.iter_mut().zip(*words).for_each(|(sum, word)| *sum += word);
    }
    let cells = DIRECTIONS.into_iter().flat_map(|direction| Outcome::ALL.map(|outcome| (direction, outcome)));
    let tallies = sums.as_chunks::<2>().0;
    let counted = cells.zip(tallies).filter(|(_, [packets, _])| *packets > 0);
    counted
        .map(|((direction, outcome), [packets, bytes])| Counter {
            direction,
            outcome,
            packets: *packets,
            bytes: *bytes,
        })
        .collect()
}

/// One record of the ring buffer; `None` when it is none of ours.
pub(super) fn decode_drop_event(bytes: &[u8]) -> Option<DropEvent> {
    let bytes: &[u8; size_of::<DropEvent>()] = bytes.first_chunk()?;
    let mut bytes = Reader(bytes);
    Some(DropEvent {
        at_ns: u64::from_ne_bytes(bytes.take()),
        ifindex: bytes.word(),
        bottle_id: bytes.word(),
        direction: direction(bytes.word())?,
        outcome: outcome(bytes.word())?,
        length: bytes.word(),
        source: bytes.take(),
        destination: bytes.take(),
        ether_type: u16::from_ne_bytes(bytes.take()),
        destination_port: u16::from_ne_bytes(bytes.take()),
        protocol: u8::from_ne_bytes(bytes.take()),
        reserved: bytes.take(),
    })
}

fn ports(given: &[u16]) -> Result<[u16; GATE_TCP_PORTS_MAX], KernelError> {
    let mut ports = [0; GATE_TCP_PORTS_MAX];
    let places = ports
        .get_mut(..given.len())
        .ok_or(KernelError::TooManyPorts { max: GATE_TCP_PORTS_MAX, given: given.len() })?;
    places.copy_from_slice(given);
    Ok(ports)
}

fn status(state: u32, reason: u32) -> GateStatus {
    if state == GateState::Open as u32 {
        return GateStatus::Open;
    }
    const REASONS: [CutReason; 4] =
        [CutReason::Budget, CutReason::Operator, CutReason::NotRunning, CutReason::Tampered];
    let reason = REASONS.into_iter().find(|known| *known as u32 == reason);
    GateStatus::Cut(reason.unwrap_or(CutReason::Tampered))
}

/// Silence is what the program makes of anything else.
fn cut_mode(value: u32) -> CutMode {
    if value == EntryCutMode::Reset as u32 { CutMode::Reset } else { CutMode::Drop }
}

fn direction(value: u32) -> Option<Direction> {
    DIRECTIONS.into_iter().find(|known| *known as u32 == value)
}

fn outcome(value: u32) -> Option<Outcome> {
    Outcome::ALL.into_iter().find(|known| *known as u32 == value)
}

/// Reads fields in the order they stand. What lies beyond the end is zero: the types say how many bytes there are.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().unwrap_or((&[0; N], &[]));
        self.0 = rest;
        *field
    }

    fn word(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }
}

/// Writes fields in the order they stand.
struct Writer<const SIZE: usize> {
    bytes: [u8; SIZE],
    written: usize,
}

impl<const SIZE: usize> Writer<SIZE> {
    fn new() -> Self {
        Self { bytes: [0; SIZE], written: 0 }
    }

    fn put<const N: usize>(&mut self, field: [u8; N]) {
        let end = self.written + N;
        if let Some(place) = self.bytes.get_mut(self.written..end) {
            place.copy_from_slice(&field);
        }
        self.written = end;
    }

    fn finish(self) -> [u8; SIZE] {
        debug_assert_eq!(self.written, SIZE, "the fields fill the value exactly");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use egress_common::{Tallies, Tally};

    use super::*;

    fn gate(status: GateStatus) -> Gate {
        Gate {
            interface: IfIndex(7),
            bottle: BottleId(3),
            mac: [2, 0, 0, 0, 0, 9],
            address: Ipv4Addr::new(10, 213, 0, 2),
            gateway: Ipv4Addr::new(10, 213, 0, 1),
            tcp_ports: vec![8080, 443],
            dns_port: 53,
            status,
            cut_mode: CutMode::Reset,
        }
    }

    #[test]
    fn an_entry_reads_back_as_the_gate_it_was_written_from() {
        for status in [GateStatus::Open, GateStatus::Cut(CutReason::Budget), GateStatus::Cut(CutReason::Tampered)] {
            for cut_mode in CutMode::ALL {
                let gate = Gate { cut_mode, ..gate(status) };
                let bytes = encode_entry(&gate, 1).unwrap();
                assert_eq!(decode_entry(gate.interface, &bytes), gate);
            }
        }
    }

    #[test]
    fn fields_stand_where_the_program_reads_them() {
        let bytes = encode_entry(&gate(GateStatus::Open), 0x0102_0304).unwrap();
        let at = |offset: usize, length: usize| bytes[offset..offset + length].to_vec();
        assert_eq!(at(offset_of!(GateEntry, state), 4), 1_u32.to_ne_bytes());
        assert_eq!(at(offset_of!(GateEntry, cut_mode), 4), 1_u32.to_ne_bytes());
        assert_eq!(at(offset_of!(GateEntry, ipv4), 4), [10, 213, 0, 2]);
        assert_eq!(at(offset_of!(GateEntry, gateway), 4), [10, 213, 0, 1]);
        assert_eq!(at(offset_of!(GateEntry, mac), 6), [2, 0, 0, 0, 0, 9]);
        assert_eq!(at(offset_of!(GateEntry, dns_port), 2), 53_u16.to_ne_bytes());
        assert_eq!(at(offset_of!(GateEntry, tcp_ports), 2), 8080_u16.to_ne_bytes());
        assert_eq!(at(offset_of!(GateEntry, changed_at_ns), 8), 0x0102_0304_u64.to_ne_bytes());
    }

    #[test]
    fn counters_are_where_the_program_counts() {
        let mut words = [NOTHING_COUNTED; 2];
        let cell = offset_of!(GateCounters, to_bottle) + offset_of!(Tallies, port);
        let at = cell / size_of::<u64>();
        (words[0][at], words[0][at + 1], words[1][at], words[1][at + 1]) = (1, 60, 2, 120);
        let counter = Counter { direction: Direction::ToBottle, outcome: Outcome::Port, packets: 3, bytes: 180 };
        assert_eq!(decode_counters(&words.each_ref()), [counter]);
        for (outcome, offset) in [
            (Outcome::Passed, offset_of!(Tallies, passed)),
            (Outcome::Cut, offset_of!(Tallies, cut)),
            (Outcome::NoEntry, offset_of!(Tallies, no_entry)),
            (Outcome::Truncated, offset_of!(Tallies, truncated)),
            (Outcome::Vlan, offset_of!(Tallies, vlan)),
            (Outcome::Ipv6, offset_of!(Tallies, ipv6)),
            (Outcome::EtherType, offset_of!(Tallies, ether_type)),
            (Outcome::SourceMac, offset_of!(Tallies, source_mac)),
            (Outcome::SourceIp, offset_of!(Tallies, source_ip)),
            (Outcome::Arp, offset_of!(Tallies, arp)),
            (Outcome::IpHeader, offset_of!(Tallies, ip_header)),
            (Outcome::Fragment, offset_of!(Tallies, fragment)),
            (Outcome::Destination, offset_of!(Tallies, destination)),
            (Outcome::Protocol, offset_of!(Tallies, protocol)),
            (Outcome::Port, offset_of!(Tallies, port)),
            (Outcome::Reset, offset_of!(Tallies, reset)),
        ] {
            assert_eq!(offset, outcome as usize * size_of::<Tally>(), "{outcome:?}");
        }
    }

    #[test]
    fn an_entry_that_makes_no_sense_is_cut() {
        let mut bytes = encode_entry(&gate(GateStatus::Open), 0).unwrap();
        bytes[offset_of!(GateEntry, state)] = 99;
        assert_eq!(decode_entry(IfIndex(7), &bytes).status, GateStatus::Cut(CutReason::Tampered));
    }

    #[test]
    fn a_gate_holds_eight_ports_and_not_nine() {
        let mut gate = gate(GateStatus::Open);
        gate.tcp_ports = (1..=8).collect();
        assert_eq!(decode_entry(IfIndex(7), &encode_entry(&gate, 0).unwrap()).tcp_ports, gate.tcp_ports);
        gate.tcp_ports.push(9);
        assert!(matches!(encode_entry(&gate, 0), Err(KernelError::TooManyPorts { max: 8, given: 9 })));
    }

    #[test]
    fn a_drop_event_that_makes_no_sense_is_none() {
        let mut bytes = [0_u8; size_of::<DropEvent>()];
        bytes[offset_of!(DropEvent, direction)] = 1;
        bytes[offset_of!(DropEvent, outcome)] = 14;
        assert_eq!(decode_drop_event(&bytes).map(|event| event.outcome), Some(Outcome::Port));
        bytes[offset_of!(DropEvent, outcome)] = 16;
        assert_eq!(decode_drop_event(&bytes), None);
        assert_eq!(decode_drop_event(&bytes[1..]), None);
    }
}
