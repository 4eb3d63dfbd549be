//! The gateway's listeners on their way from the controller, who may bind them, to the proxy, who may not.
//!
//! One message with five descriptors in a fixed order, before any frame.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use thiserror::Error;

/// How many descriptors go over.
const LISTENERS: usize = 5;
/// The byte that carries them: a stream delivers descriptors only with data.
const CARRIER: [u8; 1] = [b'L'];

/// The sockets that bottles reach.
#[derive(Debug)]
pub struct Listeners {
    /// Explicit proxy: CONNECT and absolute-form (port 8080).
    pub explicit: TcpListener,
    /// Transparent TLS, by SNI (port 443).
    pub tls: TcpListener,
    /// Transparent plain HTTP, by Host (port 80).
    pub plain: TcpListener,
    /// DNS over UDP (port 53).
    pub dns_udp: UdpSocket,
    /// DNS over TCP (port 53).
    pub dns_tcp: TcpListener,
}

/// Why the listeners did not go over.
#[derive(Debug, Error)]
pub enum HandoffError {
    /// The socket failed.
    #[error("the broker socket failed while listeners were handed over")]
    Socket(#[from] rustix::io::Errno),
    /// The kernel took no more than part of the message.
    #[error("the listeners were not sent")]
    NotSent,
    /// Something else came first.
    #[error("expected {LISTENERS} listeners, received {received}")]
    Count {
        /// How many descriptors came.
        received: usize,
    },
}

/// Hands the listeners over; the caller's own copies stay open.
///
/// # Errors
///
/// The socket failed.
pub fn send_listeners(socket: &UnixStream, listeners: &Listeners) -> Result<(), HandoffError> {
    let descriptors = [
        listeners.explicit.as_fd(),
        listeners.tls.as_fd(),
        listeners.plain.as_fd(),
        listeners.dns_udp.as_fd(),
        listeners.dns_tcp.as_fd(),
    ];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(HandoffError::NotSent);
    }
    let sent = sendmsg(socket, &[IoSlice::new(&CARRIER)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == CARRIER.len() { Ok(()) } else { Err(HandoffError::NotSent) }
}

/// Takes the listeners that the other side sends first; waits for them.
///
/// # Errors
///
/// The socket failed, or something else came.
pub fn receive_listeners(socket: &UnixStream) -> Result<Listeners, HandoffError> {
    let mut carrier = [0; CARRIER.len()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut carrier)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors: Vec<OwnedFd> = Vec::with_capacity(LISTENERS);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let received = descriptors.len();
    let descriptors: [OwnedFd; LISTENERS] = descriptors.try_into().map_err(|_| HandoffError::Count { received })?;
    let [explicit, tls, plain, dns_udp, dns_tcp] = descriptors;
    Ok(Listeners {
        explicit: explicit.into(),
        tls: tls.into(),
        plain: plain.into(),
        dns_udp: dns_udp.into(),
        dns_tcp: dns_tcp.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn bind() -> Listeners {
        let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
        let dns_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        Listeners { explicit: tcp(), tls: tcp(), plain: tcp(), dns_udp, dns_tcp: tcp() }
    }

    #[test]
    fn listeners_arrive_in_their_places_and_before_the_bytes_that_follow() {
        let (mut controller, mut proxy) = UnixStream::pair().unwrap();
        let sent = bind();
        send_listeners(&controller, &sent).unwrap();
        controller.write_all(&[4, 0, 0, 0]).unwrap();
        controller.write_all(b"true").unwrap();
        let received = receive_listeners(&proxy).unwrap();
        let addresses = |from: &Listeners| {
            let tcp = [&from.explicit, &from.tls, &from.plain, &from.dns_tcp].map(|one| one.local_addr().unwrap());
            (tcp, from.dns_udp.local_addr().unwrap())
        };
        assert_eq!(addresses(&received), addresses(&sent));
        assert!(crate::broker::read_frame_blocking::<bool>(&mut proxy).unwrap());
    }

    #[test]
    fn anything_else_than_listeners_is_refused() {
        let (mut controller, proxy) = UnixStream::pair().unwrap();
        controller.write_all(b"hello").unwrap();
        assert!(matches!(receive_listeners(&proxy), Err(HandoffError::Count { received: 0 })));
    }
}
