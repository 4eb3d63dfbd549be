//! Which hosts carry token usage, whose, and in which API.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::domain::{Api, HostPattern, Provider, ProviderName, StreamUsage};

/// Hosts whose responses carry token usage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeteredHost {
    /// Their names.
    pub host: HostPattern,
    /// The key their usage is counted by.
    pub provider: ProviderName,
    /// What they speak.
    pub api: Api,
    /// Whether their streamed chat completions tell what they used.
    pub stream_usage: StreamUsage,
    /// Anyone can have a host of these names: one is a route only once an operator has named it.
    pub is_rented: bool,
}

/// Host, provider and API; a host stands here once the meter reads its dialects.
///
/// The provider is whom the destination belongs to and who writes the bill, not whose model answers: Claude on Bedrock counts
/// for `bedrock`, on Google Cloud's Vertex for `vertex`. Anthropic's own platform on others' clouds stays `claude`.
const METERED_HOSTS: [(&str, &str, Api); 25] = [
    ("api.anthropic.com", "claude", Api::Anthropic),
    ("aws-external-anthropic.*.api.aws", "claude", Api::Anthropic),
    ("claude.googleapis.com", "claude", Api::Anthropic),
    ("api.openai.com", "codex", Api::OpenAi),
    ("us.api.openai.com", "codex", Api::OpenAi),
    ("eu.api.openai.com", "codex", Api::OpenAi),
    ("chatgpt.com", "codex", Api::ChatGpt),
    ("generativelanguage.googleapis.com", "gemini", Api::Gemini),
    ("cloudcode-pa.googleapis.com", "gemini", Api::CodeAssist),
    ("aiplatform.googleapis.com", "vertex", Api::Vertex),
    ("*-aiplatform.googleapis.com", "vertex", Api::Vertex),
    ("aiplatform.us.rep.googleapis.com", "vertex", Api::Vertex),
    ("aiplatform.eu.rep.googleapis.com", "vertex", Api::Vertex),
    ("bedrock-runtime.*.amazonaws.com", "bedrock", Api::Bedrock),
    ("bedrock-runtime-fips.*.amazonaws.com", "bedrock", Api::Bedrock),
    ("bedrock-runtime.*.amazonaws.com.cn", "bedrock", Api::Bedrock),
    ("bedrock-runtime.*.api.aws", "bedrock", Api::Bedrock),
    ("bedrock-mantle.*.api.aws", "bedrock", Api::Bedrock),
    ("openrouter.ai", "openrouter", Api::OpenRouter),
    ("api.mistral.ai", "mistral", Api::OpenAiCompatible),
    ("codestral.mistral.ai", "mistral", Api::OpenAiCompatible),
    ("api.groq.com", "groq", Api::OpenAiCompatible),
    ("api.x.ai", "xai", Api::OpenAiCompatible),
    ("*.api.x.ai", "xai", Api::OpenAiCompatible),
    ("api.deepseek.com", "deepseek", Api::OpenAiCompatible),
];

/// The same for hosts that a provider rents out by name: what is sent to one goes to whoever has rented it.
const RENTED_HOSTS: [(&str, &str, Api); 3] = [
    ("*.openai.azure.com", "azure", Api::Azure),
    ("*.cognitiveservices.azure.com", "azure", Api::Azure),
    ("*.services.ai.azure.com", "azure", Api::Azure),
];

/// Hosts that tell the usage of every streamed chat completion, unlike others of their API.
const TOLD_HOSTS: [&str; 3] = ["api.mistral.ai", "codestral.mistral.ai", "api.groq.com"];

/// The built-in table.
#[must_use]
pub fn metered_hosts() -> Vec<MeteredHost> {
    let row = |(host, provider, api): &(&str, &str, Api), is_rented| {
        let stream_usage = if TOLD_HOSTS.contains(host) { StreamUsage::Told } else { api.stream_usage() };
        let (host, provider) = (host.parse().ok()?, provider.parse().ok()?);
        Some(MeteredHost { host, provider, api: *api, stream_usage, is_rented })
    };
    let own = METERED_HOSTS.iter().filter_map(|own| row(own, false));
    own.chain(RENTED_HOSTS.iter().filter_map(|rented| row(rented, true))).collect()
}

/// The table in force: what an operator names and what is built in, the row that decides before any other that names the
/// same host. A host name outranks a pattern, a longer pattern a shorter one, and the operator's row a built-in one that is
/// as narrow.
pub(super) fn table(named: &[Provider]) -> Vec<MeteredHost> {
    let built_in = metered_hosts();
    let operators = named.iter().flat_map(|provider| {
        let row = |(host, api): &(HostPattern, Api)| MeteredHost {
            host: host.clone(),
            provider: provider.name.clone(),
            api: *api,
            stream_usage: provider.stream_usage.unwrap_or_else(|| usual_stream_usage(&built_in, host, *api)),
            is_rented: false,
        };
        provider.hosts.iter().map(row)
    });
    let kept = built_in.iter().map(|row| {
        let provider = named.iter().find(|provider| provider.name == row.provider);
        let stream_usage = provider.and_then(|provider| provider.stream_usage).unwrap_or(row.stream_usage);
        MeteredHost { stream_usage, ..row.clone() }
    });
    let mut table: Vec<MeteredHost> = operators.chain(kept).collect();
    // Rented hosts are nobody's until they are named, so any row that names them comes first.
    table.sort_by_key(|row| (row.is_rented, Reverse(row.host.narrowness())));
    table
}

/// As the built-in table knows the host, whoever it counts for; else as its API does.
fn usual_stream_usage(built_in: &[MeteredHost], host: &HostPattern, api: Api) -> StreamUsage {
    let name = host.as_str().parse().ok();
    let is_known = |row: &&MeteredHost| row.host == *host || name.as_ref().is_some_and(|name| row.host.matches(name));
    let known = built_in.iter().filter(|row| row.api == api).find(is_known);
    known.map_or_else(|| api.stream_usage(), |row| row.stream_usage)
}

#[cfg(test)]
mod tests {
    use crate::domain::Host;

    use super::*;

    #[test]
    fn every_row_of_the_table_is_well_formed() {
        assert_eq!(metered_hosts().len(), METERED_HOSTS.len() + RENTED_HOSTS.len());
    }

    #[test]
    fn no_host_is_named_twice() {
        for (host, ..) in METERED_HOSTS.into_iter().chain(RENTED_HOSTS) {
            let host: Host = host.replace('*', "some-1").parse().unwrap();
            let rows = metered_hosts().into_iter().filter(|row| row.host.matches(&host)).count();
            assert_eq!(rows, 1, "{host}");
        }
    }
}
