//! Frames as an attacker with root in a bottle makes them, and the raw sockets they go through.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::Result;

/// Bytes of a frame's filling that tell it from every other frame.
pub type Marker = [u8; 16];

/// Anything on the wire.
pub const ALL: u16 = 0x0003;
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
/// An EtherType for experiments.
pub const EXPERIMENT: u16 = 0x88b5;

/// Everything of an IPv4 packet that a test may want to get wrong.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4 {
    /// First byte.
    pub version_and_length: u8,
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
}

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

impl Ipv4 {
    /// The packet, a TCP SYN where the protocol is TCP and else a datagram, with the marker as its data.
    #[must_use]
    pub fn bytes(&self, marker: Marker) -> Vec<u8> {
        let data = self.segment(marker);
        let header_bytes = usize::from(self.version_and_length & 0x0f) * 4;
        let options = vec![1; header_bytes.saturating_sub(20)];
        let length = u16::try_from(20 + options.len() + data.len()).unwrap_or(u16::MAX);
        let mut header = vec![self.version_and_length, 0];
        header.extend(self.total_bytes.unwrap_or(length).to_be_bytes());
        header.extend([0, 7]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([64, self.protocol, 0, 0]);
        header.extend(self.source);
        header.extend(self.destination);
        header.extend(options);
        let sum = checksum(&header).to_be_bytes();
        header.splice(10..12, sum);
        header.extend(data);
        header
    }

    fn segment(&self, marker: Marker) -> Vec<u8> {
        let [source, destination] = self.ports.map(u16::to_be_bytes);
        let mut segment = [source, destination].concat();
        if self.protocol == 6 {
            segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            let length = u16::try_from(8 + marker.len()).unwrap_or(u16::MAX);
            segment.extend(length.to_be_bytes());
            segment.extend([0, 0]);
        }
        segment.extend(marker);
        segment
    }
}

/// A raw socket of one network namespace: the one it was opened in.
#[derive(Debug)]
pub struct RawSocket {
    socket: OwnedFd,
}

impl RawSocket {
    /// Opens one that receives frames of this EtherType, on every interface of the namespace.
    #[expect(unsafe_code, reason = "packet sockets have no safe wrapper that takes any EtherType")]
    pub fn open(ether_type: u16) -> Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: takes numbers, touches no memory of ours.
        let number = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(ether_type.to_be())) };
        if number < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: the kernel just gave it to us and nobody else has it.
        Ok(Self { socket: unsafe { OwnedFd::from_raw_fd(number) } })
    }

    /// Sends a frame out of an interface.
    #[expect(unsafe_code, reason = "the address of a packet socket has no safe constructor")]
    pub fn send(&self, interface: u32, frame: &[u8]) -> Result<()> {
        // SAFETY: a plain structure of numbers, valid when zero.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = u16::try_from(libc::AF_PACKET)?;
        to.sll_ifindex = i32::try_from(interface)?;
        to.sll_halen = 6;
        to.sll_protocol =
            frame.get(12..14).map_or(0, |bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte))).to_be();
        let length = u32::try_from(size_of::<libc::sockaddr_ll>())?;
        // SAFETY: both pointers are to memory that outlives the call, of the lengths given.
        let sent = unsafe {
            let to = (&raw const to).cast();
            libc::sendto(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, to, length)
        };
        let error = io::Error::last_os_error();
        // That is what a sender is told whose packet was dropped on the way out.
        if sent < 0 && error.raw_os_error() != Some(libc::ENOBUFS) {
            return Err(error.into());
        }
        Ok(())
    }

    /// Has a frame with this marker arrived since the last call? Takes all that have.
    pub fn has_received(&self, marker: Marker) -> bool {
        let mut found = false;
        let mut frame = vec![0; 65536];
        while let Ok(length) = nix::unistd::read(&self.socket, &mut frame) {
            let frame = frame.get(..length).unwrap_or_default();
            found |= frame.windows(marker.len()).any(|window| window == marker);
        }
        found
    }
}

/// RFC 1071.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|pair| pair.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
