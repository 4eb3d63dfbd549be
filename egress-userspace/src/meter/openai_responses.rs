//! OpenAI Responses: JSON bodies and events → a tally.
//!
//! Facts that decide (observed in recorded responses): usage stands in whichever event ends the response; before that it is
//! null. One stream may carry several responses, and the same one more than once: each counts once, by its id. A response
//! that is steered goes on in a successor. One in the background works on whoever listens, and its first answer tells nothing.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use memchr::memmem;
use serde_json::Value;

use crate::domain::Tokens;

use super::estimate::Family;
use super::glimpse::string_bytes;
use super::openai_chat::usage;
use super::parse::parse;
use super::reader::{Account, Counted, Reader, is_present, text_bytes};
use super::tally::{Details, Progress, Tally};

/// Responses of one stream that are told apart by id; beyond that, each is taken for another.
const RESPONSES_MAX: usize = 256;
/// Events that end a response.
pub(super) const TERMINAL: [&str; 5] =
    ["response.completed", "response.incomplete", "response.failed", "response.cancelled", "response.done"];

/// A response's id, however long: its hash.
type Id = u64;

/// One stream, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Responses {
    account: Account,
    /// What each response that has ended used.
    ended: BTreeMap<Id, Counted>,
    /// What those beyond the limit used.
    beyond: Counted,
    /// Responses that have begun and not ended.
    open: Vec<Id>,
    is_in_background: bool,
}

impl Reader for Responses {
    fn event(&mut self, data: &[u8]) {
        if let Some(bytes) = plain_delta(data) {
            self.account.see(bytes);
            return;
        }
        let Some(event) = parse(data) else { return };
        let kind = event.get("type").and_then(Value::as_str).unwrap_or("");
        let response = event.get("response").unwrap_or(&Value::Null);
        match kind {
            "error" => self.account.fail(),
            kind if TERMINAL.contains(&kind) => self.end(kind, response),
            "response.created" | "response.queued" | "response.in_progress" => self.begin(response),
            // Reasoning that is kept secret still passes, at its end.
            "response.output_item.done" => {
                self.account.see(event.pointer("/item/encrypted_content").map_or(0, text_bytes));
            }
            kind if kind.ends_with(".delta") => self.account.see(event.get("delta").map_or(0, text_bytes)),
            _ => {}
        }
    }

    fn body_keys(&self) -> &'static [&'static str] {
        &["usage", "model", "service_tier", "error", "background"]
    }

    fn field(&mut self, key: &str, raw: &[u8]) {
        let Some(value) = parse(raw) else { return };
        match key {
            "usage" => {
                if let Some(counted) = usage(&value) {
                    self.account.count(counted, true);
                }
            }
            "model" => self.account.name(Some(&value)),
            "service_tier" => self.account.serve_as(Some(&value)),
            "error" if is_present(Some(&value)) => self.account.fail(),
            "background" => self.is_in_background = value == Value::Bool(true),
            _ => {}
        }
    }

    fn account(&self) -> &Account {
        &self.account
    }

    fn account_mut(&mut self) -> &mut Account {
        &mut self.account
    }

    fn tally(&self, asked: Family) -> Tally {
        let tally = self.account.tally(asked);
        // It writes on unseen: all that the request allows may be used.
        let is_unseen = self.is_in_background && tally.progress < Progress::Told && !tally.is_error;
        if is_unseen { Tally { output_seen: Tokens(u64::MAX), ..tally } } else { tally }
    }
}

impl Responses {
    fn begin(&mut self, response: &Value) {
        self.account.name(response.get("model"));
        self.account.serve_as(response.get("service_tier"));
        self.is_in_background |= response.get("background") == Some(&Value::Bool(true));
        let id = id(response);
        if !self.open.contains(&id) && !self.ended.contains_key(&id) && self.open.len() < RESPONSES_MAX {
            self.open.push(id);
            self.account.reopen();
        }
    }

    fn end(&mut self, kind: &str, response: &Value) {
        self.account.name(response.get("model"));
        self.account.serve_as(response.get("service_tier"));
        if kind == "response.failed" {
            self.account.fail();
        }
        let id = id(response);
        self.open.retain(|open| *open != id);
        let Some(counted) = response.get("usage").and_then(usage) else { return };
        if self.ended.len() < RESPONSES_MAX || self.ended.contains_key(&id) {
            self.ended.insert(id, counted);
        } else {
            self.beyond = sum(self.beyond, counted);
        }
        self.account.reopen();
        self.account.count(self.ended.values().copied().fold(self.beyond, sum), self.open.is_empty());
        let is_steered = response.pointer("/incomplete_details/reason").and_then(Value::as_str) == Some("steered");
        if self.open.is_empty() && !is_steered {
            self.account.close();
        }
    }
}

fn id(response: &Value) -> Id {
    let mut hasher = DefaultHasher::new();
    response.get("id").and_then(Value::as_str).unwrap_or("").hash(&mut hasher);
    hasher.finish()
}

fn sum(one: Counted, other: Counted) -> Counted {
    Counted {
        usage: one.usage + other.usage,
        details: Details {
            reasoning: one.details.reasoning + other.details.reasoning,
            cache_write_1h: one.details.cache_write_1h + other.details.cache_write_1h,
        },
        has_input: one.has_input || other.has_input,
    }
}

/// Bytes that a delta of the usual spelling writes, without parsing it. `None` sends it to the parser.
fn plain_delta(data: &[u8]) -> Option<usize> {
    let rest = data.strip_prefix(b"{\"type\":\"response.")?;
    let kind = rest.get(..string_bytes(rest))?;
    let key = b"\"delta\":\"";
    let text =
        memmem::find(rest, key).filter(|_| kind.ends_with(b".delta")).and_then(|at| rest.get(at + key.len()..))?;
    Some(string_bytes(text))
}
