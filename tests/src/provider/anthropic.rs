//! Anthropic's messages.

use bytes::Bytes;
use serde_json::{Value, json};

use super::log::Counts;
use super::render::{Events, TOOL, error, event, set, text, whole_text};
use super::script::{Report, Script};

/// What is thought.
const THOUGHT: &str = "Something has to be said.";
/// What it is signed with.
const SIGNATURE: &str = "c2lnbmF0dXJl";

/// A message.
pub(super) fn message(script: &Script, id: &str) -> Value {
    let text = whole_text(script);
    let thinking = json!({"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE});
    let written = if script.is_tool_use {
        json!({"type": "tool_use", "id": format!("toolu_{id}"), "name": TOOL, "input": {"text": text}})
    } else {
        json!({"type": "text", "text": text})
    };
    let content: Vec<Value> = (script.reasoning > 0).then_some(thinking).into_iter().chain([written]).collect();
    let mut body = json!({
        "id": format!("msg_{id}"), "type": "message", "role": "assistant", "model": script.model,
        "content": content, "stop_reason": stop_reason(script), "stop_sequence": null,
    });
    if let Some(mut usage) = final_usage(script) {
        add_lifetimes(script, &mut usage);
        set(&mut body, "usage", usage);
    }
    body
}

/// The same in events.
pub(super) fn events(script: &Script, id: &str) -> Events {
    let begun = match script.report {
        Report::Nothing => Counts::default(),
        Report::Plain | Report::Iterations => Counts { output: 1, ..script.usage },
    };
    let mut delta = block_delta(script, &text(script));
    if script.is_stamped {
        set(&mut delta, "sent_ns", 0.into());
    }
    Events {
        opening: opening(script, id, begun),
        begun,
        delta: event(&delta),
        failing: [b"event: error\ndata: ".as_slice(), &error(529), b"\n\n"].concat().into(),
        closing: closing(script),
        told: if script.report == Report::Nothing { begun } else { script.usage },
    }
}

fn opening(script: &Script, id: &str, begun: Counts) -> Bytes {
    let mut message = json!({
        "id": format!("msg_{id}"), "type": "message", "role": "assistant", "model": script.model,
        "content": [], "stop_reason": null, "stop_sequence": null,
    });
    if script.report != Report::Nothing {
        let mut usage = usage(begun);
        add_lifetimes(script, &mut usage);
        set(&mut message, "usage", usage);
    }
    let mut bytes = event(&json!({"type": "message_start", "message": message}));
    if script.reasoning > 0 {
        let block = json!({"type": "thinking", "thinking": "", "signature": ""});
        let delta = |delta: Value| event(&json!({"type": "content_block_delta", "index": 0, "delta": delta}));
        bytes.extend(event(&json!({"type": "content_block_start", "index": 0, "content_block": block})));
        bytes.extend(delta(json!({"type": "thinking_delta", "thinking": THOUGHT})));
        bytes.extend(delta(json!({"type": "signature_delta", "signature": SIGNATURE})));
        bytes.extend(event(&json!({"type": "content_block_stop", "index": 0})));
    }
    let block = if script.is_tool_use {
        json!({"type": "tool_use", "id": format!("toolu_{id}"), "name": TOOL, "input": {}})
    } else {
        json!({"type": "text", "text": ""})
    };
    let start = json!({"type": "content_block_start", "index": block_index(script), "content_block": block});
    bytes.extend(event(&start));
    bytes.extend(event(&json!({"type": "ping"})));
    if script.is_tool_use {
        bytes.extend(event(&block_delta(script, "{\"text\":\"")));
    }
    bytes.into()
}

/// One piece of what the model writes: text, or the JSON of a tool's input.
fn block_delta(script: &Script, piece: &str) -> Value {
    let delta = if script.is_tool_use {
        json!({"type": "input_json_delta", "partial_json": piece})
    } else {
        json!({"type": "text_delta", "text": piece})
    };
    json!({"type": "content_block_delta", "index": block_index(script), "delta": delta})
}

/// Thinking comes first.
fn block_index(script: &Script) -> u64 {
    u64::from(script.reasoning > 0)
}

fn closing(script: &Script) -> Bytes {
    let stop_reason = json!({"stop_reason": stop_reason(script), "stop_sequence": null});
    let mut delta = json!({"type": "message_delta", "delta": stop_reason});
    if let Some(usage) = final_usage(script) {
        set(&mut delta, "usage", usage);
    }
    let last = if script.is_tool_use { event(&block_delta(script, "\"}")) } else { Vec::new() };
    let stop = event(&json!({"type": "content_block_stop", "index": block_index(script)}));
    [last, stop, event(&delta), event(&json!({"type": "message_stop"}))].concat().into()
}

fn stop_reason(script: &Script) -> &'static str {
    if script.is_tool_use { "tool_use" } else { "end_turn" }
}

fn final_usage(script: &Script) -> Option<Value> {
    match script.report {
        Report::Nothing => None,
        Report::Plain => {
            let mut usage = usage(script.usage);
            if script.reasoning > 0 {
                set(&mut usage, "output_tokens_details", json!({"thinking_tokens": script.reasoning}));
            }
            Some(usage)
        }
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
            let iterations = json!([iteration("compaction", compaction), iteration("message", shown)]);
            set(&mut top, "iterations", iterations);
            Some(top)
        }
    }
}

fn iteration(kind: &str, counts: Counts) -> Value {
    let mut entry = usage(counts);
    set(&mut entry, "type", kind.into());
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

/// How long what was written to the cache lives. Told at the beginning of a stream, never at its end.
fn add_lifetimes(script: &Script, usage: &mut Value) {
    if script.cache_write_1h > 0 {
        let five_minutes = script.usage.cache_write.saturating_sub(script.cache_write_1h);
        let lifetimes = json!({
            "ephemeral_5m_input_tokens": five_minutes, "ephemeral_1h_input_tokens": script.cache_write_1h,
        });
        set(usage, "cache_creation", lifetimes);
    }
}
