//! Gemini: JSON bodies, elements of a JSON array, and events → a tally. In Google's envelope, and Interactions, too.
//!
//! Facts that decide (observed in recorded responses): counts are cumulative, and the last ones count, as the input may fall
//! from one chunk to the next; early chunks bring `usageMetadata` without any count; thoughts stand beside the
//! candidates, not in them; nothing says that a stream is over but its end.

use serde_json::Value;

use crate::domain::{Tokens, Usage};

use super::parse::parse;
use super::reader::{Account, Counted, Reader, count, is_present, text_bytes};
use super::tally::Details;

/// One response, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Gemini {
    account: Account,
}

impl Reader for Gemini {
    fn event(&mut self, data: &[u8]) {
        if let Some(chunk) = parse(data) {
            self.chunk(chunk.get("response").filter(|response| response.is_object()).unwrap_or(&chunk));
        }
    }

    fn body_keys(&self) -> &'static [&'static str] {
        &["usageMetadata", "usage", "modelVersion", "model", "error", "response"]
    }

    fn field(&mut self, key: &str, raw: &[u8]) {
        let Some(value) = parse(raw) else { return };
        match key {
            "usageMetadata" => {
                self.serve_as(&value);
                self.count(metadata(&value), true);
            }
            "usage" => self.count(interaction(&value), true),
            "modelVersion" | "model" => self.account.name(Some(&value)),
            "error" if is_present(Some(&value)) => self.account.fail(),
            "response" => {
                self.chunk(&value);
                self.count(value.get("usageMetadata").and_then(metadata), true);
            }
            _ => {}
        }
    }

    fn account(&self) -> &Account {
        &self.account
    }

    fn account_mut(&mut self) -> &mut Account {
        &mut self.account
    }
}

impl Gemini {
    fn chunk(&mut self, chunk: &Value) {
        let interaction_part = chunk.get("interaction").unwrap_or(chunk);
        self.account.name(chunk.get("modelVersion").or_else(|| interaction_part.get("model")));
        let candidates = chunk.get("candidates").and_then(Value::as_array).into_iter().flatten();
        let mut has_stopped = chunk.pointer("/promptFeedback/blockReason").is_some();
        for candidate in candidates {
            self.account.see(candidate.get("content").map_or(0, text_bytes));
            has_stopped |= is_present(candidate.get("finishReason"));
        }
        // The deltas of an interaction.
        self.account.see(chunk.get("delta").map_or(0, text_bytes));
        if is_present(chunk.get("error")) {
            self.account.fail();
        }
        if let Some(usage) = chunk.get("usageMetadata") {
            self.serve_as(usage);
            self.count(metadata(usage), has_stopped);
        }
        self.count(interaction_part.get("usage").and_then(interaction), true);
    }

    /// Vertex calls it traffic.
    fn serve_as(&mut self, usage: &Value) {
        self.account.serve_as(usage.get("serviceTier").or_else(|| usage.get("trafficType")));
    }

    fn count(&mut self, counted: Option<Counted>, has_stopped: bool) {
        if let Some(counted) = counted {
            self.account.count(counted, has_stopped);
        }
    }
}

/// A `usageMetadata`; `None` when it counts nothing.
fn metadata(usage: &Value) -> Option<Counted> {
    counted(&Fields {
        prompt: count(usage, &["/promptTokenCount"]),
        cached: count(usage, &["/cachedContentTokenCount"]),
        tools: count(usage, &["/toolUsePromptTokenCount"]),
        written: count(usage, &["/candidatesTokenCount", "/responseTokenCount"]),
        thought: count(usage, &["/thoughtsTokenCount"]),
        total: count(usage, &["/totalTokenCount"]),
    })
}

/// The `usage` of an interaction; `None` when it counts nothing.
fn interaction(usage: &Value) -> Option<Counted> {
    counted(&Fields {
        prompt: count(usage, &["/total_input_tokens"]),
        cached: count(usage, &["/total_cached_tokens"]),
        tools: count(usage, &["/total_tool_use_tokens"]),
        written: count(usage, &["/total_output_tokens"]),
        thought: count(usage, &["/total_thought_tokens"]),
        total: None,
    })
}

/// The same counts under two spellings.
struct Fields {
    prompt: Option<u64>,
    cached: Option<u64>,
    tools: Option<u64>,
    written: Option<u64>,
    thought: Option<u64>,
    total: Option<u64>,
}

fn counted(fields: &Fields) -> Option<Counted> {
    let any = [fields.prompt, fields.cached, fields.tools, fields.written, fields.thought, fields.total];
    if any.iter().all(Option::is_none) {
        return None;
    }
    let tokens = |field: Option<u64>| Tokens(field.unwrap_or(0));
    let cache_read = tokens(fields.cached).min(tokens(fields.prompt));
    let uncached = Tokens(tokens(fields.prompt).0 - cache_read.0);
    Some(Counted {
        usage: Usage {
            input: uncached + tokens(fields.tools),
            cache_write: Tokens::ZERO,
            cache_read,
            output: tokens(fields.written) + tokens(fields.thought),
        },
        details: Details { reasoning: tokens(fields.thought), ..Details::default() },
        has_input: fields.prompt.is_some(),
    })
}
