//! Frames from and to a connection.

use std::io;

use bytes::{Buf, BytesMut};
use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::meter::websocket::{Frame, FrameError, Frames, Side};

use super::super::limits::WEBSOCKET_READ_BYTES;

/// Why there is no next frame.
#[derive(Debug, Error)]
pub(super) enum WireError {
    /// The connection has ended.
    #[error("the connection ended")]
    Gone,
    /// What comes over it are no frames.
    #[error(transparent)]
    Malformed(#[from] FrameError),
}

/// What one side sends.
#[derive(Debug)]
pub(super) struct FrameSource<R> {
    from: R,
    buffer: BytesMut,
    frames: Frames,
}

impl<R: AsyncRead + Unpin> FrameSource<R> {
    /// Frames that `side` sends over `from`.
    pub(super) fn new(from: R, side: Side, message_bytes_max: usize) -> Self {
        Self { from, buffer: BytesMut::new(), frames: Frames::new(side, message_bytes_max) }
    }

    /// The next frame. Dropped, the future has lost nothing.
    pub(super) async fn next(&mut self) -> Result<Frame, WireError> {
        loop {
            let mut rest: &[u8] = &self.buffer;
            let frame = self.frames.next(&mut rest)?;
            let read = self.buffer.len() - rest.len();
            self.buffer.advance(read);
            if let Some(frame) = frame {
                return Ok(frame);
            }
            self.buffer.reserve(WEBSOCKET_READ_BYTES);
            match self.from.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Err(WireError::Gone),
                Ok(_) => {}
            }
        }
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
