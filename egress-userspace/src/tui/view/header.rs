//! The first lines: how the daemon is, and what must not be overlooked.

use ratatui::text::{Line, Span};

use crate::domain::printable;

use super::super::state::{Link, State};
use super::style::{quiet, strong};
use super::text::{between, counted, cut, fit, moment, width, wrap};

/// Lines that one alarm takes at most.
const ALARM_LINES_MAX: usize = 3;

/// The header and the alarms below it.
pub(super) fn lines(state: &State, cells: usize) -> Vec<Line<'static>> {
    let mut lines = vec![first(state, cells)];
    for alarm in alarms(state) {
        let text = format!("{} {}", state.look.flag(), printable(&alarm));
        let wrapped = wrap(&text, cells.saturating_sub(2), state.look.has_unicode);
        for line in wrapped.into_iter().take(ALARM_LINES_MAX) {
            let padded = fit(&format!(" {line}"), cells, state.look.has_unicode);
            lines.push(Line::styled(padded, state.look.alarm()));
        }
    }
    lines
}

fn first(state: &State, cells: usize) -> Line<'static> {
    let look = state.look;
    let clock = format!("{} ", moment(state.now, state.now, &state.zone));
    let mut spans = vec![Span::styled(" egress top", strong())];
    if matches!(state.link, Link::Opening { .. }) {
        spans.push(Span::styled(format!("   connecting{}", look.ellipsis()), quiet()));
    }
    if let Some(daemon) = &state.daemon {
        let is_live = state.link.is_live();
        let mut part = |sign: &str, text: String, style| {
            spans.push(Span::raw("   "));
            spans.push(Span::styled(format!("{sign} "), style));
            spans.push(Span::raw(text));
        };
        match (&daemon.not_enforcing, is_live) {
            (_, false) => part(look.circle(), "no daemon".to_owned(), look.bad()),
            (None, true) => part(look.dot(), format!("enforcing by {}", printable(&daemon.enforcer)), look.good()),
            (Some(_), true) => part(look.flag(), "NOT ENFORCING".to_owned(), look.bad()),
        }
        match (is_live, daemon.proxy_pid) {
            (false, _) => {}
            (true, Some(_)) => part(look.dot(), "proxy".to_owned(), look.good()),
            (true, None) => part(look.flag(), "no proxy".to_owned(), look.bad()),
        }
        if !state.approvals.is_empty() {
            let asked = counted(state.approvals.len(), "approval", "approvals");
            part(look.flag(), format!("{asked} (a)"), look.warning());
        }
    }
    let left: usize = spans.iter().map(Span::width).sum();
    let room = cells.saturating_sub(left);
    let padded = if room >= width(&clock) { " ".repeat(room - width(&clock)) + &clock } else { String::new() };
    spans.push(Span::styled(cut(&padded, room, look.has_unicode), quiet()));
    Line::from(spans)
}

fn alarms(state: &State) -> Vec<String> {
    let mut alarms = Vec::new();
    match &state.link {
        Link::Opening { .. } | Link::Live => {}
        Link::Lost { since, why, next, .. } => {
            let wait = next.0.saturating_sub(state.now.0).max(0);
            let again = if wait < 1_000 {
                "trying again".to_owned()
            } else {
                format!("trying again in {}", between(state.now, *next))
            };
            let since = moment(*since, state.now, &state.zone);
            let stale = if state.daemon.is_some() { " What is below was so then; gates hold without it." } else { "" };
            return vec![format!("NO DAEMON since {}: {why}; {again}.{stale}", since.trim_end())];
        }
    }
    let Some(daemon) = &state.daemon else { return alarms };
    if let Some(why) = &daemon.not_enforcing {
        alarms.push(format!("NOT ENFORCING: {why}"));
    }
    if daemon.proxy_pid.is_none() {
        alarms.push("NO PROXY: nothing flows until it has been started again".to_owned());
    }
    if let Some(problem) = &daemon.settings_problem {
        alarms.push(format!("SETTINGS: {problem}"));
    }
    alarms
}
