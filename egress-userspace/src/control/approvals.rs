//! Approvals on the control socket: `approvals`, `approvals/events`, `approvals/{id}/…`.

use serde::{Deserialize, Serialize};

use crate::domain::{ApprovalId, ApprovalRow, BottleName, UnixMillis};

/// Most rows of one [`ApprovalsReply`].
pub const APPROVAL_ROWS_MAX: u32 = 10_000;

/// Which questions to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApprovalQuery {
    /// `bottle=`: of this one only.
    pub bottle: Option<BottleName>,
    /// `last=`: the newest so many, whether they wait or not; without it those that wait.
    pub last: Option<u32>,
}

/// What is done with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApprovalAction {
    /// `approve`: the request goes.
    Approve,
    /// `deny`: it is refused.
    Deny,
    /// `forget`: a decision for good is taken back.
    Forget,
}

/// `GET /v1/approvals?bottle=&last=`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalsReply {
    /// Oldest first.
    pub approvals: Vec<ApprovalRow>,
    /// The daemon's time, for ages and what is left.
    pub now: UnixMillis,
}

/// `POST /v1/approvals/{id}/approve` and `/deny`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecideRequest {
    /// The same value of the same bottle to the same host, at any time.
    pub always: bool,
}

/// `POST /v1/approvals/{id}/approve` and `/deny`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecideReply {
    /// As it is now.
    pub approval: ApprovalRow,
    /// Others that waited with the same value, and were settled with it.
    pub also: Vec<ApprovalId>,
}

/// `POST /v1/approvals/{id}/forget` and `/v1/bottles/{name}/forget`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetReply {
    /// What was taken back.
    pub forgotten: Vec<ApprovalRow>,
}

/// `GET /v1/approvals/events?bottle=`: first what waits, then each question as it is asked and settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ApprovalEvent {
    /// Everything that waits. Whatever else a front-end shows as waiting is settled.
    Waiting {
        /// Oldest first.
        approvals: Vec<ApprovalRow>,
    },
    /// A question was asked or settled: this is how it stands.
    Changed {
        /// Which.
        approval: ApprovalRow,
    },
}
