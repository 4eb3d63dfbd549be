//! What an operator says of a provider.

use super::{Api, HostPattern, ProviderName, StreamUsage};

/// One entry of `providers:` in settings.yml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// The key its budgets are counted by; a built-in one's, or a new one.
    pub name: ProviderName,
    /// Hosts that count for it, and what they speak.
    pub hosts: Vec<(HostPattern, Api)>,
    /// What all its hosts do about the usage of streamed chats, the built-in ones too; as each is known when it says nothing.
    pub stream_usage: Option<StreamUsage>,
}
