//! Ollama's own API: one JSON object a line, or one alone → a tally. The line that says `done` counts.

use serde_json::Value;

use crate::domain::{Tokens, Usage};

use super::parse::parse;
use super::reader::{Account, Counted, Reader, count, is_present, text_bytes};
use super::tally::Details;

/// One response, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Ollama {
    account: Account,
}

impl Reader for Ollama {
    fn event(&mut self, data: &[u8]) {
        let Some(line) = parse(data) else { return };
        self.account.name(line.get("model"));
        for key in ["message", "response", "thinking"] {
            self.account.see(line.get(key).map_or(0, text_bytes));
        }
        if is_present(line.get("error")) {
            self.account.fail();
        }
        let (prompt, written) = (count(&line, &["/prompt_eval_count"]), count(&line, &["/eval_count"]));
        if prompt.or(written).is_none() {
            return;
        }
        let usage =
            Usage { input: Tokens(prompt.unwrap_or(0)), output: Tokens(written.unwrap_or(0)), ..Usage::default() };
        // A prompt that was evaluated before is not counted again: no count is none.
        self.account.count(Counted { usage, details: Details::default(), has_input: true }, true);
        // Embeddings have no such field, and one answer.
        if line.get("done").is_none_or(|done| done == &Value::Bool(true)) {
            self.account.close();
        }
    }

    fn body_keys(&self) -> &'static [&'static str] {
        &[]
    }

    fn field(&mut self, _key: &str, _raw: &[u8]) {}

    fn account(&self) -> &Account {
        &self.account
    }

    fn account_mut(&mut self) -> &mut Account {
        &mut self.account
    }
}
