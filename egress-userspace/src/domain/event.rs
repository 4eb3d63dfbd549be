//! What happens to exchanges and gates, in words that the ledger, the wire and the operator share.

use serde::{Deserialize, Serialize};

use super::{AgentName, ApprovalId, Host, Limit, ProviderName, Scope, Tokens, UnixMillis, Verdict};

/// How an exchange ended. Named once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The response arrived whole.
    Complete,
    /// The provider answered with an error, also in the middle of a stream, or could not be reached.
    Error,
    /// The provider broke off.
    HungUp,
    /// The provider fell silent, or never answered.
    TimedOut,
    /// The client went away.
    Cancelled,
    /// The bottle was cut, or the budget that it spends from ended the stream.
    Cut,
    /// The proxy died; nobody saw the end.
    ProxyLost,
}

impl Ending {
    /// Every ending.
    pub const ALL: [Self; 7] =
        [Self::Complete, Self::Error, Self::HungUp, Self::TimedOut, Self::Cancelled, Self::Cut, Self::ProxyLost];

    /// As it stands in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Error => "error",
            Self::HungUp => "hung_up",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Cut => "cut",
            Self::ProxyLost => "proxy_lost",
        }
    }
}

/// Why a bottle's gate is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutCause {
    /// A budget is used up.
    Budget,
    /// An operator said so.
    Operator,
}

impl CutCause {
    /// As it stands in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Operator => "operator",
        }
    }
}

/// What a gate is, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "gate", content = "cause")]
pub enum GateView {
    /// What the promise allows passes.
    Open,
    /// Nothing passes.
    Cut(CutCause),
}

/// What is done with a bottle when its budget is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CutoffPolicy {
    /// Its gate is cut; its processes go on.
    #[default]
    Cutoff,
    /// Its gate is cut; its processes are ended, its files and its command kept.
    Freeze,
    /// Its gate is cut; its processes are ended and its files removed.
    Kill,
}

impl CutoffPolicy {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Cutoff, Self::Freeze, Self::Kill];

    /// As it stands in the ledger, in settings and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cutoff => "cutoff",
            Self::Freeze => "freeze",
            Self::Kill => "kill",
        }
    }

    /// What follows the cut.
    #[must_use]
    pub fn stop(self) -> Option<Stop> {
        match self {
            Self::Cutoff => None,
            Self::Freeze => Some(Stop::Freeze),
            Self::Kill => Some(Stop::Kill),
        }
    }
}

/// A word that is no cutoff policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a way to shut a bottle down: write cutoff, freeze or kill")]
pub struct CutoffPolicyError(String);

impl std::str::FromStr for CutoffPolicy {
    type Err = CutoffPolicyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| CutoffPolicyError(text.to_owned()))
    }
}

/// How a bottle is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Files and command are kept, to be resumed.
    Freeze,
    /// Nothing is kept but what the ledger holds.
    Kill,
}

impl Stop {
    /// As it stands in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Kill => "kill",
        }
    }
}

/// What a bottle is, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BottleState {
    /// A command runs in it, or is being started or ended.
    Running,
    /// It can be resumed.
    Frozen,
    /// Nothing runs in it.
    Ended,
}

impl BottleState {
    /// In one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Frozen => "frozen",
            Self::Ended => "ended",
        }
    }
}

/// Why a request was refused, for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// A budget is used up, or the request cannot fit in what is left.
    BudgetExhausted,
    /// The bottle is cut.
    BottleCut,
    /// No route allows this host.
    HostNotAllowed,
    /// Routes allow the host, but not this port, path or method.
    RouteForbids,
    /// The name leads to an address of this network.
    AddressNotPublic,
    /// A push or fetch that no route allows.
    GitForbidden,
    /// A detector found something that may not leave, or come in.
    SensitiveData,
    /// The secret that a route presents is not to be had.
    CredentialMissing,
    /// The agent brought a credential of its own.
    CredentialNotAllowed,
    /// The ledger cannot record what would be used.
    LedgerUnavailable,
    /// The controller does not answer.
    ControllerUnavailable,
    /// The bottle has more on its way than is held for it at once.
    TooMuchAtOnce,
    /// SNI, Host and CONNECT target name different hosts.
    Misdirected,
    /// What was asked for cannot be metered.
    NotMeterable,
}

impl RefusalReason {
    /// As machines read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BudgetExhausted => "budget_exhausted",
            Self::BottleCut => "bottle_cut",
            Self::HostNotAllowed => "host_not_allowed",
            Self::RouteForbids => "route_forbids",
            Self::AddressNotPublic => "address_not_public",
            Self::GitForbidden => "git_forbidden",
            Self::SensitiveData => "sensitive_data",
            Self::CredentialMissing => "credential_missing",
            Self::CredentialNotAllowed => "credential_not_allowed",
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::ControllerUnavailable => "controller_unavailable",
            Self::TooMuchAtOnce => "too_much_at_once",
            Self::Misdirected => "misdirected",
            Self::NotMeterable => "not_meterable",
        }
    }
}

/// A refused request: everything its answer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For machines.
    pub reason: RefusalReason,
    /// For people: what happened and what to do, one sentence or two.
    pub message: String,
    /// The governing scope, when a budget is the reason.
    pub scope: Option<Scope>,
    /// Its budget.
    pub budget: Option<Tokens>,
    /// What it has used.
    pub used: Option<Tokens>,
    /// The route or detector that decided, for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

impl Refusal {
    /// A refusal that no budget is the reason of.
    #[must_use]
    pub fn of(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), scope: None, budget: None, used: None, rule: None }
    }

    /// A budget is used up, not just too small for this one request, and not one that forbids a provider by allowing nothing.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.reason == RefusalReason::BudgetExhausted
            && self.budget.zip(self.used).is_some_and(|(budget, used)| used >= budget && used > Tokens::ZERO)
    }
}

/// What an audit row is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AuditKind {
    /// The controller came up.
    DaemonStarted {
        /// Its version.
        version: String,
    },
    /// A bottle's command is about to start, its gate attached.
    BottleStarted {
        /// The role it runs as.
        agent: Option<AgentName>,
    },
    /// A bottle's command ended.
    BottleEnded {
        /// As a shell would report it.
        exit_code: i32,
    },
    /// A budget was used up.
    BudgetCrossed {
        /// Whose.
        scope: Scope,
        /// Of which provider.
        provider: ProviderName,
        /// How many tokens it allowed.
        budget: Tokens,
        /// How many are used.
        used: Tokens,
        /// How many are set aside for requests in flight: what may still be used beyond the budget.
        #[serde(default)]
        held: Tokens,
        /// The provider's id of the request that crossed, when it gave one.
        request: Option<String>,
    },
    /// A budget that was used up has been overshot, and nothing is in flight any more.
    BudgetOvershot {
        /// Whose.
        scope: Scope,
        /// Of which provider.
        provider: ProviderName,
        /// How many tokens it allowed.
        budget: Tokens,
        /// How many are used.
        used: Tokens,
    },
    /// A part of a budget that is worth a word was used.
    BudgetUsed {
        /// Whose.
        scope: Scope,
        /// Of which provider.
        provider: ProviderName,
        /// The part, in percent.
        percent: u8,
        /// How many tokens it allows.
        budget: Tokens,
        /// How many are used.
        used: Tokens,
    },
    /// An operator set a limit.
    BudgetSet {
        /// Whose.
        scope: Scope,
        /// Of which provider.
        provider: ProviderName,
        /// From then on.
        limit: Limit,
        /// The operator's user id.
        by: u32,
    },
    /// An operator added to a limit.
    BudgetGranted {
        /// Whose.
        scope: Scope,
        /// Of which provider.
        provider: ProviderName,
        /// How many.
        tokens: Tokens,
        /// Until then; for good when `None`.
        until: Option<UnixMillis>,
        /// The operator's user id.
        by: u32,
    },
    /// An operator took back what operators had set and granted.
    BudgetCleared {
        /// Whose.
        scope: Scope,
        /// Of which provider; of all when `None`.
        provider: Option<ProviderName>,
        /// The operator's user id.
        by: u32,
    },
    /// What was added to a limit for a time is over.
    GrantEnded {
        /// Whose.
        scope: Scope,
        /// Of which provider.
        provider: ProviderName,
        /// How many.
        tokens: Tokens,
    },
    /// The settings were read anew and are in force.
    SettingsReloaded,
    /// Routes files were read anew and are in force.
    RoutesReloaded,
    /// Something went without what a detector found in it.
    DataRedacted {
        /// Which detector.
        detector: String,
        /// To or from which host.
        host: Host,
        /// Method and path, without query.
        target: String,
        /// The bottle sent it; else it was sent to the bottle.
        is_outbound: bool,
        /// How often it was found.
        count: u64,
    },
    /// A request was refused by what routes say.
    RequestRefused {
        /// Why.
        reason: RefusalReason,
        /// Where to, as far as it was said.
        host: Option<Host>,
        /// Method and path, without query.
        target: String,
        /// The route or detector that decided, if one did.
        rule: Option<String>,
        /// How many like it this stands for, when there were too many for a row each.
        count: u64,
    },
    /// The budget that a gate was cut for is no longer used up, and the gate open again.
    CutLifted,
    /// A gate was cut.
    GateCut {
        /// Why.
        cause: CutCause,
    },
    /// A gate was opened again.
    GateRestored,
    /// A bottle's processes were ended, its files and its command kept.
    BottleFrozen {
        /// Who said so.
        cause: CutCause,
    },
    /// A frozen bottle's command is about to start again.
    BottleResumed,
    /// A bottle's processes were ended and its files removed.
    BottleKilled {
        /// Who said so.
        cause: CutCause,
    },
    /// A bottle was to be frozen or killed, and something of it is left. It stays cut.
    StopFailed {
        /// What was begun.
        stop: Stop,
        /// What failed, and what remains.
        what: String,
    },
    /// Something was not as the controller left it, and was put right.
    Repaired {
        /// What was found and done.
        what: String,
    },
    /// A gate was not what egress had made it, while it ran: somebody else changed it.
    GateTampered {
        /// What was found and done.
        what: String,
    },
    /// More went through a gate than the proxy has exchanged: somebody else may be where only the proxy is to be.
    TrafficUnaccounted {
        /// Sent by the bottle, or to it.
        is_from_bottle: bool,
        /// Bytes that passed, without headers.
        passed: u64,
        /// Bytes the proxy knows of.
        accounted: u64,
    },
    /// A request went where nobody knows whether tokens are spent, and was not counted. Noted once for all of a kind.
    PathUnknown {
        /// To which host.
        host: Host,
        /// Method and path, `*` in place of identifiers.
        target: String,
    },
    /// The proxy died and was replaced.
    ProxyRestarted {
        /// Permits that were settled conservatively.
        permits_settled: u64,
    },
    /// An operator is asked whether a request may go out with what a detector found in it.
    ApprovalAsked {
        /// The question's number.
        id: ApprovalId,
        /// Which detector.
        detector: String,
        /// To which host.
        host: Host,
        /// Method and path, without query.
        target: String,
    },
    /// Such a question was settled.
    ApprovalDecided {
        /// Which.
        id: ApprovalId,
        /// As what.
        verdict: Verdict,
        /// For good: the same value of the same bottle to the same host.
        is_always: bool,
        /// The operator's user id; nobody's when it expired or was abandoned.
        by: Option<u32>,
    },
    /// An operator took back what was decided for good.
    ApprovalForgotten {
        /// Which.
        id: ApprovalId,
        /// The operator's user id.
        by: u32,
    },
}

/// What makes a bottle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// Namespaces of our own.
    #[default]
    Native,
    /// Docker or Podman.
    Docker,
}

impl RuntimeKind {
    /// As it stands on the command line and in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Docker => "docker",
        }
    }
}

impl std::str::FromStr for RuntimeKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::Native, Self::Docker].into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not a runtime: native and docker are"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledgers_words_are_the_wires() {
        for ending in Ending::ALL {
            assert_eq!(serde_json::to_value(ending).unwrap(), ending.as_str());
        }
        for cause in [CutCause::Budget, CutCause::Operator] {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
        }
        for policy in CutoffPolicy::ALL {
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.as_str());
            assert_eq!(policy.as_str().parse(), Ok(policy));
            if let Some(stop) = policy.stop() {
                assert_eq!(stop.as_str(), policy.as_str());
                assert_eq!(serde_json::to_value(stop).unwrap(), stop.as_str());
            }
        }
        for reason in [
            RefusalReason::BudgetExhausted,
            RefusalReason::BottleCut,
            RefusalReason::HostNotAllowed,
            RefusalReason::RouteForbids,
            RefusalReason::AddressNotPublic,
            RefusalReason::GitForbidden,
            RefusalReason::SensitiveData,
            RefusalReason::CredentialMissing,
            RefusalReason::CredentialNotAllowed,
            RefusalReason::LedgerUnavailable,
            RefusalReason::ControllerUnavailable,
            RefusalReason::TooMuchAtOnce,
            RefusalReason::Misdirected,
            RefusalReason::NotMeterable,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
        assert_eq!(CutoffPolicy::default().stop(), None);
        assert!("Freeze".parse::<CutoffPolicy>().is_err());
    }
}
