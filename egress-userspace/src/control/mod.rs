//! The control API between front-ends and controller: HTTP/1.1 and JSON over a Unix socket, server-sent events for
//! whatever goes on. Messages, client and server ends; what the controller does with a message is the daemon's business.

mod message;

pub use message::{
    ApiError, AuditReply, BottleInfo, BottlesReply, ErrorCode, GateReply, PROTOCOL, RunEvent, RunRequest,
    SignalRequest, StatusReply, UsageReply,
};
