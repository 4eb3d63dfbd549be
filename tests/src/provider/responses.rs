//! OpenAI's Responses.

use serde_json::{Value, json};

use super::log::Counts;
use super::render::{self, Events, TOOL, set, whole_text};
use super::script::{Report, Script};

/// A response that has ended.
pub(super) fn response(script: &Script, id: &str) -> Value {
    let content = json!({"type": "output_text", "text": whole_text(script), "annotations": [], "logprobs": []});
    let mut body = shell(script, id, "completed");
    let item = if script.is_tool_use { call(id, &arguments(script)) } else { item(id, "completed", &json!([content])) };
    set(&mut body, "output", json!([item]));
    if script.report != Report::Nothing {
        set(&mut body, "usage", usage(script));
    }
    body
}

/// The same in events.
pub(super) fn events(script: &Script, id: &str) -> Events {
    if script.is_tool_use { call_events(script, id) } else { text_events(script, id) }
}

fn text_events(script: &Script, id: &str) -> Events {
    let place =
        |kind: &str| json!({"type": kind, "item_id": format!("msg_{id}"), "output_index": 0, "content_index": 0});
    let with = |mut event: Value, name: &str, value: &Value| {
        set(&mut event, name, value.clone());
        render::event(&event)
    };
    let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
    let text = whole_text(script);
    let ended = item(id, "completed", &json!([part(&text)]));
    let opening = [
        begin(script, id),
        item_event("response.output_item.added", &item(id, "in_progress", &json!([]))),
        with(place("response.content_part.added"), "part", &part("")),
    ];
    let closing = [
        with(place("response.output_text.done"), "text", &json!(text)),
        with(place("response.content_part.done"), "part", &part(&text)),
        item_event("response.output_item.done", &ended),
        complete(script, id),
    ];
    let delta = with(place("response.output_text.delta"), "delta", &json!(render::text(script)));
    whole(script, opening.concat(), delta, closing.concat())
}

/// The call of a tool, its input in pieces.
fn call_events(script: &Script, id: &str) -> Events {
    let delta = |piece: &str| {
        let kind = "response.function_call_arguments.delta";
        render::event(&json!({"type": kind, "item_id": format!("fc_{id}"), "output_index": 0, "delta": piece}))
    };
    let arguments = arguments(script);
    let done = json!({
        "type": "response.function_call_arguments.done", "item_id": format!("fc_{id}"), "output_index": 0,
        "arguments": arguments,
    });
    let opening = [begin(script, id), item_event("response.output_item.added", &call(id, "")), delta("{\"text\":\"")];
    let closing = [
        delta("\"}"),
        render::event(&done),
        item_event("response.output_item.done", &call(id, &arguments)),
        complete(script, id),
    ];
    whole(script, opening.concat(), delta(&render::text(script)), closing.concat())
}

fn whole(script: &Script, opening: Vec<u8>, delta: Vec<u8>, closing: Vec<u8>) -> Events {
    let failure = json!({"type": "error", "code": "server_error", "message": "The server had an error", "param": null});
    Events {
        opening: opening.into(),
        begun: Counts::default(),
        delta,
        failing: render::event(&failure).into(),
        closing: closing.into(),
        told: if script.report == Report::Nothing { Counts::default() } else { script.usage },
    }
}

fn begin(script: &Script, id: &str) -> Vec<u8> {
    let begun = shell(script, id, "in_progress");
    let event = |kind: &str| render::event(&json!({"type": kind, "response": begun}));
    [event("response.created"), event("response.in_progress")].concat()
}

fn complete(script: &Script, id: &str) -> Vec<u8> {
    render::event(&json!({"type": "response.completed", "response": response(script, id)}))
}

fn item_event(kind: &str, item: &Value) -> Vec<u8> {
    render::event(&json!({"type": kind, "output_index": 0, "item": item}))
}

fn call(id: &str, arguments: &str) -> Value {
    json!({
        "type": "function_call", "id": format!("fc_{id}"), "call_id": format!("call_{id}"), "name": TOOL,
        "arguments": arguments, "status": if arguments.is_empty() { "in_progress" } else { "completed" },
    })
}

fn arguments(script: &Script) -> String {
    json!({"text": whole_text(script)}).to_string()
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
