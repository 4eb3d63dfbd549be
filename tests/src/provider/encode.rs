//! Content encodings, flushed after each piece as a provider does.

use std::io::{Result, Write};

use bytes::Bytes;
use flate2::Compression;

/// Size of the window the brotli encoder may look back in, as a power of two of bytes.
const BROTLI_WINDOW_LOG: u32 = 20;

/// A content encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// None.
    #[default]
    Identity,
    /// gzip.
    Gzip,
    /// zlib.
    Deflate,
    /// Brotli.
    Brotli,
    /// Zstandard.
    Zstd,
}

impl Encoding {
    /// The encoding of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "identity" => Some(Self::Identity),
            "gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            "br" => Some(Self::Brotli),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its name in a header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// What a provider picks: gzip where it may, as the real one does.
    #[must_use]
    pub fn accepted(header: &str) -> Self {
        let offers: Vec<&str> = header.split(',').filter_map(|offer| offer.split(';').next()).map(str::trim).collect();
        let preferred = [Self::Gzip, Self::Brotli, Self::Zstd, Self::Deflate];
        preferred.into_iter().find(|encoding| offers.contains(&encoding.name())).unwrap_or_default()
    }
}

/// A streaming encoder.
pub(super) enum Encoder {
    Identity,
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Deflate(flate2::write::ZlibEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    pub(super) fn new(encoding: Encoding) -> Result<Self> {
        Ok(match encoding {
            Encoding::Identity => Self::Identity,
            Encoding::Gzip => Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), Compression::fast())),
            Encoding::Deflate => Self::Deflate(flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast())),
            Encoding::Brotli => {
                Self::Brotli(Box::new(brotli::CompressorWriter::new(Vec::new(), 4096, 1, BROTLI_WINDOW_LOG)))
            }
            Encoding::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 1)?),
        })
    }

    /// The wire bytes of the next piece, decodable as they are.
    pub(super) fn piece(&mut self, plain: Bytes) -> Result<Bytes> {
        let encoded = match self {
            Self::Identity => return Ok(plain),
            Self::Gzip(encoder) => {
                encoder.write_all(&plain)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
            Self::Deflate(encoder) => {
                encoder.write_all(&plain)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
            Self::Brotli(encoder) => {
                encoder.write_all(&plain)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
            Self::Zstd(encoder) => {
                encoder.write_all(&plain)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
        };
        Ok(Bytes::from(encoded))
    }

    /// What closes the stream.
    pub(super) fn finish(self) -> Result<Bytes> {
        Ok(Bytes::from(match self {
            Self::Identity => Vec::new(),
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Deflate(encoder) => encoder.finish()?,
            Self::Brotli(encoder) => encoder.into_inner(),
            Self::Zstd(encoder) => encoder.finish()?,
        }))
    }
}
