//! Amazon Bedrock, `converse` and `invoke`: JSON bodies and messages of an event stream → a tally.
//!
//! Facts that decide (observed in recorded responses): `converse` and Nova count as `usage` with `inputTokens`, without cached
//! ones, some under two names; Claude under `invoke` speaks Anthropic's dialect, wrapped in base64; every streamed `invoke` ends with
//! `amazon-bedrock-invocationMetrics`, which disagree with Claude's own count and so speak only where no other count does; where
//! an `invoke` that is not streamed tells nothing in its body, its headers do.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::domain::{Tokens, Usage};

use super::anthropic::Messages;
use super::estimate::Family;
use super::openai_chat;
use super::parse::parse;
use super::reader::{Account, Counted, Reader, count, is_present, text_bytes};
use super::tally::{Details, Progress, Tally};

/// Where streamed `invoke` counts whatever the model is.
pub(super) const METRICS: &str = "amazon-bedrock-invocationMetrics";

/// Tokens that headers of a response count: all there is where a model's own body under `invoke` tells nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderCounts {
    input: Option<u64>,
    cache_write: Option<u64>,
    cache_read: Option<u64>,
    output: Option<u64>,
}

impl HeaderCounts {
    /// Reads them; `header` gives the value of the header of a name in lower case.
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Self {
        let count = |name| header(name)?.trim().parse().ok();
        Self {
            input: count("x-amzn-bedrock-input-token-count"),
            cache_write: count("x-amzn-bedrock-cache-write-input-token-count"),
            cache_read: count("x-amzn-bedrock-cache-read-input-token-count"),
            output: count("x-amzn-bedrock-output-token-count"),
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

/// One response, as far as it has come.
#[derive(Debug)]
pub(super) struct Bedrock {
    /// Reads what speaks Anthropic's dialect, and keeps the account of everything.
    claude: Messages,
    in_headers: HeaderCounts,
}

impl Reader for Bedrock {
    fn event(&mut self, data: &[u8]) {
        let Some(event) = parse(data) else { return };
        let Some(wrapped) = event.get("bytes").and_then(Value::as_str) else { return self.native(&event) };
        let Ok(inner) = STANDARD.decode(wrapped) else { return };
        let Some(event) = parse(&inner) else { return };
        if event.get("type").is_some_and(Value::is_string) {
            self.claude.event(&inner);
        } else {
            self.native(&event);
        }
        self.metrics(event.get(METRICS));
    }

    fn body_keys(&self) -> &'static [&'static str] {
        &[
            "usage",
            "type",
            "model",
            "message",
            "serviceTier",
            METRICS,
            "inputTextTokenCount",
            "results",
            "prompt_token_count",
            "generation_token_count",
        ]
    }

    fn field(&mut self, key: &str, raw: &[u8]) {
        let Some(value) = parse(raw) else { return };
        match key {
            "usage" if value.get("input_tokens").is_some() => self.claude.field(key, raw),
            "type" | "model" => self.claude.field(key, raw),
            "usage" => self.count(usage(&value).or_else(|| openai_chat::usage(&value)), true),
            "serviceTier" => self.account_mut().serve_as(value.get("type")),
            "message" if value.is_string() => self.account_mut().fail(),
            METRICS => self.metrics(Some(&value)),
            // Titan and Llama, which count at the top, input and output apart.
            "inputTextTokenCount" | "prompt_token_count" => self.add(Some(value.as_u64().unwrap_or(0)), 0),
            "generation_token_count" => self.add(None, value.as_u64().unwrap_or(0)),
            "results" => {
                let written =
                    value.as_array().into_iter().flatten().filter_map(|result| count(result, &["/tokenCount"]));
                self.add(None, written.fold(0, u64::saturating_add));
            }
            _ => {}
        }
    }

    fn account(&self) -> &Account {
        self.claude.account()
    }

    fn account_mut(&mut self) -> &mut Account {
        self.claude.account_mut()
    }

    /// What the body tells; else what the headers do.
    fn tally(&self, asked: Family) -> Tally {
        let tally = self.account().tally(asked);
        let counts = self.in_headers;
        if tally.progress >= Progress::Counted || counts.input.or(counts.output).is_none() {
            return tally;
        }
        let usage = counts.usage();
        let (progress, output_seen) = match counts.output {
            Some(_) => (Progress::Told, Tokens::ZERO),
            None => (Progress::Begun, tally.output_seen),
        };
        Tally { usage, has_input: counts.input.is_some(), output_seen, progress, ..tally }
    }
}

impl Bedrock {
    /// A response behind headers that count this.
    pub(super) fn new(in_headers: HeaderCounts) -> Self {
        Self { claude: Messages::default(), in_headers }
    }

    /// An event of `converse-stream`, or of a model other than Claude; Nova wraps each in its name.
    fn native(&mut self, event: &Value) {
        self.account_mut().see(written(event));
        self.account_mut().serve_as(event.pointer("/serviceTier/type"));
        if let Some(counted) = event.get("usage").or_else(|| event.pointer("/metadata/usage")).and_then(usage) {
            self.account_mut().count(counted, true);
            // The message that counts is the last.
            self.account_mut().close();
        }
    }

    fn metrics(&mut self, metrics: Option<&Value>) {
        if let Some(metrics) = metrics.filter(|_| !self.account().has_counted()) {
            self.count(usage(metrics), true);
            self.account_mut().close();
        }
    }

    fn count(&mut self, counted: Option<Counted>, has_stopped: bool) {
        if let Some(counted) = counted {
            self.account_mut().count(counted, has_stopped);
        }
    }

    fn add(&mut self, input: Option<u64>, output: u64) {
        let so_far = self.account().tally(Family::default());
        let more = Usage { input: Tokens(input.unwrap_or(0)), output: Tokens(output), ..Usage::default() };
        let has_input = so_far.has_input || input.is_some();
        let counted = Counted { usage: so_far.usage + more, details: Details::default(), has_input };
        self.account_mut().count(counted, true);
    }
}

/// A count in Bedrock's spellings; `None` when it counts nothing.
fn usage(usage: &Value) -> Option<Counted> {
    let input = count(usage, &["/inputTokens", "/inputTokenCount"]);
    let output = count(usage, &["/outputTokens", "/outputTokenCount"]);
    input.or(output)?;
    let tokens = |pointers: &[&str]| Tokens(count(usage, pointers).unwrap_or(0));
    let lifetimes = usage.get("cacheDetails").and_then(Value::as_array).into_iter().flatten();
    let hours = lifetimes.filter(|entry| entry.get("ttl").and_then(Value::as_str) == Some("1h"));
    let cache_write_1h = hours.filter_map(|entry| count(entry, &["/inputTokens"])).fold(0, u64::saturating_add);
    Some(Counted {
        usage: Usage {
            input: Tokens(input.unwrap_or(0)),
            cache_write: tokens(&["/cacheWriteInputTokens", "/cacheWriteInputTokenCount"]),
            cache_read: tokens(&["/cacheReadInputTokens", "/cacheReadInputTokenCount"]),
            output: Tokens(output.unwrap_or(0)),
        },
        details: Details { cache_write_1h: Tokens(cache_write_1h), ..Details::default() },
        has_input: input.is_some(),
    })
}

/// Bytes that an event writes.
fn written(event: &Value) -> usize {
    let delta = event.get("delta").or_else(|| event.pointer("/contentBlockDelta/delta"));
    let text = ["outputText", "generation", "text", "outputs", "choices"]
        .iter()
        .filter_map(|key| event.get(*key).filter(|text| is_present(Some(text))));
    delta.into_iter().chain(text).map(text_bytes).sum()
}
