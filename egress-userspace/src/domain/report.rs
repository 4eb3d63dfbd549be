//! Rows that the ledger writes and people read.

use serde::{Deserialize, Serialize};

use super::{
    AgentName, AuditHash, AuditKind, BottleName, Ending, Host, Known, PermitId, ProviderName, ProviderNotes, Scope,
    Tokens, UnixMillis, Usage, UsageDetails, Window,
};

/// Who laid a limit down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitSource {
    /// settings.yml.
    Settings,
    /// A flag of the run.
    Launch,
    /// An operator, at run time.
    Operator,
}

/// One scope of a chain with what it allows one provider, and has used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeState {
    /// Whose budget.
    #[serde(flatten)]
    pub scope: Scope,
    /// What it allows, grants included; `None` when it says nothing.
    pub limit: Option<Tokens>,
    /// How often.
    pub window: Option<Window>,
    /// When the window ends.
    pub turns: Option<UnixMillis>,
    /// Who said so.
    pub source: Option<LimitSource>,
    /// How much of the limit was granted at run time.
    pub granted: Tokens,
    /// Settled tokens of everything in the scope: in this window when there is one, else ever.
    pub used: Tokens,
    /// Tokens set aside for requests in flight.
    pub held: Tokens,
    /// Its limit decides, because nothing nearer says anything of the provider or every limit does.
    pub binds: bool,
}

impl ScopeState {
    /// A scope that allows anything and has used nothing.
    #[must_use]
    pub fn of(scope: Scope) -> Self {
        Self {
            scope,
            limit: None,
            window: None,
            turns: None,
            source: None,
            granted: Tokens::ZERO,
            used: Tokens::ZERO,
            held: Tokens::ZERO,
            binds: false,
        }
    }
}

/// What one binding budget leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// Whose budget.
    #[serde(flatten)]
    pub scope: Scope,
    /// How many tokens it allows.
    pub budget: Tokens,
    /// What settled exchanges leave of it.
    pub left: Tokens,
    /// Tokens set aside for requests in flight.
    pub held: Tokens,
}

/// Budgets of a bottle for one provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetView {
    /// Whose budget.
    pub provider: ProviderName,
    /// What the bottle itself has used, and set aside.
    pub own: Tokens,
    /// Nearest scope first.
    pub chain: Vec<ScopeState>,
}

/// A scope's budget for one provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeView {
    /// Whose budget.
    pub provider: ProviderName,
    /// The scope.
    #[serde(flatten)]
    pub state: ScopeState,
}

/// A budget that has been used up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crossing {
    /// Whose.
    pub scope: Scope,
    /// How many tokens it allowed.
    pub budget: Tokens,
    /// How many are used.
    pub used: Tokens,
    /// How many are set aside for requests in flight: what may still be used beyond the budget.
    pub held: Tokens,
}

/// One settled exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// Who.
    pub bottle: BottleName,
    /// As what.
    pub agent: Option<AgentName>,
    /// Whose budget.
    pub provider: ProviderName,
    /// Where to.
    pub host: Host,
    /// Method and path without query.
    pub target: String,
    /// The model of the response, or else of the request.
    pub model: Option<String>,
    /// The provider's id of the request.
    pub request_id: Option<String>,
    /// HTTP status.
    pub status: Option<u16>,
    /// Tokens.
    #[serde(flatten)]
    pub usage: Usage,
    /// What they are made of.
    #[serde(flatten)]
    pub details: UsageDetails,
    /// How they are known.
    pub known: Known,
    /// How the exchange ended.
    pub ending: Ending,
    /// What else the provider told.
    #[serde(flatten)]
    pub notes: ProviderNotes,
    /// When it was admitted.
    pub admitted: UnixMillis,
    /// When it was settled.
    pub settled: UnixMillis,
}

/// A request on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRequest {
    /// Its reservation.
    pub permit: PermitId,
    /// Whose.
    pub bottle: BottleName,
    /// The role that ran in it.
    pub agent: Option<AgentName>,
    /// Whose tokens it spends.
    pub provider: ProviderName,
    /// Where it goes.
    pub host: Host,
    /// Method and path.
    pub target: String,
    /// The model it asks for.
    pub model: Option<String>,
    /// What is held for it.
    pub held: Tokens,
    /// When it was admitted.
    pub admitted: UnixMillis,
}

/// Sums of one bottle and provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageSum {
    /// Who.
    pub bottle: BottleName,
    /// Whose budget.
    pub provider: ProviderName,
    /// How many metered exchanges were settled.
    pub requests: u64,
    /// Their tokens.
    #[serde(flatten)]
    pub usage: Usage,
    /// Tokens held for exchanges in flight.
    pub held: Tokens,
}

/// One audit row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Its place in the log.
    pub number: i64,
    /// When.
    pub at: UnixMillis,
    /// About which bottle.
    pub bottle: Option<BottleName>,
    /// What happened.
    #[serde(flatten)]
    pub kind: AuditKind,
    /// What chains it to the rows before it.
    pub hash: AuditHash,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ApprovalId, CutCause, RateLimits, Stop, Verdict};

    /// Flattened into one object, so a field that hides another is lost on the way.
    fn round_trip<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
        let text = serde_json::to_string(value).unwrap();
        assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{text}");
    }

    #[test]
    fn scopes_survive_the_wire() {
        let scopes = [Scope::Agent("a".parse().unwrap()), Scope::Bottle("b".parse().unwrap()), Scope::Host];
        for (scope, limit) in scopes.into_iter().zip([None, Some(Tokens(0)), Some(Tokens(5))]) {
            round_trip(&Allowance { scope: scope.clone(), budget: Tokens(5), left: Tokens(4), held: Tokens(2) });
            let (window, source) = (Some(Window::Day), Some(LimitSource::Operator));
            let (granted, used, held) = (Tokens(3), Tokens(1), Tokens(2));
            let turns = Some(UnixMillis(7));
            round_trip(&ScopeState { scope, limit, window, turns, source, granted, used, held, binds: true });
        }
    }

    #[test]
    fn usage_rows_survive_the_wire() {
        let limits = RateLimits::among([("retry-after", &b"7"[..])].into_iter());
        round_trip(&UsageRow {
            bottle: "web".parse().unwrap(),
            agent: None,
            provider: "claude".parse().unwrap(),
            host: "api.anthropic.com".parse().unwrap(),
            target: "POST /v1/messages".to_owned(),
            model: Some("m".to_owned()),
            request_id: None,
            status: Some(200),
            usage: Usage { input: Tokens(1), cache_write: Tokens(2), cache_read: Tokens(3), output: Tokens(4) },
            details: UsageDetails { cache_write_1h: Tokens(1), reasoning: Tokens(2) },
            known: Known::Reported,
            ending: Ending::Complete,
            notes: ProviderNotes { service_tier: Some("standard".to_owned()), limits },
            admitted: UnixMillis(1),
            settled: UnixMillis(2),
        });
    }

    #[test]
    fn audit_rows_survive_the_wire() {
        let crossed = AuditKind::BudgetCrossed {
            scope: Scope::Host,
            provider: "claude".parse().unwrap(),
            budget: Tokens(100),
            used: Tokens(120),
            held: Tokens(3),
            request: Some("req_1".to_owned()),
        };
        let kinds = [
            AuditKind::DaemonStarted { version: "1".to_owned() },
            AuditKind::BottleStarted { agent: None },
            AuditKind::BottleEnded { exit_code: -1 },
            crossed,
            AuditKind::GateCut { cause: CutCause::Operator },
            AuditKind::GateRestored,
            AuditKind::CutLifted,
            AuditKind::SettingsReloaded,
            AuditKind::BudgetSet {
                scope: Scope::Host,
                provider: "claude".parse().unwrap(),
                limit: "5/day".parse().unwrap(),
                by: 7,
            },
            AuditKind::BudgetCleared { scope: Scope::Bottle("base".parse().unwrap()), provider: None, by: 0 },
            AuditKind::BottleFrozen { cause: CutCause::Budget },
            AuditKind::BottleResumed,
            AuditKind::BottleKilled { cause: CutCause::Operator },
            AuditKind::StopFailed { stop: Stop::Freeze, what: "no space".to_owned() },
            AuditKind::Repaired { what: "a gate".to_owned() },
            AuditKind::GateTampered { what: "detached".to_owned() },
            AuditKind::TrafficUnaccounted { is_from_bottle: true, passed: 9, accounted: 3 },
            AuditKind::PathUnknown { host: "a.example".parse().unwrap(), target: "POST /x".to_owned() },
            AuditKind::ProxyRestarted { permits_settled: 3 },
            AuditKind::ApprovalAsked {
                id: ApprovalId(1),
                detector: "aws_key".to_owned(),
                host: "a.example".parse().unwrap(),
                target: "POST /x".to_owned(),
            },
            AuditKind::ApprovalDecided { id: ApprovalId(1), verdict: Verdict::Approved, is_always: true, by: Some(7) },
            AuditKind::ApprovalForgotten { id: ApprovalId(1), by: 7 },
        ];
        for kind in kinds {
            let (bottle, hash) = (Some("web".parse().unwrap()), AuditHash([7; 32]));
            round_trip(&AuditRow { number: 1, at: UnixMillis(2), bottle, kind, hash });
        }
    }
}
