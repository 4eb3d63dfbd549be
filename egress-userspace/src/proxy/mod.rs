//! The data path: what bottles send is answered here, and nowhere else.
//!
//! ```text
//! listen ─ explicit ─ CONNECT ┐
//!        ├ tls ───────────────┴ tls ┐
//!        └ plain ───────────────────┴ exchange ─ admit ─ upstream ─ tee ─ settle
//!                                            ├ own
//!                                            └ websocket ─ admit … settle, for each response
//! dns
//! ```
//!
//! Runs as a process of its own that holds no privilege (`sandbox`); everything that needs trust is asked of the controller
//! over the broker's socket (`link`). When that socket ends, everything ends. Sees `meter`, `policy` and `broker`; never the
//! ledger, the kernel or the CA key.

mod account;
mod allowed;
mod approval;
mod count;
mod delivery;
mod dns;
mod exchange;
mod framing;
mod git;
mod headers;
mod in_flight;
mod limits;
mod link;
mod listen;
mod measures;
mod memory;
mod outgoing;
mod own;
mod process;
mod provider_notes;
mod refusal;
mod reports;
mod request_body;
mod request_log;
mod response_body;
mod room;
mod sandbox;
mod scan;
mod socket;
mod spelling;
mod splice;
mod stream_usage;
mod strict;
mod target;
mod tee;
mod tls;
mod traffic;
mod trust;
mod unknown_paths;
mod upstream;
mod view;
mod websocket;

pub use process::{Prepared, ProxyError, main};
