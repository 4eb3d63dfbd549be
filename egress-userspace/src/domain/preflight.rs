//! What is looked at before a request is sent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ProviderName;

/// How a request is held against what is left of its budget before it is sent. A budget that is used up refuses it in any
/// case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preflight {
    /// Its input, as estimated, has to fit.
    #[default]
    Estimate,
    /// Its input has to fit, as the provider counts it where it offers to, else as estimated.
    Exact,
    /// The most that input and output can be has to fit: no overshoot.
    Strict,
    /// Not at all.
    Off,
}

/// The ways of all providers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflights {
    /// How, as a rule.
    pub usual: Preflight,
    /// How for these.
    pub by_provider: BTreeMap<ProviderName, Preflight>,
}

impl Preflights {
    /// How a request is looked at: as its bottle says, if it says anything, or the provider, or as usual.
    #[must_use]
    pub fn of(&self, bottle: Option<Preflight>, provider: &ProviderName) -> Preflight {
        bottle.or_else(|| self.by_provider.get(provider).copied()).unwrap_or(self.usual)
    }
}

impl Preflight {
    /// Every way.
    pub const ALL: [Self; 4] = [Self::Estimate, Self::Exact, Self::Strict, Self::Off];

    /// As it stands in the settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Estimate => "estimate",
            Self::Exact => "exact",
            Self::Strict => "strict",
            Self::Off => "off",
        }
    }
}
