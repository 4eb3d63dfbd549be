//! What a dialect has understood of a response, and the one rule that makes a reading of it.

use crate::domain::{Known, Tokens, Usage};

use super::Reading;
use super::ask::Ask;
use super::estimate::Family;

pub use crate::domain::UsageDetails as Details;

/// How far the report of usage has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    /// No usage has been reported.
    #[default]
    Nothing,
    /// Some has, early: what follows is not in it.
    Begun,
    /// A running total has been reported; more may follow.
    Counted,
    /// The total after the model stopped has been reported, and nothing was written since.
    Told,
    /// The provider closed the message.
    Closed,
}

/// What a response has shown, whatever its dialect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// What was reported.
    pub(super) usage: Usage,
    /// What that is made of.
    pub(super) details: Details,
    /// Input is among it.
    pub(super) has_input: bool,
    /// Output that the last running total covers.
    pub(super) output_covered: Tokens,
    /// Estimate of the output seen since.
    pub(super) output_seen: Tokens,
    /// How far the report has come.
    pub(super) progress: Progress,
    /// The provider reported an error.
    pub(super) is_error: bool,
    /// Whose tokenizer counts.
    pub(super) family: Family,
    /// The model the response names.
    pub(super) model: Option<String>,
    /// The class of service it names.
    pub(super) service_tier: Option<String>,
}

/// What is known of a response beside what its dialect made of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Circumstances {
    /// HTTP status; 0 when there was none.
    pub(super) status: u16,
    /// Bytes that could not be decoded or understood.
    pub(super) opaque_bytes: u64,
    /// The response arrived whole.
    pub(super) is_complete: bool,
}

/// The reading, were the exchange to end here.
///
/// - A path without usage counts nothing. An error without usage costs nothing, unless output has come before it.
/// - A full report stands as it is.
/// - An interrupted one keeps the reported input (else the request's estimate); its output is the larger of the last
///   report and what that report covered plus what was seen since, the latter within the request's output cap.
/// - With no report at all, everything is estimated.
pub(super) fn reading(ask: &Ask, tally: &Tally, circumstances: Circumstances) -> Reading {
    let is_final = tally.progress == Progress::Closed;
    let has_report = ask.is_metered && tally.progress > Progress::Nothing;
    let model = || tally.model.clone().or_else(|| ask.model.clone());
    let answer = |usage, known| Reading {
        usage,
        details: tally.details.within(&usage),
        known,
        has_report,
        is_final,
        failed: ask.is_metered && tally.is_error,
        model: model(),
        service_tier: tally.service_tier.clone(),
    };
    if !ask.is_metered {
        return answer(Usage::default(), Known::Unmetered);
    }
    let has_written = tally.output_seen > Tokens::ZERO;
    let is_refusal = circumstances.status >= 300 || (tally.is_error && !has_written);
    if tally.progress == Progress::Nothing && is_refusal {
        return answer(Usage::default(), Known::Reported);
    }
    let is_told = tally.progress >= Progress::Told;
    let ended_after_total = tally.progress == Progress::Counted
        && !has_written
        && circumstances.is_complete
        && circumstances.opaque_bytes == 0
        && !tally.is_error;
    if tally.has_input && (is_told || ended_after_total) {
        return answer(tally.usage, Known::Reported);
    }
    let mut usage = tally.usage;
    if !tally.has_input {
        usage.input = ask.input_estimate;
    }
    if !is_told {
        let seen = tally.output_seen + tally.family.output(circumstances.opaque_bytes);
        let cap = ask.output_cap.max(tally.output_covered);
        usage.output = usage.output.max((tally.output_covered + seen).min(cap));
    }
    answer(usage, if tally.progress == Progress::Nothing { Known::Estimated } else { Known::Partial })
}
