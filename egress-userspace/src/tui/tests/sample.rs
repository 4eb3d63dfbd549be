//! Bottles, requests and events as a daemon would tell of them.

use jiff::tz::TimeZone;

use crate::control::BottleInfo;
use crate::control::{GateCounts, LiveBottle, LiveEvent, LiveRequest, LiveSnapshot, StatusReply};
use crate::domain::{
    ApprovalId, ApprovalRow, AuditHash, AuditKind, AuditRow, BottleState, BudgetView, CutoffPolicy, Ending, GateView,
    Known, LimitSource, PermitId, ProviderNotes, RuntimeKind, Scope, ScopeState, Tokens, UnixMillis, Usage,
    UsageDetails, UsageRow,
};

use super::super::state::{Look, Size, State};
use super::super::update::{Action, Event, Key, update};

/// 2026-01-01 14:03:27 UTC
pub(in crate::tui) const NOW: UnixMillis = UnixMillis(1_767_276_207_000);

pub(in crate::tui) fn ago(seconds: i64) -> UnixMillis {
    UnixMillis(NOW.0 - seconds * 1_000)
}

/// A dashboard of 80 × 24 that knows nothing.
pub(in crate::tui) fn blank() -> State {
    let look = Look { has_colour: true, has_unicode: true };
    State::new(look, TimeZone::UTC, Size { columns: 80, lines: 24 }, NOW)
}

/// One that has been told of these bottles.
pub(in crate::tui) fn with(bottles: Vec<LiveBottle>) -> State {
    let mut state = blank();
    tell(&mut state, snapshot(bottles));
    state
}

pub(in crate::tui) fn tell(state: &mut State, event: LiveEvent) -> Vec<Action> {
    update(state, Event::Live(Box::new(event)))
}

/// Presses keys, one character each, and says what the last came to.
pub(in crate::tui) fn press(state: &mut State, keys: &str) -> Vec<Action> {
    keys.chars().map(|key| update(state, Event::Key(Key::Char(key)))).last().unwrap_or_default()
}

pub(in crate::tui) fn key(state: &mut State, key: Key) -> Vec<Action> {
    update(state, Event::Key(key))
}

pub(in crate::tui) fn snapshot(bottles: Vec<LiveBottle>) -> LiveEvent {
    LiveEvent::Snapshot(Box::new(LiveSnapshot {
        status: status(),
        bottles,
        requests: Vec::new(),
        approvals: Vec::new(),
        audit: Vec::new(),
        now: ago(400),
    }))
}

pub(in crate::tui) fn status() -> StatusReply {
    StatusReply {
        version: "0.1.0".to_owned(),
        pid: 70,
        proxy_pid: Some(71),
        enforcer: "ebpf".to_owned(),
        gateway: [10, 213, 0, 1].into(),
        pins: "/sys/fs/bpf/egress".to_owned(),
        not_enforcing: None,
        settings_problem: None,
        open_approvals: 0,
    }
}

/// Runs, has spent nothing and is bound by nothing.
pub(in crate::tui) fn bottle(name: &str) -> LiveBottle {
    let info = BottleInfo {
        name: name.parse().unwrap(),
        agent: None,
        address: Some([10, 213, 0, 2].into()),
        interface: Some("egv-2".to_owned()),
        runtime: RuntimeKind::Native,
        container: None,
        pid: Some(4_711),
        gate: GateView::Open,
        is_running: true,
        state: BottleState::Running,
        frozen: None,
        policy: CutoffPolicy::Cutoff,
        started: ago(3_720),
        budgets: Vec::new(),
        dropped_packets: 0,
    };
    LiveBottle { info, counts: GateCounts::default() }
}

/// The same with a budget of its own, of which so much is used and held.
pub(in crate::tui) fn budgeted(name: &str, provider: &str, (used, held, limit): (u64, u64, u64)) -> LiveBottle {
    let own = ScopeState {
        limit: Some(Tokens(limit)),
        source: Some(LimitSource::Launch),
        used: Tokens(used),
        held: Tokens(held),
        binds: true,
        ..ScopeState::of(Scope::Bottle(name.parse().unwrap()))
    };
    let host = ScopeState { used: Tokens(used), held: Tokens(held), ..ScopeState::of(Scope::Host) };
    let view = BudgetView { provider: provider.parse().unwrap(), own: Tokens(used), chain: vec![own, host] };
    let plain = bottle(name);
    LiveBottle { info: BottleInfo { budgets: vec![view], ..plain.info }, ..plain }
}

pub(in crate::tui) fn request(permit: i64, bottle: &str) -> LiveRequest {
    LiveRequest {
        permit: PermitId(permit),
        bottle: bottle.parse().unwrap(),
        agent: None,
        provider: "claude".parse().unwrap(),
        host: "api.anthropic.com".parse().unwrap(),
        target: "POST /v1/messages".to_owned(),
        model: Some("claude-sonnet-4-5".to_owned()),
        held: Tokens(32_000),
        admitted: ago(12),
    }
}

/// Settled so many seconds ago, after eight.
pub(in crate::tui) fn row(bottle: &str, provider: &str, (seconds, tokens): (i64, u64)) -> UsageRow {
    UsageRow {
        bottle: bottle.parse().unwrap(),
        agent: None,
        provider: provider.parse().unwrap(),
        host: "api.anthropic.com".parse().unwrap(),
        target: "POST /v1/messages".to_owned(),
        model: Some("claude-sonnet-4-5".to_owned()),
        request_id: None,
        status: Some(200),
        usage: Usage {
            input: Tokens(tokens / 2),
            cache_write: Tokens::ZERO,
            cache_read: Tokens(tokens / 4),
            output: Tokens(tokens - tokens / 2 - tokens / 4),
        },
        details: UsageDetails::default(),
        known: Known::Reported,
        ending: Ending::Complete,
        notes: ProviderNotes::default(),
        admitted: ago(seconds + 8),
        settled: ago(seconds),
    }
}

pub(in crate::tui) fn settled(permit: i64, usage: UsageRow) -> LiveEvent {
    LiveEvent::Settled { permit: PermitId(permit), usage: Box::new(usage) }
}

pub(in crate::tui) fn question(id: i64, bottle: &str) -> ApprovalRow {
    ApprovalRow {
        id: ApprovalId(id),
        bottle: bottle.parse().unwrap(),
        detector: "aws_key".to_owned(),
        host: "paste.example".parse().unwrap(),
        target: "POST /upload".to_owned(),
        asked: ago(40),
        expires: ago(-260),
        decided: None,
        verdict: None,
        by: None,
        is_always: false,
        forgotten: None,
        used: 0,
    }
}

pub(in crate::tui) fn audit(number: i64, bottle: &str, kind: AuditKind) -> AuditRow {
    AuditRow { number, at: ago(60), bottle: Some(bottle.parse().unwrap()), kind, hash: AuditHash::NONE }
}
