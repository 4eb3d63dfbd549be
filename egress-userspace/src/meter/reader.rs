//! What every dialect's reader does, and the account it keeps.

use std::fmt::Debug;

use serde_json::Value;

use crate::domain::{ProviderNotes, Tokens, Usage};

use super::HeaderCounts;
use super::estimate::Family;
use super::surface::Dialect;
use super::tally::{Details, Progress, Tally};
use super::{anthropic, bedrock, gemini, ollama, openai_chat, openai_responses};

/// Most bytes of a model's name that are kept.
pub(super) const MODEL_BYTES_MAX: usize = 128;

/// Reads one response in one dialect. Framing is done: it gets whole events, or the fields of a JSON body.
pub(super) trait Reader: Debug + Send + Sync {
    /// Takes the data of one event.
    fn event(&mut self, data: &[u8]);

    /// Top-level keys of a JSON body that matter.
    fn body_keys(&self) -> &'static [&'static str];

    /// Takes one top-level field of a JSON body.
    fn field(&mut self, key: &str, raw: &[u8]);

    /// Where the response stands.
    fn account(&self) -> &Account;

    /// Where the response stands, to go on.
    fn account_mut(&mut self) -> &mut Account;

    /// The framing says that the provider reports an error.
    fn failure(&mut self) {
        self.account_mut().fail();
    }

    /// The JSON body has this many bytes so far.
    fn body_bytes(&mut self, bytes: u64) {
        self.account_mut().body_bytes = bytes;
    }

    /// The JSON body's object has ended.
    fn close(&mut self) {
        self.account_mut().close();
    }

    /// What has been understood; `asked` is the family of the model that the request names.
    fn tally(&self, asked: Family) -> Tally {
        self.account().tally(asked)
    }
}

/// A reader for a response in this dialect, behind headers that count this.
pub(super) fn reader(dialect: Dialect, counts: HeaderCounts) -> Box<dyn Reader> {
    match dialect {
        Dialect::AnthropicMessages => Box::<anthropic::Messages>::default(),
        Dialect::OpenAiChat | Dialect::OpenAiEmbeddings => Box::<openai_chat::Chat>::default(),
        Dialect::OpenAiResponses => Box::<openai_responses::Responses>::default(),
        Dialect::Gemini => Box::<gemini::Gemini>::default(),
        Dialect::Bedrock => Box::new(bedrock::Bedrock::new(counts)),
        Dialect::Ollama => Box::<ollama::Ollama>::default(),
    }
}

/// One report of usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// What it counts.
    pub(super) usage: Usage,
    /// What that is made of.
    pub(super) details: Details,
    /// Input is among it.
    pub(super) has_input: bool,
}

/// Where a response stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    counted: Counted,
    covered: Tokens,
    seen: Seen,
    body_bytes: u64,
    progress: Progress,
    is_error: bool,
    model: Option<String>,
    family: Option<Family>,
    service_tier: Option<String>,
}

/// Output seen on the wire that no total covers.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    pieces: u64,
    bytes: u64,
    thinking_bytes: u64,
    /// What the provider says of thinking it does not show.
    thinking_tokens: u64,
}

impl Seen {
    /// What is written by its bytes, thinking by its bytes or the provider's estimate, and at least one token a piece.
    fn tokens(self, family: Family) -> Tokens {
        let thinking = family.output(self.thinking_bytes).max(Tokens(self.thinking_tokens));
        (family.output(self.bytes) + thinking).max(Tokens(self.pieces))
    }
}

impl Account {
    /// A piece of output of so many bytes has passed.
    pub(super) fn see(&mut self, bytes: usize) {
        self.seen.bytes = self.seen.bytes.saturating_add(bytes as u64);
        self.see_piece(bytes > 0);
    }

    /// A piece of thinking of so many bytes has passed, and the provider estimates so many tokens of it.
    pub(super) fn see_thinking(&mut self, bytes: usize, tokens: u64) {
        self.seen.thinking_bytes = self.seen.thinking_bytes.saturating_add(bytes as u64);
        self.seen.thinking_tokens = self.seen.thinking_tokens.saturating_add(tokens);
        self.see_piece(bytes > 0 || tokens > 0);
    }

    fn see_piece(&mut self, is_something: bool) {
        if is_something {
            self.seen.pieces = self.seen.pieces.saturating_add(1);
            self.progress = if self.progress == Progress::Told { Progress::Counted } else { self.progress };
        }
    }

    /// What the provider has counted so far, whatever of the output that covers.
    pub(super) fn recount(&mut self, counted: Counted) {
        self.counted = counted;
    }

    /// Something is counted, early: what follows is not in it.
    pub(super) fn begin(&mut self) {
        self.progress = self.progress.max(Progress::Begun);
    }

    /// The provider counts: this replaces what it counted before and covers all that has passed. `has_stopped` when the model
    /// has: nothing more will be counted but the same again.
    pub(super) fn count(&mut self, counted: Counted, has_stopped: bool) {
        if self.progress == Progress::Closed {
            return;
        }
        self.counted = counted;
        self.covered = counted.usage.output;
        self.seen = Seen::default();
        self.progress = self.progress.max(if has_stopped { Progress::Told } else { Progress::Counted });
    }

    /// The provider closed the response. That makes the last total final only if it covers all that was written.
    pub(super) fn close(&mut self) {
        if self.progress >= Progress::Counted && self.seen.pieces == 0 {
            self.progress = Progress::Closed;
        }
    }

    /// The provider goes on after having closed.
    pub(super) fn reopen(&mut self) {
        self.progress = self.progress.min(Progress::Counted);
    }

    /// The provider reports an error.
    pub(super) fn fail(&mut self) {
        self.is_error = true;
    }

    /// A field that names the model.
    pub(super) fn name(&mut self, value: Option<&Value>) {
        let name = value.and_then(Value::as_str).filter(|name| !name.is_empty() && name.len() <= MODEL_BYTES_MAX);
        if let Some(name) = name.filter(|name| self.model.as_deref() != Some(*name)) {
            self.family = Family::of_model(name);
            self.model = Some(name.to_owned());
        }
    }

    /// A field that names the class of service. The first word is what was asked for, the last what was given.
    pub(super) fn serve_as(&mut self, value: Option<&Value>) {
        let tier = value.and_then(Value::as_str).and_then(ProviderNotes::tier);
        self.service_tier = tier.or(self.service_tier.take());
    }

    /// The model has been named.
    pub(super) fn has_model(&self) -> bool {
        self.model.is_some()
    }

    /// Something has been counted.
    pub(super) fn has_counted(&self) -> bool {
        self.progress >= Progress::Counted
    }

    /// What has been understood; the model that the response names outranks the one that was asked for.
    pub(super) fn tally(&self, asked: Family) -> Tally {
        let family = self.family.unwrap_or(asked);
        // An error's own words are no output.
        let body_bytes = if self.is_error { 0 } else { self.body_bytes };
        Tally {
            usage: self.counted.usage,
            details: self.counted.details,
            has_input: self.counted.has_input,
            output_covered: self.covered,
            output_seen: self.seen.tokens(family).max(family.output(body_bytes)),
            progress: self.progress,
            is_error: self.is_error,
            family,
            model: self.model.clone(),
            service_tier: self.service_tier.clone(),
        }
    }
}

/// Bytes of all text in a value, however deep, but for fields that say what something is rather than what was written.
pub(super) fn text_bytes(value: &Value) -> usize {
    const LABELS: [&str; 10] = [
        "role",
        "id",
        "type",
        "object",
        "status",
        "finish_reason",
        "finishReason",
        "p",
        "thoughtSignature",
        "mimeType",
    ];
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(text_bytes).sum(),
        Value::Object(fields) => {
            fields.iter().filter(|(key, _)| !LABELS.contains(&key.as_str())).map(|(_, value)| text_bytes(value)).sum()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// The first of these fields, by JSON pointer, that is a count.
pub(super) fn count(value: &Value, pointers: &[&str]) -> Option<u64> {
    pointers.iter().find_map(|pointer| value.pointer(pointer)?.as_u64())
}

/// Is there something other than null?
pub(super) fn is_present(value: Option<&Value>) -> bool {
    value.is_some_and(|value| !value.is_null())
}
