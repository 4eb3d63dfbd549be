//! A run's standard streams on their way from a front-end to the controller.
//!
//! HTTP has no place for descriptors: they come before the request, with one NUL byte, which no request begins with. What is
//! sent so is what the front-end itself had open. The controller takes nothing out of a process by number: with its
//! privileges it could take what the process may not use itself, a setuid program that it has become meanwhile, say.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recv, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Standard input, output and error.
const STREAMS: usize = 3;
/// The byte that carries them: a stream delivers descriptors only with data.
const CARRIER: u8 = 0;

/// Sends the streams; the caller's own copies stay open.
pub(super) async fn send(socket: &UnixStream, streams: [BorrowedFd<'_>; STREAMS]) -> io::Result<()> {
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&streams)) {
            return Err(io::Error::other("the standard streams were not sent"));
        }
        Ok(sendmsg(socket, &[IoSlice::new(&[CARRIER])], &mut control, SendFlags::NOSIGNAL)?)
    };
    socket.async_io(Interest::WRITABLE, send).await.map(drop)
}

/// The streams that come before a request, once anything has come; `None` when the request itself has.
///
/// # Errors
/// When the socket fails, or not precisely three descriptors came: all that did are closed.
pub(super) async fn receive(socket: &UnixStream) -> io::Result<Option<[OwnedFd; STREAMS]>> {
    let look = || {
        let mut first = [0; 1];
        let (_, count) = recv(socket, &mut first, RecvFlags::PEEK)?;
        Ok((count > 0).then_some(first))
    };
    match socket.async_io(Interest::READABLE, look).await? {
        Some([CARRIER]) => take(socket.as_fd()).map(Some),
        Some(_) | None => Ok(None),
    }
}

fn take(socket: BorrowedFd<'_>) -> io::Result<[OwnedFd; STREAMS]> {
    let mut carrier = [0; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(&mut carrier)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors: Vec<OwnedFd> = Vec::with_capacity(STREAMS);
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    let refused = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(refused(format!("more than {STREAMS} descriptors came before the request")));
    }
    let received = descriptors.len();
    descriptors
        .try_into()
        .map_err(|_| refused(format!("{received} descriptors came before the request, not {STREAMS}")))
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, Write, pipe};

    use rustix::io::{FdFlags, fcntl_getfd};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Sends one message with the writing ends of so many pipes, and what the server made of it. Those that were sent are
    /// open in no place but where they have arrived.
    async fn send_pipes(count: usize, bytes: &[u8]) -> (io::Result<Option<[OwnedFd; STREAMS]>>, Vec<PipeReader>) {
        let (client, server) = UnixStream::pair().unwrap();
        let (readers, writers): (Vec<PipeReader>, Vec<PipeWriter>) = (0..count).map(|_| pipe().unwrap()).unzip();
        let descriptors: Vec<_> = writers.iter().map(AsFd::as_fd).collect();
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(count == 0 || control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(&client, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
        (receive(&server).await, readers)
    }

    #[tokio::test]
    async fn streams_arrive_in_their_places_and_before_the_request() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        let (mut readers, writers): (Vec<PipeReader>, Vec<PipeWriter>) = (0..3).map(|_| pipe().unwrap()).unzip();
        let [first, second, third] = &writers[..] else { panic!() };
        send(&client, [first.as_fd(), second.as_fd(), third.as_fd()]).await.unwrap();
        client.write_all(b"POST /").await.unwrap();
        let received = receive(&server).await.unwrap().unwrap();
        drop(writers);
        for (index, (descriptor, reader)) in received.into_iter().zip(&mut readers).enumerate() {
            assert!(fcntl_getfd(&descriptor).unwrap().contains(FdFlags::CLOEXEC));
            write!(PipeWriter::from(descriptor), "{index}").unwrap();
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, index.to_string());
        }
        let mut request = [0; 6];
        server.read_exact(&mut request).await.unwrap();
        assert_eq!(&request, b"POST /");
    }

    #[tokio::test]
    async fn anything_but_three_is_refused_and_closed() {
        for count in [0, 1, 2, 4, 5, 64] {
            let (received, readers) = send_pipes(count, b"\0GET / HTTP/1.1\r\n").await;
            assert_eq!(received.unwrap_err().kind(), io::ErrorKind::InvalidData, "{count}");
            for mut reader in readers {
                assert_eq!(reader.read(&mut [0]).unwrap(), 0, "one of {count} is still open");
            }
        }
        assert!(send_pipes(3, b"\0GET").await.0.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_comes_with_a_request_itself_is_no_stream() {
        let (received, readers) = send_pipes(3, b"GET / HTTP/1.1\r\n").await;
        assert!(received.unwrap().is_none());
        for mut reader in readers {
            assert_eq!(reader.read(&mut [0]).unwrap(), 0, "it is still open");
        }
        let (client, server) = UnixStream::pair().unwrap();
        drop(client);
        assert!(receive(&server).await.unwrap().is_none(), "nobody is there");
    }
}
