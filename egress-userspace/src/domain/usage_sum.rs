//! Usage on its way out: page by page, request by request or added up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{AgentName, BottleName, Ending, Known, PermitId, ProviderName, UnixMillis, Usage};

/// What requests are added up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// Who.
    Bottle,
    /// As what.
    Agent,
    /// Whose budget.
    Provider,
    /// The model of the response, or else of the request.
    Model,
    /// The day on which they were settled.
    Day,
}

impl GroupBy {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Bottle, Self::Agent, Self::Provider, Self::Model, Self::Day];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bottle => "bottle",
            Self::Agent => "agent",
            Self::Provider => "provider",
            Self::Model => "model",
            Self::Day => "day",
        }
    }
}

/// Nothing to add up by.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is nothing to add up by: write bottle, agent, provider, model or day")]
pub struct GroupByError(String);

impl FromStr for GroupBy {
    type Err = GroupByError;
    fn from_str(text: &str) -> Result<Self, GroupByError> {
        Self::ALL.into_iter().find(|by| by.as_str() == text).ok_or_else(|| GroupByError(text.to_owned()))
    }
}

/// A place between two requests, in the order in which they were settled: after this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageCursor {
    /// When it was settled.
    pub settled: UnixMillis,
    /// Its number.
    pub permit: PermitId,
}

impl fmt::Display for UsageCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.settled.0, self.permit.0)
    }
}

/// No such place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no place among requests: give what the page before said")]
pub struct UsageCursorError(String);

impl FromStr for UsageCursor {
    type Err = UsageCursorError;
    fn from_str(text: &str) -> Result<Self, UsageCursorError> {
        let place = text.split_once('.').and_then(|(settled, permit)| {
            Some(Self { settled: UnixMillis(settled.parse().ok()?), permit: PermitId(permit.parse().ok()?) })
        });
        place.ok_or_else(|| UsageCursorError(text.to_owned()))
    }
}

impl Serialize for UsageCursor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UsageCursor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What requests that are added up have in common. What they are not added up by is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UsageKey {
    /// When, as `2026-01-31`.
    pub day: Option<String>,
    /// Who.
    pub bottle: Option<BottleName>,
    /// As what.
    pub agent: Option<AgentName>,
    /// Whose budget.
    pub provider: Option<ProviderName>,
    /// With which model, as far as it was said.
    pub model: Option<String>,
}

/// Metered requests, added up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageGroup {
    /// Which.
    #[serde(flatten)]
    pub key: UsageKey,
    /// How many.
    pub requests: u64,
    /// Their tokens.
    #[serde(flatten)]
    pub usage: Usage,
}

/// All requests there have ever been that ended alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageTally {
    /// Who.
    pub bottle: BottleName,
    /// As what.
    pub agent: Option<AgentName>,
    /// Whose budget.
    pub provider: ProviderName,
    /// How their tokens are known.
    pub known: Known,
    /// How they ended.
    pub ending: Ending,
    /// How many.
    pub requests: u64,
    /// Their tokens.
    pub usage: Usage,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_places_are_read_back() {
        for by in GroupBy::ALL {
            assert_eq!(by.as_str().parse(), Ok(by));
        }
        assert_eq!("colour".parse::<GroupBy>(), Err(GroupByError("colour".to_owned())));
        let place = UsageCursor { settled: UnixMillis(1_700_000_000_000), permit: PermitId(-7) };
        assert_eq!(place.to_string().parse(), Ok(place));
        for bad in ["", ".", "7", "7.", ".7", "a.b", "1.2.3"] {
            assert!(bad.parse::<UsageCursor>().is_err(), "{bad}");
        }
    }
}
