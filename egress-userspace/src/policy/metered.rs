//! The table of metered hosts, as it is in force on this host.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::domain::{Host, Provider};

use super::provider::{MeteredHost, table};

/// Hosts whose responses carry token usage, and the addresses that an operator says names have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeteredTable {
    /// Of two that name the same host, the first decides.
    rows: Vec<MeteredHost>,
    fixed: Vec<(Host, SocketAddr)>,
}

impl MeteredTable {
    /// The hosts that an operator names (`providers:`) and the built-in ones; `fixed` (`upstream.resolve`) says which hosts,
    /// metered or not, are reached at an address of the operator's choice. Hosts that anyone can rent are metered hosts only
    /// where one of the two names them.
    #[must_use]
    pub fn new(named: &[Provider], fixed: &[(Host, SocketAddr)]) -> Self {
        Self { rows: table(named), fixed: fixed.to_vec() }
    }

    /// The same for an operator who names no provider.
    #[must_use]
    pub fn built_in(fixed: &[(Host, SocketAddr)]) -> Self {
        Self::new(&[], fixed)
    }

    /// The row of a host, or `None` when it is not metered.
    #[must_use]
    pub fn find(&self, host: &Host) -> Option<&MeteredHost> {
        let is_named = self.address(host).is_some();
        self.rows.iter().find(|row| row.host.matches(host) && (is_named || !row.is_rented))
    }

    /// Every row that is about a host of this table.
    pub(super) fn rows(&self) -> impl Iterator<Item = &MeteredHost> {
        let is_named = |row: &MeteredHost| self.fixed.iter().any(|(host, _)| row.host.matches(host));
        self.rows.iter().filter(move |row| !row.is_rented || is_named(row))
    }

    /// Where a name leads instead of to where its resolver says, private or not.
    #[must_use]
    pub fn address(&self, host: &Host) -> Option<SocketAddr> {
        self.fixed.iter().find(|(name, _)| name == host).map(|(_, address)| *address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Api, StreamUsage};

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_not_listed_is_not_allowed() {
        let anthropic = host("api.anthropic.com");
        let fixed = SocketAddr::from(([127, 0, 0, 1], 9443));
        let table = MeteredTable::built_in(&[(anthropic.clone(), fixed)]);
        assert!(table.find(&anthropic).is_some());
        assert_eq!((table.address(&anthropic), table.address(&host("api.openai.com"))), (Some(fixed), None));
        for other in ["example.com", "x.api.anthropic.com", "openai.azure.com", "a.b.openai.azure.com", "amazonaws.com"]
        {
            assert_eq!(table.find(&host(other)), None, "{other}");
        }
    }

    #[test]
    fn a_host_of_a_pattern_may_have_an_address_of_its_own() {
        let (ours, theirs) = (host("ours.openai.azure.com"), host("theirs.openai.azure.com"));
        let fixed = SocketAddr::from(([10, 0, 0, 1], 443));
        let table = MeteredTable::built_in(&[(ours.clone(), fixed), (host("example.com"), fixed)]);
        let found = |name| table.find(name).map(|row| (row.api, row.provider.as_str(), table.address(name)));
        assert_eq!(found(&ours), Some((Api::Azure, "azure", Some(fixed))));
        assert_eq!(found(&theirs), None, "anyone can rent one");
        assert_eq!(found(&host("example.com")), None);
    }

    #[test]
    fn the_same_path_is_told_apart_by_its_host() {
        let table = MeteredTable::built_in(&[]);
        let api = |name: &str| table.find(&host(name)).map(|row| row.api);
        assert_eq!(api("api.openai.com"), Some(Api::OpenAi));
        assert_eq!(api("api.mistral.ai"), Some(Api::OpenAiCompatible));
        assert_eq!(api("bedrock-runtime.eu-central-1.amazonaws.com"), Some(Api::Bedrock));
        assert_eq!(api("europe-west1-aiplatform.googleapis.com"), Some(Api::Vertex));
        assert_eq!(api("generativelanguage.googleapis.com"), Some(Api::Gemini));
    }
    #[test]
    fn some_hosts_tell_the_usage_of_a_stream_unasked() {
        let table = MeteredTable::built_in(&[]);
        let told = |name: &str| table.find(&host(name)).map(|row| row.stream_usage);
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
        let table = MeteredTable::new(
            &[
                named("local", &[("*.corp.example", Api::OpenAiCompatible), ("ollama.corp.example", Api::Ollama)]),
                named("team-b", &[("b-*.corp.example", Api::OpenAiCompatible), ("api.openai.com", Api::OpenAi)]),
                named("wide", &[("*.x.ai", Api::OpenAiCompatible), ("*.*.azure.com", Api::Azure)]),
            ],
            &[(host("mine.openai.azure.com"), SocketAddr::from(([10, 0, 0, 1], 443)))],
        );
        let check = |name: &str, expected: Option<(&str, Api)>| {
            let row = table.find(&host(name));
            assert_eq!(row.map(|row| (row.provider.as_str(), row.api)), expected, "{name}");
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
        let table =
            MeteredTable::new(&[azure, named("local", &[("*.corp.example", Api::Ollama)])], &[(alone.clone(), fixed)]);
        let resolved = |name: &Host| table.find(name).map(|_| table.address(name));
        assert_eq!(resolved(&ours), Some(None));
        assert_eq!(resolved(&host("theirs.openai.azure.com")), None);
        assert_eq!(resolved(&alone), Some(Some(fixed)));
        assert_eq!(resolved(&host("other.corp.example")), Some(None));
    }

    #[test]
    fn what_a_host_does_about_the_usage_of_streams_can_be_said() {
        let told =
            |name: &str, stream_usage| Provider { stream_usage, ..named(name, &[("s.example.com", Api::Ollama)]) };
        let check = |provider: Provider, name: &str, expected| {
            let table = MeteredTable::new(&[provider], &[]);
            assert_eq!(table.find(&host(name)).map(|row| row.stream_usage), Some(expected), "{name}");
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
