//! One exchange on its way through the account: what it asks for, and what it used.

use serde::{Deserialize, Serialize};

use super::{BottleId, Ending, Host, Known, PermitId, ProviderName, RateLimits, Tokens, Usage, UsageDetails};

/// Longest class of service that is kept, in bytes.
const SERVICE_TIER_BYTES_MAX: usize = 64;

/// A request that wants a permit: everything a budget and a record need of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpendRequest {
    /// Who asks.
    pub bottle: BottleId,
    /// Whose budget.
    pub provider: ProviderName,
    /// Where to.
    pub host: Host,
    /// Method and path without query.
    pub target: String,
    /// Whether the path carries usage.
    pub is_metered: bool,
    /// The model the request names.
    pub model: Option<String>,
    /// Conservative estimate of the input.
    pub input_estimate: Tokens,
    /// The most output it allows (`max_tokens`), or what is assumed when it sets no cap.
    pub output_cap: Tokens,
}

/// What an exchange used, to be written in place of its reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// Whose reservation.
    pub permit: PermitId,
    /// Tokens.
    pub usage: Usage,
    /// What they are made of.
    pub details: UsageDetails,
    /// How they are known.
    pub known: Known,
    /// How the exchange ended.
    pub ending: Ending,
    /// HTTP status.
    pub status: Option<u16>,
    /// The model the response names.
    pub model: Option<String>,
    /// The provider's id of the request.
    pub provider_request_id: Option<String>,
    /// What else the provider tells.
    pub notes: ProviderNotes,
}

/// What a provider tells of a request beside its usage. Nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderNotes {
    /// The class of service it was given: `standard`, `priority`, `flex` …
    pub service_tier: Option<String>,
    /// What is left of rate limits and plans.
    pub limits: RateLimits,
}

impl ProviderNotes {
    /// A class of service as a provider writes it, if it is one word.
    #[must_use]
    pub fn tier(text: &str) -> Option<String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let is_tier = (1..=SERVICE_TIER_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain);
        is_tier.then(|| text.to_owned())
    }
}
