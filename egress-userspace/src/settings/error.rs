//! What is wrong with a settings file, and where.

use std::path::PathBuf;

use thiserror::Error;

use super::parse::nearest;
use crate::domain::{
    Api, CutoffPolicyError, HostError, HostPatternError, LimitError, NameError, ProviderName, RouteError, ZoneError,
};

/// Something in a settings file that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}:{line}:{column}: {problem}", .file.display())]
pub struct SettingsError {
    /// The file, as it was named.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What it is.
    pub problem: Problem,
}

/// What can be wrong with a settings file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// It is no YAML at all.
    #[error("this is not YAML: {0}")]
    Syntax(String),
    /// It is YAML, but more of it than settings are written in.
    #[error("{0} are not supported here: write block mappings of `key: value` lines")]
    NotPlain(&'static str),
    /// A key that means nothing here.
    #[error("unknown key {key:?}: {}", hint(*.suggestion, .known))]
    UnknownKey {
        /// What it says.
        key: String,
        /// What may have been meant.
        suggestion: Option<&'static str>,
        /// What would mean something.
        known: Vec<&'static str>,
    },
    /// A key that stands in the same mapping twice.
    #[error("{key:?} is there twice, first in line {first_line}")]
    DuplicateKey {
        /// What it says.
        key: String,
        /// Where it is first.
        first_line: usize,
    },
    /// Something other than keys and values.
    #[error("expected `key: value` lines here")]
    NotAMapping,
    /// Keys and values, or nothing at all.
    #[error("{0:?} needs one value on its own line")]
    NotAValue(String),
    /// No amount of tokens, alone or per window.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A name that stands for nothing.
    #[error("there is no {what} {name:?}: {hint}")]
    UnknownName {
        /// What it should be the name of.
        what: &'static str,
        /// What it says.
        name: String,
        /// What may have been meant, or would mean something.
        hint: String,
    },
    /// Bottles that are their own ancestors.
    #[error("bottles extend each other in a circle: {0}")]
    Circle(String),
    /// Neither way of telling which budgets bind.
    #[error("{0:?} is not a precedence: write nearest (the nearest budget binds) or strict (every budget does)")]
    Precedence(String),
    /// Neither way of ending the response that uses a budget up.
    #[error("{0:?} is not a way to cross a budget: write finish (the response is delivered) or sever (it ends there)")]
    Crossing(String),
    /// Neither way of counting cache reads.
    #[error("{0:?} is not a way to treat cache reads: write count or ignore")]
    CacheReads(String),
    /// Neither kind of durability.
    #[error("{0:?} is not a durability: write process (survives crashes) or power (survives the loss of power too)")]
    Durability(String),
    /// Nothing that makes gates.
    #[error("{0:?} is not an enforcer: write auto (eBPF where the kernel can), ebpf or nftables")]
    Enforcer(String),
    /// Neither way of being cut.
    #[error("{0:?} is not a way to be cut: write reset (TCP is reset, clients fail at once) or drop (silence)")]
    CutMode(String),
    /// No time zone.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// No list of percentages.
    #[error("{0:?} is not a list of percentages: write 80, 90, 95, 99 — each from 1 to 99, rising — or nothing")]
    Thresholds(String),
    /// No name of a provider.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No name of a host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// No name of one host or many.
    #[error(transparent)]
    Pattern(#[from] HostPatternError),
    /// A `*` that YAML takes for something else.
    #[error("a name that begins with '*' is written in quotes: \"*.corp.example\"")]
    Unquoted,
    /// No API.
    #[error("{text:?} is not an API: {}", hint(*.suggestion, &Api::ALL.map(Api::as_str)))]
    Api {
        /// What it says.
        text: String,
        /// What may have been meant.
        suggestion: Option<&'static str>,
    },
    /// Neither way of telling the usage of streams.
    #[error(
        "{0:?} is not what servers do about usage: write told (in any case) or on_request (when asked by stream_options)"
    )]
    StreamUsage(String),
    /// A provider without hosts, built in or named.
    #[error("provider {0} has no hosts: name them under `hosts:`, each with its API, such as openai_compatible")]
    NoHosts(ProviderName),
    /// No address to connect to.
    #[error("{0:?} is not an address with a port: write 127.0.0.1:9464 or \"[::1]:9464\"")]
    Address(String),
    /// An address that others reach.
    #[error("{0:?} is not an address of this host's loopback: write 127.0.0.1:9464 or \"[::1]:9464\"")]
    NotLoopback(String),
    /// No duration.
    #[error("{0:?} is not a duration: write 0, 500ms, 2s or 1m")]
    Duration(String),
    /// An `idle` that would end every response.
    #[error("{0:?} is too short: at least 1s, or every response ends while the model thinks")]
    IdleTooShort(String),
    /// Longer than makes sense.
    #[error("{text:?} is too long: at most {max_minutes}m")]
    DurationTooLong {
        /// What it says.
        text: String,
        /// The limit.
        max_minutes: u64,
    },
    /// No way to look ahead.
    #[error("{0:?} is not a way to look at a request before it is sent: write estimate, exact, strict or off")]
    Preflight(String),
    /// A word of a route that is none.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// None of a few words.
    #[error("{text:?} is not a value of {key:?}: write {}", .known.join(" or "))]
    NotOneOf {
        /// Whose value it is.
        key: &'static str,
        /// What it says.
        text: String,
        /// What would mean something.
        known: Vec<&'static str>,
    },
    /// No port.
    #[error("{0:?} is not a port: write a number from 1 to 65535")]
    Port(String),
    /// A key that must be there.
    #[error("{what} needs {key:?}")]
    Missing {
        /// What lacks it.
        what: &'static str,
        /// The key.
        key: &'static str,
    },
    /// Keys that do not go together.
    #[error("{0}")]
    Contradiction(&'static str),
    /// Something other than a list.
    #[error("{0:?} needs a list: lines that begin with '-'")]
    NotAList(String),
    /// No cutoff policy.
    #[error(transparent)]
    Shutdown(#[from] CutoffPolicyError),
}

impl Problem {
    /// A name that is none of those known.
    pub(super) fn unknown_name(what: &'static str, name: &str, known: &[&str]) -> Self {
        let hint = match known {
            [] => "nothing of the kind is named here".to_owned(),
            known => hint(nearest(name, known.iter().copied()), known),
        };
        Self::UnknownName { what, name: name.to_owned(), hint }
    }
}

fn hint(suggestion: Option<&str>, known: &[&str]) -> String {
    match suggestion {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => format!("known here are {}", known.join(", ")),
    }
}
