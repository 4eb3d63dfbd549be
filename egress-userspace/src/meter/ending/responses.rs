//! OpenAI Responses: what was being said is closed, then each response ends `incomplete` at `max_output_tokens`.
//!
//! Calls of tools that are not whole are left out: clients act on what is handed to them as done.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::super::Reading;
use super::super::openai_chat::usage;
use super::super::openai_responses::TERMINAL;
use super::super::parse::parse;
use super::{Follower, PARTS_MAX, Word, text};
use crate::domain::Usage;

/// Most bytes kept of what a response has said, to be said again at its end; of a longer one, the end repeats nothing.
const KEPT_BYTES_MAX: usize = 1024 * 1024;
/// Responses of one stream that are told apart.
const RESPONSES_MAX: usize = 64;

/// What the client has been given.
#[derive(Debug, Default)]
pub(super) struct Responses {
    open: Vec<Open>,
    /// What those used that have ended, by id.
    ended: BTreeMap<String, Usage>,
    stream_id: Option<String>,
    /// The number of the next event.
    sequence: u64,
    kept_bytes: usize,
}

/// A response that has not ended.
#[derive(Debug)]
struct Open {
    id: String,
    /// As it was announced.
    response: Map<String, Value>,
    items: BTreeMap<u64, Item>,
}

#[derive(Debug)]
struct Item {
    item: Map<String, Value>,
    is_done: bool,
    parts: BTreeMap<u64, Part>,
}

/// A part of a message.
#[derive(Debug)]
struct Part {
    part: Map<String, Value>,
    written: String,
    is_done: bool,
}

impl Follower for Responses {
    fn see(&mut self, _name: &str, data: &[u8]) {
        let Some(mut event) = parse(data) else { return };
        self.sequence = event
            .get("sequence_number")
            .and_then(Value::as_u64)
            .map_or(self.sequence, |number| number.saturating_add(1));
        self.stream_id = text(&event, "stream_id").or(self.stream_id.take());
        let kind = text(&event, "type").unwrap_or_default();
        match kind.as_str() {
            kind if TERMINAL.contains(&kind) => self.close(event.get("response").unwrap_or(&Value::Null)),
            "response.created" | "response.queued" | "response.in_progress" => self.open(event.get("response")),
            _ => {
                if self.has_room(data.len()) {
                    self.keep(&kind, &mut event);
                }
            }
        }
    }

    fn end(&self, so_far: &Reading) -> Option<Vec<Word>> {
        let mut words = Vec::new();
        let mut rest = self.ended.values().fold(so_far.usage, |rest, ended| less(rest, *ended));
        let unborn = Open { id: "resp_egress".to_owned(), response: Map::new(), items: BTreeMap::new() };
        let unborn = (self.open.is_empty() && self.ended.is_empty()).then_some(&unborn);
        for open in self.open.iter().chain(unborn) {
            let output = if self.kept_bytes > KEPT_BYTES_MAX { Vec::new() } else { open.close_items(&mut words) };
            let response = open.incomplete(output, std::mem::take(&mut rest), so_far);
            words.push(("response.incomplete", json!({ "response": response })));
        }
        let numbered = words.into_iter().zip(self.sequence..).map(|((name, mut event), number)| {
            if let Some(fields) = event.as_object_mut() {
                fields.insert("sequence_number".to_owned(), number.into());
                fields.extend(self.stream_id.as_ref().map(|id| ("stream_id".to_owned(), json!(id))));
            }
            Word::typed(name, event)
        });
        Some(numbered.collect())
    }
}

impl Responses {
    fn open(&mut self, response: Option<&Value>) {
        let Some(response) = response.and_then(Value::as_object) else { return };
        let id = response.get("id").and_then(Value::as_str).unwrap_or_default();
        let is_known = self.open.iter().any(|open| open.id == id) || self.ended.contains_key(id);
        if is_known || self.open.len() >= RESPONSES_MAX {
            return;
        }
        // It may repeat all that was asked, which nobody needs at its end.
        let fields = response.iter().filter(|(key, _)| !matches!(key.as_str(), "input" | "instructions" | "tools"));
        let response = fields.map(|(key, value)| (key.clone(), value.clone())).collect();
        self.open.push(Open { id: id.to_owned(), response, items: BTreeMap::new() });
    }

    fn close(&mut self, response: &Value) {
        let id = response.get("id").and_then(Value::as_str).unwrap_or_default();
        self.open.retain(|open| open.id != id);
        let used = response.get("usage").and_then(usage).map(|counted| counted.usage).unwrap_or_default();
        if self.ended.len() < RESPONSES_MAX {
            self.ended.insert(id.to_owned(), used);
        }
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        self.kept_bytes = self.kept_bytes.saturating_add(bytes);
        let has_room = self.kept_bytes <= KEPT_BYTES_MAX;
        if !has_room {
            self.open.iter_mut().for_each(|open| open.items.clear());
        }
        has_room
    }

    /// What is said, in the response that began last.
    fn keep(&mut self, kind: &str, event: &mut Value) -> Option<()> {
        let items = &mut self.open.last_mut()?.items;
        let index = |key: &str| event.get(key).and_then(Value::as_u64);
        let (output, content) = (index("output_index").unwrap_or(0), index("content_index").unwrap_or(0));
        let mut take = |key: &str| match event.get_mut(key).map(Value::take) {
            Some(Value::Object(fields)) => Some(fields),
            _ => None,
        };
        match kind {
            "response.output_item.added" if items.len() < PARTS_MAX => {
                items.insert(output, Item { item: take("item")?, is_done: false, parts: BTreeMap::new() });
            }
            "response.output_item.done" if items.len() < PARTS_MAX => {
                items.insert(output, Item { item: take("item")?, is_done: true, parts: BTreeMap::new() });
            }
            "response.content_part.added" => {
                let part = Part { part: take("part")?, written: String::new(), is_done: false };
                let parts = &mut items.get_mut(&output)?.parts;
                if parts.len() < PARTS_MAX {
                    parts.insert(content, part);
                }
            }
            "response.output_text.delta" | "response.refusal.delta" => {
                let part = items.get_mut(&output)?.parts.get_mut(&content)?;
                part.written.push_str(event.get("delta")?.as_str()?);
            }
            "response.content_part.done" => {
                let part = items.get_mut(&output)?.parts.get_mut(&content)?;
                (part.part, part.is_done) = (take("part")?, true);
            }
            _ => {}
        }
        Some(())
    }
}

impl Open {
    /// The events that close what was being said, and everything that has been said.
    fn close_items(&self, words: &mut Vec<(&'static str, Value)>) -> Vec<Value> {
        let mut output = Vec::new();
        for (index, item) in &self.items {
            if item.is_done {
                output.push(Value::Object(item.item.clone()));
            } else if item.item.get("type").and_then(Value::as_str) == Some("message") {
                let item = item.close(*index, words);
                words.push(("response.output_item.done", json!({ "output_index": index, "item": item })));
                output.push(item);
            }
        }
        output
    }

    fn incomplete(&self, output: Vec<Value>, used: Usage, so_far: &Reading) -> Value {
        let mut response = self.response.clone();
        let mut set = |key: &str, value: Value| drop(response.insert(key.to_owned(), value));
        set("id", json!(self.id));
        set("object", json!("response"));
        set("status", json!("incomplete"));
        set("error", Value::Null);
        set("incomplete_details", json!({ "reason": "max_output_tokens" }));
        set("output", Value::Array(output));
        let input = json!({ "cached_tokens": used.cache_read, "cache_write_tokens": used.cache_write });
        let counts = json!({
            "input_tokens": used.input_total(), "input_tokens_details": input,
            "output_tokens": used.output, "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": used.total(),
        });
        set("usage", counts);
        // What SDKs expect of any response.
        let model = so_far.model.as_deref().unwrap_or_default();
        let rest = [
            ("created_at", json!(0)),
            ("model", json!(model)),
            ("parallel_tool_calls", json!(false)),
            ("tool_choice", json!("auto")),
            ("tools", json!([])),
        ];
        for (key, value) in rest {
            response.entry(key).or_insert(value);
        }
        Value::Object(response)
    }
}

impl Item {
    fn close(&self, index: u64, words: &mut Vec<(&'static str, Value)>) -> Value {
        let mut item = self.item.clone();
        let id = item.get("id").cloned().unwrap_or_default();
        let mut content = Vec::new();
        for (content_index, part) in &self.parts {
            let whole = part.whole();
            if !part.is_done {
                let place = json!({ "item_id": id, "output_index": index, "content_index": content_index });
                let with = |key: &str, value: Value| {
                    let mut event = place.clone();
                    if let Some(fields) = event.as_object_mut() {
                        fields.insert(key.to_owned(), value);
                    }
                    event
                };
                let name = if part.is_refusal() { "response.refusal.done" } else { "response.output_text.done" };
                let mut said = with(part.key(), json!(part.written));
                if let Some(fields) = said.as_object_mut().filter(|_| !part.is_refusal()) {
                    fields.insert("logprobs".to_owned(), json!([]));
                }
                words.push((name, said));
                words.push(("response.content_part.done", with("part", whole.clone())));
            }
            content.push(whole);
        }
        item.insert("content".to_owned(), Value::Array(content));
        item.insert("status".to_owned(), json!("incomplete"));
        Value::Object(item)
    }
}

impl Part {
    fn is_refusal(&self) -> bool {
        self.part.get("type").and_then(Value::as_str) == Some("refusal")
    }

    fn key(&self) -> &'static str {
        if self.is_refusal() { "refusal" } else { "text" }
    }

    fn whole(&self) -> Value {
        let mut part = self.part.clone();
        if !self.is_done {
            part.insert(self.key().to_owned(), json!(self.written));
        }
        Value::Object(part)
    }
}

fn less(from: Usage, part: Usage) -> Usage {
    Usage {
        input: from.input.saturating_sub(part.input),
        cache_write: from.cache_write.saturating_sub(part.cache_write),
        cache_read: from.cache_read.saturating_sub(part.cache_read),
        output: from.output.saturating_sub(part.output),
    }
}
