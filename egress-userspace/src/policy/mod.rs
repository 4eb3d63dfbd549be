//! What may this request do.
//!
//! Pure: names and tables in, decisions out. Whether an address may be dialled is decided here too.

mod address;
mod allow;
mod allowlist;
mod credential;
pub mod dlp;
/// Git over HTTPS.
pub mod git;
mod metered;
mod percent;
mod provider;

pub use address::{is_own_public, may_be_dialled};
pub use allow::{Decision, Destination, Forbidden, RouteFiles, Way};
pub use credential::{Credential, Secrets, Unsigned, credential};
pub use metered::MeteredTable;
pub use provider::{MeteredHost, metered_hosts};

/// The name under which the proxy itself answers. No route has it.
pub const OWN_NAME: &str = "_egress.local";
