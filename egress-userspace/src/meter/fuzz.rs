//! What must hold for any bytes, as functions of bytes: fuzzers look for some that break it (`cargo xtask fuzz`), and a test runs
//! what they found before (`tests/fuzz/corpus`).
//!
//! The first bytes of an input choose, the rest is data. Bytes that arrive in other pieces must come to the same.

use std::collections::HashSet;
use std::io::{Error, ErrorKind, Result, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::domain::{Api, Ending, Known, Tokens};

use super::decode::{Pipe, is_encoded};
use super::eventstream::Messages;
use super::json::TopLevel;
use super::parse::parse;
use super::reader::{Account, Reader};
use super::sse::Frames;
use super::usage_asked::{UsageAsked, ask_for_usage};
use super::usage_withheld::UsageWithheld;
use super::values::Values;
use super::websocket::{Frame, Frames as WebSocketFrames, Opcode, Side};
use super::{
    Ask, Dialect, EarlyEnd, HeaderCounts, Lanes, Reading, ResponseHead, ResponseMeter, Route, ServerEvent, work,
};

/// A target's name, which is that of its corpus, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target. One for the frames of WebSockets has its place after the event streams.
pub const TARGETS: [Target; 19] = [
    ("sse", sse),
    ("eventstream", eventstream),
    ("values", values),
    ("json", json),
    ("parse", parsed),
    ("decode", decode),
    ("anthropic", anthropic),
    ("openai_chat", openai_chat),
    ("openai_responses", openai_responses),
    ("gemini", gemini),
    ("bedrock", bedrock),
    ("ollama", ollama),
    ("ask", ask),
    ("guess", guess),
    ("usage_asked", usage_asked),
    ("usage_withheld", usage_withheld),
    ("websocket", websocket),
    ("socket_events", socket_events),
    ("ending", ending),
];

/// What is spoken in streams.
const STREAMED: [Dialect; 6] = [
    Dialect::AnthropicMessages,
    Dialect::OpenAiChat,
    Dialect::OpenAiResponses,
    Dialect::Gemini,
    Dialect::Bedrock,
    Dialect::Ollama,
];
/// Most bytes that are decoded: a few bytes may stand for very many.
const DECODED_BYTES_MAX: usize = 4 * 1024;
/// What the requests of all exchanges allow.
const OUTPUT_CAP: Tokens = Tokens(1000);
/// What their input is estimated to be.
const INPUT_ESTIMATE: Tokens = Tokens(500);
/// Pieces after each of which a reading is taken; where there are more, only at the end.
const READINGS_MAX: usize = 16;
/// Longest text of which every value is kept when it is parsed, in bytes.
const WHOLE_TEXT_BYTES: usize = 1000;

/// Server-sent events.
pub fn sse(input: &[u8]) {
    let read = |pieces: &[&[u8]]| {
        let (mut frames, mut events) = (Frames::default(), Vec::new());
        let dropped: u64 = pieces.iter().map(|piece| frames.push(piece, &mut |data| events.push(data.to_vec()))).sum();
        frames.finish(&mut |data| events.push(data.to_vec()));
        (events, dropped)
    };
    let (events, _) = same_in_pieces(input, read);
    let bytes: usize = events.iter().map(Vec::len).sum();
    assert!(bytes + 4 * events.len() <= input.len(), "more data than there was");
}

/// AWS event streams.
pub fn eventstream(input: &[u8]) {
    let (mode, data) = input.split_first().unwrap_or((&0, &[]));
    let stream = if mode % 2 == 0 { data.to_vec() } else { messages(data) };
    let read = |pieces: &[&[u8]]| {
        let (mut messages, mut heard) = (Messages::default(), Heard::default());
        let lost: u64 = pieces.iter().map(|piece| messages.push(piece, &mut heard)).sum();
        (heard.events, heard.failures, lost)
    };
    let (_, _, lost) = same_in_pieces(&stream, read);
    assert!(lost <= stream.len() as u64, "more was lost than there was");
}

/// Objects in a row.
pub fn values(input: &[u8]) {
    let read = |pieces: &[&[u8]]| {
        let (mut values, mut objects) = (Values::default(), Vec::new());
        let dropped: u64 =
            pieces.iter().map(|piece| values.push(piece, &mut |object| objects.push(object.to_vec()))).sum();
        (objects, dropped)
    };
    let (objects, _) = same_in_pieces(input, read);
    for object in objects {
        assert!(object.starts_with(b"{") && input.windows(object.len()).any(|window| window == object));
    }
}

/// The top level of one object.
pub fn json(input: &[u8]) {
    const WANTED: &[&str] = &["usage", "model", "a", "request"];
    let read = |pieces: &[&[u8]]| {
        let (mut object, mut fields) = (TopLevel::new(WANTED), Vec::new());
        for piece in pieces {
            object.push(piece, &mut |key, value| fields.push((key.to_owned(), value.to_vec())));
        }
        (fields, object.is_closed())
    };
    let (fields, is_closed, ..) = same_in_pieces(input, read);
    // Of JSON it finds the fields that are there, each as often as it is there.
    let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(input) else { return };
    assert!(is_closed, "an object that has not ended");
    for key in WANTED {
        let last = fields.iter().rev().find(|(found, _)| found == key);
        let found = last.map(|(_, value)| serde_json::from_slice::<Value>(value).ok());
        assert_eq!(found, object.get(*key).map(|value| Some(value.clone())), "{key}");
    }
}

/// Texts and their values.
pub fn parsed(input: &[u8]) {
    let found = parse(input);
    let expected = serde_json::from_slice::<Value>(input).ok();
    if input.len() <= WHOLE_TEXT_BYTES {
        assert_eq!(found, expected);
    } else {
        assert_eq!(found.is_some(), expected.is_some());
    }
}

/// Content encodings.
pub fn decode(input: &[u8]) {
    const HEADERS: [&str; 8] = ["", "gzip", "deflate", "br", "zstd", "gzip, br", "deflate, zstd, gzip", "br, identity"];
    let (choice, body) = input.split_first().unwrap_or((&0, &[]));
    let header = HEADERS.get(usize::from(*choice) % HEADERS.len()).copied();
    let read = |pieces: &[&[u8]]| {
        let Some(mut pipe) = Pipe::new(header, Decoded::default()) else { return (Vec::new(), false) };
        let mut write_all = || pieces.iter().try_for_each(|piece| pipe.write_all(piece).and_then(|()| pipe.flush()));
        let is_sound = write_all().and_then(|()| pipe.finish()).is_ok();
        (std::mem::take(&mut pipe.writer_mut().bytes), is_sound)
    };
    let whole = read(&[body]);
    let found = read(&in_pieces(body));
    let (shorter, longer) = if found.0.len() < whole.0.len() { (&found.0, &whole.0) } else { (&whole.0, &found.0) };
    assert!(longer.starts_with(shorter), "other bytes");
    assert!(shorter.len() == longer.len() || !(found.1 && whole.1), "fewer bytes");
}

/// Anthropic's responses.
pub fn anthropic(input: &[u8]) {
    response(Dialect::AnthropicMessages, input);
}

/// OpenAI's chat completions, and embeddings.
pub fn openai_chat(input: &[u8]) {
    response(Dialect::OpenAiChat, input);
}

/// OpenAI's Responses.
pub fn openai_responses(input: &[u8]) {
    response(Dialect::OpenAiResponses, input);
}

/// Gemini's responses.
pub fn gemini(input: &[u8]) {
    response(Dialect::Gemini, input);
}

/// Bedrock's responses: JSON, or a message a line.
pub fn bedrock(input: &[u8]) {
    let (head, body) = input.split_first().unwrap_or((&0, &[]));
    if body.starts_with(b"{") {
        response(Dialect::Bedrock, input);
    } else {
        let stream: Vec<u8> = std::iter::once(*head).chain(body.split(|byte| *byte == b'\n').flat_map(line)).collect();
        response(Dialect::Bedrock, &stream);
    }
}

/// Ollama's responses.
pub fn ollama(input: &[u8]) {
    response(Dialect::Ollama, input);
}

/// Requests: what the head chooses, a path up to the end of the line, and a body.
pub fn ask(input: &[u8]) {
    let [choice, size, rest @ ..] = input else { return };
    let line_bytes = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (path, body) = rest.split_at(line_bytes);
    let Ok(path) = std::str::from_utf8(path) else { return };
    let body = body.get(1..).unwrap_or_default();
    let api = Api::ALL.get(usize::from(*choice) % Api::ALL.len()).copied().unwrap_or(Api::Anthropic);
    let method = if choice & 0x80 == 0 { "POST" } else { "GET" };
    let body_bytes = (size & 1 == 1).then_some(u64::from(*size) << (size / 4));
    let ask = super::ask(api, method, path, body, body_bytes);
    if !ask.is_metered {
        assert!(ask.is_meterable() && ask.input_estimate == Tokens::ZERO && ask.output_cap == Tokens::ZERO, "{ask:?}");
    }
    assert!(ask.input_estimate.0 < 1 << 32, "{ask:?}");
}

/// Responses of which nothing is said.
pub fn guess(input: &[u8]) {
    let (choice, body) = input.split_first().unwrap_or((&0, &[]));
    let encoding = ["gzip", "br", "zstd", "unknown"].get(usize::from(*choice)).copied();
    if let Some(dialect) = super::guess(encoding, body) {
        let head = ResponseHead { status: 200, content_encoding: encoding, ..ResponseHead::default() };
        let mut meter = ResponseMeter::new(&Ask::unseen(dialect), &head);
        meter.push(body.get(..DECODED_BYTES_MAX.min(body.len())).unwrap_or_default());
        is_within_bounds(&meter.finish(Ending::Complete), &Ask::unseen(dialect));
    }
}

/// Requests that are made to ask for their usage.
pub fn usage_asked(input: &[u8]) {
    let (choice, body) = input.split_first().unwrap_or((&0, &[]));
    let how = if choice & 1 == 0 { UsageAsked::Unsaid } else { UsageAsked::Declined };
    let Some(asking) = ask_for_usage(how, None, body, choice & 2 == 0) else { return };
    let Ok(Value::Object(mut before)) = serde_json::from_slice(body) else { return };
    // Nobody says that it is unsaid where it is said.
    if before.remove("stream_options").is_some() && how == UsageAsked::Unsaid {
        return;
    }
    let edited = serde_json::from_slice::<Value>(&asking.body).ok();
    let mut after = edited.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
    let options = after.remove("stream_options");
    assert_eq!(options.as_ref().and_then(|options| options.get("include_usage")), Some(&Value::Bool(true)));
    assert_eq!(after, before, "something else was edited");
}

/// Streams that their usage is taken out of.
pub fn usage_withheld(input: &[u8]) {
    let read = |pieces: &[&[u8]]| {
        let mut withheld = UsageWithheld::new(None)?;
        let passed: Option<Vec<Vec<u8>>> = pieces.iter().map(|piece| withheld.push(piece).ok()).collect();
        Some([passed?.concat(), withheld.finish()].concat())
    };
    // What looks compressed is decoded, and has a target of its own.
    if matches!(input, [0x1f, ..] | [0x28, ..]) {
        return;
    }
    let passed = same_in_pieces(input, read).unwrap_or_default();
    assert!(passed.len() <= input.len(), "something was put in");
    let has_usage = input.windows(5).any(|window| window == b"usage");
    assert!(has_usage || passed == input, "something else was taken out");
}

/// Frames of a WebSocket. The first byte says whose; longer messages than the limit come in pieces of any size.
pub fn websocket(input: &[u8]) {
    const MESSAGE_BYTES_MAX: usize = 64;
    let (choice, stream) = input.split_first().unwrap_or((&0, &[]));
    let side = if choice & 1 == 0 { Side::Server } else { Side::Client };
    let read = |pieces: &[&[u8]]| {
        let mut frames = WebSocketFrames::new(side, MESSAGE_BYTES_MAX);
        let (mut messages, mut controls) = (Vec::<Frame>::new(), Vec::new());
        for piece in pieces {
            let mut rest = *piece;
            loop {
                let frame = match frames.next(&mut rest) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(error) => return (messages, controls, Some(error)),
                };
                match (frame.opcode, messages.last_mut()) {
                    (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => controls.push(frame),
                    (Opcode::Continuation, Some(message)) => {
                        assert!(!message.is_final, "a piece of no message");
                        message.payload.extend(frame.payload);
                        message.is_final = frame.is_final;
                    }
                    (Opcode::Text | Opcode::Binary | Opcode::Continuation, _) => messages.push(frame),
                }
            }
        }
        (messages, controls, None)
    };
    let (messages, controls, _) = same_in_pieces(stream, read);
    for frame in messages.iter().chain(&controls).filter(|frame| frame.is_final) {
        let encoded = frame.encode((side == Side::Client).then_some([1, 2, 3, *choice]));
        let mut frames = WebSocketFrames::new(side, encoded.len());
        assert_eq!(frames.next(&mut encoded.as_slice()), Ok(Some(frame.clone())), "read again it is another");
    }
}

/// What is said over a WebSocket of Responses: lines, those of the client after `>`.
pub fn socket_events(input: &[u8]) {
    let (mut lanes, mut opened, mut ended) = (Lanes::default(), 0_usize, HashSet::new());
    for line in input.split(|byte| *byte == b'\n') {
        if let Some(message) = line.strip_prefix(b">") {
            if let Some(work) = work(Api::OpenAi, "/v1/responses", message).filter(|_| lanes.has_room()) {
                lanes.open(&work, opened);
                opened += 1;
            }
            continue;
        }
        let (event, has_room) = (ServerEvent::read(line), lanes.has_room());
        match lanes.route(&event) {
            Route::Open(place, _) if event.is_terminal() => {
                let number = lanes.end(place).copied();
                assert!(number.is_some_and(|number| ended.insert(number)), "ended twice");
            }
            Route::Stranger if has_room => {
                lanes.adopt(&event, opened);
                opened += 1;
            }
            Route::Open(..) | Route::Ended(_) | Route::Stranger | Route::Nobody => {}
        }
    }
    while let Some(number) = lanes.end_first() {
        assert!(ended.insert(*number), "ended twice");
    }
    assert_eq!(ended.len(), opened, "not every response has ended");
}

/// A stream that may be ended early: all of it is handed on, and how it would end follows from that alone. The first byte
/// chooses the dialect.
pub fn ending(input: &[u8]) {
    let (choice, body) = input.split_first().unwrap_or((&0, &[]));
    let Some(dialect) = STREAMED.get(usize::from(*choice) % STREAMED.len()) else { return };
    let ask = Ask { input_estimate: INPUT_ESTIMATE, output_cap: OUTPUT_CAP, ..Ask::unseen(*dialect) };
    let head = ResponseHead { status: 200, ..ResponseHead::default() };
    let read = |pieces: &[&[u8]]| {
        let (mut early, mut meter) = (EarlyEnd::new(&ask, &head), ResponseMeter::new(&ask, &head));
        let mut given = Vec::new();
        for piece in pieces {
            early.push(piece);
            while let Some(whole) = early.next_piece() {
                meter.push(&whole);
                given.extend_from_slice(&whole);
            }
        }
        let end = early.end(&meter.reading());
        given.extend_from_slice(&early.rest());
        (given, end)
    };
    let (given, _) = same_in_pieces(body, read);
    assert_eq!(given, body, "other bytes than there were");
}

/// A response in a dialect. The first byte chooses its head and how it ends.
fn response(dialect: Dialect, input: &[u8]) {
    let (choice, body) = input.split_first().unwrap_or((&0, &[]));
    // How much a decoder gives of what turns out to be broken depends on the pieces it comes in.
    if is_encoded(body) {
        return;
    }
    let ask = Ask { input_estimate: INPUT_ESTIMATE, output_cap: OUTPUT_CAP, ..Ask::unseen(dialect) };
    let counts = if choice & 1 == 1 { HeaderCounts::read(|_| Some("77")) } else { HeaderCounts::default() };
    let head = ResponseHead { status: if choice & 2 == 2 { 400 } else { 200 }, counts, ..ResponseHead::default() };
    let ending = if choice & 4 == 4 { Ending::Cancelled } else { Ending::Complete };
    let read = |pieces: &[&[u8]]| {
        let mut meter = ResponseMeter::new(&ask, &head);
        let mut before = Reading { is_final: false, ..meter.reading() };
        for piece in pieces {
            meter.push(piece);
            if pieces.len() < READINGS_MAX {
                let reading = meter.reading();
                is_within_bounds(&reading, &ask);
                assert!(reading.has_report || !before.has_report, "{before:?} then {reading:?}");
                before = reading;
            }
        }
        meter.finish(ending)
    };
    is_within_bounds(&same_in_pieces(body, read), &ask);
}

fn is_within_bounds(reading: &Reading, ask: &Ask) {
    let (usage, details) = (reading.usage, reading.details);
    assert!(details.reasoning <= usage.output && details.cache_write_1h <= usage.cache_write, "{reading:?}");
    assert!(!reading.is_final || reading.has_report, "{reading:?}");
    assert!(reading.known != Known::Partial || reading.has_report, "{reading:?}");
    if reading.known == Known::Estimated {
        assert!(!reading.has_report && usage.input == ask.input_estimate, "{reading:?}");
        assert!(usage.output <= ask.output_cap && usage.cache_read == Tokens::ZERO, "{reading:?}");
    }
    assert!(usage.total() >= usage.output, "{reading:?}");
}

/// What `read` makes of the bytes, which is the same in whatever pieces they come.
fn same_in_pieces<T: PartialEq + std::fmt::Debug>(bytes: &[u8], read: impl Fn(&[&[u8]]) -> T) -> T {
    let whole = read(&[bytes]);
    let pieces = in_pieces(bytes);
    assert_eq!(read(&pieces), whole, "in {} pieces", pieces.len());
    whole
}

/// The bytes in pieces: small ones or large ones, of sizes that repeat. The bytes choose themselves.
fn in_pieces(mut bytes: &[u8]) -> Vec<&[u8]> {
    let [a, b, c, is_small] = crc32fast::hash(bytes).to_be_bytes().map(usize::from);
    let large = 1 + bytes.len() / 3;
    let sizes = if is_small % 2 == 0 {
        [1 + a % 7, 1 + b % 13, 1 + c % 3]
    } else {
        [a, b * 4, c * 16].map(|size| 1 + size % large)
    };
    let mut pieces = Vec::new();
    for size in sizes.into_iter().cycle() {
        let (piece, rest) = bytes.split_at(size.min(bytes.len()));
        if piece.is_empty() {
            break;
        }
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// A message with the payload that follows its type on a line.
fn line(line: &[u8]) -> Vec<u8> {
    let space = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    let (kind, payload) = line.split_at(space);
    let payload = payload.get(1..).unwrap_or_default();
    let wrapped = (kind == b"chunk").then(|| format!("{{\"bytes\":\"{}\"}}", STANDARD.encode(payload)));
    let headers: &[u8] = match kind {
        b"exception" => b"\x0d:message-type\x07\x00\x09exception",
        _ => b"\x0d:message-type\x07\x00\x05event",
    };
    message(headers, wrapped.as_ref().map_or(payload, String::as_bytes))
}

/// Messages that are well framed: each takes the lengths of its headers and of its payload from the two bytes before them.
fn messages(mut data: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let [headers, payload, rest @ ..] = data {
        let (headers, rest) = rest.split_at(usize::from(*headers).min(rest.len()));
        let (payload, rest) = rest.split_at(usize::from(*payload).min(rest.len()));
        stream.extend(message(headers, payload));
        data = rest;
    }
    stream
}

fn message(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    let mut message = [length(16 + headers.len() + payload.len()), length(headers.len())].concat();
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.extend([headers, payload].concat());
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message
}

/// Notes what it is told.
#[derive(Debug, Default)]
struct Heard {
    events: Vec<Vec<u8>>,
    failures: usize,
    account: Account,
}

impl Reader for Heard {
    fn event(&mut self, data: &[u8]) {
        self.events.push(data.to_vec());
    }

    fn failure(&mut self) {
        self.failures += 1;
    }

    fn body_keys(&self) -> &'static [&'static str] {
        &[]
    }

    fn field(&mut self, _key: &str, _raw: &[u8]) {}

    fn account(&self) -> &Account {
        &self.account
    }

    fn account_mut(&mut self) -> &mut Account {
        &mut self.account
    }
}

/// Takes what is decoded, up to a limit.
#[derive(Debug, Default)]
struct Decoded {
    bytes: Vec<u8>,
}

impl Write for Decoded {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let room = DECODED_BYTES_MAX.saturating_sub(self.bytes.len());
        if room == 0 {
            return Err(Error::from(ErrorKind::FileTooLarge));
        }
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.bytes.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
