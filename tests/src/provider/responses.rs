//! OpenAI's Responses.

use serde_json::{Value, json};

use super::log::Counts;
use super::render::{self, Events, set, whole_text};
use super::script::{Report, Script};

/// A response that has ended.
pub(super) fn response(script: &Script, id: &str) -> Value {
    let content = json!({"type": "output_text", "text": whole_text(script), "annotations": [], "logprobs": []});
    let mut body = shell(script, id, "completed");
    set(&mut body, "output", json!([item(id, "completed", &json!([content]))]));
    if script.report != Report::Nothing {
        set(&mut body, "usage", usage(script));
    }
    body
}

/// The same in events.
pub(super) fn events(script: &Script, id: &str) -> Events {
    let place =
        |kind: &str| json!({"type": kind, "item_id": format!("msg_{id}"), "output_index": 0, "content_index": 0});
    let with = |mut event: Value, name: &str, value: &Value| {
        set(&mut event, name, value.clone());
        render::event(&event)
    };
    let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
    let item_event = |kind: &str, item: Value| json!({"type": kind, "output_index": 0, "item": item});
    let begun = shell(script, id, "in_progress");
    let text = whole_text(script);
    let ended = item(id, "completed", &json!([part(&text)]));
    let opening = [
        render::event(&json!({"type": "response.created", "response": begun})),
        render::event(&json!({"type": "response.in_progress", "response": begun})),
        render::event(&item_event("response.output_item.added", item(id, "in_progress", &json!([])))),
        with(place("response.content_part.added"), "part", &part("")),
    ];
    let closing = [
        with(place("response.output_text.done"), "text", &json!(text)),
        with(place("response.content_part.done"), "part", &part(&text)),
        render::event(&item_event("response.output_item.done", ended)),
        render::event(&json!({"type": "response.completed", "response": response(script, id)})),
    ];
    let failure = json!({"type": "error", "code": "server_error", "message": "The server had an error", "param": null});
    Events {
        opening: opening.concat().into(),
        begun: Counts::default(),
        delta: with(place("response.output_text.delta"), "delta", &json!(render::text(script))),
        failing: render::event(&failure).into(),
        closing: closing.concat().into(),
        told: if script.report == Report::Nothing { Counts::default() } else { script.usage },
    }
}

fn shell(script: &Script, id: &str, status: &str) -> Value {
    json!({
        "id": format!("resp_{id}"), "object": "response", "created_at": 1_767_225_600, "status": status,
        "model": script.model, "error": null, "incomplete_details": null, "instructions": null, "metadata": {},
        "output": [], "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "usage": null,
    })
}

fn item(id: &str, status: &str, content: &Value) -> Value {
    json!({"type": "message", "id": format!("msg_{id}"), "role": "assistant", "status": status, "content": content})
}

fn usage(script: &Script) -> Value {
    let counts = script.usage;
    json!({
        "input_tokens": counts.input_total(),
        "input_tokens_details": {"cached_tokens": counts.cache_read, "cache_write_tokens": counts.cache_write},
        "output_tokens": counts.output,
        "output_tokens_details": {"reasoning_tokens": script.reasoning},
        "total_tokens": counts.total(),
    })
}
