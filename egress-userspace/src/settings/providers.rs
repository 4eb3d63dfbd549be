//! `providers:` — which hosts count for whom, and what they speak.

use std::collections::BTreeMap;

use super::BuiltIn;
use super::error::Problem;
use super::keys::PROVIDER;
use super::parse::{entries, known, nearest, preflight, read, unknown};
use super::yaml::{Misplaced, Node, Text};
use crate::domain::{Api, HostPattern, Preflight, Provider, ProviderName, StreamUsage};

/// The section: whose hosts are whose, and how their requests are looked at when other than as usual.
type Providers = (Vec<Provider>, BTreeMap<ProviderName, Preflight>);

/// Reads the section. A host is named once in all of it.
pub(super) fn providers(node: Node, built_in: &BuiltIn) -> Result<Providers, Misplaced> {
    let mut providers = Vec::new();
    let mut preflights = BTreeMap::new();
    let mut lines = Vec::new();
    for (key, value) in entries(node)? {
        let name: ProviderName = key.text.parse().map_err(|error| (key.place, Problem::Name(error)))?;
        let mut provider = Provider { name, hosts: Vec::new(), stream_usage: None };
        for (key, value) in known(value, &PROVIDER)? {
            match key.text.as_str() {
                "hosts" => provider.hosts = hosts(value, &mut lines)?,
                "stream_usage" => provider.stream_usage = Some(read(&key, value, stream_usage)?),
                "preflight" => {
                    preflights.insert(provider.name.clone(), read(&key, value, preflight)?);
                }
                _ => return Err(unknown(key, &PROVIDER)),
            }
        }
        if provider.hosts.is_empty() && !built_in.iter().any(|(_, name)| *name == provider.name) {
            return Err((key.place, Problem::NoHosts(provider.name)));
        }
        providers.push(provider);
    }
    Ok((providers, preflights))
}

/// `lines` are where hosts were named before.
fn hosts(node: Node, lines: &mut Vec<(HostPattern, usize)>) -> Result<Vec<(HostPattern, Api)>, Misplaced> {
    let mut hosts = Vec::new();
    for (key, value) in entries(node)? {
        let host = pattern(&key)?;
        if let Some((_, first_line)) = lines.iter().find(|(other, _)| *other == host) {
            return Err((key.place, Problem::DuplicateKey { key: key.text, first_line: *first_line }));
        }
        lines.push((host.clone(), key.place.line));
        hosts.push((host, read(&key, value, api)?));
    }
    Ok(hosts)
}

fn pattern(key: &Text) -> Result<HostPattern, Misplaced> {
    key.text.parse().map_err(|error| (key.place, Problem::Pattern(error)))
}

fn api(text: &str) -> Result<Api, Problem> {
    let found = Api::ALL.into_iter().find(|api| api.as_str() == text);
    let suggestion = || nearest(text, Api::ALL.iter().map(|api| api.as_str()));
    found.ok_or_else(|| Problem::Api { text: text.to_owned(), suggestion: suggestion() })
}

fn stream_usage(text: &str) -> Result<StreamUsage, Problem> {
    match text {
        "told" => Ok(StreamUsage::Told),
        "on_request" => Ok(StreamUsage::OnRequest),
        _ => Err(Problem::StreamUsage(text.to_owned())),
    }
}
