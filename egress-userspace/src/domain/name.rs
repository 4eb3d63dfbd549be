//! Names that stand in paths, interfaces, databases and on the wire, so each is checked when it is made.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest bottle, agent or provider name, in bytes.
const NAME_BYTES_MAX: usize = 48;
/// Longest host name, in bytes (RFC 1035 §2.3.4, without the final dot).
const HOST_BYTES_MAX: usize = 253;
/// Longest label of a host name, in bytes (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{text:?} is not a {what} name: use 1 to {NAME_BYTES_MAX} of a-z, 0-9, '-' and '_', beginning with a letter or digit"
)]
pub struct NameError {
    what: &'static str,
    text: String,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                if is_name(text) { Ok(Self(text.to_owned())) } else { Err(NameError { what: $what, text: text.to_owned() }) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name_type!(
    /// What a bottle is called.
    BottleName,
    "bottle"
);
name_type!(
    /// The role that runs in a bottle.
    AgentName,
    "agent"
);
name_type!(
    /// The key that budgets are counted by: `claude`, `codex`, …
    ProviderName,
    "provider"
);

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(allowed)
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

/// Why a host name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a host name: expected dot-separated labels of letters, digits, '-' and '_'")]
pub struct HostError(String);

/// A DNS name in lower case without a final dot. Never an address literal: TLS and policy go by names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(String);

impl Host {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Host {
    type Err = HostError;
    fn from_str(text: &str) -> Result<Self, HostError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if is_host(&name) { Ok(Self(name)) } else { Err(HostError(text.to_owned())) }
    }
}

impl TryFrom<String> for Host {
    type Error = HostError;
    fn try_from(text: String) -> Result<Self, HostError> {
        text.parse()
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last_is_number = name.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= HOST_BYTES_MAX && !last_is_number && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_words() {
        for good in ["web", "a", "9lives", "a-b_c", &"x".repeat(NAME_BYTES_MAX)] {
            assert!(good.parse::<BottleName>().is_ok(), "{good}");
        }
        for bad in ["", "Web", "-a", "_a", "a/b", "..", "a b", "ä", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(bad.parse::<BottleName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_names_and_never_addresses() {
        assert_eq!("API.Anthropic.com.".parse::<Host>().map(String::from), Ok("api.anthropic.com".to_owned()));
        for bad in
            ["", ".", "a..b", "127.0.0.1", "[::1]", "a b", "-a.com", "a.com:443", &"a".repeat(LABEL_BYTES_MAX + 1)]
        {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
    }
}
