//! What an operator is asked before something goes out, and what becomes of the question.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::hash::{self, HASH_BYTES};
use super::{BottleId, BottleName, Host, UnixMillis};

/// The ledger's number of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ApprovalId(pub i64);

impl std::fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A word that is no number of a question.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not the number of an approval: `egress approvals list` shows them")]
pub struct ApprovalIdError(String);

impl std::str::FromStr for ApprovalId {
    type Err = ApprovalIdError;
    fn from_str(text: &str) -> Result<Self, ApprovalIdError> {
        text.parse().ok().filter(|id| *id > 0).map(Self).ok_or_else(|| ApprovalIdError(text.to_owned()))
    }
}

/// What tells one value that a detector found from another, and says nothing of it to whoever lacks this host's key: an
/// HMAC-SHA-256 of detector and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; HASH_BYTES]);

/// Why a text is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a fingerprint has 64 digits, each 0-9 or a-f")]
pub struct FingerprintError;

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        hash::write(&self.0, f)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;
    fn try_from(text: String) -> Result<Self, FingerprintError> {
        hash::read(&text).map(Self).ok_or(FingerprintError)
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

/// May this go out? Holds nothing of what was found but its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Whose request it is.
    pub bottle: BottleId,
    /// What found something in it.
    pub detector: String,
    /// Where it is to go.
    pub host: Host,
    /// Method and path, without query and without what was found.
    pub target: String,
    /// Of what was found.
    pub fingerprint: Fingerprint,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// An operator lets it pass.
    Approved,
    /// An operator does not.
    Denied,
    /// Nobody answered in time.
    Expired,
    /// The request that asked was gone first.
    Abandoned,
}

impl Verdict {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Approved, Self::Denied, Self::Expired, Self::Abandoned];

    /// As it stands in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Abandoned => "abandoned",
        }
    }
}

/// What whoever holds a request is told. Nothing but an approval lets it go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Supervised {
    /// An operator lets this request pass, or this value at any time.
    Approved,
    /// An operator does not.
    Denied,
    /// Nobody answered in time.
    Expired,
    /// So much is being asked for this bottle, or was just before, that nobody was asked.
    TooMany,
    /// Nobody could be asked: there is no controller, or it cannot keep a record.
    Unavailable,
}

impl From<Verdict> for Supervised {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Approved => Self::Approved,
            Verdict::Denied => Self::Denied,
            Verdict::Expired => Self::Expired,
            Verdict::Abandoned => Self::Unavailable,
        }
    }
}

/// How much one bottle may ask: an agent could otherwise bury its operator, and fill the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApprovalLimits {
    /// Questions that wait at once.
    pub open_max: u32,
    /// Questions in the last minute.
    pub asked_per_minute_max: u32,
}

/// What is done with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApprovalPath {
    /// An operator has said so for good.
    Remembered(Verdict),
    /// Nobody is asked.
    TooMany,
    /// An operator is asked.
    Ask,
}

/// Which way a question takes, given what is remembered of the same value, and how many the bottle has asked.
#[must_use]
pub fn approval_path(
    limits: ApprovalLimits,
    remembered: Option<Verdict>,
    open: u32,
    asked_last_minute: u32,
) -> ApprovalPath {
    match remembered {
        Some(verdict @ (Verdict::Approved | Verdict::Denied)) => ApprovalPath::Remembered(verdict),
        // Only an operator decides for good.
        Some(Verdict::Expired | Verdict::Abandoned) | None => {
            let is_room = open < limits.open_max && asked_last_minute < limits.asked_per_minute_max;
            if is_room { ApprovalPath::Ask } else { ApprovalPath::TooMany }
        }
    }
}

/// A question as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRow {
    /// Its number.
    pub id: ApprovalId,
    /// Whose request.
    pub bottle: BottleName,
    /// What found something.
    pub detector: String,
    /// Where it is to go.
    pub host: Host,
    /// Method and path, without query.
    pub target: String,
    /// When it was asked.
    pub asked: UnixMillis,
    /// Until when it waits.
    pub expires: UnixMillis,
    /// When it was settled; `None` while it waits.
    pub decided: Option<UnixMillis>,
    /// As what.
    pub verdict: Option<Verdict>,
    /// The operator's user id.
    pub by: Option<u32>,
    /// It was decided for good: for this value of this bottle, to this host.
    pub is_always: bool,
    /// When that was taken back.
    pub forgotten: Option<UnixMillis>,
    /// How many requests it has answered since without anybody being asked.
    pub used: u64,
}

impl ApprovalRow {
    /// Does it answer the next request with the same value?
    #[must_use]
    pub fn is_remembered(&self) -> bool {
        self.is_always && self.forgotten.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ApprovalLimits = ApprovalLimits { open_max: 2, asked_per_minute_max: 5 };

    fn check(remembered: Option<Verdict>, (open, asked): (u32, u32), expected: ApprovalPath) {
        let found = approval_path(LIMITS, remembered, open, asked);
        assert_eq!(found, expected, "{remembered:?}, {open} open, {asked} asked");
    }

    #[test]
    fn what_was_decided_for_good_needs_no_room() {
        for verdict in [Verdict::Approved, Verdict::Denied] {
            check(Some(verdict), (0, 0), ApprovalPath::Remembered(verdict));
            check(Some(verdict), (9, 9), ApprovalPath::Remembered(verdict));
        }
        for verdict in [Verdict::Expired, Verdict::Abandoned] {
            check(Some(verdict), (0, 0), ApprovalPath::Ask);
        }
    }

    #[test]
    fn a_bottle_asks_as_much_as_its_limits_say_and_no_more() {
        check(None, (0, 0), ApprovalPath::Ask);
        check(None, (1, 4), ApprovalPath::Ask);
        check(None, (2, 2), ApprovalPath::TooMany);
        check(None, (0, 5), ApprovalPath::TooMany);
    }

    #[test]
    fn only_an_approval_lets_go() {
        for verdict in Verdict::ALL {
            assert_eq!(serde_json::to_value(verdict).unwrap(), verdict.as_str());
            assert_eq!(Supervised::from(verdict) == Supervised::Approved, verdict == Verdict::Approved);
        }
    }

    #[test]
    fn numbers_and_fingerprints_are_read_as_they_are_written() {
        assert_eq!("7".parse(), Ok(ApprovalId(7)));
        for bad in ["", "0", "-1", "x", "7x"] {
            assert!(bad.parse::<ApprovalId>().is_err(), "{bad}");
        }
        let fingerprint = Fingerprint([0xa5; HASH_BYTES]);
        assert_eq!(Fingerprint::try_from(fingerprint.to_string()), Ok(fingerprint));
        assert_eq!(Fingerprint::try_from("a5".to_owned()), Err(FingerprintError));
    }
}
