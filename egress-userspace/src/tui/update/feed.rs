//! What the daemon tells.

use crate::control::{LiveEvent, LiveGate, LiveSnapshot};
use crate::domain::{ApprovalRow, AuditRow, BottleName, UsageRow};

use super::super::state::{Detail, Link, Screen, Section, State, Whose, shown};
use super::Action;

/// Rows of the audit that are kept.
const AUDIT_ROWS_MAX: usize = 200;

/// Takes one event in.
pub(super) fn hear(state: &mut State, event: LiveEvent) -> Vec<Action> {
    match event {
        LiveEvent::Snapshot(snapshot) => return begin_anew(state, *snapshot),
        LiveEvent::Daemon { status } => state.daemon = Some(status),
        LiveEvent::Bottle { bottle } => {
            state.bottles.insert(bottle.info.name.clone(), *bottle);
            select_something(state);
        }
        LiveEvent::Gone { name } => {
            // The cursor stays where it is on the screen.
            let row = state.cursor(&shown(state));
            state.bottles.remove(&name);
            if state.selected.as_ref() == Some(&name) {
                let rows = shown(state);
                let last = rows.len().saturating_sub(1);
                let next = rows.get(row.unwrap_or(0).min(last)).map(|bottle| bottle.info.name.clone());
                state.selected = next;
            }
        }
        LiveEvent::Admitted { request } => {
            state.requests.insert(request.permit, request);
        }
        LiveEvent::Settled { permit, usage } => {
            state.requests.remove(&permit);
            if usage.settled > state.heard_from {
                count(state, &usage);
            }
            if let Some(detail) = detail_of(state, &usage.bottle) {
                detail.settled(&usage);
            }
        }
        LiveEvent::Gates { gates } => return count_packets(state, gates),
        LiveEvent::Approval { approval } => ask(state, *approval),
        LiveEvent::Audit { row } => note(state, row),
        LiveEvent::Alive => {}
    }
    Vec::new()
}

/// Requests that were settled before the daemon was listened to.
pub(super) fn remember(state: &mut State, rows: &[UsageRow]) {
    let until = state.heard_from;
    for row in rows.iter().filter(|row| row.settled <= until) {
        count(state, row);
    }
}

fn begin_anew(state: &mut State, snapshot: LiveSnapshot) -> Vec<Action> {
    let LiveSnapshot { status, bottles, requests, approvals, audit, now } = snapshot;
    state.link = Link::Live;
    state.daemon = Some(status);
    state.bottles = bottles.into_iter().map(|bottle| (bottle.info.name.clone(), bottle)).collect();
    state.requests = requests.into_iter().map(|request| (request.permit, request)).collect();
    state.approvals = approvals;
    state.audit = audit.into();
    state.rates.clear();
    state.heard_from = now;
    select_something(state);
    let mut actions = vec![Action::History];
    if let Screen::Detail(detail) = &mut state.screen {
        let (bottle, section) = (detail.bottle.clone(), detail.section);
        **detail = Detail { section, ..Detail::of(bottle.clone()) };
        actions.extend(fetch_all(&bottle));
    }
    actions
}

/// Everything that a detail view shows and that is not told unasked.
pub(super) fn fetch_all(bottle: &BottleName) -> impl Iterator<Item = Action> {
    let asked = Section::ALL.into_iter().filter(|section| *section != Section::Scopes);
    asked.map(|section| Action::Fetch(bottle.clone(), section))
}

/// The cursor is on a row as long as there are any.
pub(super) fn select_something(state: &mut State) {
    let rows = shown(state);
    if state.cursor(&rows).is_none() {
        state.selected = rows.first().map(|bottle| bottle.info.name.clone());
    }
}

/// Counts a request for its bottle and for every budget on the bottle's chain.
fn count(state: &mut State, row: &UsageRow) {
    let (span, tokens) = ((row.admitted, row.settled), row.usage.total());
    let State { rates, bottles, .. } = state;
    rates.add(Whose::Bottle(row.bottle.clone()), span, tokens);
    if let Some(bottle) = bottles.get(&row.bottle) {
        let views = bottle.info.budgets.iter().filter(|view| view.provider == row.provider);
        for scope in views.flat_map(|view| &view.chain) {
            rates.add(Whose::Budget(scope.scope.clone(), row.provider.clone()), span, tokens);
        }
    }
}

fn detail_of<'a>(state: &'a mut State, bottle: &BottleName) -> Option<&'a mut Detail> {
    match &mut state.screen {
        Screen::Detail(detail) if detail.bottle == *bottle => Some(detail),
        Screen::Detail(_) | Screen::Bottles | Screen::Approvals(_) => None,
    }
}

/// Reasons of drops are not told unasked: they are asked for while somebody looks at them.
fn count_packets(state: &mut State, gates: Vec<LiveGate>) -> Vec<Action> {
    let mut actions = Vec::new();
    for LiveGate { bottle, dropped_packets, counts } in gates {
        if let Some(detail) = detail_of(state, &bottle)
            && detail.section == Section::Counters
        {
            actions.push(Action::Fetch(bottle.clone(), Section::Counters));
        }
        if let Some(known) = state.bottles.get_mut(&bottle) {
            known.info.dropped_packets = dropped_packets;
            known.counts = counts;
        }
    }
    actions
}

fn ask(state: &mut State, approval: ApprovalRow) {
    let known = state.approvals.iter().position(|row| row.id == approval.id);
    match (known, approval.verdict) {
        (Some(at), None) => {
            if let Some(row) = state.approvals.get_mut(at) {
                *row = approval;
            }
        }
        (None, None) => state.approvals.push(approval),
        (Some(at), Some(_)) => {
            state.approvals.remove(at);
            // The next question must not slip under a finger that is about to press a key.
            if let Screen::Approvals(selected) = &mut state.screen
                && *selected == Some(approval.id)
            {
                *selected = None;
            }
        }
        (None, Some(_)) => {}
    }
}

fn note(state: &mut State, row: AuditRow) {
    if let Some(bottle) = &row.bottle
        && let Some(detail) = detail_of(state, bottle)
    {
        detail.happened(&row);
    }
    state.audit.push_back(row);
    let too_many = state.audit.len().saturating_sub(AUDIT_ROWS_MAX);
    state.audit.drain(..too_many);
}
