//! settings.yml as text → [`Settings`]. Keys, units and defaults are here; how YAML is written is `yaml`'s.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{Problem, SettingsError};
use super::providers::providers;
use super::yaml::{self, Misplaced, Node, Place, Text};
use super::{BuiltIn, Settings};
use crate::domain::{CutoffPolicy, Host, Preflight, ProviderName, Tokens};

const KEYS: &[&str] = &["budget", "preflight", "shutdown", "drain", "last_word", "providers", "upstream"];
const UPSTREAM_KEYS: &[&str] = &["ca", "idle", "resolve"];
/// Longest `drain` and `last_word`: a used-up budget is enforced by the kernel after that at the latest.
const DURATION_SECONDS_MAX: u64 = 600;
/// Shortest `idle`: models think for seconds between two words.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// Most edits between a key and the one it is taken for.
const TYPOS_MAX: usize = 2;

/// Reads the text of the settings file called `file`. An empty one says nothing: everything is as by default.
///
/// # Errors
/// The first thing that is not understood, with its place.
pub fn parse(text: &str, file: &Path, built_in: &BuiltIn) -> Result<Settings, SettingsError> {
    settings(text, built_in).map_err(|(Place { line, column }, problem)| SettingsError {
        file: file.to_owned(),
        line,
        column,
        problem,
    })
}

fn settings(text: &str, built_in: &BuiltIn) -> Result<Settings, Misplaced> {
    let mut settings = Settings::default();
    let mut resolved = Vec::new();
    for (key, value) in entries(yaml::read(text)?)? {
        match key.text.as_str() {
            "budget" => settings.budget = budget(value)?,
            "preflight" => settings.preflight = read(&key, value, preflight)?,
            "shutdown" => settings.shutdown = read(&key, value, shutdown)?,
            "drain" => settings.drain = read(&key, value, duration)?,
            "last_word" => settings.last_word = read(&key, value, duration)?,
            "providers" => settings.providers = providers(value, built_in)?,
            "upstream" => resolved = upstream(value, &mut settings)?,
            _ => return Err(unknown(key, KEYS)),
        }
    }
    // Only here are all hosts known, wherever `providers` stands.
    let named = settings.providers.iter().flat_map(|provider| &provider.hosts).map(|(host, _)| host);
    let known: Vec<_> = built_in.iter().map(|(host, _)| host).chain(named).collect();
    for Resolved { host, place, .. } in &resolved {
        if !known.iter().any(|pattern| pattern.matches(host)) {
            return Err((*place, Problem::NobodysHost(host.clone())));
        }
    }
    settings.upstream_resolve = resolved.into_iter().map(|Resolved { host, address, .. }| (host, address)).collect();
    Ok(settings)
}

/// An entry of `upstream.resolve`.
struct Resolved {
    host: Host,
    place: Place,
    address: SocketAddr,
}

fn upstream(node: Node, settings: &mut Settings) -> Result<Vec<Resolved>, Misplaced> {
    let mut resolved = Vec::new();
    for (key, value) in entries(node)? {
        match key.text.as_str() {
            "ca" => settings.upstream_ca = Some(read(&key, value, path)?),
            "idle" => settings.upstream_idle = read(&key, value, idle)?,
            "resolve" => resolved = resolve(value)?,
            _ => return Err(unknown(key, UPSTREAM_KEYS)),
        }
    }
    Ok(resolved)
}

fn budget(node: Node) -> Result<Vec<(ProviderName, Tokens)>, Misplaced> {
    let amount = |(key, value): (Text, Node)| {
        let provider = key.text.parse().map_err(|error| (key.place, Problem::Name(error)))?;
        Ok((provider, read(&key, value, tokens)?))
    };
    entries(node)?.into_iter().map(amount).collect()
}

fn resolve(node: Node) -> Result<Vec<Resolved>, Misplaced> {
    let mut resolved: Vec<Resolved> = Vec::new();
    for (key, value) in entries(node)? {
        let host: Host = key.text.parse().map_err(|error| (key.place, Problem::Host(error)))?;
        // Host names are the same in upper and lower case, with and without a final dot; keys are not.
        if let Some(before) = resolved.iter().find(|before| before.host == host) {
            let problem = Problem::DuplicateKey { key: key.text, first_line: before.place.line };
            return Err((key.place, problem));
        }
        resolved.push(Resolved { host, place: key.place, address: read(&key, value, address)? });
    }
    Ok(resolved)
}

fn tokens(text: &str) -> Result<Tokens, Problem> {
    if text.contains('/') {
        return Err(Problem::Window(text.to_owned()));
    }
    Ok(text.parse()?)
}

fn preflight(text: &str) -> Result<Preflight, Problem> {
    match text {
        "estimate" => Ok(Preflight::Estimate),
        "exact" => Ok(Preflight::Exact),
        "off" => Ok(Preflight::Off),
        "strict" => Err(Problem::PreflightNotSupported(text.to_owned())),
        _ => Err(Problem::Preflight(text.to_owned())),
    }
}

fn shutdown(text: &str) -> Result<CutoffPolicy, Problem> {
    Ok(text.parse()?)
}

fn duration(text: &str) -> Result<Duration, Problem> {
    let shape = || Problem::Duration(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let digits = text.trim_end_matches(|character: char| character.is_ascii_lowercase());
    let milliseconds_per_unit: u64 = match text.strip_prefix(digits) {
        Some("ms") => 1,
        Some("s") => 1_000,
        Some("m") => 60_000,
        _ => return Err(shape()),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(shape());
    }
    let number = digits.parse::<u64>().unwrap_or(u64::MAX);
    let duration = Duration::from_millis(number.saturating_mul(milliseconds_per_unit));
    if duration > Duration::from_secs(DURATION_SECONDS_MAX) {
        return Err(Problem::DurationTooLong { text: text.to_owned(), max_seconds: DURATION_SECONDS_MAX });
    }
    Ok(duration)
}

fn idle(text: &str) -> Result<Duration, Problem> {
    let idle = duration(text)?;
    if idle < IDLE_MIN { Err(Problem::IdleTooShort(text.to_owned())) } else { Ok(idle) }
}

fn path(text: &str) -> Result<PathBuf, Problem> {
    if text.is_empty() { Err(Problem::NotAValue("ca".to_owned())) } else { Ok(text.into()) }
}

fn address(text: &str) -> Result<SocketAddr, Problem> {
    let address = text.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
    address.ok_or_else(|| Problem::Address(text.to_owned()))
}

/// The lines of a section; none when it is empty.
pub(super) fn entries(node: Node) -> Result<Vec<(Text, Node)>, Misplaced> {
    match node {
        Node::Nothing(_) => Ok(Vec::new()),
        Node::Mapping(entries, _) => Ok(entries),
        Node::Scalar(text) => Err((text.place, Problem::NotAMapping)),
    }
}

/// The value of a key, whose problems are at the value.
pub(super) fn read<T>(key: &Text, value: Node, value_of: fn(&str) -> Result<T, Problem>) -> Result<T, Misplaced> {
    match value {
        Node::Scalar(text) => value_of(&text.text).map_err(|problem| (text.place, problem)),
        Node::Nothing(_) | Node::Mapping(..) => Err((value.place(), Problem::NotAValue(key.text.clone()))),
    }
}

pub(super) fn unknown(key: Text, known: &'static [&'static str]) -> Misplaced {
    (key.place, Problem::UnknownKey { suggestion: nearest(&key.text, known), known, key: key.text })
}

/// The word that may have been meant.
pub(super) fn nearest(text: &str, known: &[&'static str]) -> Option<&'static str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(text, candidate);
    let nearest = known.iter().copied().min_by_key(|candidate| distance(candidate));
    // Two edits turn any two letters into any others: that is no likeness.
    let is_near = |candidate: &&str| distance(candidate) <= TYPOS_MAX && distance(candidate) < candidate.len();
    nearest.filter(is_near)
}
