//! Anthropic Messages: JSON bodies and events → a tally.
//!
//! Facts that decide (observed in recorded responses): running totals in `message_delta` replace those of
//! `message_start` field by field, the last value that is not null winning; the top level leaves out compaction and
//! advisor work, which only `iterations` tell; a second `message_start` may be spliced in and never adds.

use memchr::memmem;
use serde_json::Value;

use crate::domain::{Tokens, Usage};

use super::glimpse::string_bytes;
use super::parse::parse;
use super::reader::{Account, Counted, Reader, is_present};
use super::tally::Details;

/// A smaller input total than before is taken only above this share of it, in percent: cached tokens may move between
/// columns, but a total that collapses is a gateway that zeroed them.
const INPUT_KEPT_PERCENT: u64 = 90;

/// One response, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Messages {
    account: Account,
    counts: Counts,
    details: Details,
    iterations: Usage,
}

/// The fields of one `usage` object; `None` where absent or null.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    input: Option<u64>,
    cache_write: Option<u64>,
    cache_read: Option<u64>,
    output: Option<u64>,
}

/// What one event writes.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    text_bytes: usize,
    thinking_bytes: usize,
    /// What the provider says of thinking it does not show.
    thinking_tokens: u64,
}

impl Reader for Messages {
    fn event(&mut self, data: &[u8]) {
        if let Some(written) = plain_delta(data) {
            self.see(written);
            return;
        }
        let Some(event) = parse(data) else { return };
        match event.get("type").and_then(Value::as_str).unwrap_or("") {
            "message_start" => self.start(event.get("message").unwrap_or(&Value::Null)),
            "content_block_start" => self.see(block(event.get("content_block").unwrap_or(&Value::Null))),
            "content_block_delta" => self.see(delta(event.get("delta").unwrap_or(&Value::Null))),
            "message_delta" => self.total(&event),
            "message_stop" => self.account.close(),
            "error" => self.account.fail(),
            _ => {}
        }
    }

    fn body_keys(&self) -> &'static [&'static str] {
        &["usage", "model", "type"]
    }

    fn field(&mut self, key: &str, raw: &[u8]) {
        let Some(value) = parse(raw) else { return };
        match key {
            "usage" if value.is_object() => {
                let counted = self.report(&value);
                self.account.count(counted, true);
            }
            "model" => self.account.name(Some(&value)),
            "type" if value.as_str() == Some("error") => self.account.fail(),
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

impl Messages {
    fn start(&mut self, message: &Value) {
        self.account.name(message.get("model"));
        if let Some(usage) = message.get("usage").filter(|usage| usage.is_object()) {
            self.report(usage);
            self.account.begin();
        }
    }

    fn total(&mut self, event: &Value) {
        let Some(usage) = event.get("usage").filter(|usage| usage.is_object()) else { return };
        let counted = self.report(usage);
        if Counts::read(usage).output.is_some() {
            self.account.count(counted, is_present(event.pointer("/delta/stop_reason")));
        }
    }

    fn see(&mut self, written: Written) {
        self.account.see(written.text_bytes);
        self.account.see_thinking(written.thinking_bytes, written.thinking_tokens);
    }

    /// Takes a `usage` object; returns all that is counted with it.
    fn report(&mut self, usage: &Value) -> Counted {
        let reported = Counts::read(usage);
        let iterations = usage.get("iterations").and_then(Value::as_array);
        let sum = iterations
            .into_iter()
            .flatten()
            .map(|entry| Counts::read(entry).usage())
            .fold(Usage::default(), |a, b| a + b);
        let merged = self.counts.replaced_by(reported);
        let has_collapsed = merged.usage().input_total().0.saturating_mul(100)
            < self.counts.usage().input_total().0.saturating_mul(INPUT_KEPT_PERCENT);
        self.counts = if has_collapsed && sum == Usage::default() {
            Counts { output: merged.output, ..self.counts }
        } else {
            merged
        };
        if sum != Usage::default() {
            self.iterations = sum;
        }
        self.explain(usage);
        self.account.serve_as(usage.get("service_tier"));
        let usage = self.usage();
        let has_input = self.counts.input.is_some() || self.iterations.input_total() > Tokens::ZERO;
        let counted = Counted { usage, details: self.details, has_input };
        self.account.recount(counted);
        counted
    }

    /// Parts of totals. Running totals leave the lifetimes of cache writes out; iterations have them again.
    fn explain(&mut self, usage: &Value) {
        let hour = |usage: &Value| usage.pointer("/cache_creation/ephemeral_1h_input_tokens")?.as_u64();
        let iterations = usage.get("iterations").and_then(Value::as_array).into_iter().flatten().filter_map(hour);
        let hours = hour(usage).max(iterations.reduce(u64::saturating_add));
        let thinking = usage.pointer("/output_tokens_details/thinking_tokens").and_then(Value::as_u64);
        self.details.cache_write_1h = hours.map_or(self.details.cache_write_1h, Tokens);
        self.details.reasoning = thinking.map_or(self.details.reasoning, Tokens);
    }

    /// The sum over iterations where it is more than the top level, which it includes.
    fn usage(&self) -> Usage {
        let top = self.counts.usage();
        let input = if self.iterations.input_total() > top.input_total() { self.iterations } else { top };
        Usage { output: self.iterations.output.max(top.output), ..input }
    }
}

impl Counts {
    fn read(usage: &Value) -> Self {
        let field = |name: &str| usage.get(name).and_then(Value::as_u64);
        Self {
            input: field("input_tokens"),
            cache_write: field("cache_creation_input_tokens"),
            cache_read: field("cache_read_input_tokens"),
            output: field("output_tokens"),
        }
    }

    /// Field by field the newer value, where there is one; output totals only grow.
    fn replaced_by(self, newer: Self) -> Self {
        Self {
            input: newer.input.or(self.input),
            cache_write: newer.cache_write.or(self.cache_write),
            cache_read: newer.cache_read.or(self.cache_read),
            output: newer.output.max(self.output),
        }
    }

    fn usage(self) -> Usage {
        let tokens = |count: Option<u64>| Tokens(count.unwrap_or(0));
        Usage {
            input: tokens(self.input),
            cache_write: tokens(self.cache_write),
            cache_read: tokens(self.cache_read),
            output: tokens(self.output),
        }
    }
}

impl Written {
    fn text(bytes: usize) -> Self {
        Self { text_bytes: bytes, ..Self::default() }
    }
}

/// What a `content_block_delta` in the provider's own spelling shows, without parsing it: nearly every event is one, and
/// none carries usage. `None` sends it to the parser.
fn plain_delta(data: &[u8]) -> Option<Written> {
    let rest = data.strip_prefix(b"{\"type\":\"content_block_delta\"")?;
    let inner = rest.get(memmem::find(rest, b"\"delta\":{")?..)?;
    let length = |key: &[u8]| memmem::find(inner, key).and_then(|at| inner.get(at + key.len()..)).map(string_bytes);
    if let Some(bytes) = length(b"\"text\":\"").or_else(|| length(b"\"partial_json\":\"")) {
        return Some(Written::text(bytes));
    }
    let bytes = length(b"\"thinking\":\"")?;
    let key = b"\"estimated_tokens\":";
    let number = memmem::find(inner, key).and_then(|at| inner.get(at + key.len()..)).map_or(0, leading_number);
    Some(Written { thinking_bytes: bytes, thinking_tokens: number, ..Written::default() })
}

fn leading_number(text: &[u8]) -> u64 {
    let digits = text.trim_ascii_start().iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number: u64, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}

/// What any delta shows.
fn delta(delta: &Value) -> Written {
    let bytes = |key: &str| delta.get(key).and_then(Value::as_str).map_or(0, str::len);
    Written {
        text_bytes: bytes("text") + bytes("partial_json"),
        thinking_bytes: bytes("thinking"),
        thinking_tokens: delta.get("estimated_tokens").and_then(Value::as_u64).unwrap_or(0),
    }
}

/// What a block brings at its start; the results of server tools are input, not output.
fn block(block: &Value) -> Written {
    let bytes = |key: &str| block.get(key).and_then(Value::as_str).map_or(0, str::len);
    Written { text_bytes: bytes("text"), thinking_bytes: bytes("thinking") + bytes("data"), thinking_tokens: 0 }
}
