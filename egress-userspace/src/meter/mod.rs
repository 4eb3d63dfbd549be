//! The bytes of an exchange → its usage.
//!
//! Sans-IO: bytes are pushed in as they pass, an answer is read out. Imports `domain`; knows nothing of HTTP connections,
//! budgets or clocks. What one exchange may hold is bounded by the constants in this folder.
//!
//! The way through: [`ask`] reads a request; [`ResponseMeter`] takes the response's bytes through `decode` (content
//! encodings) into `body`, which frames them (`sse`, `json`, `values`, `eventstream`) and hands each piece to the dialect's
//! `reader` (`anthropic`, `openai_chat`, …), whose `tally` becomes a [`Reading`] by one rule for every dialect.
//!
//! [`EarlyEnd`] ends a stream before its provider does, in the words of its dialect.
//!
//! A WebSocket of OpenAI's Responses: [`websocket`] frames it, [`work`] reads a request on it, [`ServerEvent`] an answer, and
//! [`Lanes`] says to which of the responses in flight the answer belongs; each of them has its own [`ResponseMeter`].

mod anthropic;
mod ask;
mod bedrock;
mod body;
mod brotli;
mod chat_chunk;
mod counter;
mod decode;
mod decoder;
mod ending;
mod estimate;
mod eventstream;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gemini;
mod glimpse;
mod guess;
mod gzip;
mod json;
mod lanes;
mod ollama;
mod openai_chat;
mod openai_responses;
mod parse;
mod paths;
mod reader;
mod response;
mod responses_socket;
mod sse;
mod surface;
mod tally;
#[cfg(test)]
mod tests;
mod usage_asked;
mod usage_withheld;
mod values;
pub mod websocket;

pub use ask::{Ask, ask, dialect_of_path};
pub use bedrock::HeaderCounts;
pub use counter::{CountQuestion, Counter};
pub(crate) use decode::is_encoding;
pub use decoder::Decoder;
pub use ending::EarlyEnd;
pub use estimate::prepare as prepare_estimates;
pub use guess::guess;
pub use lanes::{Lanes, Route};
pub use response::ResponseMeter;
pub use responses_socket::{EventKind, ServerEvent, Work, dialect, has_responses_socket, work};
pub use surface::{Dialect, DialectError};
pub use tally::Details;
pub use usage_asked::{Asking, UsageAsked, ask_for_usage};
pub use usage_withheld::UsageWithheld;

use crate::domain::{Known, Usage};

/// Most memory the meter of one exchange takes at any time, in bytes, whatever a provider sends. Most of it are the windows of
/// decoders (one of 16 MiB, two of 8); the rest is one event, message or value of 4 MiB and what it is parsed to. An ordinary
/// response takes some kilobytes.
pub const METER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a response has shown so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Tokens, by the rule for how they are known.
    pub usage: Usage,
    /// What they are made of.
    pub details: Details,
    /// How they are known, were the exchange to end here.
    pub known: Known,
    /// The provider has reported some of it.
    pub has_report: bool,
    /// The provider's last word on usage has been seen: nothing more will be counted.
    pub is_final: bool,
    /// The provider says that it failed, be it in the middle of a stream that began well.
    pub failed: bool,
    /// The model the response names, or else the request.
    pub model: Option<String>,
    /// The class of service the response names.
    pub service_tier: Option<String>,
}

/// What the head of a response says to the meter.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead<'a> {
    /// HTTP status; 0 when no head ever came.
    pub status: u16,
    /// `content-type`, if any.
    pub content_type: Option<&'a str>,
    /// `content-encoding`, if any.
    pub content_encoding: Option<&'a str>,
    /// What its other headers count.
    pub counts: HeaderCounts,
}
