//! What an exchange used, and how that is known.

use serde::{Deserialize, Serialize};

use super::Tokens;

/// Tokens of one exchange, each kind in its own column; `input` excludes both cache kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Input that was neither read from nor written to a cache.
    pub input: Tokens,
    /// Input written to a cache.
    pub cache_write: Tokens,
    /// Input read from a cache.
    pub cache_read: Tokens,
    /// Output, reasoning included.
    pub output: Tokens,
}

impl Usage {
    /// Everything together: what budgets count.
    #[must_use]
    pub fn total(&self) -> Tokens {
        self.input_total() + self.output
    }

    /// All of the input, however it was cached.
    #[must_use]
    pub fn input_total(&self) -> Tokens {
        self.input + self.cache_write + self.cache_read
    }
}

impl std::ops::Add for Usage {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            input: self.input + other.input,
            cache_write: self.cache_write + other.cache_write,
            cache_read: self.cache_read + other.cache_read,
            output: self.output + other.output,
        }
    }
}

/// What a usage is made of; budgets count none of it twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageDetails {
    /// Of the cache writes, those that live for an hour.
    pub cache_write_1h: Tokens,
    /// Of the output, what was reasoning.
    pub reasoning: Tokens,
}

impl UsageDetails {
    /// Parts are never larger than the whole, whatever a provider says.
    #[must_use]
    pub fn within(self, usage: &Usage) -> Self {
        Self { cache_write_1h: self.cache_write_1h.min(usage.cache_write), reasoning: self.reasoning.min(usage.output) }
    }
}

/// How a usage is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    /// The provider said so, to the end.
    Reported,
    /// The provider said some of it; the rest is a conservative estimate.
    Partial,
    /// The provider said nothing.
    Estimated,
    /// The path carries no usage (a model list, telemetry): recorded, nothing counted.
    Unmetered,
}

impl Known {
    /// As it stands in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Partial => "partial",
            Self::Estimated => "estimated",
            Self::Unmetered => "unmetered",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_token_counts_once() {
        let usage = Usage { input: Tokens(1), cache_write: Tokens(20), cache_read: Tokens(300), output: Tokens(4_000) };
        assert_eq!(usage.input_total(), Tokens(321));
        assert_eq!(usage.total(), Tokens(4_321));
        let twice = Usage { input: Tokens(2), cache_write: Tokens(40), cache_read: Tokens(600), output: Tokens(8_000) };
        assert_eq!(usage + usage, twice);
        let endless = Usage { output: Tokens(u64::MAX), ..usage };
        assert_eq!((endless + endless).total(), Tokens(u64::MAX), "saturates, never starts again at nothing");
    }

    #[test]
    fn the_ledgers_words_are_the_wires() {
        for known in [Known::Reported, Known::Partial, Known::Estimated, Known::Unmetered] {
            assert_eq!(serde_json::to_value(known).unwrap(), known.as_str());
        }
    }
}
