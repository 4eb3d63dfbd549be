//! Frames on the broker's socket: a little-endian `u32` length and that many bytes of JSON. Whatever holds a frame is wiped
//! when it has been read or written: some hold secrets.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::wiped::WipedBuffer;

/// Longest frame, in bytes: a snapshot of a thousand bottles is a tenth of it.
pub const FRAME_BYTES_MAX: usize = 8 << 20;
/// Bytes of the length in front of each frame.
const LENGTH_BYTES: usize = 4;
/// Most messages that leave with one system call.
const BATCH_MESSAGES_MAX: usize = 128;
/// What is read at once.
const READ_BYTES: usize = 16 << 10;

/// Why the conversation cannot go on.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// The socket failed.
    #[error("the broker socket failed")]
    Socket(#[from] io::Error),
    /// The other side left in the middle of a frame.
    #[error("the broker socket ended inside a frame")]
    Truncated,
    /// Longer than [`FRAME_BYTES_MAX`].
    #[error("a frame of {bytes} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not the JSON of a message.
    #[error("a frame is not a message")]
    Message(#[from] serde_json::Error),
}

/// Takes messages from a stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    buffer: WipedBuffer,
}

impl<R> FrameReader<R> {
    /// Reads from `stream`.
    pub fn new(stream: R) -> Self {
        Self { stream, buffer: WipedBuffer::default() }
    }

    /// The first whole message of what has been read.
    fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, BrokerError> {
        let Some((length, rest)) = self.buffer.filled().split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = checked_length(*length)?;
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(body);
        self.buffer.take(LENGTH_BYTES + length);
        Ok(Some(message?))
    }
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// The next message; `None` when the other side has left between two. Safe to cancel.
    ///
    /// # Errors
    ///
    /// The stream failed or carries something else than frames.
    pub async fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, BrokerError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let read = self.stream.read(self.buffer.room(READ_BYTES)).await?;
            self.buffer.came(read);
            if read == 0 {
                return if self.buffer.filled().is_empty() { Ok(None) } else { Err(BrokerError::Truncated) };
            }
        }
    }
}

impl<R: Read> FrameReader<R> {
    /// Waits for messages on a thread that may block: at least one and whatever has arrived with it. `false` at the end.
    ///
    /// # Errors
    ///
    /// The stream failed or carries something else than frames.
    pub fn read_blocking<T: DeserializeOwned>(&mut self, messages: &mut Vec<T>) -> Result<bool, BrokerError> {
        loop {
            let before = messages.len();
            while let Some(message) = self.take()? {
                messages.push(message);
            }
            if messages.len() > before {
                return Ok(true);
            }
            match self.stream.read(self.buffer.room(READ_BYTES)) {
                Ok(0) => return if self.buffer.filled().is_empty() { Ok(false) } else { Err(BrokerError::Truncated) },
                Ok(read) => self.buffer.came(read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Sends messages with one system call, on a thread that may block.
///
/// # Errors
///
/// The stream failed, or a message is too long.
pub fn write_frames_blocking<T: Serialize>(stream: &mut impl Write, messages: &[T]) -> Result<(), BrokerError> {
    let mut buffer = WipedBuffer::default();
    for message in messages {
        append(&mut buffer, message)?;
    }
    Ok(stream.write_all(buffer.filled())?)
}

/// Reads one frame and not a byte beyond it, before anything asynchronous runs.
///
/// # Errors
///
/// The stream failed, ended or carries something else than frames.
pub fn read_frame_blocking<T: DeserializeOwned>(stream: &mut impl Read) -> Result<T, BrokerError> {
    let mut length = [0; LENGTH_BYTES];
    stream.read_exact(&mut length)?;
    let mut body = Zeroizing::new(vec![0; checked_length(length)?]);
    stream.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

fn checked_length(length: [u8; LENGTH_BYTES]) -> Result<usize, BrokerError> {
    let bytes = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if bytes > FRAME_BYTES_MAX { Err(BrokerError::TooLong { bytes }) } else { Ok(bytes) }
}

/// Puts messages on a stream.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    buffer: WipedBuffer,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to `stream`.
    pub fn new(stream: W) -> Self {
        Self { stream, buffer: WipedBuffer::default() }
    }

    /// Sends one message.
    ///
    /// # Errors
    ///
    /// The stream failed, or the message is too long.
    pub async fn write<T: Serialize>(&mut self, message: &T) -> Result<(), BrokerError> {
        append(&mut self.buffer, message)?;
        self.flush().await
    }

    /// Sends what comes through `messages` until all its senders are gone; what has gathered leaves with one system call.
    ///
    /// # Errors
    ///
    /// The stream failed, or a message is too long.
    pub async fn write_from<T: Serialize>(
        &mut self,
        messages: &mut mpsc::UnboundedReceiver<T>,
    ) -> Result<(), BrokerError> {
        let mut batch = Vec::with_capacity(BATCH_MESSAGES_MAX);
        while messages.recv_many(&mut batch, BATCH_MESSAGES_MAX).await > 0 {
            for message in batch.drain(..) {
                append(&mut self.buffer, &message)?;
            }
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), BrokerError> {
        while !self.buffer.filled().is_empty() {
            let written = self.stream.write(self.buffer.filled()).await?;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            self.buffer.take(written);
        }
        Ok(self.stream.flush().await?)
    }
}

fn append<T: Serialize>(buffer: &mut WipedBuffer, message: &T) -> Result<(), BrokerError> {
    let start = buffer.filled().len();
    buffer.write_all(&[0; LENGTH_BYTES])?;
    serde_json::to_writer(&mut *buffer, message)?;
    let bytes = buffer.filled().len() - start - LENGTH_BYTES;
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= FRAME_BYTES_MAX);
    let place = buffer.filled_mut().get_mut(start..start + LENGTH_BYTES);
    let (Some(length), Some(place)) = (length, place) else {
        buffer.keep(start);
        return Err(BrokerError::TooLong { bytes });
    };
    place.copy_from_slice(&length.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_arrive_whole_and_in_order_however_the_bytes_are_split() {
        let (near, far) = tokio::io::duplex(7);
        let (sender, mut receiver) = mpsc::unbounded_channel();
        for number in 0..300u32 {
            sender.send(vec![number; 40]).unwrap();
        }
        drop(sender);
        let writing = tokio::spawn(async move { FrameWriter::new(near).write_from(&mut receiver).await });
        let mut reader = FrameReader::new(far);
        for number in 0..300u32 {
            assert_eq!(reader.read::<Vec<u32>>().await.unwrap(), Some(vec![number; 40]));
        }
        assert!(reader.read::<Vec<u32>>().await.unwrap().is_none());
        writing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_blocking_reader_takes_what_has_arrived_and_sees_the_end() {
        let mut bytes = Vec::new();
        write_frames_blocking(&mut bytes, &["one", "two"]).unwrap();
        let mut reader = FrameReader::new(bytes.as_slice());
        let mut messages: Vec<String> = Vec::new();
        assert!(reader.read_blocking(&mut messages).unwrap());
        assert_eq!(messages, ["one", "two"]);
        assert!(!reader.read_blocking(&mut messages).unwrap());
        bytes.pop();
        let mut cut = FrameReader::new(bytes.as_slice());
        assert!(cut.read_blocking(&mut messages).unwrap());
        assert!(matches!(cut.read_blocking(&mut messages), Err(BrokerError::Truncated)));
    }

    #[tokio::test]
    async fn a_frame_may_be_as_long_as_the_limit_and_no_longer() {
        let text = "x".repeat(FRAME_BYTES_MAX - 2);
        let mut bytes = Vec::new();
        FrameWriter::new(&mut bytes).write(&text).await.unwrap();
        assert_eq!(read_frame_blocking::<String>(&mut bytes.as_slice()).unwrap(), text);
        let longer = FrameWriter::new(Vec::new()).write(&(text + "x")).await;
        assert!(matches!(longer, Err(BrokerError::TooLong { bytes }) if bytes == FRAME_BYTES_MAX + 1));
        let announced = FrameReader::new(&u32::MAX.to_le_bytes()[..]).read::<String>().await;
        assert!(matches!(announced, Err(BrokerError::TooLong { .. })));
    }

    #[tokio::test]
    async fn an_end_inside_a_frame_is_an_error() {
        let cut = FrameReader::new(&[4, 0, 0, 0, b'"'][..]).read::<String>().await;
        assert!(matches!(cut, Err(BrokerError::Truncated)));
        let garbage = FrameReader::new(&[1, 0, 0, 0, b'{'][..]).read::<String>().await;
        assert!(matches!(garbage, Err(BrokerError::Message(_))));
    }
}
