//! Names of many hosts at once.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Host;

/// Labels at the end of a pattern that must be written out: `*.com` would be the whole internet.
const FIXED_LABELS_MIN: usize = 2;

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a host pattern: expected a host name in which '*' stands for part of a label, not of the last two"
)]
pub struct HostPatternError(String);

/// A host name in which `*` stands for one or more characters of one label: `*-aiplatform.googleapis.com`. It never reaches
/// over a dot, so a pattern has as many labels as what it matches. Without a `*` it is that host alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(String);

impl HostPattern {
    /// Does it name this host?
    #[must_use]
    pub fn matches(&self, host: &Host) -> bool {
        let mut labels = host.as_str().split('.');
        self.0.split('.').all(|pattern| labels.next().is_some_and(|label| label_matches(pattern, label)))
            && labels.next().is_none()
    }

    /// It names one host only.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// How narrow it is: of two that name the same host, the one with more of this is meant. A name without `*` has most,
    /// then the longer pattern.
    #[must_use]
    pub fn narrowness(&self) -> (bool, usize) {
        (self.is_exact(), self.0.len())
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn label_matches(pattern: &str, label: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == label };
    label.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(|matched| !matched.is_empty())
}

impl From<Host> for HostPattern {
    fn from(host: Host) -> Self {
        Self(host.into())
    }
}

impl std::str::FromStr for HostPattern {
    type Err = HostPatternError;
    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let error = || HostPatternError(text.to_owned());
        // With something in place of each star it must be a host name.
        let filled: Host = text.replace('*', "x").parse().map_err(|_| error())?;
        let pattern = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let one_star_a_label = pattern.split('.').all(|label| label.matches('*').count() <= 1);
        let ends_fixed = !pattern.contains('*')
            || (pattern.split('.').rev().take(FIXED_LABELS_MIN).all(|label| !label.contains('*'))
                && filled.as_str().split('.').count() > FIXED_LABELS_MIN);
        if one_star_a_label && ends_fixed { Ok(Self(pattern)) } else { Err(error()) }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostPatternError;
    fn try_from(text: String) -> Result<Self, HostPatternError> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.0
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, host: &str, expected: bool) {
        let parsed: HostPattern = pattern.parse().unwrap();
        assert_eq!(parsed.matches(&host.parse().unwrap()), expected, "{pattern} {host}");
    }

    #[test]
    fn a_star_stays_within_its_label() {
        check("api.example.com", "API.example.com.", true);
        check("api.example.com", "x.api.example.com", false);
        check("*.example.com", "a.example.com", true);
        check("*.example.com", "example.com", false);
        check("*.example.com", "a.b.example.com", false);
        check("*.example.com", "a.example.com.evil.net", false);
        check("*.example.com", "aexample.com", false);
        check("runtime.*.example.com", "runtime.eu-1.example.com", true);
        check("runtime.*.example.com", "runtime.eu.x.example.com", false);
        check("runtime.*.example.com", "runtime.example.com", false);
        check("*-ai.example.com", "eu-ai.example.com", true);
        check("*-ai.example.com", "x.eu-ai.example.com", false);
        check("*-ai.example.com", "xai.example.com", false);
        check("a*a.example.com", "aba.example.com", true);
        check("a*a.example.com", "aa.example.com", false);
        check("a*a.example.com", "a.example.com", false);
    }

    #[test]
    fn a_pattern_never_names_the_world() {
        for bad in ["*", "*.com", "a.*.com", "a.b.*", "**.example.com", "", "a..b", "a b.example.com", "127.0.0.*"] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }
}
