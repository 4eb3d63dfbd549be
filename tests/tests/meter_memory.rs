//! What the meter holds at most, and that it says so when it has not understood, whatever a provider sends.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(clippy::print_stdout, reason = "what was measured is worth seeing")]

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use egress_userspace::domain::{Ending, Known, Tokens};
use egress_userspace::meter::{Ask, Dialect, METER_BYTES_MAX, Reading, ResponseHead, ResponseMeter};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use harness::heap;

#[global_allocator]
static HEAP: heap::Counted = heap::Counted;

/// One measurement at a time: C code's memory is counted for the whole process.
static ALONE: Mutex<()> = Mutex::new(());

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
/// Most bytes handed to the meter at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that encoded bytes are handed over in, so that what C code holds is seen before it is gone.
const ENCODED_PIECES: usize = 100;

/// A response, as far as the meter is to know it.
#[derive(Clone, Copy)]
struct Response<'a> {
    name: &'a str,
    dialect: Dialect,
    encoding: Option<&'a str>,
}

impl Response<'_> {
    /// Meters what `send` sends, and asserts what was held meanwhile. `send` gets what takes the bytes.
    fn measure(self, send: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Reading {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let head = ResponseHead { status: 200, content_encoding: self.encoding, ..ResponseHead::default() };
        let ask = Ask::unseen(self.dialect);
        let pieces = if self.encoding.is_some() { ENCODED_PIECES } else { 1 };
        let before = heap::held_bytes();
        let mut held = 0;
        let (reading, peak) = heap::peak_bytes(|| {
            let mut meter = ResponseMeter::new(&ask, &head);
            send(&mut |bytes| {
                for piece in bytes.chunks(bytes.len().div_ceil(pieces).clamp(1, PIECE_BYTES)) {
                    meter.push(piece);
                    // The C library counts slowly.
                    if self.encoding.is_some() {
                        held = held.max(heap::held_bytes().saturating_sub(before));
                    }
                }
            });
            meter.finish(Ending::Complete)
        });
        let Self { name, dialect, .. } = self;
        println!("{name} ({}): {} KiB at most, {} KiB with C code's", dialect.as_str(), peak / 1024, held / 1024);
        assert!(peak.max(held) <= METER_BYTES_MAX, "{name} makes the meter hold {peak} or {held} bytes");
        reading
    }

    /// The same for what nobody can read to its end: an estimate, and as high as the request allows.
    fn is_guessed(self, send: impl FnOnce(&mut dyn FnMut(&[u8]))) {
        let reading = self.measure(send);
        assert!(matches!(reading.known, Known::Estimated | Known::Partial), "{}: {reading:?}", self.name);
        assert_eq!(reading.usage.output, Ask::unseen(self.dialect).output_cap, "{}: {reading:?}", self.name);
    }
}

fn events(name: &str) -> Response<'_> {
    Response { name, dialect: Dialect::AnthropicMessages, encoding: None }
}

fn filled<W: Write>(mut encoder: W, bytes: &[u8], times: usize) -> W {
    for _ in 0..times {
        encoder.write_all(bytes).unwrap();
    }
    encoder
}

/// `bytes`, so many times, encoded in each of these encodings, the first one first.
fn encoded(encodings: &str, bytes: &[u8], times: usize) -> Vec<u8> {
    let (first, rest) = encodings.split_once(", ").unwrap_or((encodings, ""));
    let level = Compression::fast();
    let encoded = match first {
        "gzip" => filled(GzEncoder::new(Vec::new(), level), bytes, times).finish().unwrap(),
        "deflate" => filled(ZlibEncoder::new(Vec::new(), level), bytes, times).finish().unwrap(),
        "br" => filled(brotli::CompressorWriter::new(Vec::new(), 4096, 1, 24), bytes, times).into_inner(),
        _ => {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(23).unwrap();
            filled(encoder, bytes, times).finish().unwrap()
        }
    };
    if rest.is_empty() { encoded } else { self::encoded(rest, &encoded, 1) }
}

#[test]
fn a_gibibyte_of_nothing_in_any_encoding() {
    let zeros = vec![0; MIB];
    for encodings in ["gzip", "deflate", "br", "zstd", "gzip, br", "br, zstd", "gzip, gzip, gzip", "zstd, zstd, zstd"] {
        let bomb = encoded(encodings, &zeros, GIB / MIB);
        assert!(bomb.len() < 5 * MIB);
        let reading = Response { encoding: Some(encodings), ..events(encodings) }.measure(|push| push(&bomb));
        assert_eq!((reading.known, reading.has_report), (Known::Estimated, false), "{encodings}: {reading:?}");
    }
}

#[test]
fn the_largest_windows_in_all_stages() {
    // A window is held as far as it is filled, by what does not compress.
    let mut noise = vec![0; 20 * MIB];
    let mut state = 1u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = b'A' + (state >> 60) as u8;
    }
    for encodings in ["zstd, zstd, br", "br, zstd, zstd", "br, br"] {
        let bytes = encoded(encodings, &noise, 1);
        let large = Response { encoding: Some(encodings), ..events(encodings) };
        large.measure(|push| push(&bytes));
    }
}

#[test]
fn a_window_larger_than_http_allows() {
    for exponent in 14..32u8 {
        // The magic, no size, a window of 2^(10 + exponent) bytes, and blocks that repeat a byte 131,072 times.
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3];
        frame.extend([0x02, 0, 0x10, b'x'].repeat(128 * 1024));
        Response { encoding: Some("zstd"), ..events("zstd window") }.is_guessed(|push| push(&frame));
    }
}

#[test]
fn what_never_ends() {
    let line = "x".repeat(MIB);
    for (name, start, more, times) in [
        ("event of 1 GiB", "data: ", line.as_str(), 1024),
        ("line of 1 GiB", "x", &line, 1024),
        ("comment", ":", &line, 16),
        ("event of many lines", "data: x\n", "data: xxxxxxxxxxxxxxx\r\n", MIB),
    ] {
        events(name).is_guessed(|push| repeat(push, start, more, times));
    }
    let body = |name| Response { dialect: Dialect::OpenAiChat, ..events(name) };
    for (name, start, more) in [
        ("string", "{\"usage\":\"", "x"),
        ("escapes", "{\"usage\":\"", "\\\""),
        ("number", "{\"usage\":1", "1"),
        ("key", "{\"", "k"),
        ("nesting", "{\"usage\":[", "["),
        ("array", "{\"usage\":[0", ",0"),
        ("fields", "{\"a\":0", ",\"usage\":{\"a\":1}"),
        ("blanks", "{\"usage\": ", " "),
    ] {
        body(name).is_guessed(|push| repeat(push, start, more, 8 * MIB / more.len()));
    }
    for dialect in [Dialect::Gemini, Dialect::Ollama] {
        for (name, start, more) in [
            ("element of one string", "[{\"a\":\"", "x"),
            ("element of many", "[{\"a\":[0", ",0"),
            ("nested element", "[{\"a\":[", "[{}"),
        ] {
            Response { dialect, ..events(name) }.is_guessed(|push| repeat(push, start, more, 8 * MIB / more.len()));
        }
    }
}

/// Sends `more` so often, in large pieces.
fn repeat(push: &mut dyn FnMut(&[u8]), start: &str, more: &str, times: usize) {
    push(start.as_bytes());
    let at_once = (MIB / more.len()).clamp(1, times);
    let piece = more.repeat(at_once);
    for _ in 0..times / at_once {
        push(piece.as_bytes());
    }
}

#[test]
fn millions_of_tiny_events() {
    for (dialect, event) in [
        (Dialect::AnthropicMessages, "data\n\n"),
        (Dialect::OpenAiChat, "data: {}\n\n"),
        (Dialect::Ollama, "{}\n"),
        (Dialect::Gemini, "\n"),
    ] {
        let reading =
            Response { dialect, ..events("tiny events") }.measure(|push| repeat(push, "\n", event, 2_000_000));
        assert_eq!((reading.known, reading.has_report), (Known::Estimated, false), "{reading:?}");
    }
    let reading = Response { dialect: Dialect::OpenAiResponses, ..events("many responses") }.measure(|push| {
        for id in 0..50_000 {
            let response =
                format!("{{\"id\":\"{}{id}\",\"usage\":{{\"input_tokens\":2,\"output_tokens\":1}}}}", "é".repeat(200));
            push(format!("data: {{\"type\":\"response.created\",\"response\":{response}}}\n\n").as_bytes());
            push(format!("data: {{\"type\":\"response.completed\",\"response\":{response}}}\n\n").as_bytes());
        }
    });
    assert_eq!(reading.usage.output, Tokens(50_000), "each counts, known apart or not");
}

/// Texts of four mebibytes that are larger by far as values.
#[test]
fn small_values_in_large_numbers() {
    let bytes = 4 * MIB - 1000;
    for unit in ["{\"\":0},", "[[[[[0]]]]],", "0,", "\"\",", "\"\\u0001\","] {
        let many = unit.repeat(bytes / unit.len());
        for dialect in Dialect::ALL {
            let name = format!("values like {unit}");
            let response = Response { dialect, ..events(&name) };
            let key = if dialect == Dialect::Gemini { "response" } else { "usage" };
            let text = format!("{{\"type\":\"message_delta\",\"{key}\":[{many}0]}}");
            let wrapped = match dialect {
                Dialect::Gemini => format!("[{text}]").into_bytes(),
                Dialect::Bedrock => message(text.as_bytes()),
                Dialect::Ollama => Vec::new(),
                Dialect::AnthropicMessages
                | Dialect::OpenAiChat
                | Dialect::OpenAiEmbeddings
                | Dialect::OpenAiResponses => format!("data: {text}\n\n").into_bytes(),
            };
            response.measure(|push| push(text.as_bytes()));
            response.measure(|push| push(&wrapped));
        }
    }
    let many = "{\"\":0},".repeat(bytes * 3 / 4 / 7);
    let wrapped = STANDARD.encode(format!("{{\"type\":\"message_delta\",\"a\":[{many}0]}}"));
    let bedrock = Response { dialect: Dialect::Bedrock, ..events("wrapped values") };
    let message = message(format!("{{\"bytes\":\"{wrapped}\"}}").as_bytes());
    bedrock.measure(|push| push(&message));
}

/// A message of an AWS event stream, without headers.
fn message(payload: &[u8]) -> Vec<u8> {
    let mut message = prelude(u32::try_from(16 + payload.len()).unwrap());
    message.extend(payload);
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message
}

fn prelude(message_bytes: u32) -> Vec<u8> {
    let mut prelude = [message_bytes.to_be_bytes(), 0u32.to_be_bytes()].concat();
    prelude.extend(crc32fast::hash(&prelude).to_be_bytes());
    prelude
}

#[test]
fn a_message_longer_than_can_be() {
    let response = |name| Response { dialect: Dialect::Bedrock, ..events(name) };
    let zeros = "\0".repeat(MIB);
    for (name, announced) in [("message of 4 GiB", u32::MAX), ("message of 24 MiB", 24 << 20), ("empty message", 0)] {
        response(name).is_guessed(|push| {
            push(&prelude(announced));
            repeat(push, "\0", &zeros, 20);
        });
    }
    // What follows a message that is passed over is read.
    let usage = message(br#"{"usage":{"inputTokens":3,"outputTokens":4}}"#);
    let long = message(&vec![b' '; 20 * MIB]);
    let reading = response("long message").measure(|push| {
        push(&long);
        push(&usage);
    });
    assert_eq!((reading.known, reading.usage.output, reading.is_final), (Known::Reported, Tokens(4), true));
}
