//! Amazon Bedrock: `converse-stream` closes its blocks and its message, and counts; Nova under `invoke` does the same, wrapped;
//! Claude under `invoke` ends as Anthropic's API does, wrapped. How other models end is not known here.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::Reading;
use super::super::bedrock::METRICS;
use super::super::parse::parse;
use super::anthropic::Messages;
use super::{Follower, PARTS_MAX, Word};

/// What each event of `invoke` is called.
const CHUNK: &str = "chunk";
/// Events of `converse-stream`, and what Nova wraps each of its own in.
const EVENTS: [&str; 6] =
    ["messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"];

/// What the client has been given.
#[derive(Debug, Default)]
pub(super) struct Bedrock {
    kind: Kind,
    converse: Converse,
    claude: Messages,
    /// The last event of any `invoke` has come.
    is_over: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Unknown,
    Converse,
    Nova,
    Claude,
    Other,
}

#[derive(Debug, Default)]
struct Converse {
    open: BTreeSet<u64>,
    has_begun: bool,
    has_stopped: bool,
    has_counted: bool,
}

impl Follower for Bedrock {
    fn see(&mut self, name: &str, data: &[u8]) {
        let Some(event) = parse(data) else { return };
        if name != CHUNK {
            self.kind = Kind::Converse;
            return self.converse.see(name, &event);
        }
        let wrapped = event.get("bytes").and_then(Value::as_str).and_then(|wrapped| STANDARD.decode(wrapped).ok());
        let Some((inner, event)) = wrapped.and_then(|inner| Some((parse(&inner)?, inner))) else { return };
        self.is_over |= inner.get(METRICS).is_some();
        let named = EVENTS.iter().find_map(|name| Some((*name, inner.get(*name)?)));
        match (inner.get("type").is_some_and(Value::is_string), named) {
            (true, _) => {
                self.kind = Kind::Claude;
                self.claude.see("", &event);
            }
            (false, Some((name, event))) => {
                self.kind = Kind::Nova;
                self.converse.see(name, event);
            }
            (false, None) if self.kind == Kind::Unknown => self.kind = Kind::Other,
            (false, None) => {}
        }
    }

    fn end(&self, so_far: &Reading) -> Option<Vec<Word>> {
        match self.kind {
            Kind::Unknown | Kind::Other => None,
            Kind::Converse | Kind::Nova | Kind::Claude if self.is_over => Some(Vec::new()),
            Kind::Converse => {
                let word = |(name, event): (&'static str, Value)| Word::of(name, &event);
                Some(self.converse.end(so_far).into_iter().map(word).collect())
            }
            Kind::Nova => {
                let word =
                    |(name, event): (&'static str, Value)| wrapped(json!({ name: event }).to_string().as_bytes());
                Some(self.converse.end(so_far).into_iter().map(word).collect())
            }
            Kind::Claude => Some(self.claude.end(so_far)?.iter().map(|word| wrapped(&word.data)).collect()),
        }
    }
}

impl Converse {
    fn see(&mut self, name: &str, event: &Value) {
        let index = event.get("contentBlockIndex").and_then(Value::as_u64).unwrap_or(0);
        match name {
            "messageStart" => self.has_begun = true,
            // Blocks of text have no start.
            "contentBlockStart" | "contentBlockDelta" if self.open.len() < PARTS_MAX => drop(self.open.insert(index)),
            "contentBlockStop" => drop(self.open.remove(&index)),
            "messageStop" => self.has_stopped = true,
            "metadata" => self.has_counted = true,
            _ => {}
        }
    }

    fn end(&self, so_far: &Reading) -> Vec<(&'static str, Value)> {
        let mut events = Vec::new();
        if !self.has_begun && !self.has_stopped {
            events.push(("messageStart", json!({ "role": "assistant" })));
        }
        if !self.has_stopped {
            let close = |index| ("contentBlockStop", json!({ "contentBlockIndex": index }));
            events.extend(self.open.iter().map(close));
            events.push(("messageStop", json!({ "stopReason": "max_tokens" })));
        }
        if !self.has_counted {
            let usage = so_far.usage;
            let counts = json!({
                "inputTokens": usage.input, "outputTokens": usage.output, "totalTokens": usage.total(),
                "cacheReadInputTokens": usage.cache_read, "cacheWriteInputTokens": usage.cache_write,
            });
            events.push(("metadata", json!({ "usage": counts, "metrics": { "latencyMs": 0 } })));
        }
        events
    }
}

fn wrapped(event: &[u8]) -> Word {
    Word::of(CHUNK, &json!({ "bytes": STANDARD.encode(event) }))
}
