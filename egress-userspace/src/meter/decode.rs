//! Content encodings: a chain of streaming decoders in front of a writer.
//!
//! Every byte that can be decoded from what has arrived reaches the writer at once, and a stream cut anywhere keeps what it
//! had: usage stands in a gzip stream that lost its trailer. Memory is bounded by the decoders' windows, work by
//! [`DECODED_BYTES_MAX`] per decoder. The first bytes outrank the header, which relays get wrong.

use std::io::{Error, ErrorKind, Result, Write};

use flate2::write::{DeflateDecoder, ZlibDecoder};
use zstd::stream::raw::{DParameter, Decoder as RawZstd};
use zstd::stream::write::Decoder as ZstdDecoder;

use super::brotli::BrotliDecoder;
use super::gzip::GzipDecoder;

/// Most bytes one decoder may produce for one exchange, unless it is granted more: far more than a model writes, soon reached
/// by a bomb.
const DECODED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Most encodings stacked on one body.
const ENCODINGS_MAX: usize = 3;
/// Of these, brotli, whose window is the largest: 16 MiB.
const BROTLI_MAX: usize = 1;
/// Largest zstd window, as a power of two of bytes: 8 MiB, what RFC 9659 allows for content.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Largest brotli window, in bytes (RFC 7932 §9.1).
const BROTLI_WINDOW_BYTES_MAX: u64 = 16 << 20;
/// Window and tables of a decoder of deflate, in bytes.
const DEFLATE_BYTES: u64 = 48 << 10;
/// Tables and buffers of the other decoders, in bytes.
const TABLES_BYTES: u64 = 256 << 10;

const GZIP_MAGIC: &[u8] = b"\x1f\x8b";
const ZSTD_MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";

/// A content encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// A decoder and what it feeds, down to the writer.
pub(super) struct Pipe<W: Write + Default> {
    stage: Stage<W>,
    bytes_left: u64,
}

enum Stage<W: Write + Default> {
    Plain(W),
    Undecided(Box<Undecided<W>>),
    Gzip(Box<GzipDecoder<Pipe<W>>>),
    Zlib(Box<ZlibDecoder<Pipe<W>>>),
    Deflate(Box<DeflateDecoder<Pipe<W>>>),
    Brotli(Box<BrotliDecoder<Pipe<W>>>),
    Zstd(Box<ZstdDecoder<'static, Pipe<W>>>),
}

/// Too few bytes have come to tell the encoding.
struct Undecided<W: Write + Default> {
    declared: Encoding,
    head: Vec<u8>,
    next: Pipe<W>,
}

impl<W: Write + Default> Default for Pipe<W> {
    fn default() -> Self {
        Self::plain(W::default())
    }
}

impl<W: Write + Default> Pipe<W> {
    /// The decoders for a `content-encoding` header in front of `writer`; `None` when there is none for it.
    pub(super) fn new(header: Option<&str>, writer: W) -> Option<Self> {
        let mut encodings = Vec::new();
        for name in header.unwrap_or("").split(',') {
            let encoding = encoding(name)?;
            if encoding != Encoding::Identity {
                encodings.push(encoding);
            }
        }
        let brotli = encodings.iter().filter(|encoding| **encoding == Encoding::Brotli).count();
        if encodings.len() > ENCODINGS_MAX || brotli > BROTLI_MAX {
            return None;
        }
        if encodings.is_empty() {
            encodings.push(Encoding::Identity);
        }
        let chain = encodings.into_iter().fold(Self::plain(writer), Self::undecided);
        Some(Self { bytes_left: u64::MAX, ..chain })
    }

    /// Lets each decoder produce so many bytes more.
    pub(super) fn grant(&mut self, bytes: u64) {
        let mut pipe = self;
        while let Ok(next) = pipe.next() {
            next.bytes_left = next.bytes_left.saturating_add(bytes);
            pipe = next;
        }
    }

    /// What the chain ends in.
    pub(super) fn writer(&self) -> &W {
        match &self.stage {
            Stage::Plain(writer) => writer,
            Stage::Undecided(undecided) => undecided.next.writer(),
            Stage::Gzip(decoder) => decoder.get_ref().writer(),
            Stage::Zlib(decoder) => decoder.get_ref().writer(),
            Stage::Deflate(decoder) => decoder.get_ref().writer(),
            Stage::Brotli(decoder) => decoder.get_ref().writer(),
            Stage::Zstd(decoder) => decoder.get_ref().writer(),
        }
    }

    /// What the chain ends in, to end it.
    pub(super) fn writer_mut(&mut self) -> &mut W {
        self.next().map_or_else(|writer| writer, Pipe::writer_mut)
    }

    /// What the decoders hold, in bytes: a window is as large as what has filled it, up to its limit.
    pub(super) fn held(&self) -> usize {
        let (own, next) = match &self.stage {
            Stage::Plain(_) => return 0,
            Stage::Undecided(undecided) => (undecided.head.len() as u64, &undecided.next),
            Stage::Gzip(decoder) => (DEFLATE_BYTES, decoder.get_ref()),
            Stage::Zlib(decoder) => (DEFLATE_BYTES, decoder.get_ref()),
            Stage::Deflate(decoder) => (DEFLATE_BYTES, decoder.get_ref()),
            Stage::Brotli(decoder) => {
                let next = decoder.get_ref();
                (TABLES_BYTES + next.taken().min(BROTLI_WINDOW_BYTES_MAX), next)
            }
            Stage::Zstd(decoder) => {
                let next = decoder.get_ref();
                (TABLES_BYTES + next.taken().min(1 << ZSTD_WINDOW_LOG_MAX), next)
            }
        };
        usize::try_from(own).unwrap_or(usize::MAX).saturating_add(next.held())
    }

    /// Bytes that have come through here, behind a decoder.
    fn taken(&self) -> u64 {
        DECODED_BYTES_MAX.saturating_sub(self.bytes_left)
    }

    /// No more bytes come: decides what is undecided and pushes everything through.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.decide(true)?;
        self.flush()?;
        self.next().map_or(Ok(()), Self::finish)
    }

    fn plain(writer: W) -> Self {
        Self { stage: Stage::Plain(writer), bytes_left: DECODED_BYTES_MAX }
    }

    fn undecided(next: Self, declared: Encoding) -> Self {
        let undecided = Undecided { declared, head: Vec::new(), next };
        Self { stage: Stage::Undecided(Box::new(undecided)), bytes_left: DECODED_BYTES_MAX }
    }

    fn next(&mut self) -> std::result::Result<&mut Self, &mut W> {
        match &mut self.stage {
            Stage::Plain(writer) => Err(writer),
            Stage::Undecided(undecided) => Ok(&mut undecided.next),
            Stage::Gzip(decoder) => Ok(decoder.get_mut()),
            Stage::Zlib(decoder) => Ok(decoder.get_mut()),
            Stage::Deflate(decoder) => Ok(decoder.get_mut()),
            Stage::Brotli(decoder) => Ok(decoder.get_mut()),
            Stage::Zstd(decoder) => Ok(decoder.get_mut()),
        }
    }

    /// Picks the decoder once the first bytes tell, and gives it those bytes.
    fn decide(&mut self, is_end: bool) -> Result<()> {
        let Stage::Undecided(undecided) = &mut self.stage else { return Ok(()) };
        let Some(encoding) = sniffed(undecided.declared, &undecided.head, is_end) else { return Ok(()) };
        let head = std::mem::take(&mut undecided.head);
        let next = std::mem::take(&mut undecided.next);
        self.stage = stage(encoding, &head, next)?;
        self.write_stage(&head)
    }

    fn write_stage(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.stage {
            Stage::Plain(writer) => writer.write_all(bytes),
            Stage::Undecided(undecided) => {
                undecided.head.extend_from_slice(bytes);
                self.decide(false)
            }
            Stage::Gzip(decoder) => decoder.write_all(bytes),
            Stage::Zlib(decoder) => decoder.write_all(bytes),
            Stage::Deflate(decoder) => decoder.write_all(bytes),
            Stage::Brotli(decoder) => decoder.write_all(bytes),
            Stage::Zstd(decoder) => decoder.write_all(bytes),
        }
    }
}

impl<W: Write + Default> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let length = bytes.len() as u64;
        self.bytes_left = self.bytes_left.checked_sub(length).ok_or_else(|| Error::from(ErrorKind::FileTooLarge))?;
        self.write_stage(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        match &mut self.stage {
            Stage::Plain(writer) => writer.flush(),
            Stage::Undecided(_) => Ok(()),
            Stage::Gzip(decoder) => decoder.flush(),
            Stage::Zlib(decoder) => decoder.flush(),
            Stage::Deflate(decoder) => decoder.flush(),
            Stage::Brotli(decoder) => decoder.flush(),
            Stage::Zstd(decoder) => decoder.flush(),
        }
    }
}

/// The encoding a header names (RFC 9110 §8.4.1, RFC 7932, RFC 9659).
fn encoding(name: &str) -> Option<Encoding> {
    match name.trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Some(Encoding::Identity),
        "gzip" | "x-gzip" => Some(Encoding::Gzip),
        "deflate" => Some(Encoding::Deflate),
        "br" => Some(Encoding::Brotli),
        "zstd" => Some(Encoding::Zstd),
        _ => None,
    }
}

/// Is this one that can be undone?
pub(crate) fn is_encoding(name: &str) -> bool {
    encoding(name).is_some()
}

/// The first bytes say that the body is encoded, whatever its head says.
#[cfg(any(test, fuzzing))]
pub(super) fn is_encoded(head: &[u8]) -> bool {
    matches!(sniffed(Encoding::Identity, head, true), Some(Encoding::Gzip | Encoding::Zstd))
}

/// The encoding the first bytes show, or `None` while they are too few.
fn sniffed(declared: Encoding, head: &[u8], is_end: bool) -> Option<Encoding> {
    if head.starts_with(GZIP_MAGIC) {
        return Some(Encoding::Gzip);
    }
    if head.starts_with(ZSTD_MAGIC) {
        return Some(Encoding::Zstd);
    }
    let may_be_magic = GZIP_MAGIC.starts_with(head) || ZSTD_MAGIC.starts_with(head);
    if may_be_magic && !is_end {
        return None;
    }
    match declared {
        // A skippable frame, which may stand before the first real one (RFC 8878 §3.1.2).
        Encoding::Zstd if head.len() < ZSTD_MAGIC.len() && !is_end => None,
        Encoding::Zstd if matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) => Some(Encoding::Zstd),
        Encoding::Gzip | Encoding::Zstd | Encoding::Identity => Some(Encoding::Identity),
        Encoding::Deflate if head.len() < 2 && !is_end => None,
        Encoding::Deflate => Some(Encoding::Deflate),
        Encoding::Brotli => Some(Encoding::Brotli),
    }
}

fn stage<W: Write + Default>(encoding: Encoding, head: &[u8], next: Pipe<W>) -> Result<Stage<W>> {
    Ok(match encoding {
        // The bytes pass through a pipe that is there already.
        Encoding::Identity => next.stage,
        Encoding::Gzip => Stage::Gzip(Box::new(GzipDecoder::new(next))),
        Encoding::Deflate if has_zlib_header(head) => Stage::Zlib(Box::new(ZlibDecoder::new(next))),
        Encoding::Deflate => Stage::Deflate(Box::new(DeflateDecoder::new(next))),
        Encoding::Brotli => Stage::Brotli(Box::new(BrotliDecoder::new(next))),
        Encoding::Zstd => {
            let mut decoder = RawZstd::new()?;
            decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
            Stage::Zstd(Box::new(ZstdDecoder::with_decoder(next, decoder)))
        }
    })
}

/// Many servers mean raw deflate by `deflate`; the zlib header has a checksum of its own (RFC 1950 §2.2).
fn has_zlib_header(head: &[u8]) -> bool {
    matches!(head, [first, second, ..] if first & 0x0f == 8 && (u32::from(*first) * 256 + u32::from(*second)).is_multiple_of(31))
}
