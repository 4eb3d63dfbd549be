//! Gemini: one more chunk, in which every candidate stops at `MAX_TOKENS`. Interactions end in a way of their own, which is
//! not known here.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::Reading;
use super::super::parse::parse;
use super::super::reader::is_present;
use super::{Follower, PARTS_MAX, Word, text};
use crate::domain::Tokens;

/// What the client has been given.
#[derive(Debug, Default)]
pub(super) struct Gemini {
    /// Google's envelope is around each chunk.
    is_enveloped: bool,
    is_interaction: bool,
    model: Option<String>,
    id: Option<String>,
    /// Candidates, and whether they have finished.
    candidates: BTreeMap<u64, bool>,
    is_blocked: bool,
}

impl Follower for Gemini {
    fn see(&mut self, _name: &str, data: &[u8]) {
        let Some(event) = parse(data) else { return };
        let enveloped = event.get("response").filter(|response| response.is_object());
        self.is_enveloped |= enveloped.is_some();
        let chunk = enveloped.unwrap_or(&event);
        self.is_interaction |= ["interaction", "event_type"].iter().any(|key| chunk.get(*key).is_some());
        self.model = text(chunk, "modelVersion").or(self.model.take());
        self.id = text(chunk, "responseId").or(self.id.take());
        self.is_blocked |= is_present(chunk.pointer("/promptFeedback/blockReason"));
        for candidate in chunk.get("candidates").and_then(Value::as_array).into_iter().flatten() {
            let index = candidate.get("index").and_then(Value::as_u64).unwrap_or(0);
            if self.candidates.len() < PARTS_MAX {
                *self.candidates.entry(index).or_default() |= is_present(candidate.get("finishReason"));
            }
        }
    }

    fn end(&self, so_far: &Reading) -> Option<Vec<Word>> {
        if self.is_interaction {
            return None;
        }
        let nothing_yet = (self.candidates.is_empty() && !self.is_blocked).then_some(0);
        let unfinished = self.candidates.iter().filter(|(_, has_finished)| !**has_finished).map(|(index, _)| *index);
        let candidates: Vec<Value> = nothing_yet.into_iter().chain(unfinished).map(finished).collect();
        if candidates.is_empty() {
            return Some(Vec::new());
        }
        let mut chunk = json!({ "candidates": candidates, "usageMetadata": usage(so_far) });
        if let Some(fields) = chunk.as_object_mut() {
            let named = [("modelVersion", &self.model), ("responseId", &self.id)];
            fields.extend(named.into_iter().filter_map(|(key, name)| Some((key.to_owned(), json!(name.as_ref()?)))));
        }
        let chunk = if self.is_enveloped { json!({ "response": chunk }) } else { chunk };
        Some(vec![Word::of("", &chunk)])
    }
}

fn finished(index: u64) -> Value {
    let content = json!({ "role": "model", "parts": [{ "text": "" }] });
    json!({ "content": content, "finishReason": "MAX_TOKENS", "index": index })
}

fn usage(so_far: &Reading) -> Value {
    let (usage, thought) = (so_far.usage, so_far.details.reasoning);
    let mut metadata = json!({
        "promptTokenCount": usage.input_total(), "candidatesTokenCount": usage.output.saturating_sub(thought),
        "totalTokenCount": usage.total(),
    });
    if let Some(fields) = metadata.as_object_mut() {
        let counts = [("cachedContentTokenCount", usage.cache_read), ("thoughtsTokenCount", thought)];
        let some = counts.into_iter().filter(|(_, count)| *count > Tokens::ZERO);
        fields.extend(some.map(|(key, count)| (key.to_owned(), json!(count))));
    }
    metadata
}
