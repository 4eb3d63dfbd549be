//! Anthropic Messages: JSON bodies and events → a tally.
//!
//! Facts that decide (observed in recorded responses): running totals in `message_delta` replace those of
//! `message_start` field by field, the last value that is not null winning; the top level leaves out compaction and
//! advisor work, which only `iterations` tell; a second `message_start` may be spliced in and never adds.

use memchr::memmem;
use serde_json::Value;

use crate::domain::{Tokens, Usage};

use super::estimate;
use super::glimpse::string_bytes;
use super::reader::{MODEL_BYTES_MAX, Reader};
use super::tally::{Details, Progress, Tally};

/// A smaller input total than before is taken only above this share of it, in percent: cached tokens may move between
/// columns, but a total that collapses is a gateway that zeroed them.
const INPUT_KEPT_PERCENT: u64 = 90;

/// One response, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Messages {
    counts: Counts,
    details: Details,
    iterations: Usage,
    covered: Tokens,
    seen: Seen,
    body_bytes: u64,
    progress: Progress,
    is_error: bool,
    model: Option<String>,
}

/// The fields of one `usage` object; `None` where absent or null.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    input: Option<u64>,
    cache_write: Option<u64>,
    cache_read: Option<u64>,
    output: Option<u64>,
}

/// Output seen on the wire that no running total covers.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    deltas: u64,
    text_bytes: u64,
    thinking_bytes: u64,
    /// Σ `estimated_tokens`: what the provider says of thinking it does not show.
    thinking_tokens: u64,
}

impl Reader for Messages {
    fn event(&mut self, data: &[u8]) {
        if let Some(seen) = plain_delta(data) {
            self.see(seen);
            return;
        }
        let Ok(event) = serde_json::from_slice::<Value>(data) else { return };
        match event.get("type").and_then(Value::as_str).unwrap_or("") {
            "message_start" => self.start(event.get("message").unwrap_or(&Value::Null)),
            "content_block_start" => self.see(block(event.get("content_block").unwrap_or(&Value::Null))),
            "content_block_delta" => self.see(delta(event.get("delta").unwrap_or(&Value::Null))),
            "message_delta" => self.total(&event),
            "message_stop" => self.stop(),
            "error" => self.is_error = true,
            _ => {}
        }
    }

    fn failure(&mut self) {
        self.is_error = true;
    }

    fn body_keys(&self) -> &'static [&'static str] {
        &["usage", "model", "type"]
    }

    fn field(&mut self, key: &str, raw: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(raw) else { return };
        match key {
            "usage" if value.is_object() => {
                self.report(&value);
                self.progress = Progress::Told;
            }
            "model" => self.name(&value),
            "type" => self.is_error |= value.as_str() == Some("error"),
            _ => {}
        }
    }

    fn body_bytes(&mut self, bytes: u64) {
        self.body_bytes = bytes;
    }

    fn close(&mut self) {
        if self.progress == Progress::Told {
            self.progress = Progress::Closed;
        }
    }

    fn tally(&self) -> Tally {
        // An error's own words are no output.
        let body_bytes = if self.is_error { 0 } else { self.body_bytes };
        Tally {
            usage: self.usage(),
            details: self.details,
            has_input: self.counts.input.is_some() || self.iterations.input_total() > Tokens::ZERO,
            output_covered: self.covered,
            output_seen: self.seen.tokens().max(estimate::output(body_bytes)),
            progress: self.progress,
            is_error: self.is_error,
            model: self.model.clone(),
        }
    }
}

impl Messages {
    fn start(&mut self, message: &Value) {
        self.name(message.get("model").unwrap_or(&Value::Null));
        if let Some(usage) = message.get("usage").filter(|usage| usage.is_object()) {
            self.report(usage);
            self.progress = self.progress.max(Progress::Begun);
        }
    }

    fn total(&mut self, event: &Value) {
        let Some(usage) = event.get("usage").filter(|usage| usage.is_object()) else { return };
        self.report(usage);
        if Counts::read(usage).output.is_none() {
            return;
        }
        self.covered = self.usage().output;
        self.seen = Seen::default();
        let has_stopped = event.pointer("/delta/stop_reason").is_some_and(|reason| !reason.is_null());
        self.progress = self.progress.max(if has_stopped { Progress::Told } else { Progress::Counted });
    }

    /// The message is closed. That makes the last total final only if it covers all that was written.
    fn stop(&mut self) {
        if self.progress >= Progress::Counted && self.seen.tokens() == Tokens::ZERO {
            self.progress = Progress::Closed;
        }
    }

    fn see(&mut self, seen: Seen) {
        self.seen.add(seen);
        if self.progress == Progress::Told && seen.tokens() > Tokens::ZERO {
            self.progress = Progress::Counted;
        }
    }

    fn report(&mut self, usage: &Value) {
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

    fn name(&mut self, value: &Value) {
        if let Some(name) = value.as_str().filter(|name| name.len() <= MODEL_BYTES_MAX) {
            self.model = Some(name.to_owned());
        }
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

impl Seen {
    fn text(bytes: usize) -> Self {
        Self { deltas: u64::from(bytes > 0), text_bytes: bytes as u64, ..Self::default() }
    }

    fn thinking(bytes: usize, tokens: u64) -> Self {
        Self { deltas: u64::from(bytes > 0), thinking_bytes: bytes as u64, thinking_tokens: tokens, ..Self::default() }
    }

    fn add(&mut self, more: Self) {
        self.deltas = self.deltas.saturating_add(more.deltas);
        self.text_bytes = self.text_bytes.saturating_add(more.text_bytes);
        self.thinking_bytes = self.thinking_bytes.saturating_add(more.thinking_bytes);
        self.thinking_tokens = self.thinking_tokens.saturating_add(more.thinking_tokens);
    }

    /// Text by its bytes, thinking by its bytes or the provider's estimate, and at least one token a delta.
    fn tokens(self) -> Tokens {
        let thinking = estimate::output(self.thinking_bytes).max(Tokens(self.thinking_tokens));
        (estimate::output(self.text_bytes) + thinking).max(Tokens(self.deltas))
    }
}

/// What a `content_block_delta` in the provider's own spelling shows, without parsing it: nearly every event is one, and
/// none carries usage. `None` sends it to the parser.
fn plain_delta(data: &[u8]) -> Option<Seen> {
    let rest = data.strip_prefix(b"{\"type\":\"content_block_delta\"")?;
    let inner = rest.get(memmem::find(rest, b"\"delta\":{")?..)?;
    let length = |key: &[u8]| memmem::find(inner, key).and_then(|at| inner.get(at + key.len()..)).map(string_bytes);
    if let Some(bytes) = length(b"\"text\":\"").or_else(|| length(b"\"partial_json\":\"")) {
        return Some(Seen::text(bytes));
    }
    let bytes = length(b"\"thinking\":\"")?;
    let key = b"\"estimated_tokens\":";
    let number = memmem::find(inner, key).and_then(|at| inner.get(at + key.len()..)).map_or(0, leading_number);
    Some(Seen::thinking(bytes, number))
}

fn leading_number(text: &[u8]) -> u64 {
    let digits = text.trim_ascii_start().iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number: u64, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}

/// What any delta shows.
fn delta(delta: &Value) -> Seen {
    let bytes = |key: &str| delta.get(key).and_then(Value::as_str).map_or(0, str::len);
    let mut seen = Seen::text(bytes("text") + bytes("partial_json"));
    let estimated = delta.get("estimated_tokens").and_then(Value::as_u64).unwrap_or(0);
    seen.add(Seen::thinking(bytes("thinking"), estimated));
    seen
}

/// What a block brings at its start; the results of server tools are input, not output.
fn block(block: &Value) -> Seen {
    let bytes = |key: &str| block.get(key).and_then(Value::as_str).map_or(0, str::len);
    let mut seen = Seen::text(bytes("text"));
    seen.add(Seen::thinking(bytes("thinking") + bytes("data"), 0));
    seen
}
