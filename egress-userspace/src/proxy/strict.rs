//! A bottle's HTTP/1 connection as hyper gets to read it: heads come whole, and only if they can be read in one way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::framing::{Framing, FramingError};
use super::limits::{HEAD_ARRIVAL_TIME_MAX, STRICT_READ_BYTES};
use super::spelling::{Heads, Names};

/// What hyper answers with 400, and with nothing else.
const NO_HEAD: &[u8] = b"\0\r\n\r\n";

/// Reads what `inner` has, looked at.
#[derive(Debug)]
pub(super) struct StrictStream<S> {
    inner: S,
    framing: Framing,
    /// What was read and not given on.
    held: BytesMut,
    /// How much of that may be given on.
    cleared: usize,
    /// Nothing that follows is looked at any more: there was an error, or the end.
    is_over: bool,
    /// Shared with whoever turns the connection into something else.
    is_upgraded: Arc<AtomicBool>,
    /// What is told of each head that is given on.
    heads: Arc<Heads>,
    /// When the head that has begun is to be here.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> StrictStream<S> {
    /// Looks at what `inner` reads, until `is_upgraded`.
    pub(super) fn new(inner: S, is_upgraded: Arc<AtomicBool>, heads: Arc<Heads>) -> Self {
        heads.begin();
        let (framing, held) = (Framing::new(), BytesMut::new());
        Self { inner, framing, held, cleared: 0, is_over: false, is_upgraded, heads, deadline: None }
    }

    /// What was read of a connection that has become something else, and not given on.
    pub(super) fn into_held(self) -> Bytes {
        self.held.freeze()
    }
}

impl<S: AsyncRead + Unpin> StrictStream<S> {
    /// Reads on, until something may be given on or there is nothing more.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.cleared == 0 && !self.is_over {
            if !self.held.is_empty() && self.clear()? {
                break;
            }
            let mut space = [0; STRICT_READ_BYTES];
            let mut into = ReadBuf::new(&mut space);
            if Pin::new(&mut self.inner).poll_read(cx, &mut into)?.is_pending() {
                ready!(self.poll_deadline(cx));
                self.refuse();
                break;
            }
            if into.filled().is_empty() {
                // hyper sees what there is of it, and that it ends there.
                (self.is_over, self.cleared) = (true, self.held.len());
            }
            self.held.extend_from_slice(into.filled());
        }
        Poll::Ready(Ok(()))
    }

    /// Resolves when a head has taken too long.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.held.is_empty() || !self.framing.is_in_head() {
            self.deadline = None;
            return Poll::Pending;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(HEAD_ARRIVAL_TIME_MAX)));
        deadline.as_mut().poll(cx)
    }

    /// Has hyper answer with 400, when it has answered what came before.
    fn refuse(&mut self) {
        self.held = NO_HEAD.into();
        (self.cleared, self.is_over) = (NO_HEAD.len(), true);
    }

    /// Reads what need not be looked at straight to where it is wanted.
    fn poll_unseen(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>, unseen: usize) -> Poll<io::Result<()>> {
        let length = into.remaining().min(unseen);
        let mut part = ReadBuf::new(into.initialize_unfilled_to(length));
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let read = part.filled();
        let passed = self.framing.follow(read).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        into.advance(passed);
        Poll::Ready(Ok(()))
    }

    /// Looks at what is held. True when some of it may be given on.
    fn clear(&mut self) -> io::Result<bool> {
        let followed = self.framing.follow(&self.held);
        self.framing.take_names().into_iter().for_each(|names| self.heads.add(Names::new(names)));
        match followed {
            Ok(0) => {}
            Ok(length) => (self.cleared, self.deadline) = (length, None),
            Err(error @ FramingError::Head) => {
                tracing::debug!(%error, "a request is refused");
                self.refuse();
            }
            Err(error @ FramingError::Chunks) => {
                self.held.clear();
                self.is_over = true;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        Ok(self.cleared > 0)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StrictStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_upgraded.load(Ordering::Acquire) {
            self.framing.ends();
        }
        let unseen = usize::try_from(self.framing.unseen()).unwrap_or(usize::MAX);
        if unseen > 0 && self.held.is_empty() && !self.is_over {
            return self.poll_unseen(cx, into, unseen);
        }
        ready!(self.poll_more(cx))?;
        let length = self.cleared.min(into.remaining());
        into.put_slice(self.held.get(..length).unwrap_or_default());
        self.held.advance(length);
        self.cleared -= length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StrictStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
