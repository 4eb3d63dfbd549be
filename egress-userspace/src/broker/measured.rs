//! What the proxy has measured and counted for one bottle since it last said so.

use serde::{Deserialize, Serialize};

use crate::domain::{Distribution, Ending, ProviderName, RefusalReason};

/// What a provider was asked to do, in the words of OpenTelemetry's conventions for generative AI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A conversation.
    Chat,
    /// The same in Gemini's way.
    GenerateContent,
    /// Vectors.
    Embeddings,
}

impl Operation {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::GenerateContent => "generate_content",
            Self::Embeddings => "embeddings",
        }
    }
}

/// Metered work: whose, and what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Work {
    /// Whose tokens it spends.
    pub provider: ProviderName,
    /// What it is.
    pub operation: Operation,
}

/// A part of the way through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// From a request's head to its leaving for the provider, without the time its body's beginning took to arrive.
    Forward,
    /// From asking for a permit to having it, or a refusal.
    Admit,
    /// From saying what a request used to hearing that it is committed, where the end of a response waits for that.
    Settle,
}

impl Stage {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Admit => "admit",
            Self::Settle => "settle",
        }
    }
}

/// One thing that was counted or measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Measured {
    /// Requests, names and connections that were refused.
    Refused {
        /// Why.
        reason: RefusalReason,
        /// How many.
        count: u64,
    },
    /// From leaving for the provider to the end.
    Operation {
        /// What was done.
        work: Work,
        /// How it ended.
        ending: Ending,
        /// How long it took.
        times: Distribution,
    },
    /// From leaving for the provider to the first bytes of a streamed response.
    FirstChunk {
        /// What was done.
        work: Work,
        /// How long it took.
        times: Distribution,
    },
    /// On the way through the proxy.
    Stage {
        /// Where.
        stage: Stage,
        /// How long it took.
        times: Distribution,
    },
}
