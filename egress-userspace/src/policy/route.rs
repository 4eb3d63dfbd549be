//! The table of allowed destinations.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::domain::{Api, Host, HostPattern, Provider, ProviderName, StreamUsage};

use super::provider::{MeteredHost, table};

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
    /// Of two that name the same host, the first decides.
    routes: Vec<Route>,
}

impl Routes {
    /// The hosts that an operator names (`providers:`) and the built-in ones; `fixed` (`upstream.resolve`) says which of
    /// them are reached at an address of the operator's choice. Hosts that anyone can rent are routes only where one of the
    /// two names them. An address for a host that is nobody's leads nowhere.
    #[must_use]
    pub fn new(named: &[Provider], fixed: &[(Host, SocketAddr)]) -> Self {
        let rows = table(named);
        let route = |row: &MeteredHost, host, resolve| Route {
            host,
            provider: row.provider.clone(),
            api: row.api,
            stream_usage: row.stream_usage,
            resolve,
        };
        let at_addresses = fixed.iter().filter_map(|(host, address)| {
            let row = rows.iter().find(|row| row.host.matches(host))?;
            Some(route(row, host.clone().into(), Resolve::Fixed(*address)))
        });
        let public = rows.iter().filter(|row| !row.is_rented).map(|row| route(row, row.host.clone(), Resolve::Public));
        Self { routes: at_addresses.chain(public).collect() }
    }

    /// The same for an operator who names no provider.
    #[must_use]
    pub fn built_in(fixed: &[(Host, SocketAddr)]) -> Self {
        Self::new(&[], fixed)
    }

    /// The route for a host, or `None` when it is not allowed.
    #[must_use]
    pub fn find(&self, host: &Host) -> Option<&Route> {
        self.routes.iter().find(|route| route.host.matches(host))
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
    fn named(name: &str, hosts: &[(&str, Api)]) -> Provider {
        let hosts = hosts.iter().map(|(host, api)| (host.parse().unwrap(), *api)).collect();
        Provider { name: name.parse().unwrap(), hosts, stream_usage: None }
    }

    #[test]
    fn the_narrowest_row_decides_and_the_operators_before_a_built_in_one() {
        let routes = Routes::new(
            &[
                named("local", &[("*.corp.example", Api::OpenAiCompatible), ("ollama.corp.example", Api::Ollama)]),
                named("team-b", &[("b-*.corp.example", Api::OpenAiCompatible), ("api.openai.com", Api::OpenAi)]),
                named("wide", &[("*.x.ai", Api::OpenAiCompatible), ("*.*.azure.com", Api::Azure)]),
            ],
            &[(host("mine.openai.azure.com"), SocketAddr::from(([10, 0, 0, 1], 443)))],
        );
        let check = |name: &str, expected: Option<(&str, Api)>| {
            let route = routes.find(&host(name));
            assert_eq!(route.map(|route| (route.provider.as_str(), route.api)), expected, "{name}");
        };
        check("vllm.corp.example", Some(("local", Api::OpenAiCompatible)));
        check("ollama.corp.example", Some(("local", Api::Ollama)));
        check("b-1.corp.example", Some(("team-b", Api::OpenAiCompatible)));
        check("a.b.corp.example", None);
        check("api.openai.com", Some(("team-b", Api::OpenAi)));
        check("us.api.openai.com", Some(("codex", Api::OpenAi)));
        check("api.x.ai", Some(("xai", Api::OpenAiCompatible)));
        check("docs.x.ai", Some(("wide", Api::OpenAiCompatible)));
        check("yours.openai.azure.com", Some(("wide", Api::Azure)));
        check("mine.openai.azure.com", Some(("wide", Api::Azure)));
    }

    #[test]
    fn a_rented_host_is_a_route_once_it_is_named_and_an_address_goes_with_its_name() {
        let (ours, alone) = (host("ours.openai.azure.com"), host("vllm.corp.example"));
        let fixed = SocketAddr::from(([10, 0, 0, 1], 8443));
        let azure = named("azure", &[("ours.openai.azure.com", Api::Azure)]);
        let routes =
            Routes::new(&[azure, named("local", &[("*.corp.example", Api::Ollama)])], &[(alone.clone(), fixed)]);
        let resolved = |name: &Host| routes.find(name).map(|route| route.resolve.clone());
        assert_eq!(resolved(&ours), Some(Resolve::Public));
        assert_eq!(resolved(&host("theirs.openai.azure.com")), None);
        assert_eq!(resolved(&alone), Some(Resolve::Fixed(fixed)));
        assert_eq!(resolved(&host("other.corp.example")), Some(Resolve::Public));
    }

    #[test]
    fn what_a_host_does_about_the_usage_of_streams_can_be_said() {
        let told =
            |name: &str, stream_usage| Provider { stream_usage, ..named(name, &[("s.example.com", Api::Ollama)]) };
        let check = |provider: Provider, name: &str, expected| {
            let routes = Routes::new(&[provider], &[]);
            assert_eq!(routes.find(&host(name)).map(|route| route.stream_usage), Some(expected), "{name}");
        };
        check(told("local", None), "s.example.com", StreamUsage::OnRequest);
        check(told("local", Some(StreamUsage::Told)), "s.example.com", StreamUsage::Told);
        check(told("xai", Some(StreamUsage::Told)), "api.x.ai", StreamUsage::Told);
        check(told("groq", Some(StreamUsage::OnRequest)), "api.groq.com", StreamUsage::OnRequest);
        let moved = named("mine", &[("api.groq.com", Api::OpenAiCompatible), ("*.groq.com", Api::OpenAiCompatible)]);
        check(moved.clone(), "api.groq.com", StreamUsage::Told);
        check(moved, "eu.groq.com", StreamUsage::OnRequest);
    }
}
