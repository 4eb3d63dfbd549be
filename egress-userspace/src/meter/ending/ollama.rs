//! Ollama: one more line, `done` by its length.

use serde_json::{Map, Value, json};

use super::super::Reading;
use super::super::parse::parse;
use super::{Follower, Word, text};

/// What the client has been given.
#[derive(Debug, Default)]
pub(super) struct Ollama {
    model: Option<String>,
    created_at: Option<String>,
    /// It speaks of a `response`, not of a `message`.
    is_generated: bool,
    is_done: bool,
}

impl Follower for Ollama {
    fn see(&mut self, _name: &str, data: &[u8]) {
        let Some(line) = parse(data) else { return };
        self.model = text(&line, "model").or(self.model.take());
        self.created_at = text(&line, "created_at").or(self.created_at.take());
        self.is_generated |= line.get("response").is_some();
        self.is_done |= line.get("done") == Some(&Value::Bool(true));
    }

    fn end(&self, so_far: &Reading) -> Option<Vec<Word>> {
        if self.is_done {
            return Some(Vec::new());
        }
        let mut line = Map::new();
        let named = [("model", &self.model), ("created_at", &self.created_at)];
        line.extend(named.into_iter().filter_map(|(key, name)| Some((key.to_owned(), json!(name.as_ref()?)))));
        if self.is_generated {
            line.insert("response".to_owned(), json!(""));
        } else {
            line.insert("message".to_owned(), json!({ "role": "assistant", "content": "" }));
        }
        line.insert("done".to_owned(), json!(true));
        line.insert("done_reason".to_owned(), json!("length"));
        line.insert("prompt_eval_count".to_owned(), json!(so_far.usage.input_total()));
        line.insert("eval_count".to_owned(), json!(so_far.usage.output));
        Some(vec![Word::of("", &Value::Object(line))])
    }
}
