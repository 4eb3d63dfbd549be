//! Bodies as they go over the wire: every encoding, alone and stacked, told by a header or not.

use std::io::Write;

use super::*;

/// Encodings of a header, `(header, first applied first)`.
pub(super) const ENCODINGS: [&str; 8] =
    ["identity", "gzip", "deflate", "raw-deflate", "br", "zstd", "gzip, br", "deflate, zstd, gzip"];

/// The body encoded, with the header that says so.
pub(super) fn encoded(encodings: &str, body: &[u8]) -> (String, Vec<u8>) {
    let bytes = encodings.split(", ").fold(body.to_vec(), |bytes, name| encode(name, &bytes));
    (encodings.replace("raw-", ""), bytes)
}

fn encode(name: &str, bytes: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::fast();
    match name {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "raw-deflate" => {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 3, 20);
            encoder.write_all(bytes).unwrap();
            encoder.into_inner()
        }
        "zstd" => zstd::stream::encode_all(bytes, 1).unwrap(),
        _ => bytes.to_vec(),
    }
}

/// The reading of a body that arrives in pieces of this size.
pub(super) fn in_pieces(encodings: &str, body: &[u8], piece_bytes: usize) -> Reading {
    let (header, bytes) = encoded(encodings, body);
    meter(&request(), &head(Some(&header)), bytes.chunks(piece_bytes), Ending::Complete)
}

#[test]
fn every_encoding_gives_the_same_reading() {
    for case in CASES {
        for encodings in ENCODINGS {
            for piece_bytes in [1, 7, usize::MAX] {
                let found = in_pieces(encodings, case.body.as_bytes(), piece_bytes);
                let expected = (usage(case.expected), case.known, case.is_final);
                assert_eq!(
                    (found.usage, found.known, found.is_final),
                    expected,
                    "{} {encodings} {piece_bytes}",
                    case.name
                );
            }
        }
    }
}

#[test]
fn the_first_bytes_outrank_the_header() {
    let body = include_bytes!("../testdata/stream-basic.sse");
    for (header, actual) in
        [(None, "gzip"), (None, "zstd"), (Some("gzip"), "identity"), (Some("gzip"), "zstd"), (Some("zstd"), "identity")]
    {
        let (_, bytes) = encoded(actual, body);
        let found = meter(&request(), &head(header), bytes.chunks(1), Ending::Complete);
        assert_eq!((found.usage, found.known), (usage([25, 0, 0, 40]), Known::Reported), "{header:?} {actual}");
    }
}

#[test]
fn each_flushed_event_is_read_at_once() {
    let events = include_str!("../testdata/stream-basic.sse").split_inclusive("\n\n");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut zstd_encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let mut brotli_encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 3, 20);
    let mut meters = ["gzip", "zstd", "br"].map(|name| ResponseMeter::new(&request(), &head(Some(name))));
    let mut plain = ResponseMeter::new(&request(), &head(None));
    for event in events {
        plain.push(event.as_bytes());
        encoder.write_all(event.as_bytes()).unwrap();
        encoder.flush().unwrap();
        zstd_encoder.write_all(event.as_bytes()).unwrap();
        zstd_encoder.flush().unwrap();
        brotli_encoder.write_all(event.as_bytes()).unwrap();
        brotli_encoder.flush().unwrap();
        let sent = [
            std::mem::take(encoder.get_mut()),
            std::mem::take(zstd_encoder.get_mut()),
            std::mem::take(brotli_encoder.get_mut()),
        ];
        for (meter, bytes) in meters.iter_mut().zip(sent) {
            meter.push(&bytes);
            assert_eq!(meter.reading(), plain.reading(), "after {event}");
        }
    }
}

fn flushed<W: Write>(mut encoder: W, text: &str, sent: impl Fn(&W) -> Vec<u8>) -> Vec<u8> {
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.flush().unwrap();
    sent(&encoder)
}

/// Found by fuzzing: of what was flushed together, a decoder kept what exceeded its buffer until more came.
#[test]
fn much_that_is_flushed_together_is_read_at_once() {
    let body = include_str!("../testdata/stream-basic.sse");
    let long = body.replace("The gate is ", &"The gate is ".repeat(4000));
    for name in ["gzip", "deflate", "zstd", "br"] {
        let level = flate2::Compression::fast();
        // What ends the stream is never sent.
        let sent = match name {
            "gzip" => {
                flushed(flate2::write::GzEncoder::new(Vec::new(), level), &long, |encoder| encoder.get_ref().clone())
            }
            "deflate" => {
                flushed(flate2::write::ZlibEncoder::new(Vec::new(), level), &long, |encoder| encoder.get_ref().clone())
            }
            "zstd" => {
                let encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
                flushed(encoder, &long, |encoder| encoder.get_ref().clone())
            }
            _ => flushed(brotli::CompressorWriter::new(Vec::new(), 4096, 3, 20), &long, |encoder| {
                encoder.get_ref().clone()
            }),
        };
        let mut meter = ResponseMeter::new(&request(), &head(Some(name)));
        meter.push(&sent);
        assert_eq!((meter.reading().usage, meter.reading().is_final), (usage([25, 0, 0, 40]), true), "{name}");
    }
}

#[test]
fn a_stream_without_its_trailer_keeps_its_usage() {
    let body = include_bytes!("../testdata/stream-basic.sse");
    for (encodings, trailer_bytes) in [("gzip", 8), ("deflate", 4)] {
        let (header, bytes) = encoded(encodings, body);
        let cut = &bytes[..bytes.len() - trailer_bytes];
        let found = meter(&request(), &head(Some(&header)), [cut], Ending::Error);
        assert_eq!((found.usage, found.known), (usage([25, 0, 0, 40]), Known::Reported), "{encodings}");
    }
}

#[test]
fn bombs_are_given_up_on() {
    let filler = vec![b'x'; 64 << 20];
    let report = include_bytes!("../testdata/stream-basic.sse");
    for encoding in ["gzip", "zstd"] {
        let (block, end) = (encode(encoding, &filler), encode(encoding, &[b"\n\n", report.as_slice()].concat()));
        for (blocks, known) in [(1, Known::Reported), (6, Known::Estimated)] {
            // One member after another is one body; the report stands in the last.
            let bomb = [block.repeat(blocks), end.clone()].concat();
            for (header, bytes) in
                [(encoding.to_owned(), bomb.clone()), (format!("{encoding}, br"), encode("br", &bomb))]
            {
                let found = meter(&request(), &head(Some(&header)), bytes.chunks(16 << 10), Ending::Complete);
                assert_eq!(found.known, known, "{header} {blocks}");
                assert!(found.usage.output <= Tokens(1000), "{header} {blocks}: {found:?}");
            }
        }
    }
}
