//! settings.yml and routes.yaml → typed values, with errors that name file, line and column.
//!
//! Pure: text in, values out; the daemon reads the file. Consumed at start, not carried around.

mod error;
pub mod keys;
mod parse;
mod providers;
mod routes;
mod spending;
mod yaml;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::domain::{CutMode, Durability, EnforcerChoice, Host, HostPattern, Provider, ProviderName, Rules};

pub use error::{Problem, SettingsError};
pub use parse::parse;
pub use routes::parse_routes;

/// The hosts and providers that need no settings.
pub type BuiltIn = [(HostPattern, ProviderName)];

/// Everything settings.yml says, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who may spend what.
    pub rules: Rules,
    /// `durability:` how sure what is recorded is.
    pub durability: Durability,
    /// `enforcer:` what makes gates; read when the daemon starts.
    pub enforcer: EnforcerChoice,
    /// `cut_mode:` what a cut bottle hears of it.
    pub cut_mode: CutMode,
    /// `metrics:` the loopback address and port that they are to be had from besides the control socket.
    pub metrics: Option<SocketAddr>,
    /// `drain:` how long the response that crosses may take to reach the client.
    pub drain: Duration,
    /// `last_word:` how long a bottle may take to hear why it is cut.
    pub last_word: Duration,
    /// `providers:` whose hosts are whose, beside the built-in table.
    pub providers: Vec<Provider>,
    /// `upstream.ca:` extra roots, relative to the settings file.
    pub upstream_ca: Option<PathBuf>,
    /// `upstream.idle:` longest silence of a provider inside a response.
    pub upstream_idle: Duration,
    /// `upstream.resolve:` where these hosts are instead.
    pub upstream_resolve: Vec<(Host, SocketAddr)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            durability: Durability::default(),
            enforcer: EnforcerChoice::default(),
            cut_mode: CutMode::default(),
            metrics: None,
            drain: Duration::from_secs(1),
            last_word: Duration::from_secs(2),
            providers: Vec::new(),
            upstream_ca: None,
            // What the SDKs of most providers wait at least.
            upstream_idle: Duration::from_secs(300),
            upstream_resolve: Vec::new(),
        }
    }
}
