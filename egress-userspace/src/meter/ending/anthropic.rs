//! Anthropic Messages: open blocks are closed, then the message, as at `max_tokens`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::Reading;
use super::super::parse::parse;
use super::super::reader::is_present;
use super::{Follower, PARTS_MAX, Word};
use crate::domain::Known;

/// Nearly every event; it opens and closes nothing.
const DELTA: &[u8] = b"{\"type\":\"content_block_delta\"";

/// What the client has been given.
#[derive(Debug, Default)]
pub(super) struct Messages {
    has_begun: bool,
    open: BTreeSet<u64>,
    /// The message says why it ended.
    has_stopped: bool,
    is_closed: bool,
}

impl Follower for Messages {
    fn see(&mut self, _name: &str, data: &[u8]) {
        if data.starts_with(DELTA) {
            return;
        }
        let Some(event) = parse(data) else { return };
        let index = event.get("index").and_then(Value::as_u64).unwrap_or(0);
        match event.get("type").and_then(Value::as_str).unwrap_or("") {
            "message_start" => self.has_begun = true,
            "content_block_start" if self.open.len() < PARTS_MAX => drop(self.open.insert(index)),
            "content_block_stop" => drop(self.open.remove(&index)),
            "message_delta" => self.has_stopped |= is_present(event.pointer("/delta/stop_reason")),
            "message_stop" => self.is_closed = true,
            _ => {}
        }
    }

    fn end(&self, so_far: &Reading) -> Option<Vec<Word>> {
        let mut words = Vec::new();
        if self.is_closed {
            return Some(words);
        }
        let usage = json!({
            "input_tokens": so_far.usage.input, "output_tokens": so_far.usage.output,
            "cache_creation_input_tokens": so_far.usage.cache_write,
            "cache_read_input_tokens": so_far.usage.cache_read,
        });
        if !self.has_begun {
            let message = json!({
                "id": "msg_egress", "type": "message", "role": "assistant", "content": [],
                "model": so_far.model.as_deref().unwrap_or_default(),
                "stop_reason": null, "stop_sequence": null, "usage": usage,
            });
            words.push(Word::typed("message_start", json!({ "message": message })));
        }
        let open = self.open.iter();
        words.extend(open.map(|index| Word::typed("content_block_stop", json!({ "index": index }))));
        if !self.has_stopped || so_far.known != Known::Reported {
            let delta = json!({ "stop_reason": "max_tokens", "stop_sequence": null });
            words.push(Word::typed("message_delta", json!({ "delta": delta, "usage": usage })));
        }
        words.push(Word::typed("message_stop", json!({})));
        Some(words)
    }
}
