//! A script → the pieces of its response, rendered before the first is sent.

use std::io::Result;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

use super::encode::Encoder;
use super::log::Counts;
use super::script::{Fault, Report, Script};

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
pub(super) fn response(script: &Script, id: &str) -> Result<Vec<Piece>> {
    let plain = match (script.status, script.is_streaming) {
        (200, true) => events(script, id),
        (200, false) => vec![message(script, id)],
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

/// A JSON body; cut in half when the script breaks off.
fn message(script: &Script, id: &str) -> Piece {
    let text = text(script).repeat(usize::try_from(script.deltas).unwrap_or(0));
    let mut body = json!({
        "id": format!("msg_{id}"), "type": "message", "role": "assistant", "model": script.model,
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null,
    });
    if let (Some(usage), Some(fields)) = (final_usage(script), body.as_object_mut()) {
        fields.insert("usage".to_owned(), usage);
    }
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

/// An event stream.
fn events(script: &Script, id: &str) -> Vec<Piece> {
    let begun = match script.report {
        Report::Nothing => Counts::default(),
        Report::Plain | Report::Iterations => Counts { output: 1, ..script.usage },
    };
    let mut pieces = vec![whole(opening(script, id, begun), begun, 0)];
    let mut delta = json!({
        "type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text(script)},
    });
    if let (true, Some(fields)) = (script.is_stamped, delta.as_object_mut()) {
        fields.insert("sent_ns".to_owned(), 0.into());
    }
    let delta = event(&delta);
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
        Fault::None => {
            let reported = if script.report == Report::Nothing { begun } else { script.usage };
            pieces.push(whole(closing(script), reported, script.usage.output));
        }
        Fault::Error(_) => {
            let mut overloaded = BytesMut::from("event: error\ndata: ");
            overloaded.extend_from_slice(&error(529));
            overloaded.extend_from_slice(b"\n\n");
            pieces.push(whole(overloaded.freeze(), begun, script.tokens_in(sent)));
        }
        Fault::Abort(_) | Fault::Stall(_) => {}
    }
    pieces
}

fn opening(script: &Script, id: &str, begun: Counts) -> Bytes {
    let mut message = json!({
        "id": format!("msg_{id}"), "type": "message", "role": "assistant", "model": script.model,
        "content": [], "stop_reason": null, "stop_sequence": null,
    });
    if let (true, Some(fields)) = (script.report != Report::Nothing, message.as_object_mut()) {
        fields.insert("usage".to_owned(), usage(begun));
    }
    let start = event(&json!({"type": "message_start", "message": message}));
    let block = event(&json!({
        "type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""},
    }));
    [start, block, event(&json!({"type": "ping"}))].concat().into()
}

fn closing(script: &Script) -> Bytes {
    let mut delta = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}});
    if let (Some(usage), Some(fields)) = (final_usage(script), delta.as_object_mut()) {
        fields.insert("usage".to_owned(), usage);
    }
    let stop = event(&json!({"type": "content_block_stop", "index": 0}));
    [stop, event(&delta), event(&json!({"type": "message_stop"}))].concat().into()
}

fn final_usage(script: &Script) -> Option<Value> {
    match script.report {
        Report::Nothing => None,
        Report::Plain => Some(usage(script.usage)),
        Report::Iterations => {
            // The compaction took everything but one token of input and one of output.
            let shown =
                Counts { input: script.usage.input.min(1), output: script.usage.output.min(1), ..Counts::default() };
            let compaction = Counts {
                input: script.usage.input - shown.input,
                output: script.usage.output - shown.output,
                ..script.usage
            };
            let mut top = usage(shown);
            if let Some(fields) = top.as_object_mut() {
                fields.insert(
                    "iterations".to_owned(),
                    json!([iteration("compaction", compaction), iteration("message", shown)]),
                );
            }
            Some(top)
        }
    }
}

fn iteration(kind: &str, counts: Counts) -> Value {
    let mut entry = usage(counts);
    if let Some(fields) = entry.as_object_mut() {
        fields.insert("type".to_owned(), kind.into());
    }
    entry
}

fn usage(counts: Counts) -> Value {
    json!({
        "input_tokens": counts.input,
        "cache_creation_input_tokens": counts.cache_write,
        "cache_read_input_tokens": counts.cache_read,
        "output_tokens": counts.output,
    })
}

fn text(script: &Script) -> String {
    "lorem ipsum dolor ".chars().cycle().take(script.delta_bytes).collect()
}

/// The real provider names the event and begins the data with its type.
fn event(data: &Value) -> Vec<u8> {
    let name = data.get("type").and_then(Value::as_str).unwrap_or_default();
    let rest = data.as_object().into_iter().flatten().filter(|(key, _)| *key != "type");
    let fields: String = rest.map(|(key, value)| format!(",{}:{value}", Value::from(key.as_str()))).collect();
    format!("event: {name}\ndata: {{\"type\":\"{name}\"{fields}}}\n\n").into_bytes()
}
