//! A route as bottles and front-ends are told of it: never whence a secret comes.

use serde::{Deserialize, Serialize};

use super::{InboundOnMatch, OutboundOnMatch, ProviderName};

/// What a request presents where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteAuth {
    /// A secret of the host's.
    Injected,
    /// What the bottle presents, keys included.
    Passthrough,
    /// What the bottle presents; to a metered host, no key.
    Own,
}

/// One destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRoute {
    /// A name, or `*.` and every name below it; in the name of a metered host a `*` stands for part of a label.
    pub host: String,
    /// Whose tokens are counted there, if it is a metered host that needs no route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderName>,
    /// Where it is reached.
    pub ports: Vec<u16>,
    /// All when empty.
    pub methods: Vec<String>,
    /// All when empty.
    pub paths: Vec<String>,
    /// What is presented there.
    pub auth: RouteAuth,
    /// Whether requests are seen at all.
    pub intercept: bool,
    /// Whether git may fetch.
    pub git_fetch: bool,
    /// What git may push to.
    pub git_push: Vec<String>,
    /// What becomes of a request in which something is found.
    pub outbound_on_match: OutboundOnMatch,
    /// What becomes of a response in which something is found.
    pub inbound_on_match: InboundOnMatch,
}
