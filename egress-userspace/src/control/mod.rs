//! The control API between front-ends and controller: HTTP/1.1 and JSON over a Unix socket, server-sent events for
//! whatever goes on. Messages and both ends; what the controller does with a request is the daemon's business.

mod approvals;
mod client;
mod handover;
mod kernel;
mod live;
mod message;
mod peer;
mod request;
mod scrape;
mod server;
mod stopping;
mod usage;

pub use approvals::{
    APPROVAL_ROWS_MAX, ApprovalAction, ApprovalEvent, ApprovalQuery, ApprovalsReply, DecideReply, DecideRequest,
    ForgetReply,
};
pub use client::{Client, ClientError, Events, RunEvents};
pub use kernel::{GateCounter, GateProgram, GateTerms, KernelGate, KernelReply};
pub use live::{BottleRoutesReply, GateCounts, LIVE_SILENCE_MAX, LiveBottle, LiveEvent, LiveGate, LiveSnapshot};
pub use message::{
    AUDIT_ROWS_MAX, ApiError, AttachReply, AttachRequest, AuditReply, BottleInfo, BottlesReply, BudgetChangeRequest,
    BudgetsReply, CutAllReply, ErrorCode, ExplainReply, GateDifference, GateFault, GateReply, ResumeRequest, RunEvent,
    RunRequest, SignalRequest, StatusReply, StopReply, UsageReply, VerifyReply, WaitRequest,
};
pub use peer::Peer;
pub use request::{ApiRequest, AuditQuery, RowFilter};
pub use scrape::{bind_scrapes, serve_scrapes};
pub use server::{ApiReply, bind, serve};
pub use stopping::StopEvent;
pub use usage::{SumsQuery, UsageQuery, UsageRowsReply, UsageSumsReply};

pub use crate::domain::LiveRequest;

/// Version of this API, first element of every path.
const PROTOCOL: &str = "v1";

/// The socket, inside the run directory.
pub const SOCKET_NAME: &str = "control.sock";

/// The largest request body: a command line with its whole environment (`ARG_MAX` is 2 MiB) as JSON numbers.
const REQUEST_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
