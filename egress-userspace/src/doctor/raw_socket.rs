//! Sockets that send and receive whole frames.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

use super::frame::Marker;

/// Anything on the wire.
pub const ALL: u16 = 0x0003;

/// What is looked at of a frame: more than an ordinary MTU.
const FRAME_BYTES_MAX: usize = 4096;

/// A raw socket of one network namespace: the one it was opened in.
#[derive(Debug)]
pub struct RawSocket {
    socket: OwnedFd,
}

/// An interface as frames are sent to it, in the namespace it was looked up in.
#[derive(Clone, Copy, Debug)]
pub struct Wire(LinkAddr);

impl Wire {
    /// Finds an interface of the calling thread's namespace by its number.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(interface: u32) -> io::Result<Self> {
        let links = getifaddrs()?.filter_map(|found| found.address?.as_link_addr().copied());
        let found = links.into_iter().find(|link| u32::try_from(link.ifindex()) == Ok(interface));
        found.map(Self).ok_or_else(|| Errno::ENODEV.into())
    }

    /// Its hardware address.
    #[must_use]
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.0.addr()
    }
}

impl RawSocket {
    /// Opens one that receives frames of this EtherType, on every interface of the calling thread's namespace; 0 is none.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(ether_type: u16) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let protocol = NonZeroU32::new(u32::from(ether_type.to_be())).map(Protocol::from_raw);
        Ok(Self { socket: socket_with(AddressFamily::PACKET, SocketType::RAW, flags, protocol)? })
    }

    /// Sends a frame out of an interface. That it was dropped on the way out is no error.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn send(&self, wire: &Wire, frame: &[u8]) -> io::Result<()> {
        match sendto(self.socket.as_raw_fd(), frame, &wire.0, MsgFlags::empty()) {
            Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Has a frame with this marker arrived since the last call? Takes all that have.
    #[must_use]
    pub fn has_received(&self, marker: Marker) -> bool {
        let mut found = false;
        self.receive(|frame| found |= holds(frame, marker));
        found
    }

    /// Takes all frames that have arrived; long ones are cut short.
    pub fn receive(&self, mut take: impl FnMut(&[u8])) {
        let mut frame = [0; FRAME_BYTES_MAX];
        while let Ok(length) = nix::unistd::read(&self.socket, &mut frame) {
            take(frame.get(..length).unwrap_or_default());
        }
    }
}

/// Is it the frame with this marker?
#[must_use]
pub fn holds(frame: &[u8], marker: Marker) -> bool {
    frame.windows(marker.len()).any(|window| window == marker)
}
