//! The words of the product as types. Everything is parsed once, at the edge, into one of these.
//!
//! Imports nothing of the other modules; no I/O, clock or randomness.

mod amount;
mod api;
mod approval;
mod audit;
mod cause;
mod distribution;
mod enforcement;
mod event;
mod exchange;
mod happened;
mod hash;
mod host_pattern;
mod limit;
mod listed_route;
mod name;
mod network;
mod preflight;
mod printable;
mod provider;
mod rate_limits;
mod report;
mod route;
mod route_check;
mod rules;
mod secret;
mod stop_step;
mod usage;
mod usage_sum;
mod zone;

pub use amount::{AmountError, Tokens};
pub use api::{Api, StreamUsage};
pub use approval::{
    ApprovalId, ApprovalLimits, ApprovalPath, ApprovalRow, Fingerprint, Question, Supervised, Verdict, approval_path,
};
pub use audit::{AuditHash, AuditHashError, ChainFault, ChainReport};
pub use cause::with_causes;
pub use distribution::{BOUNDS, Distribution, Scale};
pub use enforcement::{CutMode, EnforcerChoice};
pub use event::{
    AuditKind, BottleState, CutCause, CutoffPolicy, CutoffPolicyError, Ending, GateView, Refusal, RefusalReason,
    RuntimeKind, Stop,
};
pub use exchange::{ProviderNotes, Settlement, SpendRequest};
pub use happened::happened;
pub use host_pattern::{HostPattern, HostPatternError};
pub use limit::{Budget, Limit, LimitError, Window};
pub use listed_route::{ListedRoute, RouteAuth};
pub use name::{AgentName, BottleName, Host, HostError, NameError, ProviderName};
pub use network::Network;
pub use preflight::{Preflight, Preflights};
pub use printable::printable;
pub use provider::Provider;
pub use rate_limits::{PlanWindow, RateLimits};
pub use report::{
    Allowance, AuditRow, BudgetView, Crossing, LimitSource, LiveRequest, ScopeState, ScopeView, UsageRow, UsageSum,
};
pub use route::{
    Auth, AuthScheme, DetectorRule, InboundOnMatch, LooksFor, MethodName, OutboundOnMatch, PathPattern, RefPattern,
    RequestLog, Route, RouteError, RouteFile, RouteHost, SecretSource,
};
pub use route_check::{CheckedFile, RouteAnswer, RouteCheck, RouteQuestion, Url, UrlError};
pub use rules::{BottleRules, CacheReads, CrossingMode, Durability, Precedence, Rules, Thresholds};
pub use secret::Secret;
pub use stop_step::StopStep;
pub use usage::{Known, Usage, UsageDetails};
pub use usage_sum::{GroupBy, GroupByError, UsageCursor, UsageCursorError, UsageGroup, UsageKey, UsageTally};
pub use zone::{Zone, ZoneError};

use serde::{Deserialize, Serialize};

/// The ledger's number of a bottle; stable over all runs of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BottleId(pub u32);

/// The ledger's number of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PermitId(pub i64);

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

/// Which budget a sum belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "scope", content = "name", rename_all = "lowercase")]
pub enum Scope {
    /// A named agent, wherever it runs.
    Agent(AgentName),
    /// One bottle.
    Bottle(BottleName),
    /// Everything on this host.
    Host,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent(name) => write!(f, "agent {name}"),
            Self::Bottle(name) => write!(f, "bottle {name}"),
            Self::Host => f.write_str("host"),
        }
    }
}
