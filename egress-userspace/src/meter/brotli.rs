//! Brotli in front of a writer, with nothing held back: the library's own writer keeps what exceeds one buffer until more input
//! comes, and at a flush none may.

use std::io::{Error, ErrorKind, Result, Write};

use brotli_decompressor::{
    BrotliDecoderHasMoreOutput, BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc,
};

/// What is decoded at a time, in bytes.
const BUFFER_BYTES: usize = 8 * 1024;

/// A decoder and what it feeds.
pub(super) struct BrotliDecoder<W> {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    buffer: Vec<u8>,
    decoded_bytes: usize,
    writer: W,
}

impl<W: Write> BrotliDecoder<W> {
    /// Decodes for `writer`. Windows are those of HTTP, up to 16 MiB, not those of the variant with large ones (up to 1 GiB).
    pub(super) fn new(writer: W) -> Self {
        let [bytes, numbers, codes] = [StandardAlloc::default(); 3];
        let state = BrotliState::new_strict(bytes, numbers, codes);
        Self { state, buffer: vec![0; BUFFER_BYTES], decoded_bytes: 0, writer }
    }

    /// What it feeds.
    pub(super) fn get_ref(&self) -> &W {
        &self.writer
    }

    /// What it feeds, to go on.
    pub(super) fn get_mut(&mut self) -> &mut W {
        &mut self.writer
    }
}

impl<W: Write> Write for BrotliDecoder<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let (mut left, mut taken) = (bytes.len(), 0);
        loop {
            let (mut room, mut filled) = (self.buffer.len(), 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut taken,
                bytes,
                &mut room,
                &mut filled,
                &mut self.buffer,
                &mut self.decoded_bytes,
                &mut self.state,
            );
            self.writer.write_all(self.buffer.get(..filled).unwrap_or_default())?;
            match result {
                BrotliResult::NeedsMoreOutput => {}
                BrotliResult::NeedsMoreInput if BrotliDecoderHasMoreOutput(&self.state) => {}
                BrotliResult::NeedsMoreInput | BrotliResult::ResultSuccess => return Ok(taken),
                BrotliResult::ResultFailure => return Err(Error::from(ErrorKind::InvalidData)),
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush()
    }
}
