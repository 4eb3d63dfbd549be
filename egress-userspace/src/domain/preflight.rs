//! What is looked at before a request is sent.

use serde::{Deserialize, Serialize};

/// How a request's input is held against what is left of its budget before it is sent. A budget that is used up refuses
/// it in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preflight {
    /// As estimated.
    #[default]
    Estimate,
    /// As the provider counts it, where it offers to; else as estimated.
    Exact,
    /// Not at all.
    Off,
}
