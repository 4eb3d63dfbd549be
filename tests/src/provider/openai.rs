//! OpenAI's chat completions, legacy completions and embeddings.

use bytes::Bytes;
use serde_json::{Value, json};

use super::log::Counts;
use super::render::{Events, set, text, whole_text};
use super::script::{Report, Script};

/// Four numbers, little-endian, as clients ask for them.
const VECTOR_BASE64: &str = "AAAAAAAAgD8AAABAAABAQA==";
/// The same as JSON.
const VECTOR: [f32; 4] = [0.0, 1.0, 2.0, 3.0];

/// A chat completion.
pub(super) fn chat(script: &Script, id: &str) -> Value {
    let message = json!({"role": "assistant", "content": whole_text(script), "refusal": null, "annotations": []});
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"});
    with_usage(script, chunk(script, &format!("chatcmpl-{id}"), "chat.completion", json!([choice])))
}

/// A legacy completion.
pub(super) fn completion(script: &Script, id: &str) -> Value {
    let choice = json!({"index": 0, "text": whole_text(script), "logprobs": null, "finish_reason": "stop"});
    with_usage(script, chunk(script, &format!("cmpl-{id}"), "text_completion", json!([choice])))
}

/// One vector.
pub(super) fn embedding(script: &Script) -> Value {
    let vector = if script.wants_base64 { json!(VECTOR_BASE64) } else { json!(VECTOR) };
    let data = json!([{"object": "embedding", "index": 0, "embedding": vector}]);
    let mut body = json!({"object": "list", "data": data, "model": script.model});
    if script.report != Report::Nothing {
        let total = script.usage.input_total();
        set(&mut body, "usage", json!({"prompt_tokens": total, "total_tokens": total}));
    }
    body
}

/// A chat completion in chunks.
pub(super) fn chat_events(script: &Script, id: &str) -> Events {
    let chunk = |delta: &Value, finish_reason: Option<&str>| {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason});
        chunk(script, &format!("chatcmpl-{id}"), "chat.completion.chunk", json!([choice]))
    };
    let first = chunk(&json!({"role": "assistant", "content": "", "refusal": null}), None);
    let delta = chunk(&json!({"content": text(script)}), None);
    events(script, first, delta, chunk(&json!({}), Some("stop")))
}

/// A legacy completion in chunks.
pub(super) fn completion_events(script: &Script, id: &str) -> Events {
    let chunk = |text: &str, finish_reason: Option<&str>| {
        let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason});
        chunk(script, &format!("cmpl-{id}"), "text_completion", json!([choice]))
    };
    events(script, chunk("", None), chunk(&text(script), None), chunk("", Some("stop")))
}

/// Who asks for usage gets it in a chunk of its own, without choices; the others say that they have none.
fn events(script: &Script, first: Value, delta: Value, last: Value) -> Events {
    let tells = script.wants_usage && script.report != Report::Nothing;
    let data = |mut chunk: Value| {
        if script.wants_usage {
            set(&mut chunk, "usage", Value::Null);
        }
        data(&chunk)
    };
    let mut usage_chunk = last.clone();
    set(&mut usage_chunk, "choices", json!([]));
    set(&mut usage_chunk, "usage", usage(script));
    let told = if tells { self::data(&usage_chunk) } else { Vec::new() };
    let failure = json!({"error": {
        "message": "The server had an error", "type": "server_error", "param": null, "code": null,
    }});
    Events {
        opening: data(first).into(),
        begun: Counts::default(),
        delta: data(delta),
        failing: self::data(&failure).into(),
        closing: Bytes::from([data(last), told, b"data: [DONE]\n\n".to_vec()].concat()),
        told: if tells { script.usage } else { Counts::default() },
    }
}

fn chunk(script: &Script, id: &str, object: &str, choices: Value) -> Value {
    let mut chunk = json!({"id": id, "object": object, "created": 1_767_225_600, "model": script.model});
    set(&mut chunk, "choices", choices);
    chunk
}

fn with_usage(script: &Script, mut body: Value) -> Value {
    if script.report != Report::Nothing {
        set(&mut body, "usage", usage(script));
    }
    body
}

fn usage(script: &Script) -> Value {
    let counts = script.usage;
    json!({
        "prompt_tokens": counts.input_total(),
        "completion_tokens": counts.output,
        "total_tokens": counts.total(),
        "prompt_tokens_details": {"cached_tokens": counts.cache_read, "cache_write_tokens": counts.cache_write},
        "completion_tokens_details": {"reasoning_tokens": script.reasoning},
    })
}

fn data(chunk: &Value) -> Vec<u8> {
    format!("data: {chunk}\n\n").into_bytes()
}
