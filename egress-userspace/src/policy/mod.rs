//! Routes → what may this request do.
//!
//! Pure: names and tables in, decisions out. Whether an address may be dialled is decided here too.

mod address;
mod provider;
mod route;

pub use address::is_public;
pub use provider::{MeteredHost, metered_hosts};
pub use route::{Resolve, Route, Routes};

/// The name under which the proxy itself answers. No route has it.
pub const OWN_NAME: &str = "_egress.local";
