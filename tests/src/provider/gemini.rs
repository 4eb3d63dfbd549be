//! Gemini's content, whole and in events.

use bytes::Bytes;
use hyper::Method;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::log::Counts;
use super::render::{Events, TOOL, set, text, whole_text};
use super::script::{Report, Script};

/// What Gemini CLI asks a small model before each turn: which model is to take it.
const CHOICE: &str = r#"{"reasoning":"It is simple.","model_choice":"flash","complexity_reasoning":"It is simple.","complexity_score":1}"#;

/// What stands in the path of a request: the model, and whether the answer is a stream.
pub(super) fn asked(head: &Parts) -> Option<(&str, bool)> {
    let (_, name) = head.uri.path().rsplit_once("/models/")?;
    match name.rsplit_once(':')? {
        (model, "generateContent") if head.method == Method::POST => Some((model, false)),
        (model, "streamGenerateContent") if head.method == Method::POST => Some((model, true)),
        _ => None,
    }
}

/// Content that has been written.
pub(super) fn content(script: &Script, id: &str) -> Value {
    let part = if script.wants_json { json!({"text": CHOICE}) } else { part(script) };
    with_usage(script, chunk(script, id, &part, Some("STOP")))
}

/// The same in events.
pub(super) fn events(script: &Script, id: &str) -> Events {
    let begun = match script.report {
        Report::Nothing => Counts::default(),
        Report::Plain | Report::Iterations => Counts { output: 0, ..script.usage },
    };
    let nothing = json!({"text": ""});
    let mut first = chunk(script, id, &nothing, None);
    if script.report != Report::Nothing {
        let prompt = script.usage.input_total();
        set(&mut first, "usageMetadata", json!({"promptTokenCount": prompt, "totalTokenCount": prompt}));
    }
    // A call comes whole.
    let last = if script.is_tool_use { part(script) } else { nothing };
    let failure = json!({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}});
    Events {
        opening: data(&first).into(),
        begun,
        delta: data(&chunk(script, id, &json!({"text": text(script)}), None)),
        failing: data(&failure).into(),
        closing: Bytes::from(data(&with_usage(script, chunk(script, id, &last, Some("STOP"))))),
        told: if script.report == Report::Nothing { begun } else { script.usage },
    }
}

/// All of what is written.
fn part(script: &Script) -> Value {
    let text = whole_text(script);
    if script.is_tool_use {
        json!({"functionCall": {"name": TOOL, "args": {"text": text}}})
    } else {
        json!({"text": text})
    }
}

fn chunk(script: &Script, id: &str, part: &Value, finish_reason: Option<&str>) -> Value {
    let mut candidate = json!({"content": {"role": "model", "parts": [part]}, "index": 0});
    if let Some(reason) = finish_reason {
        set(&mut candidate, "finishReason", reason.into());
    }
    json!({"candidates": [candidate], "modelVersion": script.model, "responseId": id})
}

fn with_usage(script: &Script, mut chunk: Value) -> Value {
    if script.report != Report::Nothing {
        let counts = script.usage;
        let usage = json!({
            "promptTokenCount": counts.input_total(),
            "cachedContentTokenCount": counts.cache_read,
            "candidatesTokenCount": counts.output.saturating_sub(script.reasoning),
            "thoughtsTokenCount": script.reasoning,
            "totalTokenCount": counts.total(),
        });
        set(&mut chunk, "usageMetadata", usage);
    }
    chunk
}

fn data(chunk: &Value) -> Vec<u8> {
    format!("data: {chunk}\r\n\r\n").into_bytes()
}
