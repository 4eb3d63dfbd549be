//! Frames from and to a connection.

use std::future::poll_fn;
use std::io;
use std::ops::Deref;

use bytes::{Buf, BytesMut};
use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::meter::websocket::{Frame, FrameError, Frames, Side};

use super::super::limits::WEBSOCKET_READ_BYTES;
use super::super::memory::{Held, TooMuch};
use super::super::scan::{Found, FrameScreen};

/// Why there is no next frame.
#[derive(Debug, Error)]
pub(super) enum WireError {
    /// The connection has ended.
    #[error("the connection ended")]
    Gone,
    /// What comes over it are no frames.
    #[error(transparent)]
    Malformed(#[from] FrameError),
    /// Something is in it that may not pass.
    #[error(transparent)]
    Screened(#[from] Found),
    /// There is no room for the message.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
}

/// A frame that has been read, and what it is charged as.
#[derive(Debug)]
pub(super) struct HeldFrame {
    frame: Frame,
    _held: Held,
}

impl Deref for HeldFrame {
    type Target = Frame;

    fn deref(&self) -> &Frame {
        &self.frame
    }
}

/// What one side sends.
#[derive(Debug)]
pub(super) struct FrameSource<R> {
    from: R,
    buffer: BytesMut,
    frames: Frames,
    screen: Option<FrameScreen>,
    /// For what is held of messages, on this side of the screen and in it.
    held: Held,
    /// There was no room for a message: nothing follows.
    is_over: Option<TooMuch>,
}

impl<R: AsyncRead + Unpin> FrameSource<R> {
    /// Frames that `side` sends over `from`, of which as much is held as there is room for.
    pub(super) fn new(from: R, side: Side, message_bytes_max: usize, screen: Option<FrameScreen>, held: Held) -> Self {
        let frames = Frames::new(side, message_bytes_max);
        Self { from, buffer: BytesMut::new(), frames, screen, held, is_over: None }
    }

    /// The next frame. Dropped, the future has lost nothing.
    pub(super) async fn next(&mut self) -> Result<HeldFrame, WireError> {
        loop {
            if let Some(too_much) = self.is_over {
                return Err(too_much.into());
            }
            if let Some(screen) = &mut self.screen
                && let Some(frame) = poll_fn(|cx| screen.poll_frame(cx)).await?
            {
                return Ok(self.hand_on(frame));
            }
            let mut rest: &[u8] = &self.buffer;
            let frame = self.frames.next(&mut rest)?;
            let read = self.buffer.len() - rest.len();
            self.buffer.advance(read);
            let bytes = self.frames.held() + frame.as_ref().map_or(0, |frame| frame.payload.len());
            self.held.set(bytes).inspect_err(|too_much| self.is_over = Some(*too_much))?;
            match (frame, &mut self.screen) {
                (Some(frame), None) => return Ok(self.hand_on(frame)),
                (Some(frame), Some(screen)) => {
                    screen.take(frame)?;
                    continue;
                }
                (None, _) => {}
            }
            self.buffer.reserve(WEBSOCKET_READ_BYTES);
            match self.from.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Err(WireError::Gone),
                Ok(_) => {}
            }
        }
    }

    fn hand_on(&mut self, frame: Frame) -> HeldFrame {
        HeldFrame { _held: self.held.split(frame.payload.len()), frame }
    }
}

/// Sends a frame to a client.
pub(super) async fn send_to_client(to: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    to.write_all(&frame.encode(None)).await?;
    to.flush().await
}

/// Sends a frame to a provider.
pub(super) async fn send_to_provider(to: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    let mut mask = [0; 4];
    random(&mut mask)?;
    to.write_all(&frame.encode(Some(mask))).await?;
    to.flush().await
}

/// Bytes that nobody can guess.
pub(super) fn random(bytes: &mut [u8]) -> io::Result<()> {
    // The kernel gives so few bytes at once.
    getrandom(bytes, GetRandomFlags::empty())?;
    Ok(())
}
