//! What a front-end that shows everything as it happens is told: `GET live`, and a bottle's routes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{ApprovalRow, AuditRow, BottleName, ListedRoute, LiveRequest, PermitId, UnixMillis, UsageRow};

use super::message::{BottleInfo, StatusReply};

/// How long `GET /v1/live` says nothing when nothing happens. Who hears nothing for three times as long has lost it.
pub const LIVE_SILENCE_MAX: Duration = Duration::from_secs(5);

/// `GET /v1/live`: first how everything stands, then each change, until the connection is closed. A front-end that comes back
/// is told how everything stands again, and forgets what it knew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LiveEvent {
    /// How everything stands.
    Snapshot(Box<LiveSnapshot>),
    /// The daemon, its proxy, its settings or its gates are other than before.
    Daemon {
        /// How they are.
        status: StatusReply,
    },
    /// A bottle is new, or other than before: state, gate, budgets.
    Bottle {
        /// How it is.
        bottle: Box<LiveBottle>,
    },
    /// A bottle is not to be shown any more.
    Gone {
        /// Which.
        name: BottleName,
    },
    /// A request was admitted.
    Admitted {
        /// Which.
        request: LiveRequest,
    },
    /// A request was settled, or given up.
    Settled {
        /// Which.
        permit: PermitId,
        /// What it used.
        usage: Box<UsageRow>,
    },
    /// What gates have counted, once a second while it changes.
    Gates {
        /// By bottle; those that have not changed are left out.
        gates: Vec<LiveGate>,
    },
    /// A question for an operator was asked or settled.
    Approval {
        /// How it stands.
        approval: Box<ApprovalRow>,
    },
    /// Something was written to the audit.
    Audit {
        /// What.
        row: AuditRow,
    },
    /// Nothing has happened, and the controller answers.
    Alive,
}

/// How everything stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveSnapshot {
    /// The daemon.
    pub status: StatusReply,
    /// Those that `GET bottles` has.
    pub bottles: Vec<LiveBottle>,
    /// Requests on their way, oldest first.
    pub requests: Vec<LiveRequest>,
    /// Questions that wait for an operator, oldest first.
    pub approvals: Vec<ApprovalRow>,
    /// The newest rows of the audit, oldest first.
    pub audit: Vec<AuditRow>,
    /// The daemon's time.
    pub now: UnixMillis,
}

/// A bottle, and what passes its gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveBottle {
    /// As `egress list` has it.
    #[serde(flatten)]
    pub info: BottleInfo,
    /// What its gate has counted.
    #[serde(flatten)]
    pub counts: GateCounts,
}

/// What a gate has counted since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateCounts {
    /// Bytes that the bottle sent and that passed.
    pub passed_bytes_from_bottle: u64,
    /// Bytes that the bottle was sent and that passed.
    pub passed_bytes_to_bottle: u64,
}

/// What a bottle's gate has counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveGate {
    /// Whose.
    pub bottle: BottleName,
    /// Packets it has dropped.
    pub dropped_packets: u64,
    /// What has passed.
    #[serde(flatten)]
    pub counts: GateCounts,
}

/// `GET /v1/bottles/{name}/routes`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BottleRoutesReply {
    /// Which.
    pub bottle: BottleName,
    /// Everywhere it may go; of two that are about a request the first decides.
    pub routes: Vec<ListedRoute>,
}
