//! The chain that audit rows form, and what a walk along it finds. How a link is computed is the ledger's business.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::hash::{self, HASH_BYTES};

/// What chains one audit row to all before it: a SHA-256, as text 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AuditHash(pub [u8; HASH_BYTES]);

/// Why a text is no hash.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a hash of the audit: it has 64 digits, each 0-9 or a-f")]
pub struct AuditHashError(String);

impl AuditHash {
    /// What the first row is chained to.
    pub const NONE: Self = Self([0; HASH_BYTES]);
}

impl std::fmt::Display for AuditHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        hash::write(&self.0, f)
    }
}

impl std::str::FromStr for AuditHash {
    type Err = AuditHashError;
    fn from_str(text: &str) -> Result<Self, AuditHashError> {
        hash::read(text).map(Self).ok_or_else(|| AuditHashError(text.to_owned()))
    }
}

impl TryFrom<String> for AuditHash {
    type Error = AuditHashError;
    fn try_from(text: String) -> Result<Self, AuditHashError> {
        text.parse()
    }
}

impl From<AuditHash> for String {
    fn from(hash: AuditHash) -> Self {
        hash.to_string()
    }
}

/// What a walk along the whole chain found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainReport {
    /// Rows that follow from one another, from the first on.
    pub rows: u64,
    /// The hash of the last of them.
    pub tip: AuditHash,
    /// The number of the row whose hash an operator had noted; 0 when it was noted before the first row.
    pub noted: Option<i64>,
    /// The first thing that is wrong.
    pub fault: Option<ChainFault>,
}

/// What is wrong with the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum ChainFault {
    /// A row does not follow from the one before: one of its columns, or its place, is not what was written.
    Row {
        /// Which.
        number: i64,
        /// Rows are missing just before it.
        is_after_gap: bool,
    },
    /// A row holds what egress never writes.
    Unreadable {
        /// Which.
        number: i64,
    },
    /// A row was added behind the last that egress wrote.
    Added {
        /// The first such row.
        number: i64,
    },
    /// The last rows are missing.
    Removed {
        /// How many.
        rows: u64,
    },
    /// The tip on record is not the last row's hash: that row, or the tip, is not what was written.
    Tip {
        /// The last row.
        number: i64,
    },
    /// There is no record of the tip.
    NoTip,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_read_as_they_are_written() {
        let mut bytes = [0; HASH_BYTES];
        (bytes[0], bytes[31]) = (0x0f, 0xa0);
        let text = format!("0f{}a0", "00".repeat(30));
        assert_eq!(AuditHash(bytes).to_string(), text);
        assert_eq!(text.parse(), Ok(AuditHash(bytes)));
        assert_eq!("0".repeat(64).parse(), Ok(AuditHash::NONE));
        for bad in ["", "0", &"0".repeat(63), &"0".repeat(65), &"A".repeat(64), &"g".repeat(64), &"ä".repeat(32)] {
            assert!(bad.parse::<AuditHash>().is_err(), "{bad}");
        }
    }
}
