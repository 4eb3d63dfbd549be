//! Streams that are ended early, after any event: what the client has then is a whole message of its dialect, and what is
//! settled is no less than what it was given.

use std::collections::BTreeMap;

use serde_json::Value;

use super::dialects::SPOKEN;
use super::fixtures::recorded;
use super::*;
use crate::meter::{EarlyEnd, eventstream};

/// A longer one takes long to be read after each event.
const LONG_BYTES: usize = 64 * 1024;

/// A stream on its way.
struct Stream<'a> {
    name: &'a str,
    ask: &'a Ask,
    content_type: &'a str,
}

impl Stream<'_> {
    fn head(&self) -> ResponseHead<'_> {
        ResponseHead { status: 200, content_type: Some(self.content_type), ..ResponseHead::default() }
    }

    /// Ends it after each of its events, of a long one after each eighth; how many there were.
    fn check(&self, body: &[u8]) -> usize {
        let mut meter = ResponseMeter::new(self.ask, &self.head());
        let mut early = EarlyEnd::new(self.ask, &self.head());
        let (mut given, mut events) = (Vec::new(), 0);
        early.push(body);
        while let Some(piece) = early.next_piece() {
            meter.push(&piece);
            given.extend_from_slice(&piece);
            events += 1;
            if body.len() > LONG_BYTES && events % 8 != 0 {
                continue;
            }
            let so_far = meter.reading();
            let label = format!("{} after event {events}", self.name);
            let end = early.end(&so_far).unwrap_or_else(|| panic!("{label}: no end"));
            self.check_end(&label, &given, &end, &so_far);
        }
        events
    }

    fn check_end(&self, label: &str, given: &[u8], end: &[u8], so_far: &Reading) {
        let whole = [given, end].concat();
        let settled = meter_of(self, &[given], Ending::Cut);
        assert_eq!(settled.usage, so_far.usage, "{label}");
        let heard = meter_of(self, &[&whole], Ending::Complete);
        let text = String::from_utf8_lossy(end);
        assert_eq!(heard.usage.total(), settled.usage.total(), "{label}: {heard:?} by {text}");
        if !end.is_empty()
            && self.tells_usage()
            && !so_far.failed
            && self.ask.dialect != Some(Dialect::OpenAiEmbeddings)
        {
            assert_eq!(heard.known, Known::Reported, "{label}: {heard:?} by {text}");
        }
        // What the provider itself has ended is as it is.
        if !end.is_empty() {
            shape(label, self.ask.dialect.unwrap(), &whole);
        }
    }

    fn tells_usage(&self) -> bool {
        self.ask.usage_asked == UsageAsked::Yes
    }
}

fn meter_of(stream: &Stream<'_>, pieces: &[&[u8]], ending: Ending) -> Reading {
    meter(stream.ask, &stream.head(), pieces.iter().copied(), ending)
}

/// Reads a body as a client would, and finds a message that has ended.
fn shape(label: &str, dialect: Dialect, body: &[u8]) {
    let events = events_of(dialect, body);
    match dialect {
        Dialect::AnthropicMessages => anthropic(label, &events),
        Dialect::OpenAiChat => chat(label, &events),
        Dialect::OpenAiResponses => responses(label, &events),
        Dialect::Gemini => gemini(label, &events),
        Dialect::Bedrock => bedrock(label, &events),
        Dialect::Ollama => assert_eq!(events.last().unwrap().1["done"], true, "{label}"),
        Dialect::OpenAiEmbeddings => {}
    }
}

/// Names and values of all events; bytes that are in none fail.
fn events_of(dialect: Dialect, body: &[u8]) -> Vec<(String, Value)> {
    if dialect == Dialect::Bedrock {
        return frames_of(body);
    }
    let text = std::str::from_utf8(body).unwrap().replace("\r\n", "\n");
    if text.trim_start().starts_with('[') {
        let objects: Vec<Value> = serde_json::from_str(&text).unwrap();
        return objects.into_iter().map(|object| (String::new(), object)).collect();
    }
    if dialect == Dialect::Ollama {
        return text.lines().map(|line| (String::new(), serde_json::from_str(line).unwrap())).collect();
    }
    assert!(text.ends_with("\n\n"), "{text}");
    text.split("\n\n").filter_map(sse_event).collect()
}

fn sse_event(event: &str) -> Option<(String, Value)> {
    let field = |name: &str| {
        let values = event.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let values: Vec<&str> = values.map(str::trim).collect();
        (!values.is_empty()).then(|| values.join("\n"))
    };
    let data = field("data")?;
    let value = serde_json::from_str(&data).unwrap_or_else(|_| Value::String(data.clone()));
    assert!(value.is_object() || data == "[DONE]", "{event}");
    Some((field("event").unwrap_or_default(), value))
}

fn frames_of(mut body: &[u8]) -> Vec<(String, Value)> {
    let mut events = Vec::new();
    while !body.is_empty() {
        let (frame, rest) = body.split_at(eventstream::message_bytes(body).unwrap());
        let (name, payload) = eventstream::event(frame).expect("an event with right checksums");
        events.push((name.to_owned(), serde_json::from_slice(payload).unwrap()));
        body = rest;
    }
    events
}

fn anthropic(label: &str, events: &[(String, Value)]) {
    let mut open: BTreeMap<u64, bool> = BTreeMap::new();
    let mut reason = None;
    for (name, event) in events {
        let kind = event["type"].as_str().unwrap();
        assert!(name.is_empty() || name == kind, "{label}: {name} {kind}");
        let index = event["index"].as_u64();
        match kind {
            "content_block_start" => drop(open.insert(index.unwrap(), true)),
            "content_block_stop" => drop(open.insert(index.unwrap(), false)),
            "message_delta" => reason = event["delta"]["stop_reason"].as_str().or(reason),
            _ => {}
        }
    }
    assert!(open.values().all(|is_open| !is_open), "{label}: {open:?}");
    assert!(reason.is_some(), "{label}");
    let count = |kind: &str| events.iter().filter(|(_, event)| event["type"] == kind).count();
    assert_eq!(
        (events.last().unwrap().1["type"].as_str(), count("message_stop")),
        (Some("message_stop"), 1),
        "{label}"
    );
}

fn chat(label: &str, events: &[(String, Value)]) {
    if events.iter().any(|(_, event)| event["type"] == "message-start") {
        assert!(events.iter().any(|(_, event)| event["type"] == "message-end"), "{label}");
        return;
    }
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done.1, "[DONE]", "{label}");
    let mut finished: BTreeMap<u64, bool> = BTreeMap::new();
    for choice in chunks.iter().filter_map(|(_, chunk)| chunk["choices"].as_array()).flatten() {
        *finished.entry(choice["index"].as_u64().unwrap_or(0)).or_default() |= !choice["finish_reason"].is_null();
    }
    assert!(!finished.is_empty() && finished.values().all(|finished| *finished), "{label}: {finished:?}");
}

fn responses(label: &str, events: &[(String, Value)]) {
    let mut open: Vec<&Value> = Vec::new();
    for (name, event) in events {
        let kind = event["type"].as_str().unwrap();
        assert!(name.is_empty() || name == kind, "{label}: {name} {kind}");
        let id = &event["response"]["id"];
        match kind {
            "response.created" => open.push(id),
            "response.completed" | "response.incomplete" | "response.failed" | "response.done" => {
                open.retain(|open| *open != id);
            }
            _ => {}
        }
    }
    assert!(open.is_empty(), "{label}: {open:?}");
    let numbers: Vec<u64> = events.iter().filter_map(|(_, event)| event["sequence_number"].as_u64()).collect();
    assert!(numbers.len() < 2 || numbers[numbers.len() - 2] < numbers[numbers.len() - 1], "{label}: {numbers:?}");
}

fn gemini(label: &str, events: &[(String, Value)]) {
    let mut finished: BTreeMap<u64, bool> = BTreeMap::new();
    let mut is_blocked = false;
    for (_, event) in events {
        let chunk = event.get("response").unwrap_or(event);
        is_blocked |= chunk.pointer("/promptFeedback/blockReason").is_some();
        for candidate in chunk["candidates"].as_array().into_iter().flatten() {
            let index = candidate["index"].as_u64().unwrap_or(0);
            *finished.entry(index).or_default() |= candidate["finishReason"].is_string();
        }
    }
    assert!(is_blocked || (!finished.is_empty() && finished.values().all(|is| *is)), "{label}: {finished:?}");
}

fn bedrock(label: &str, events: &[(String, Value)]) {
    use base64::Engine as _;
    let inner = |value: &Value| -> Option<Value> {
        let bytes = base64::engine::general_purpose::STANDARD.decode(value["bytes"].as_str()?).unwrap();
        Some(serde_json::from_slice(&bytes).unwrap())
    };
    let inner: Vec<(String, Value)> =
        events.iter().filter_map(|(_, event)| Some((String::new(), inner(event)?))).collect();
    if inner.iter().any(|(_, event)| event["type"].is_string()) {
        return anthropic(label, &inner);
    }
    let names: Vec<&str> = if inner.is_empty() {
        events.iter().map(|(name, _)| name.as_str()).collect()
    } else {
        inner.iter().filter_map(|(_, event)| event.as_object()?.keys().next().map(String::as_str)).collect()
    };
    let count = |wanted: &str| names.iter().filter(|name| **name == wanted).count();
    assert_eq!((count("messageStop"), count("metadata")), (1, 1), "{label}: {names:?}");
    assert_eq!(names.last(), Some(&"metadata"), "{label}");
}

fn media_type(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Bedrock => "application/vnd.amazon.eventstream",
        Dialect::Ollama => "application/x-ndjson",
        Dialect::AnthropicMessages
        | Dialect::OpenAiChat
        | Dialect::OpenAiEmbeddings
        | Dialect::OpenAiResponses
        | Dialect::Gemini => "text/event-stream",
    }
}

/// How its events end is not known, or it has none.
fn cannot_be_ended(name: &str) -> bool {
    ["json", "invoke-titan", "interaction", "exception"].iter().any(|part| name.contains(part))
        && name != "gemini-array.json"
}

#[test]
fn every_stream_can_be_ended_after_every_event() {
    let mut events = 0;
    for case in CASES.iter().filter(|case| case.name.ends_with(".sse")) {
        let ask = request();
        events += Stream { name: case.name, ask: &ask, content_type: "text/event-stream" }.check(case.body.as_bytes());
    }
    for spoken in SPOKEN.iter().filter(|spoken| spoken.name == "ollama.ndjson" || !cannot_be_ended(spoken.name)) {
        let ask = spoken.ask();
        let stream = Stream { name: spoken.name, ask: &ask, content_type: media_type(ask.dialect.unwrap()) };
        events += stream.check(&spoken.body());
    }
    assert!(events > 150, "{events}");
}

#[test]
fn recorded_streams_can_be_ended_after_every_event() {
    for recorded in recorded().unwrap_or_default() {
        let media_type = recorded.case["content_type"].as_str().unwrap();
        let is_foreign = recorded.name.contains("invoke-model-with-response-stream-with-content-amazon");
        if is_foreign || media_type == "application/json" || recorded.body.starts_with(b"{") {
            continue;
        }
        let ask = Ask::unseen(recorded.case["dialect"].as_str().unwrap().parse().unwrap());
        let events = Stream { name: &recorded.name, ask: &ask, content_type: media_type }.check(&recorded.body);
        println!("{}: ended after each of {events} events", recorded.name);
    }
}

#[test]
fn what_cannot_be_read_cannot_be_ended() {
    let ask = request();
    let no_end = |head: &ResponseHead<'_>, body: &[u8]| {
        let mut early = EarlyEnd::new(&ask, head);
        early.push(body);
        let passed: Vec<_> = std::iter::from_fn(|| early.next_piece()).collect();
        assert_eq!(passed.concat(), body);
        assert_eq!(early.end(&ResponseMeter::new(&ask, head).reading()), None);
    };
    no_end(&head(Some("gzip")), b"event: x\n");
    no_end(&head(None), b"{\"type\":\"message\"");
    no_end(&head(None), b"\x28\xb5\x2f\xfd");
    no_end(&ResponseHead { status: 500, ..head(None) }, b"event: x\n");
}
