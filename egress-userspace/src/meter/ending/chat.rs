//! OpenAI chat completions and legacy completions: each choice finishes by its `length`, then usage for whoever asked for
//! it. Cohere's own API closes its blocks and its message.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::super::Reading;
use super::super::parse::parse;
use super::super::reader::is_present;
use super::{Follower, PARTS_MAX, Word, text};
use crate::domain::{Known, Tokens, Usage};

/// What the client has been given.
#[derive(Debug, Default)]
pub(super) struct Chat {
    /// The client wants the chunk that tells it.
    tells_usage: bool,
    id: Option<String>,
    object: Option<String>,
    model: Option<String>,
    created: u64,
    /// Choices, and whether they have finished.
    choices: BTreeMap<u64, bool>,
    is_legacy: bool,
    cohere: Option<Cohere>,
    is_done: bool,
}

/// Its events have types.
#[derive(Debug, Default)]
struct Cohere {
    open: BTreeSet<u64>,
    has_ended: bool,
}

impl Chat {
    /// Of a client that wants to be told the usage, or does not.
    pub(super) fn new(tells_usage: bool) -> Self {
        Self { tells_usage, ..Self::default() }
    }

    fn see_choice(&mut self, choice: &Value) {
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
        self.is_legacy |= choice.get("text").is_some();
        if self.choices.len() < PARTS_MAX {
            *self.choices.entry(index).or_default() |= is_present(choice.get("finish_reason"));
        }
    }

    fn chunk(&self, choices: &[Value], usage: Option<&Value>) -> Word {
        let object = if self.is_legacy { "text_completion" } else { "chat.completion.chunk" };
        let mut chunk = json!({
            "id": self.id.as_deref().unwrap_or("chatcmpl-egress"),
            "object": self.object.as_deref().unwrap_or(object),
            "created": self.created,
            "model": self.model.as_deref().unwrap_or_default(),
            "choices": choices,
        });
        if let Some((usage, fields)) = usage.zip(chunk.as_object_mut()) {
            fields.insert("usage".to_owned(), usage.clone());
        }
        Word::of("", &chunk)
    }

    fn finished(&self, index: u64) -> Value {
        let mut choice = json!({ "index": index, "logprobs": null, "finish_reason": "length" });
        if let Some(fields) = choice.as_object_mut() {
            let (key, nothing) = if self.is_legacy { ("text", json!("")) } else { ("delta", json!({})) };
            fields.insert(key.to_owned(), nothing);
        }
        choice
    }
}

impl Follower for Chat {
    fn see(&mut self, _name: &str, data: &[u8]) {
        if data.trim_ascii() == b"[DONE]" {
            self.is_done = true;
            return;
        }
        let Some(chunk) = parse(data) else { return };
        self.id = text(&chunk, "id").or(self.id.take());
        self.object = text(&chunk, "object").or(self.object.take());
        self.model = text(&chunk, "model").or(self.model.take());
        self.created = chunk.get("created").and_then(Value::as_u64).unwrap_or(self.created);
        for choice in chunk.get("choices").and_then(Value::as_array).into_iter().flatten() {
            self.see_choice(choice);
        }
        if let Some(kind) = chunk.get("type").and_then(Value::as_str) {
            let index = chunk.get("index").and_then(Value::as_u64).unwrap_or(0);
            let cohere = self.cohere.get_or_insert_default();
            match kind {
                "content-start" if cohere.open.len() < PARTS_MAX => drop(cohere.open.insert(index)),
                "content-end" => drop(cohere.open.remove(&index)),
                "message-end" => cohere.has_ended = true,
                _ => {}
            }
        }
    }

    fn end(&self, so_far: &Reading) -> Option<Vec<Word>> {
        let mut words = Vec::new();
        if self.is_done {
            return Some(words);
        }
        if let Some(cohere) = &self.cohere {
            words.extend(cohere.end(&so_far.usage));
            return Some(words);
        }
        let nothing_yet = self.choices.is_empty().then_some(0);
        let unfinished = self.choices.iter().filter(|(_, has_finished)| !**has_finished).map(|(index, _)| *index);
        let finished: Vec<Value> =
            nothing_yet.into_iter().chain(unfinished).map(|index| self.finished(index)).collect();
        if !finished.is_empty() {
            words.push(self.chunk(&finished, None));
        }
        if self.tells_usage && so_far.known != Known::Reported {
            words.push(self.chunk(&[], Some(&usage(&so_far.usage))));
        }
        words.push(Word { name: "", data: b"[DONE]".to_vec() });
        Some(words)
    }
}

impl Cohere {
    fn end(&self, usage: &Usage) -> Vec<Word> {
        if self.has_ended {
            return Vec::new();
        }
        let close = |index: &u64| Word::typed("content-end", json!({ "index": index }));
        let tokens = json!({ "input_tokens": usage.input_total(), "output_tokens": usage.output });
        let usage = json!({ "tokens": tokens, "cached_tokens": usage.cache_read });
        let delta = json!({ "finish_reason": "MAX_TOKENS", "usage": usage });
        self.open.iter().map(close).chain([Word::typed("message-end", json!({ "delta": delta }))]).collect()
    }
}

fn usage(usage: &Usage) -> Value {
    let mut details = json!({ "cached_tokens": usage.cache_read });
    if let Some(fields) = details.as_object_mut().filter(|_| usage.cache_write > Tokens::ZERO) {
        fields.insert("cache_write_tokens".to_owned(), json!(usage.cache_write));
    }
    json!({
        "prompt_tokens": usage.input_total(), "completion_tokens": usage.output, "total_tokens": usage.total(),
        "prompt_tokens_details": details,
    })
}
