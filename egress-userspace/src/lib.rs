//! Everything behind the `egress` binary. The order below is the order of imports: a module sees only those above it.

pub mod domain;

pub mod fault;
mod signals;

pub mod budget;
pub mod meter;
pub mod policy;
pub mod settings;

pub mod ledger;

pub mod bottle;
pub mod kernel;

pub mod metrics;

pub mod broker;
pub mod control;
pub mod proxy;

pub mod doctor;

pub mod daemon;

pub mod cli;
pub mod tui;

/// Names the environment variable that says what is logged.
pub const LOG_VARIABLE: &str = "EGRESS_LOG";
