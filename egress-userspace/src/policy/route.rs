//! The table of allowed destinations.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::domain::{Api, Host, HostPattern, ProviderName, StreamUsage};

use super::provider::{MeteredHost, metered_hosts};

/// Where a host's name leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolve {
    /// Ask the system's resolver; public addresses only.
    Public,
    /// Always this address, private or not.
    Fixed(SocketAddr),
}

/// Allowed destinations of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Their names.
    pub host: HostPattern,
    /// Whose budget their responses count for.
    pub provider: ProviderName,
    /// What they speak.
    pub api: Api,
    /// Whether their streamed chat completions tell what they used, or must be asked to.
    pub stream_usage: StreamUsage,
    /// Where their names lead.
    pub resolve: Resolve,
}

/// Every allowed destination. What is not here is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    routes: Vec<Route>,
}

impl Routes {
    /// The built-in metered hosts; `fixed` says which of them are reached at an address of the operator's choice. Hosts that
    /// anyone can rent are routes only where it names them.
    #[must_use]
    pub fn built_in(fixed: &[(Host, SocketAddr)]) -> Self {
        let rows = metered_hosts();
        let route = |row: &MeteredHost, host, resolve| Route {
            host,
            provider: row.provider.clone(),
            api: row.api,
            stream_usage: row.stream_usage,
            resolve,
        };
        let own = rows.iter().filter(|row| !row.is_rented).map(|row| route(row, row.host.clone(), Resolve::Public));
        let named = fixed.iter().filter_map(|(host, address)| {
            let row = rows.iter().find(|row| row.host.matches(host))?;
            Some(route(row, host.clone().into(), Resolve::Fixed(*address)))
        });
        Self { routes: own.chain(named).collect() }
    }

    /// The route for a host, or `None` when it is not allowed. A route for this host alone outranks one for many, and of two
    /// alike the operator's, which has an address, outranks the built-in one.
    #[must_use]
    pub fn find(&self, host: &Host) -> Option<&Route> {
        let rank = |route: &&Route| (route.host.is_exact(), route.resolve != Resolve::Public);
        self.routes.iter().filter(|route| route.host.matches(host)).max_by_key(rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_not_listed_is_not_allowed() {
        let anthropic = host("api.anthropic.com");
        let fixed = SocketAddr::from(([127, 0, 0, 1], 9443));
        let routes = Routes::built_in(&[(anthropic.clone(), fixed)]);
        assert_eq!(routes.find(&anthropic).map(|route| route.resolve.clone()), Some(Resolve::Fixed(fixed)));
        for other in ["example.com", "x.api.anthropic.com", "openai.azure.com", "a.b.openai.azure.com", "amazonaws.com"]
        {
            assert_eq!(routes.find(&host(other)), None, "{other}");
        }
    }

    #[test]
    fn a_host_of_a_pattern_may_have_an_address_of_its_own() {
        let (ours, theirs) = (host("ours.openai.azure.com"), host("theirs.openai.azure.com"));
        let fixed = SocketAddr::from(([10, 0, 0, 1], 443));
        let routes = Routes::built_in(&[(ours.clone(), fixed), (host("example.com"), fixed)]);
        let found = |name| routes.find(name).map(|route| (route.api, route.provider.as_str(), route.resolve.clone()));
        assert_eq!(found(&ours), Some((Api::Azure, "azure", Resolve::Fixed(fixed))));
        assert_eq!(found(&theirs), None, "anyone can rent one");
        assert_eq!(found(&host("example.com")), None);
    }

    #[test]
    fn the_same_path_is_told_apart_by_its_host() {
        let routes = Routes::built_in(&[]);
        let api = |name: &str| routes.find(&host(name)).map(|route| route.api);
        assert_eq!(api("api.openai.com"), Some(Api::OpenAi));
        assert_eq!(api("api.mistral.ai"), Some(Api::OpenAiCompatible));
        assert_eq!(api("bedrock-runtime.eu-central-1.amazonaws.com"), Some(Api::Bedrock));
        assert_eq!(api("europe-west1-aiplatform.googleapis.com"), Some(Api::Vertex));
        assert_eq!(api("generativelanguage.googleapis.com"), Some(Api::Gemini));
    }
    #[test]
    fn some_hosts_tell_the_usage_of_a_stream_unasked() {
        let routes = Routes::built_in(&[]);
        let told = |name: &str| routes.find(&host(name)).map(|route| route.stream_usage);
        for name in ["api.mistral.ai", "codestral.mistral.ai", "api.groq.com", "openrouter.ai"] {
            assert_eq!(told(name), Some(StreamUsage::Told), "{name}");
        }
        for name in ["api.openai.com", "api.x.ai", "eu-west-1.api.x.ai", "api.deepseek.com", "api.anthropic.com"] {
            assert_eq!(told(name), Some(StreamUsage::OnRequest), "{name}");
        }
    }
}
