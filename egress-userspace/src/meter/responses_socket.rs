//! What is said over a WebSocket of OpenAI's Responses: requests for work one way, events of responses the other.
//!
//! Facts that decide (OpenAI's reference of these events, what Codex sends): a request has the fields of a POST's body beside
//! its `type`; responses of one `stream_id`, or of none, are worked on one after another, and their events say the same
//! `stream_id`; an event names its response only when that begins or ends. Steering makes a response go on in another that
//! nobody asked for. An `error` that holds an `error` answers a request, unless it has a `sequence_number`: then, and when
//! it says for itself what is wrong, it ends the response that runs.

use serde::Deserialize;
use serde_json::Value;

use crate::domain::{Api, Tokens};

use super::ask::{Ask, ask};
use super::json::TopLevel;
use super::openai_responses::TERMINAL;
use super::surface::{Dialect, Surface, normalised, target};

/// Longest id that is told apart, in characters.
const ID_CHARACTERS_MAX: usize = 128;
/// How much of a message the estimate looks at, in bytes; the rest counts by its length.
const PREFIX_BYTES_MAX: usize = 4 << 20;
/// Messages that ask for no work, if they hold nothing beyond [`Harmless`].
const FREE: [&str; 2] = ["response.cancel", "response.processed"];
/// Keys of a client's message that matter.
const CLIENT_KEYS: &[&str] = &["type", "stream_id", "generate", "background", "previous_response_id", "response_id"];
/// Keys of an event that matter.
const EVENT_KEYS: &[&str] = &["type", "stream_id", "response", "response_id", "status", "sequence_number", "error"];

/// What a POST to this path is answered in, if that can be metered.
#[must_use]
pub fn dialect(api: Api, path: &str) -> Option<Dialect> {
    match target(api, "POST", path).surface {
        Surface::Metered(dialect) => Some(dialect),
        Surface::Free | Surface::Blind | Surface::Unknown => None,
    }
}

/// Does a WebSocket to this path carry responses that can be metered one by one?
#[must_use]
pub fn has_responses_socket(api: Api, path: &str) -> bool {
    dialect(api, path) == Some(Dialect::OpenAiResponses) && normalised(path).ends_with("/responses")
}

/// Work that a client's message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// What it may cost.
    pub ask: Ask,
    /// It is answered by a response of its own. What else it is (steering, or something nobody has heard of) may lead to
    /// one, or be lost in another.
    pub is_create: bool,
    /// The lane of its events.
    pub stream_id: Option<String>,
    /// The response it goes on from: what that read and wrote is read again.
    pub continues: Option<String>,
}

/// What a message without work may hold. Whoever writes more, or the same twice, may be read otherwise by the provider.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Harmless {
    r#type: String,
    #[serde(rename = "response_id")]
    _response_id: Option<String>,
    #[serde(rename = "event_id")]
    _event_id: Option<String>,
    #[serde(rename = "stream_id")]
    _stream_id: Option<String>,
}

/// The work that a message on a socket to `path` asks for; `None` when it certainly asks for none.
#[must_use]
pub fn work(api: Api, path: &str, message: &[u8]) -> Option<Work> {
    let is_free = |harmless: &Harmless| FREE.contains(&harmless.r#type.as_str());
    if serde_json::from_slice::<Harmless>(message).is_ok_and(|harmless| is_free(&harmless)) {
        return None;
    }
    let said = Said::read(message);
    let prefix = message.get(..PREFIX_BYTES_MAX).unwrap_or(message);
    let mut ask = ask(api, "POST", path, prefix, Some(message.len() as u64));
    if said.is_in_background {
        ask.dialect = None;
    }
    if said.generates == Some(false) {
        ask.output_cap = Tokens::ZERO;
    }
    Some(Work { ask, is_create: said.is_create, stream_id: said.stream_id, continues: said.continues })
}

/// What a client's message says. A key may stand there twice, and the provider may take either: the one that costs more.
#[derive(Debug, Default)]
struct Said {
    is_create: bool,
    is_in_background: bool,
    generates: Option<bool>,
    stream_id: Option<String>,
    continues: Option<String>,
}

impl Said {
    fn read(message: &[u8]) -> Self {
        let mut said = Self::default();
        TopLevel::new(CLIENT_KEYS).push(message, &mut |key, value| match key {
            "type" => said.is_create |= text(value).as_deref() == Some("response.create"),
            "background" => said.is_in_background |= value == b"true",
            "generate" => said.generates = Some(said.generates.unwrap_or(false) || value != b"false"),
            "stream_id" => said.stream_id = text(value),
            _ => said.continues = text(value).or(said.continues.take()),
        });
        said
    }
}

/// What an event says of responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEvent {
    /// What happens.
    pub kind: EventKind,
    /// To which response, when it says so.
    pub response_id: Option<String>,
    /// On which lane.
    pub stream_id: Option<String>,
    /// HTTP status of an error.
    pub status: Option<u16>,
}

/// What happens to a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It is there.
    Begins,
    /// The model writes.
    Writes,
    /// It has come to its end.
    Ends,
    /// It has come to its end, and failed.
    Fails,
    /// A request is rejected.
    Rejects,
    /// Steering comes to nothing, or waits for a request.
    Spares,
    /// Nothing that is counted.
    Other,
    /// It does not say what.
    Unknown,
}

impl ServerEvent {
    /// Reads a message, or the beginning of one.
    #[must_use]
    pub fn read(message: &[u8]) -> Self {
        let mut event = Self { kind: EventKind::Unknown, response_id: None, stream_id: None, status: None };
        let (mut kind, mut is_numbered, mut is_answer) = (String::new(), false, false);
        TopLevel::new(EVENT_KEYS).push(message, &mut |key, value| match key {
            "type" => kind = text(value).unwrap_or_default(),
            "stream_id" => event.stream_id = text(value),
            "response" => event.response_id = id_of(value).or(event.response_id.take()),
            "response_id" => event.response_id = event.response_id.take().or(text(value)),
            "status" => event.status = serde_json::from_slice(value).ok(),
            "error" => is_answer = value != b"null",
            _ => is_numbered = value != b"null",
        });
        event.kind = EventKind::of(&kind, is_answer && !is_numbered);
        event
    }

    /// Nothing more of its response is counted.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        match self.kind {
            EventKind::Ends | EventKind::Fails | EventKind::Rejects | EventKind::Spares => true,
            EventKind::Begins | EventKind::Writes | EventKind::Other | EventKind::Unknown => false,
        }
    }
}

impl EventKind {
    fn of(kind: &str, is_answer: bool) -> Self {
        match kind {
            "response.created" | "response.queued" | "response.in_progress" => Self::Begins,
            "response.failed" => Self::Fails,
            "error" if is_answer => Self::Rejects,
            "error" => Self::Fails,
            "response.steer.failed" | "response.steer.pending" | "response.inject.failed" => Self::Spares,
            "response.output_item.done" => Self::Writes,
            kind if TERMINAL.contains(&kind) => Self::Ends,
            kind if kind.ends_with(".delta") => Self::Writes,
            "" => Self::Unknown,
            _ => Self::Other,
        }
    }
}

/// The id in a response.
fn id_of(response: &[u8]) -> Option<String> {
    let mut id = None;
    TopLevel::new(&["id"]).push(response, &mut |_, value| id = text(value));
    id
}

fn text(value: &[u8]) -> Option<String> {
    let Ok(Value::String(text)) = serde_json::from_slice(value) else { return None };
    Some(text.chars().take(ID_CHARACTERS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/v1/responses";

    fn asked(message: &str) -> Option<Work> {
        work(Api::OpenAi, PATH, message.as_bytes())
    }

    #[test]
    fn a_socket_is_where_responses_are_created_and_nowhere_else() {
        for (api, path, expected) in [
            (Api::OpenAi, "/v1/responses", true),
            (Api::OpenAi, "//v1/Responses/?x=1", true),
            (Api::ChatGpt, "/backend-api/codex/responses", true),
            (Api::Azure, "/openai/v1/responses", true),
            (Api::OpenAiCompatible, "/v1/responses", true),
            (Api::OpenRouter, "/api/v1/responses", true),
            (Api::OpenAi, "/v1/responses/compact", false),
            (Api::OpenAi, "/v1/decisions", false),
            (Api::OpenAi, "/v1/realtime", false),
            (Api::OpenAi, "/v1/live/sessions", false),
            (Api::OpenAi, "/v1/files", false),
            (Api::Anthropic, "/v1/responses", false),
            (Api::Gemini, "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent", false),
        ] {
            assert_eq!(has_responses_socket(api, path), expected, "{api:?} {path}");
        }
    }

    #[test]
    fn a_request_on_a_socket_asks_like_the_body_of_a_post() {
        let message = r#"{"type":"response.create","model":"gpt-x","max_output_tokens":60,"input":"hello",
            "stream_id":"s1","previous_response_id":"resp_0"}"#;
        let work = asked(message).unwrap();
        assert_eq!(work.ask, ask(Api::OpenAi, "POST", PATH, message.as_bytes(), None));
        assert_eq!((work.ask.model.as_deref(), work.ask.output_cap), (Some("gpt-x"), Tokens(60)));
        assert!(work.is_create && work.ask.is_metered && work.ask.is_meterable());
        assert_eq!((work.stream_id.as_deref(), work.continues.as_deref()), (Some("s1"), Some("resp_0")));
    }

    #[test]
    fn a_warm_up_writes_nothing() {
        let cap = |fields: &str| asked(&format!("{{\"type\":\"response.create\",{fields}}}")).unwrap().ask.output_cap;
        assert_eq!(cap(r#""generate":false,"max_output_tokens":60"#), Tokens::ZERO);
        assert_eq!(cap(r#""generate":true,"max_output_tokens":60"#), Tokens(60));
        assert_eq!(cap(r#""generate":false,"generate":true,"max_output_tokens":60"#), Tokens(60));
        assert_eq!(cap(r#""generate":true,"generate":false,"max_output_tokens":60"#), Tokens(60));
        assert_eq!(cap(r#""generate":null,"max_output_tokens":60"#), Tokens(60));
    }

    #[test]
    fn what_works_in_the_background_cannot_be_metered_however_long_the_message() {
        let message = |filler: usize| {
            let filler = "a ".repeat(filler);
            format!("{{\"type\":\"response.create\",\"input\":\"{filler}\",\"background\":true}}")
        };
        assert!(!asked(&message(1)).unwrap().ask.is_meterable());
        assert!(!asked(&message(3 << 20)).unwrap().ask.is_meterable());
        assert!(asked(r#"{"type":"response.create","background":false}"#).unwrap().ask.is_meterable());
    }

    #[test]
    fn what_starts_no_work_is_free_and_nothing_else_is() {
        for free in [
            r#"{"type":"response.cancel"}"#,
            r#"{"type":"response.cancel","response_id":"resp_1","event_id":"e"}"#,
            r#" {"response_id":"resp_1","type":"response.processed"} "#,
        ] {
            assert_eq!(asked(free), None, "{free}");
        }
        for message in [
            r#"{"type":"response.cancel","type":"response.create"}"#,
            r#"{"type":"response.cancel","Type":"response.create"}"#,
            r#"{"type":"response.cancel","input":"hello"}"#,
            r#"{"type":"response.cancel"}{"type":"response.create"}"#,
            r#"[{"type":"response.cancel"}]"#,
            r#"{"type":"response.append","input":[]}"#,
            r#"{"type":"session.update"}"#,
            r#"{"response_id":"resp_1"}"#,
            "response.cancel",
            "",
        ] {
            let work = asked(message).unwrap();
            assert!(work.ask.is_metered && work.ask.is_meterable(), "{message}");
        }
    }

    #[test]
    fn steering_goes_on_from_a_response() {
        let steer = asked(r#"{"type":"response.steer","previous_response_id":"resp_1","input":"no, the other"}"#);
        let steer = steer.unwrap();
        assert_eq!((steer.is_create, steer.continues.as_deref()), (false, Some("resp_1")));
        let inject = asked(r#"{"type":"response.inject","response_id":"resp_2","input":[]}"#).unwrap();
        assert_eq!((inject.is_create, inject.continues.as_deref()), (false, Some("resp_2")));
    }

    fn check(message: &str, kind: EventKind, response_id: Option<&str>, stream_id: Option<&str>) {
        let event = ServerEvent::read(message.as_bytes());
        let found = (event.kind, event.response_id.as_deref(), event.stream_id.as_deref());
        assert_eq!(found, (kind, response_id, stream_id), "{message}");
    }

    #[test]
    fn events_are_told_apart() {
        let id = Some("resp_1");
        check(r#"{"type":"response.created","response":{"id":"resp_1"}}"#, EventKind::Begins, id, None);
        check(
            r#"{"response":{"x":[{"id":"no"}],"id":"resp_1"},"type":"response.queued"}"#,
            EventKind::Begins,
            id,
            None,
        );
        let delta = r#"{"type":"response.output_text.delta","delta":"\"id\":","stream_id":"s1","item_id":"msg_1"}"#;
        check(delta, EventKind::Writes, None, Some("s1"));
        for kind in ["completed", "incomplete", "cancelled", "done"] {
            let message = format!(r#"{{"type":"response.{kind}","response":{{"id":"resp_1","usage":{{}}}}}}"#);
            check(&message, EventKind::Ends, id, None);
        }
        check(r#"{"type":"response.failed","response_id":"resp_1"}"#, EventKind::Fails, id, None);
        check(r#"{"type":"error","sequence_number":4,"error":{}}"#, EventKind::Fails, None, None);
        check(r#"{"type":"error","code":"server_error","message":"x"}"#, EventKind::Fails, None, None);
        check(r#"{"type":"error","status":400,"error":{},"stream_id":"s1"}"#, EventKind::Rejects, None, Some("s1"));
        check(r#"{"type":"response.steer.pending","steer":{}}"#, EventKind::Spares, None, None);
        check(r#"{"type":"codex.rate_limits","rate_limits":{}}"#, EventKind::Other, None, None);
        check("no JSON", EventKind::Unknown, None, None);
        check("", EventKind::Unknown, None, None);
        check(r#"{"type":"response.completed","response":{"id":"resp_1","out"#, EventKind::Ends, None, None);
        assert_eq!(ServerEvent::read(br#"{"type":"error","status":429}"#).status, Some(429));
    }
}
