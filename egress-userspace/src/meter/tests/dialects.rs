//! Every dialect but Anthropic's: hand-written responses, whole, in pieces, encoded, cut and damaged.

use base64::Engine;
use proptest::prelude::*;
use serde_json::json;

use super::properties::pieces;
use super::wire::{ENCODINGS, encoded};
use super::*;

/// A response and what it settles to: input, cache write, cache read, output; of that, 1 h cache write and reasoning.
pub(super) struct Spoken {
    pub(super) name: &'static str,
    dialect: Dialect,
    pub(super) text: &'static str,
    expected: [u64; 4],
    details: [u64; 2],
    known: Known,
    is_final: bool,
}

macro_rules! spoken {
    ($dialect:ident, $name:literal, $expected:expr, $details:expr, $known:ident, $is_final:literal) => {
        Spoken {
            name: $name,
            dialect: Dialect::$dialect,
            text: include_str!(concat!("../testdata/", $name)),
            expected: $expected,
            details: $details,
            known: Known::$known,
            is_final: $is_final,
        }
    };
}

pub(super) const SPOKEN: [Spoken; 42] = [
    spoken!(OpenAiChat, "chat-usage-chunk.sse", [10, 30, 60, 40], [0, 25], Reported, true),
    spoken!(OpenAiChat, "chat-usage-with-last-choice.sse", [16, 0, 4, 12], [0, 0], Reported, true),
    spoken!(OpenAiChat, "chat-running-total.sse", [7, 0, 0, 3], [0, 0], Reported, true),
    spoken!(OpenAiChat, "chat-two-places.sse", [11, 0, 0, 5], [0, 0], Reported, true),
    spoken!(OpenAiChat, "chat-not-asked.sse", [500, 0, 0, 8], [0, 0], Estimated, false),
    spoken!(OpenAiChat, "chat-error.sse", [500, 0, 0, 6], [0, 0], Estimated, false),
    spoken!(OpenAiChat, "chat-error-with-usage.sse", [43, 0, 0, 10], [0, 10], Reported, true),
    spoken!(OpenAiChat, "chat-reasoning-beside.sse", [1, 0, 11, 291], [0, 290], Reported, true),
    spoken!(OpenAiChat, "chat-usage-in-extension.sse", [5003, 0, 0, 359], [0, 0], Reported, true),
    spoken!(OpenAiChat, "chat-error-first.sse", [0, 0, 0, 0], [0, 0], Reported, false),
    spoken!(OpenAiChat, "chat-clamped.json", [0, 0, 12, 342], [0, 342], Reported, true),
    spoken!(OpenAiChat, "completion-legacy.json", [4, 0, 0, 1], [0, 0], Reported, true),
    spoken!(OpenAiChat, "chat-error.json", [0, 0, 0, 0], [0, 0], Reported, false),
    spoken!(OpenAiEmbeddings, "embeddings.json", [79, 0, 0, 0], [0, 0], Reported, true),
    spoken!(OpenAiResponses, "responses-completed.sse", [20, 6, 190, 63], [0, 37], Reported, true),
    spoken!(OpenAiResponses, "responses-incomplete.sse", [10, 0, 0, 1000], [0, 0], Reported, true),
    spoken!(OpenAiResponses, "responses-several.sse", [20, 0, 10, 12], [0, 2], Reported, true),
    spoken!(OpenAiResponses, "responses-refusal.sse", [5, 0, 0, 3], [0, 0], Reported, true),
    spoken!(OpenAiResponses, "responses-background.sse", [15, 0, 0, 9], [0, 0], Reported, true),
    spoken!(OpenAiResponses, "responses-steered.sse", [10, 0, 0, 5], [0, 0], Reported, false),
    spoken!(OpenAiResponses, "responses-failed.sse", [0, 0, 0, 0], [0, 0], Reported, false),
    spoken!(OpenAiResponses, "responses-failed-late.sse", [500, 0, 0, 6], [0, 0], Estimated, false),
    spoken!(OpenAiResponses, "responses.json", [5, 0, 0, 3], [0, 0], Reported, true),
    spoken!(OpenAiResponses, "responses-compaction.json", [139, 0, 0, 438], [0, 64], Reported, true),
    spoken!(OpenAiResponses, "responses-background.json", [500, 0, 0, 1000], [0, 0], Estimated, false),
    spoken!(Gemini, "gemini-stream.sse", [32, 0, 50, 42], [0, 30], Reported, false),
    spoken!(Gemini, "gemini-array.json", [9, 0, 0, 4], [0, 0], Reported, false),
    spoken!(Gemini, "gemini-envelope.sse", [40, 0, 0, 10], [0, 8], Reported, false),
    spoken!(Gemini, "gemini-envelope.json", [40, 0, 0, 2], [0, 0], Reported, true),
    spoken!(Gemini, "gemini.json", [8, 0, 0, 7], [0, 5], Reported, true),
    spoken!(Gemini, "gemini-blocked.json", [6, 0, 0, 0], [0, 0], Reported, true),
    spoken!(Gemini, "gemini-interaction.json", [1193, 0, 2, 788], [0, 198], Reported, true),
    spoken!(Gemini, "gemini-error.json", [0, 0, 0, 0], [0, 0], Reported, false),
    spoken!(Bedrock, "converse.json", [16, 2387, 100, 9], [2000, 0], Reported, true),
    spoken!(Bedrock, "converse.frames", [33, 1, 2, 16], [0, 0], Reported, true),
    spoken!(Bedrock, "converse-exception.frames", [500, 0, 0, 6], [0, 0], Estimated, false),
    spoken!(Bedrock, "invoke-claude.frames", [25, 8, 3, 133], [6, 20], Reported, true),
    spoken!(Bedrock, "invoke-nova.frames", [5, 9, 7, 32], [0, 0], Reported, true),
    spoken!(Bedrock, "invoke-titan.frames", [6, 0, 0, 11], [0, 0], Reported, true),
    spoken!(Bedrock, "invoke-titan.json", [5, 0, 0, 12], [0, 0], Reported, true),
    spoken!(Bedrock, "invoke-claude.json", [15, 13, 12, 21], [0, 0], Reported, true),
    spoken!(Ollama, "ollama.ndjson", [26, 0, 0, 8], [0, 0], Reported, true),
];

impl Spoken {
    pub(super) fn ask(&self) -> Ask {
        let output_cap = Ask::unseen(self.dialect).output_cap.min(Tokens(1000));
        Ask { dialect: Some(self.dialect), output_cap, ..request() }
    }

    pub(super) fn body(&self) -> Vec<u8> {
        if self.name.ends_with(".frames") {
            self.text.lines().flat_map(frame).collect()
        } else {
            self.text.as_bytes().to_vec()
        }
    }

    fn check(&self, found: &Reading) {
        let details = [found.details.cache_write_1h.0, found.details.reasoning.0];
        assert_eq!((found.usage, details), (usage(self.expected), self.details), "{}", self.name);
        assert_eq!((found.known, found.is_final), (self.known, self.is_final), "{}", self.name);
        let failed = ["error", "failed", "exception"].iter().any(|word| self.name.contains(word));
        assert_eq!(found.failed, failed, "{}", self.name);
    }
}

/// A line of a `.frames` file: the event's type, and its payload, which `invoke` wraps.
pub(super) fn frame(line: &str) -> Vec<u8> {
    let (kind, payload) = line.split_once(' ').unwrap();
    let payload = match kind {
        "chunk" => {
            let bytes = base64::engine::general_purpose::STANDARD.encode(payload);
            json!({"bytes": bytes, "p": "abcdef"}).to_string()
        }
        _ => payload.to_owned(),
    };
    let message_type = if kind == "exception" { "exception" } else { "event" };
    let mut headers = Vec::new();
    for (name, value) in [(":event-type", kind), (":content-type", "application/json"), (":message-type", message_type)]
    {
        headers.push(u8::try_from(name.len()).unwrap());
        headers.extend_from_slice(name.as_bytes());
        headers.push(7);
        headers.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let length = u32::try_from(16 + headers.len() + payload.len()).unwrap();
    let mut message = [length.to_be_bytes(), u32::try_from(headers.len()).unwrap().to_be_bytes()].concat();
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.extend(headers);
    message.extend(payload.as_bytes());
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message
}

#[test]
fn every_dialect_settles_to_what_it_reports_in_any_encoding() {
    for spoken in &SPOKEN {
        let body = spoken.body();
        for encodings in ENCODINGS {
            let (header, bytes) = encoded(encodings, &body);
            for piece_bytes in [1, 7, usize::MAX] {
                let found = meter(&spoken.ask(), &head(Some(&header)), bytes.chunks(piece_bytes), Ending::Complete);
                spoken.check(&found);
            }
        }
    }
}

#[test]
fn the_last_word_is_known_before_the_stream_has_ended() {
    let streams = SPOKEN.iter().filter(|spoken| spoken.is_final && !spoken.text.starts_with(['[']));
    for spoken in streams {
        let mut meter = ResponseMeter::new(&spoken.ask(), &head(None));
        meter.push(&spoken.body());
        spoken.check(&meter.reading());
    }
}

#[test]
fn a_dialect_that_does_not_say_its_end_is_held_back() {
    let holds = |dialect, content_type| {
        let ask = Ask { dialect: Some(dialect), ..request() };
        let head = ResponseHead { status: 200, content_type: Some(content_type), ..ResponseHead::default() };
        ResponseMeter::new(&ask, &head).holds_back_last_frame()
    };
    assert!(holds(Dialect::Gemini, "text/event-stream"));
    assert!(holds(Dialect::Gemini, "application/json"));
    assert!(!holds(Dialect::Bedrock, "application/vnd.amazon.eventstream"));
    assert!(holds(Dialect::Bedrock, "application/json"));
    assert!(!holds(Dialect::OpenAiChat, "text/event-stream"));
    assert!(holds(Dialect::OpenAiResponses, "application/json"));
    assert!(!holds(Dialect::Ollama, "application/x-ndjson"));
}

#[test]
fn every_dialect_names_its_model() {
    for spoken in &SPOKEN {
        let names = ["gpt-test-1", "gemini-test-1", "claude-test-1", "local-test-1"];
        let expected = names.into_iter().find(|name| spoken.text.contains(name));
        let found = meter(&spoken.ask(), &head(None), [spoken.body()], Ending::Complete);
        assert_eq!(found.model.as_deref(), expected, "{}", spoken.name);
        let asked = Ask { model: Some("asked".into()), ..spoken.ask() };
        let found = meter(&asked, &head(None), [spoken.body()], Ending::Complete);
        assert_eq!(found.model.as_deref(), expected.or(Some("asked")), "{}", spoken.name);
    }
}

#[test]
fn a_saved_response_tells_its_dialect() {
    for spoken in SPOKEN.iter().filter(|spoken| spoken.known == Known::Reported && spoken.expected != [0; 4]) {
        let guessed = crate::meter::guess(None, &spoken.body()).unwrap();
        let found =
            meter(&Ask { dialect: Some(guessed), ..spoken.ask() }, &head(None), [spoken.body()], Ending::Complete);
        assert_eq!(found.usage, usage(spoken.expected), "{} is taken for {guessed:?}", spoken.name);
    }
    assert_eq!(crate::meter::guess(None, b"<html>"), None);
}

#[test]
fn a_message_with_a_wrong_checksum_ends_what_can_be_read() {
    let spoken = SPOKEN.iter().find(|spoken| spoken.name == "converse.frames").unwrap();
    let body = spoken.body();
    for at in 0..body.len() {
        let mut damaged = body.clone();
        damaged[at] ^= 1;
        let found = meter(&spoken.ask(), &head(None), [damaged], Ending::Complete);
        assert_ne!(found.known, Known::Reported, "byte {at}");
        assert!(found.usage.output > Tokens::ZERO, "byte {at}: {found:?}");
    }
}

#[test]
fn ollama_answers_in_one_line_too() {
    let ask = Ask { dialect: Some(Dialect::Ollama), ..request() };
    let found = meter(&ask, &head(None), [include_bytes!("../testdata/ollama.json")], Ending::Complete);
    assert_eq!((found.usage, found.known, found.is_final), (usage([6, 0, 0, 2]), Known::Reported, true));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_same_reading(
        spoken in 0..SPOKEN.len(),
        encodings in prop::sample::select(ENCODINGS.to_vec()),
        line_end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let spoken = &SPOKEN[spoken];
        let body = if spoken.name.ends_with(".sse") { spoken.text.replace('\n', line_end).into_bytes() } else { spoken.body() };
        let (header, bytes) = encoded(encodings, &body);
        spoken.check(&meter(&spoken.ask(), &head(Some(&header)), pieces(&bytes, &cuts), Ending::Complete));
    }

    #[test]
    fn a_cut_body_reads_the_same_however_it_was_split_and_stays_within_bounds(
        spoken in 0..SPOKEN.len(),
        end in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let spoken = &SPOKEN[spoken];
        let body = spoken.body();
        let cut = &body[..end.index(body.len() + 1)];
        let whole = meter(&spoken.ask(), &head(None), [cut], Ending::Cancelled);
        prop_assert!(whole.usage.output <= Tokens(1000), "{} {whole:?}", spoken.name);
        prop_assert_eq!(meter(&spoken.ask(), &head(None), pieces(cut, &cuts), Ending::Cancelled), whole);
    }

    #[test]
    fn damage_never_panics(
        spoken in 0..SPOKEN.len(),
        other in 0..Dialect::ALL.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut body = SPOKEN[spoken].body();
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        for dialect in [SPOKEN[spoken].dialect, Dialect::ALL[other]] {
            let ask = Ask { dialect: Some(dialect), ..SPOKEN[spoken].ask() };
            meter(&ask, &head(None), pieces(&body, &cuts), Ending::Complete);
        }
    }
}
