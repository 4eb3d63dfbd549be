//! Frames as an attacker with root in a bottle makes them. Bytes only; sends nothing.

/// Bytes of a frame's filling that tell it from every other frame.
pub type Marker = [u8; 16];

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of a VLAN tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag.
pub const SERVICE_VLAN: u16 = 0x88a8;
/// EtherType that was used for it before.
pub const OLD_SERVICE_VLAN: u16 = 0x9100;
/// An EtherType for experiments.
pub const EXPERIMENT: u16 = 0x88b5;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// A TCP header's flags.
pub const FIN: u8 = 1;
/// Opens a connection.
pub const SYN: u8 = 2;
/// Ends one at once.
pub const RST: u8 = 4;
/// Is to be handed on at once.
pub const PSH: u8 = 8;
/// Acknowledges.
pub const ACK: u8 = 16;
/// Is urgent.
pub const URG: u8 = 32;

/// Everything of an IPv4 packet that an attack may want to get wrong.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4 {
    /// First byte.
    pub version_and_length: u8,
    /// Second byte: DSCP and ECN.
    pub service: u8,
    /// `None` is the truth.
    pub total_bytes: Option<u16>,
    /// Flags and offset.
    pub fragment: u16,
    /// Protocol number.
    pub protocol: u8,
    /// Source.
    pub source: [u8; 4],
    /// Destination.
    pub destination: [u8; 4],
    /// Source and destination port.
    pub ports: [u16; 2],
    /// Of a TCP segment.
    pub flags: u8,
}

/// Routers do not pass it on: a frame that gets out of hand stays on the host.
const TIME_TO_LIVE: u8 = 1;
/// Bytes of an IPv4 header without options.
const HEADER_BYTES: usize = 20;

/// A frame from its parts; the body begins with what follows the EtherType.
#[must_use]
pub fn ethernet(destination: [u8; 6], source: [u8; 6], ether_type: u16, body: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ether_type.to_be_bytes(), body].concat()
}

/// A VLAN tag before a body of another EtherType.
#[must_use]
pub fn tag(vlan: u16, ether_type: u16, body: &[u8]) -> Vec<u8> {
    [&vlan.to_be_bytes()[..], &ether_type.to_be_bytes(), body].concat()
}

/// An ARP message, with the marker as the padding Ethernet allows.
#[must_use]
pub fn arp(operation: u16, sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4], marker: Marker) -> Vec<u8> {
    let kind = [0, 1, 8, 0, 6, 4];
    [&kind[..], &operation.to_be_bytes(), &sender_mac, &sender, &[0; 6], &target, &marker].concat()
}

/// An IPv6 packet.
#[must_use]
pub fn ipv6(source: [u8; 16], destination: [u8; 16], next_header: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes();
    let [high, low] = length;
    [&[0x60, 0, 0, 0, high, low, next_header, 255][..], &source, &destination, data].concat()
}

impl Ipv4 {
    /// The packet, a TCP segment where the protocol is TCP and else a datagram, with the marker as its data.
    #[must_use]
    pub fn bytes(&self, marker: Marker) -> Vec<u8> {
        let options = vec![1; (usize::from(self.version_and_length & 0x0f) * 4).saturating_sub(HEADER_BYTES)];
        self.carrying(&options, &self.segment(&marker))
    }

    /// The packet with these options, which the header's length does not follow, and this behind its header.
    #[must_use]
    pub fn carrying(&self, options: &[u8], data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(HEADER_BYTES + options.len() + data.len()).unwrap_or(u16::MAX);
        let mut header = vec![self.version_and_length, self.service];
        header.extend(self.total_bytes.unwrap_or(length).to_be_bytes());
        header.extend([0, 7]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([TIME_TO_LIVE, self.protocol, 0, 0]);
        header.extend(self.source);
        header.extend(self.destination);
        header.extend(options);
        let sum = checksum(&header).to_be_bytes();
        header.splice(10..12, sum);
        header.extend(data);
        header
    }

    /// What is behind the IPv4 header.
    #[must_use]
    pub fn segment(&self, data: &[u8]) -> Vec<u8> {
        let [source, destination] = self.ports.map(u16::to_be_bytes);
        let mut segment = [source, destination].concat();
        if self.protocol == TCP {
            segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
            segment.extend(data);
            let sum = checksum(&[&self.pseudo_header(segment.len())[..], &segment].concat()).to_be_bytes();
            segment.splice(16..18, sum);
        } else {
            let length = u16::try_from(8 + data.len()).unwrap_or(u16::MAX);
            segment.extend(length.to_be_bytes());
            segment.extend([0, 0]);
            segment.extend(data);
        }
        segment
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        [&self.source[..], &self.destination, &[0, self.protocol], &length].concat()
    }
}

/// RFC 1071.
#[must_use]
pub fn checksum(header: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([byte(pair, 0), byte(pair, 1)]));
    let mut sum: u32 = header.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_what_a_host_takes_for_one() {
        let packet = Ipv4 {
            version_and_length: 0x45,
            service: 0,
            total_bytes: None,
            fragment: 0,
            protocol: TCP,
            source: [10, 0, 0, 2],
            destination: [10, 0, 0, 1],
            ports: [5, 80],
            flags: SYN,
        };
        let bytes = packet.bytes(*b"0123456789abcdef");
        assert_eq!(bytes.len(), 56);
        assert_eq!(bytes[2..4], [0, 56]);
        assert_eq!(checksum(&bytes[..20]), 0, "of the IPv4 header");
        assert_eq!(checksum(&[&packet.pseudo_header(36)[..], &bytes[20..]].concat()), 0, "of the segment");
        assert_eq!(checksum(&[1, 2, 3]), checksum(&[1, 2, 3, 0]), "an odd byte counts as the higher half");
    }
}
