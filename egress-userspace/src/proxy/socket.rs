//! A bottle's connection, and whether what was written to it has arrived.

use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::limits::{DELIVERY_POLL, DELIVERY_POLLS_WITHOUT_FLUSH};
use super::traffic::Traffic;

/// The socket, shared by the stream that is served and those who wait for delivery.
#[derive(Debug)]
pub(super) struct ClientSocket {
    stream: TcpStream,
    peer: Ipv4Addr,
    flushes: AtomicU64,
    traffic: Arc<Traffic>,
}

impl ClientSocket {
    /// Takes over an accepted connection.
    pub(super) fn new(stream: TcpStream, peer: Ipv4Addr, traffic: Arc<Traffic>) -> io::Result<Arc<Self>> {
        stream.set_nodelay(true)?;
        traffic.opened();
        Ok(Arc::new(Self { stream, peer, flushes: AtomicU64::new(0), traffic }))
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> Ipv4Addr {
        self.peer
    }

    /// Has the client hear at the end of the socket that it was broken off, not that all has been said: a client that only
    /// reads would wait for more, since a cut gate lets resets through and no farewell.
    pub(super) fn break_off(&self) {
        // One that is gone already has heard.
        let _ = self.stream.set_zero_linger();
    }

    /// Waits until everything that was handed to the stream before this call has been acknowledged by the client's kernel;
    /// `false` when that took longer than `patience`.
    ///
    /// The layers above write and then flush, so a flush that completes after this call says that nothing older is left in
    /// them; should none come, a socket that stays empty will do.
    pub(super) fn delivered(self: Arc<Self>, patience: Duration) -> impl Future<Output = bool> + Send {
        // Read at the call, not at the first poll: the flush that counts may come in between.
        let flushes = self.flushes.load(Ordering::Acquire);
        async move {
            let arrival = async {
                let mut polls = 0;
                loop {
                    sleep(DELIVERY_POLL).await;
                    polls += 1;
                    let flushed = self.flushes.load(Ordering::Acquire) > flushes;
                    let is_written = flushed || polls > DELIVERY_POLLS_WITHOUT_FLUSH;
                    if is_written && (self.unacknowledged_bytes() == 0 || self.peer_has_left()) {
                        return;
                    }
                }
            };
            timeout(patience, arrival).await.is_ok()
        }
    }

    /// Has the client closed its end? Then it has read what it wanted, whatever of our farewell is never acknowledged.
    fn peer_has_left(&self) -> bool {
        let mut looked_at = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        poll(&mut looked_at, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|events| events > 0)
    }

    /// What the client's kernel has not acknowledged; nothing once the connection is gone.
    fn unacknowledged_bytes(&self) -> i32 {
        ioctl::unacknowledged_bytes(self.stream.as_raw_fd()).unwrap_or(0)
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        // What has arrived and nobody reads any more.
        let unread = ioctl_fionread(&self.stream).unwrap_or(0);
        self.traffic.received(usize::try_from(unread).unwrap_or(usize::MAX));
        self.traffic.closed();
    }
}

#[expect(unsafe_code, reason = "no safe wrapper for SIOCOUTQ exists")]
mod ioctl {
    use std::os::fd::RawFd;

    nix::ioctl_read_bad!(siocoutq, nix::libc::TIOCOUTQ, nix::libc::c_int);

    pub(super) fn unacknowledged_bytes(socket: RawFd) -> nix::Result<i32> {
        let mut bytes = 0;
        // SAFETY: SIOCOUTQ writes one int through the pointer, which lives until the call returns; the caller's socket is open.
        unsafe { siocoutq(socket, &raw mut bytes) }.map(|_| bytes)
    }
}

/// The stream that is served: the socket, and what was read from it by an earlier layer.
#[derive(Debug)]
pub(super) struct ClientStream {
    early: Bytes,
    socket: Arc<ClientSocket>,
}

impl ClientStream {
    /// Serves `socket`; `early` was read from it before.
    pub(super) fn new(socket: Arc<ClientSocket>, early: Bytes) -> Self {
        Self { early, socket }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let length = self.early.len().min(into.remaining());
            into.put_slice(&self.early.split_to(length));
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.socket.stream.poll_read_ready(cx))?;
            match self.socket.stream.try_read(into.initialize_unfilled()) {
                Ok(length) => {
                    self.socket.traffic.received(length);
                    into.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.stream.poll_write_ready(cx))?;
            match self.socket.stream.try_write_vectored(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    self.socket.traffic.sent(*written.as_ref().unwrap_or(&0));
                    return Poll::Ready(written);
                }
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.flushes.fetch_add(1, Ordering::Release);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = nix::sys::socket::shutdown(self.socket.stream.as_raw_fd(), nix::sys::socket::Shutdown::Write);
        Poll::Ready(shut.map_err(io::Error::from))
    }
}
