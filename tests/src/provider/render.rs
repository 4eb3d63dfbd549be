//! A script → the pieces of its response, rendered before the first is sent.

use std::io::Result;
use std::time::Duration;

use bytes::Bytes;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::encode::Encoder;
use super::log::Counts;
use super::script::{Fault, Report, Script};
use super::{anthropic, gemini, openai, responses};

/// The shape of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Anthropic's messages.
    Messages,
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's legacy completions.
    Completions,
    /// OpenAI's embeddings.
    Embeddings,
    /// OpenAI's Responses.
    Responses,
    /// Gemini's content.
    Content,
}

impl Form {
    /// What such a request is answered with; `None` when it spends nothing.
    pub(super) fn of(head: &Parts) -> Option<Self> {
        match (head.method.as_str(), head.uri.path()) {
            ("POST", "/v1/messages") => Some(Self::Messages),
            ("POST", "/v1/chat/completions") => Some(Self::Chat),
            ("POST", "/v1/completions") => Some(Self::Completions),
            ("POST", "/v1/embeddings") => Some(Self::Embeddings),
            ("POST", "/v1/responses") => Some(Self::Responses),
            _ => gemini::asked(head).map(|_| Self::Content),
        }
    }
}

/// An event stream, before it is cut into pieces.
pub(super) struct Events {
    /// Before the first delta.
    pub(super) opening: Bytes,
    /// The usage it tells.
    pub(super) begun: Counts,
    /// Each delta.
    pub(super) delta: Vec<u8>,
    /// In place of the end, where the script says so.
    pub(super) failing: Bytes,
    /// After the last delta.
    pub(super) closing: Bytes,
    /// The usage that has been told by then.
    pub(super) told: Counts,
}

/// The tool that is called.
pub(super) const TOOL: &str = "note";
/// Deltas that need not be apart are sent together, up to so many bytes.
const PIECE_BYTES: usize = 16 * 1024;

/// Bytes that are sent together.
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// Before it is sent.
    pub(super) delay: Duration,
    /// Tokens of text sent with this piece and those before it.
    pub(super) output_sent: u64,
    /// The usage that has been told by then.
    pub(super) reported: Counts,
    /// Its [`UNSTAMPED`] fields are filled in as it leaves.
    pub(super) is_stamped: bool,
}

/// The field of a delta that says when it left, before it has.
const UNSTAMPED: &[u8] = b"\"sent_ns\":0";

impl Piece {
    /// The bytes as they leave at `now_ns`.
    pub(super) fn leave(self, now_ns: impl FnOnce() -> u64) -> Bytes {
        let place = self.bytes.windows(UNSTAMPED.len()).position(|window| window == UNSTAMPED);
        let Some(end) = place.filter(|_| self.is_stamped).map(|start| start + UNSTAMPED.len()) else {
            return self.bytes;
        };
        let (before, after) = (self.bytes.slice(..end - 1), self.bytes.slice(end..));
        [before.as_ref(), now_ns().to_string().as_bytes(), after.as_ref()].concat().into()
    }
}

/// The response to a script.
pub(super) fn response(form: Form, script: &Script, id: &str) -> Result<Vec<Piece>> {
    let plain = match (script.status, script.is_streaming && form != Form::Embeddings) {
        (200, true) => pieces(script, events(form, script, id)),
        (200, false) => vec![whole_body(script, &body(form, script, id))],
        (status, _) => vec![whole(error(status), Counts::default(), 0)],
    };
    let mut encoder = Encoder::new(script.encoding)?;
    let mut pieces = Vec::with_capacity(plain.len() + 1);
    for piece in plain {
        pieces.push(Piece { bytes: encoder.piece(piece.bytes)?, ..piece });
    }
    let is_cut = matches!(script.fault, Fault::Abort(_) | Fault::Stall(_)) && script.status == 200;
    if !is_cut && let Some(last) = pieces.last_mut() {
        last.bytes = [last.bytes.clone(), encoder.finish()?].concat().into();
    }
    Ok(pieces)
}

/// The provider's own error shape.
pub(super) fn error(status: u16) -> Bytes {
    let (kind, message) = match status {
        404 => ("not_found_error", "Not found"),
        429 => ("rate_limit_error", "Number of requests has exceeded your rate limit"),
        529 => ("overloaded_error", "Overloaded"),
        500.. => ("api_error", "Internal server error"),
        _ => ("invalid_request_error", "Bad request"),
    };
    json!({"type": "error", "error": {"type": kind, "message": message}}).to_string().into()
}

fn whole(bytes: Bytes, reported: Counts, output_sent: u64) -> Piece {
    Piece { bytes, reported, output_sent, ..Piece::default() }
}

fn body(form: Form, script: &Script, id: &str) -> Value {
    match form {
        Form::Messages => anthropic::message(script, id),
        Form::Chat => openai::chat(script, id),
        Form::Completions => openai::completion(script, id),
        Form::Embeddings => openai::embedding(script),
        Form::Responses => responses::response(script, id),
        Form::Content => gemini::content(script, id),
    }
}

fn events(form: Form, script: &Script, id: &str) -> Events {
    match form {
        Form::Messages => anthropic::events(script, id),
        Form::Chat => openai::chat_events(script, id),
        // `response` has seen to it that embeddings are not streamed.
        Form::Completions | Form::Embeddings => openai::completion_events(script, id),
        Form::Responses => responses::events(script, id),
        Form::Content => gemini::events(script, id),
    }
}

/// A JSON body; cut in half when the script breaks off.
fn whole_body(script: &Script, body: &Value) -> Piece {
    let bytes = Bytes::from(body.to_string());
    let delay = script.delay;
    match script.fault {
        Fault::None if script.report == Report::Nothing => {
            Piece { delay, ..whole(bytes, Counts::default(), script.usage.output) }
        }
        Fault::None => Piece { delay, ..whole(bytes, script.usage, script.usage.output) },
        Fault::Abort(_) | Fault::Stall(_) => {
            let half = bytes.slice(..bytes.len() / 2);
            Piece { delay, ..whole(half, Counts::default(), script.usage.output / 2) }
        }
        Fault::Error(_) => whole(error(500), Counts::default(), 0),
    }
}

/// An event stream, as far as the script lets it come.
fn pieces(script: &Script, events: Events) -> Vec<Piece> {
    let Events { opening, begun, delta, failing, closing, told } = events;
    let mut pieces = vec![whole(opening, begun, 0)];
    let last = script.deltas_sent();
    let per_piece = if script.delay.is_zero() { (PIECE_BYTES / delta.len()).max(1) as u64 } else { 1 };
    let mut sent = 0;
    while sent < last {
        let count = per_piece.min(last - sent);
        sent += count;
        let bytes = delta.repeat(usize::try_from(count).unwrap_or(0)).into();
        let output_sent = script.tokens_in(sent);
        pieces.push(Piece { bytes, delay: script.delay, output_sent, reported: begun, is_stamped: script.is_stamped });
    }
    match script.fault {
        Fault::None => pieces.push(whole(closing, told, script.usage.output)),
        Fault::Error(_) => pieces.push(whole(failing, begun, script.tokens_in(sent))),
        Fault::Abort(_) | Fault::Stall(_) => {}
    }
    pieces
}

/// The text of one delta.
pub(super) fn text(script: &Script) -> String {
    "lorem ipsum dolor ".chars().cycle().take(script.delta_bytes).collect()
}

/// The text of all of them.
pub(super) fn whole_text(script: &Script) -> String {
    text(script).repeat(usize::try_from(script.deltas).unwrap_or(0))
}

/// Adds a field to an object.
pub(super) fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

/// The real providers name the event and begin the data with its type.
pub(super) fn event(data: &Value) -> Vec<u8> {
    let name = data.get("type").and_then(Value::as_str).unwrap_or_default();
    let rest = data.as_object().into_iter().flatten().filter(|(key, _)| *key != "type");
    let fields: String = rest.map(|(key, value)| format!(",{}:{value}", Value::from(key.as_str()))).collect();
    format!("event: {name}\ndata: {{\"type\":\"{name}\"{fields}}}\n\n").into_bytes()
}
