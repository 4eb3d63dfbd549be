//! settings.yml as text → [`Settings`]. Keys, units and defaults are here; how YAML is written is `yaml`'s.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{Problem, SettingsError};
use super::keys::{SETTINGS, Section, UPSTREAM};
use super::providers::providers;
use super::spending::Mentions;
use super::yaml::{self, Misplaced, Node, Place, Text};
use super::{BuiltIn, Settings};
use crate::domain::{
    CacheReads, CrossingMode, CutMode, CutoffPolicy, Durability, EnforcerChoice, Host, Precedence, Preflight,
    Thresholds,
};

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
    let mut mentions = Mentions::default();
    let rules = &mut settings.rules;
    for (key, value) in known(yaml::read(text)?, &SETTINGS)? {
        match key.text.as_str() {
            "budget" => rules.host = mentions.budget(value)?,
            "precedence" => rules.precedence = read(&key, value, precedence)?,
            "crossing" => rules.crossing = read(&key, value, crossing)?,
            "cache_reads" => rules.cache_reads = read(&key, value, cache_reads)?,
            "time_zone" => rules.zone = read(&key, value, |text| Ok(text.parse()?))?,
            "thresholds" => rules.thresholds = thresholds(&key, value)?,
            "preflight" => rules.preflight.usual = read(&key, value, preflight)?,
            "durability" => settings.durability = read(&key, value, durability)?,
            "agents" => rules.agents = mentions.agents(value)?,
            "bottles" => rules.bottles = mentions.bottles(value)?,
            "shutdown" => rules.shutdown = read(&key, value, shutdown)?,
            "enforcer" => settings.enforcer = read(&key, value, enforcer)?,
            "cut_mode" => settings.cut_mode = read(&key, value, cut_mode)?,
            "metrics" => settings.metrics = Some(read(&key, value, loopback)?),
            "drain" => settings.drain = read(&key, value, duration)?,
            "last_word" => settings.last_word = read(&key, value, duration)?,
            "providers" => (settings.providers, rules.preflight.by_provider) = providers(value, built_in)?,
            "upstream" => resolved = upstream(value, (&mut settings.upstream_ca, &mut settings.upstream_idle))?,
            _ => return Err(unknown(key, &SETTINGS)),
        }
    }
    let own = settings.providers.iter().map(|provider| &provider.name);
    let mut providers: Vec<_> = built_in.iter().map(|(_, name)| name).chain(own).collect();
    providers.sort();
    providers.dedup();
    mentions.check(&providers, &settings.rules.bottles)?;
    settings.upstream_resolve = resolved.into_iter().map(|Resolved { host, address, .. }| (host, address)).collect();
    Ok(settings)
}

/// An entry of `upstream.resolve`.
struct Resolved {
    host: Host,
    place: Place,
    address: SocketAddr,
}

fn upstream(node: Node, (ca, idle_max): (&mut Option<PathBuf>, &mut Duration)) -> Result<Vec<Resolved>, Misplaced> {
    let mut resolved = Vec::new();
    for (key, value) in known(node, &UPSTREAM)? {
        match key.text.as_str() {
            "ca" => *ca = Some(read(&key, value, path)?),
            "idle" => *idle_max = read(&key, value, idle)?,
            "resolve" => resolved = resolve(value)?,
            _ => return Err(unknown(key, &UPSTREAM)),
        }
    }
    Ok(resolved)
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

fn precedence(text: &str) -> Result<Precedence, Problem> {
    match text {
        "nearest" => Ok(Precedence::Nearest),
        "strict" => Ok(Precedence::Strict),
        _ => Err(Problem::Precedence(text.to_owned())),
    }
}

fn crossing(text: &str) -> Result<CrossingMode, Problem> {
    match text {
        "finish" => Ok(CrossingMode::Finish),
        "sever" => Ok(CrossingMode::Sever),
        _ => Err(Problem::Crossing(text.to_owned())),
    }
}

fn cache_reads(text: &str) -> Result<CacheReads, Problem> {
    match text {
        "count" => Ok(CacheReads::Count),
        "ignore" => Ok(CacheReads::Ignore),
        _ => Err(Problem::CacheReads(text.to_owned())),
    }
}

fn durability(text: &str) -> Result<Durability, Problem> {
    match text {
        "process" => Ok(Durability::Process),
        "power" => Ok(Durability::Power),
        _ => Err(Problem::Durability(text.to_owned())),
    }
}

fn enforcer(text: &str) -> Result<EnforcerChoice, Problem> {
    let found = EnforcerChoice::ALL.into_iter().find(|choice| choice.as_str() == text);
    found.ok_or_else(|| Problem::Enforcer(text.to_owned()))
}

fn cut_mode(text: &str) -> Result<CutMode, Problem> {
    let found = CutMode::ALL.into_iter().find(|mode| mode.as_str() == text);
    found.ok_or_else(|| Problem::CutMode(text.to_owned()))
}

/// `80, 90, 95, 99`; nothing for none.
fn thresholds(key: &Text, value: Node) -> Result<Thresholds, Misplaced> {
    if let Node::Nothing(_) = value {
        return Ok(Thresholds(Vec::new()));
    }
    read(key, value, |text| {
        let shape = || Problem::Thresholds(text.to_owned());
        let percents: Vec<u8> = text
            .split(',')
            .map(|word| word.trim().parse().ok().filter(|percent| (1..=99).contains(percent)))
            .collect::<Option<_>>()
            .ok_or_else(shape)?;
        if percents.is_sorted_by(|one, next| one < next) { Ok(Thresholds(percents)) } else { Err(shape()) }
    })
}

pub(super) fn preflight(text: &str) -> Result<Preflight, Problem> {
    let found = Preflight::ALL.into_iter().find(|way| way.as_str() == text);
    found.ok_or_else(|| Problem::Preflight(text.to_owned()))
}

pub(super) fn shutdown(text: &str) -> Result<CutoffPolicy, Problem> {
    Ok(text.parse()?)
}

pub(super) fn duration(text: &str) -> Result<Duration, Problem> {
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
        return Err(Problem::DurationTooLong { text: text.to_owned(), max_minutes: DURATION_SECONDS_MAX / 60 });
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

/// Nothing but this host's own: whoever reaches the port reads it.
fn loopback(text: &str) -> Result<SocketAddr, Problem> {
    let address = address(text)?;
    if address.ip().is_loopback() { Ok(address) } else { Err(Problem::NotLoopback(text.to_owned())) }
}

/// The lines of a section; none when it is empty.
pub(super) fn entries(node: Node) -> Result<Vec<(Text, Node)>, Misplaced> {
    match node {
        Node::Nothing(_) => Ok(Vec::new()),
        Node::Mapping(entries, _) => Ok(entries),
        Node::Scalar(text) => Err((text.place, Problem::NotAMapping)),
        Node::List(_, place) => Err((place, Problem::NotPlain("lists"))),
    }
}

/// The same of a section all of whose keys mean something.
pub(super) fn known(node: Node, section: &'static Section) -> Result<Vec<(Text, Node)>, Misplaced> {
    let entries = entries(node)?;
    match entries.iter().find(|(key, _)| !section.names().any(|name| name == key.text)) {
        Some((key, _)) => Err(unknown(key.clone(), section)),
        None => Ok(entries),
    }
}

/// The value of a key, whose problems are at the value.
pub(super) fn read<T>(
    key: &Text,
    value: Node,
    value_of: impl FnOnce(&str) -> Result<T, Problem>,
) -> Result<T, Misplaced> {
    match value {
        Node::Scalar(text) => value_of(&text.text).map_err(|problem| (text.place, problem)),
        Node::List(_, place) => Err((place, Problem::NotPlain("lists"))),
        Node::Nothing(_) | Node::Mapping(..) => Err((value.place(), Problem::NotAValue(key.text.clone()))),
    }
}

pub(super) fn unknown(key: Text, section: &'static Section) -> Misplaced {
    let known = section.names().collect();
    (key.place, Problem::UnknownKey { suggestion: nearest(&key.text, section.names()), known, key: key.text })
}

/// The word that may have been meant.
pub(super) fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(text, candidate);
    let nearest = known.min_by_key(|candidate| distance(candidate));
    // Two edits turn any two letters into any others: that is no likeness.
    let is_near = |candidate: &&str| distance(candidate) <= TYPOS_MAX && distance(candidate) < candidate.len();
    nearest.filter(is_near)
}
