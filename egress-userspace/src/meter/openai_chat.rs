//! OpenAI chat completions, legacy completions and embeddings: JSON bodies and events → a tally. One tolerant reader for
//! every server that speaks them.
//!
//! Facts that decide (observed in recorded responses): a stream tells its usage in an extra chunk without choices, in the last
//! chunk with some, or as a running total in each, so the last one counts; Groq tells it in `x_groq`, and there as well as at
//! the top when asked; an empty list of choices alone means nothing (Azure begins with one); a chunk may bring an error
//! and usage together. Cohere's own API is close enough: its last event tells usage in `delta`, under `tokens`; what it bills
//! by other rules (`billed_units`) is less.

use memchr::memmem;
use serde_json::Value;

use crate::domain::{Tokens, Usage};

use super::glimpse::strings_after;
use super::parse::parse;
use super::reader::{Account, Counted, Reader, count, is_present, text_bytes};
use super::tally::Details;

/// Keys of what a delta writes.
const WRITTEN: [&[u8]; 6] = [
    b"\"content\":\"",
    b"\"reasoning\":\"",
    b"\"reasoning_content\":\"",
    b"\"arguments\":\"",
    b"\"refusal\":\"",
    b"\"text\":\"",
];

/// One response, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Chat {
    account: Account,
    /// The last usage that was told, and how it is split by kind where that is told apart.
    told: Option<Counted>,
    split: Option<Usage>,
    /// A running total reached the last word of each choice.
    has_finished: bool,
}

impl Reader for Chat {
    fn event(&mut self, data: &[u8]) {
        if data.trim_ascii() == b"[DONE]" {
            self.account.close();
            return;
        }
        if let Some(bytes) = plain_delta(data).filter(|_| self.account.has_model()) {
            self.account.see(bytes);
            return;
        }
        let Some(chunk) = parse(data) else { return };
        self.account.name(chunk.get("model"));
        self.account.serve_as(chunk.get("service_tier"));
        let kind = chunk.get("type").and_then(Value::as_str).unwrap_or("");
        let choices = chunk.get("choices").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for choice in choices {
            self.account.see(written(choice));
            self.has_finished |= is_present(choice.get("finish_reason"));
        }
        // Cohere's events bring their delta beside their type.
        self.account.see(chunk.get("delta").map_or(0, text_bytes));
        let is_error = is_present(chunk.get("error")) || kind == "error" || is_error_object(chunk.get("object"));
        if is_error {
            self.account.fail();
        }
        self.split = chunk.get("copilot_usage").and_then(split).or(self.split);
        if let Some(counted) = chunk_usage(&chunk) {
            self.told = Some(counted);
            self.count(choices.is_empty() || self.has_finished || is_error);
        }
        if kind == "message-end" {
            self.account.close();
        }
    }

    fn body_keys(&self) -> &'static [&'static str] {
        &["usage", "x_groq", "copilot_usage", "model", "service_tier", "error", "object"]
    }

    fn field(&mut self, key: &str, raw: &[u8]) {
        let Some(value) = parse(raw) else { return };
        match key {
            "model" => self.account.name(Some(&value)),
            "service_tier" => self.account.serve_as(Some(&value)),
            "error" if is_present(Some(&value)) => self.account.fail(),
            "object" if is_error_object(Some(&value)) => self.account.fail(),
            "usage" => self.told = usage(&value).or(self.told),
            "x_groq" => self.told = self.told.or_else(|| value.get("usage").and_then(usage)),
            "copilot_usage" => self.split = split(&value),
            _ => {}
        }
        self.count(true);
    }

    fn account(&self) -> &Account {
        &self.account
    }

    fn account_mut(&mut self) -> &mut Account {
        &mut self.account
    }
}

impl Chat {
    /// What has been told, by kind where that is told apart.
    fn count(&mut self, has_stopped: bool) {
        let Some(counted) = self.told else { return };
        let usage = self.split.map_or(counted.usage, |split| Usage {
            output: if split.output == Tokens::ZERO { counted.usage.output } else { split.output },
            ..split
        });
        self.account.count(Counted { usage, ..counted }, has_stopped);
    }
}

/// A `usage` object in chat's spelling or in that of Responses; `None` when it counts nothing.
///
/// Its input includes what was cached; clamped, as servers have reported more cached than there was. Some leave reasoning out of
/// chat's output, where only the total shows it.
pub(super) fn usage(usage: &Value) -> Option<Counted> {
    let prompt = count(usage, &["/prompt_tokens", "/input_tokens", "/tokens/input_tokens"]);
    let completion = count(usage, &["/completion_tokens", "/output_tokens", "/tokens/output_tokens"]);
    let total = count(usage, &["/total_tokens"]);
    prompt.or(completion).or(total)?;
    let is_chat = usage.get("output_tokens").is_none();
    let beyond_prompt = total.zip(prompt).map_or(0, |(total, prompt)| total.saturating_sub(prompt));
    let output = completion.unwrap_or(0).max(if is_chat { beyond_prompt } else { 0 });
    let input = prompt.unwrap_or_else(|| total.unwrap_or(0).saturating_sub(output));
    let cache_read = count(
        usage,
        &[
            "/prompt_tokens_details/cached_tokens",
            "/input_tokens_details/cached_tokens",
            "/input_token_details/cached_tokens",
            "/cached_tokens",
            "/prompt_cache_hit_tokens",
        ],
    );
    let cache_write =
        count(usage, &["/prompt_tokens_details/cache_write_tokens", "/input_tokens_details/cache_write_tokens"]);
    let reasoning = count(
        usage,
        &[
            "/completion_tokens_details/reasoning_tokens",
            "/output_tokens_details/reasoning_tokens",
            "/reasoning_tokens",
        ],
    );
    let cache_read = cache_read.unwrap_or(0).min(input);
    let cache_write = cache_write.unwrap_or(0).min(input - cache_read);
    Some(Counted {
        usage: Usage {
            input: Tokens(input - cache_read - cache_write),
            cache_write: Tokens(cache_write),
            cache_read: Tokens(cache_read),
            output: Tokens(output),
        },
        details: Details { reasoning: Tokens(reasoning.unwrap_or(0).min(output)), ..Details::default() },
        has_input: prompt.or(total).is_some(),
    })
}

/// Wherever a chunk tells its usage, once.
fn chunk_usage(chunk: &Value) -> Option<Counted> {
    ["/usage", "/x_groq/usage", "/choices/0/usage", "/delta/usage"]
        .iter()
        .find_map(|pointer| usage(chunk.pointer(pointer)?))
}

/// GitHub Copilot's tokens by kind: beside it, `prompt_tokens` takes cache writes for plain input.
fn split(copilot: &Value) -> Option<Usage> {
    let details = copilot.get("token_details")?.as_array()?;
    let sum = |kind: &str| {
        let of_kind = details.iter().filter(|entry| entry.get("token_type").and_then(Value::as_str) == Some(kind));
        Tokens(of_kind.filter_map(|entry| count(entry, &["/token_count"])).fold(0, u64::saturating_add))
    };
    let (input, output) = (sum("input"), sum("output"));
    let usage = Usage { input, cache_write: sum("cache_write"), cache_read: sum("cache_read"), output };
    (usage.input_total() > Tokens::ZERO).then_some(usage)
}

/// Some servers say `"object":"error"` in place of an `error`.
fn is_error_object(object: Option<&Value>) -> bool {
    object.and_then(Value::as_str) == Some("error")
}

fn written(choice: &Value) -> usize {
    let part = |key: &str| choice.get(key).map_or(0, text_bytes);
    part("delta") + part("text") + part("message")
}

/// Bytes that a chunk of the usual spelling writes, without parsing it. `None` sends it to the parser.
fn plain_delta(data: &[u8]) -> Option<usize> {
    let tells = |key: &[u8]| memmem::find(data, key).is_some();
    let rest = memmem::find(data, b"\"usage\":").map(|at| data.get(at + 8..).unwrap_or_default());
    let has_usage = rest.is_some_and(|rest| !rest.starts_with(b"null")) || (rest.is_none() && tells(b"\"usage\""));
    let is_plain = !has_usage && tells(b"\"finish_reason\":null") && !tells(b"\"error\"");
    is_plain.then(|| WRITTEN.iter().map(|key| strings_after(data, key)).sum())
}
