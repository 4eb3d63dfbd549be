//! What a body is, without its content encoding: for whoever looks at bodies beside the meter.

use std::io::{Error, ErrorKind, Result, Write};

use super::decode::Pipe;

/// So much is decoded together, in bytes, and may become at most [`DECODED_AT_ONCE_BYTES_MAX`].
const PIECE_BYTES: usize = 4 << 10;
/// Most bytes that one piece may become. What is written by people or programs stays far below; a bomb does not.
const DECODED_AT_ONCE_BYTES_MAX: usize = 8 << 20;

/// Each byte that comes may become so many more than a decoder may produce anyhow: large archives pass, and what is looked at
/// stays in proportion to what was sent.
const DECODED_PER_BYTE_MAX: u64 = 32;

/// A body's decoders.
pub struct Decoder(Pipe<Decoded>);

#[derive(Debug, Default)]
struct Decoded(Vec<u8>);

impl Write for Decoded {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.0.len() + bytes.len() > DECODED_AT_ONCE_BYTES_MAX {
            return Err(Error::from(ErrorKind::FileTooLarge));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Decoder {
    /// For a `content-encoding` header; `None` when there is no decoder for it. Without one, the first bytes tell.
    #[must_use]
    pub fn new(content_encoding: Option<&str>) -> Option<Self> {
        Pipe::new(content_encoding, Decoded::default()).map(Self)
    }

    /// Decodes more of the body, handing each part of what it becomes to `take`; what is decoded before an error as well.
    ///
    /// # Errors
    ///
    /// The body is not encoded as it says, or becomes more than may be looked at.
    pub fn push(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) -> Result<()> {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.0.grant(DECODED_PER_BYTE_MAX * piece.len() as u64);
            let decoded = self.0.write_all(piece).and_then(|()| self.0.flush());
            take(&std::mem::take(&mut self.0.writer_mut().0));
            decoded?;
        }
        Ok(())
    }

    /// What the decoders hold of what they have decoded, with their tables: at most so many bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.held()
    }

    /// Nothing follows.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn finish(&mut self, mut take: impl FnMut(&[u8])) -> Result<()> {
        let ended = self.0.finish();
        take(&std::mem::take(&mut self.0.writer_mut().0));
        ended
    }
}

impl std::fmt::Debug for Decoder {
    /// Never shows bytes of the exchange.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_decoded_as_it_comes_and_a_bomb_is_an_error() {
        let text = "something to be compressed ".repeat(1000);
        let body = zstd::encode_all(text.as_bytes(), 3).unwrap();
        let mut decoder = Decoder::new(Some("zstd")).unwrap();
        let mut decoded = Vec::new();
        for chunk in body.chunks(7) {
            decoder.push(chunk, |bytes| decoded.extend_from_slice(bytes)).unwrap();
        }
        decoder.finish(|bytes| decoded.extend_from_slice(bytes)).unwrap();
        assert_eq!(decoded, text.as_bytes());
        assert!(Decoder::new(Some("lzw")).is_none());
        // Its window, as far as it is filled, and no more than it can be.
        assert!((text.len()..text.len() + (1 << 20)).contains(&decoder.held()), "{}", decoder.held());
        let long = zstd::encode_all(&vec![b' '; 40 << 20][..], 3).unwrap();
        let mut decoder = Decoder::new(Some("zstd")).unwrap();
        long.chunks(256).for_each(|chunk| decoder.push(chunk, |_| {}).unwrap());
        assert!((8 << 20..9 << 20).contains(&decoder.held()), "{}", decoder.held());
        let bomb = zstd::encode_all(&vec![0; 64 << 20][..], 3).unwrap();
        assert!(Decoder::new(Some("zstd")).unwrap().push(&bomb, |_| {}).is_err());
    }

    #[test]
    fn in_all_it_becomes_as_much_as_is_in_proportion() {
        let becomes = |piece: &[u8], pieces: usize| {
            let (mut decoder, mut bytes) = (Decoder::new(Some("zstd")).unwrap(), 0);
            let mut push = |_| decoder.push(piece, |decoded| bytes += decoded.len());
            let is_sound = (0..pieces).try_for_each(&mut push).is_ok();
            (bytes, is_sound)
        };
        let noise: Vec<u8> = (0..1u32 << 20).map(|n| n.wrapping_mul(0x9e37_79b1).rotate_left(n) as u8).collect();
        assert_eq!(becomes(&zstd::encode_all(&noise[..], 1).unwrap(), 300), (300 << 20, true));
        let (bytes, is_sound) = becomes(&zstd::encode_all(&vec![0; 1 << 20][..], 1).unwrap(), 300);
        assert!(!is_sound && bytes >> 20 < 260, "{bytes}");
    }

    #[test]
    fn what_stands_before_an_error_is_handed_on() {
        let frame = |text: &[u8]| zstd::encode_all(text, 3).unwrap();
        let check = |rest: &[u8]| {
            let mut decoded = Vec::new();
            let body = [frame(b"first").as_slice(), rest].concat();
            let pushed = Decoder::new(Some("zstd")).unwrap().push(&body, |bytes| decoded.extend_from_slice(bytes));
            assert!(pushed.is_err() && decoded.starts_with(b"first"));
        };
        check(b"no frame");
        check(&frame(&vec![0; 16 << 20]));
    }
}
