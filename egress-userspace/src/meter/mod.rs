//! The bytes of an exchange → its usage.
//!
//! Sans-IO: bytes are pushed in as they pass, an answer is read out. Imports `domain`; knows nothing of HTTP connections,
//! budgets or clocks. What one exchange may hold is bounded by the constants in this folder.

mod stand_in;

pub use stand_in::{Ask, Dialect, ResponseMeter, ask};

use crate::domain::{Known, Usage};

/// What a response has shown so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Tokens, by the rule for how they are known.
    pub usage: Usage,
    /// How they are known, were the exchange to end here.
    pub known: Known,
    /// The provider's last word on usage has been seen: nothing more will be counted.
    pub is_final: bool,
    /// The model the response names.
    pub model: Option<String>,
}

/// What the head of a response says to the meter.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead<'a> {
    /// HTTP status.
    pub status: u16,
    /// `content-type`, if any.
    pub content_type: Option<&'a str>,
    /// `content-encoding`, if any.
    pub content_encoding: Option<&'a str>,
}
