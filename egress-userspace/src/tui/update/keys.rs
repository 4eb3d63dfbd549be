//! What keys do on each screen. What lies above the screen takes them first.

#![expect(clippy::wildcard_enum_match_arm, reason = "most keys mean nothing in most places")]

use crate::control::DecideRequest;
use crate::domain::{ApprovalId, BottleName, BottleState, Stop};

use super::super::state::{
    Confirmation, Detail, GrantForm, Overlay, Screen, Section, SortBy, State, grant_targets, shown,
};
use super::{Action, Job, Key, begin, dialog, feed, say};

/// Lines of a screen that are not rows of its list, about; a page is what is left.
const LINES_BESIDE_ROWS: u16 = 10;

/// Takes a key.
pub(super) fn press(state: &mut State, key: Key) -> Vec<Action> {
    if key == Key::Interrupt {
        return vec![Action::Quit];
    }
    if key == Key::Redraw {
        return vec![Action::Redraw];
    }
    if state.overlay.is_some() {
        return dialog::press(state, key);
    }
    match key {
        Key::Char('q') => return vec![Action::Quit],
        Key::Char('?') => {
            state.overlay = Some(Overlay::Help);
            return Vec::new();
        }
        _ => {}
    }
    match &state.screen {
        Screen::Bottles => on_bottles(state, key),
        Screen::Detail(_) => on_detail(state, key),
        Screen::Approvals(selected) => {
            let selected = *selected;
            on_approvals(state, selected, key)
        }
    }
}

fn on_bottles(state: &mut State, key: Key) -> Vec<Action> {
    match key {
        Key::Enter => return state.selected.clone().map(|bottle| look_at(state, bottle)).unwrap_or_default(),
        Key::Escape => {
            state.filter.clear();
            feed::select_something(state);
        }
        Key::Char('/') => state.overlay = Some(Overlay::Filter(state.filter.clone())),
        Key::Char('s') => sort_by(state, state.order.by.next()),
        Key::Char('S') => state.order.is_reversed = !state.order.is_reversed,
        Key::Char('a') | Key::Tab => open_approvals(state),
        _ => match steps(state, key) {
            Some(step) => move_cursor(state, step),
            None => return act(state, key),
        },
    }
    Vec::new()
}

fn on_detail(state: &mut State, key: Key) -> Vec<Action> {
    let step = steps(state, key);
    if key == Key::Char('a') {
        open_approvals(state);
        return Vec::new();
    }
    let Screen::Detail(detail) = &mut state.screen else { return Vec::new() };
    let turned = match key {
        Key::Escape => {
            let bottle = detail.bottle.clone();
            state.screen = Screen::Bottles;
            if state.bottles.contains_key(&bottle) {
                state.selected = Some(bottle);
            }
            return Vec::new();
        }
        Key::Tab | Key::Right => Some(detail.section.turned(true)),
        Key::BackTab | Key::Left => Some(detail.section.turned(false)),
        Key::Char(digit @ '1'..='5') => {
            let index = digit.to_digit(10).and_then(|digit| usize::try_from(digit).ok()).unwrap_or(1);
            Section::ALL.get(index.saturating_sub(1)).copied()
        }
        _ => None,
    };
    match (turned, step) {
        (Some(section), _) => {
            (detail.section, detail.scroll) = (section, 0);
            let is_stale = section == Section::Counters;
            is_stale.then(|| Action::Fetch(detail.bottle.clone(), section)).into_iter().collect()
        }
        (None, Some(step)) => {
            let end = rows_of(state).saturating_sub(1);
            if let Screen::Detail(detail) = &mut state.screen {
                detail.scroll = stepped(detail.scroll, step).min(end);
            }
            Vec::new()
        }
        (None, None) => act(state, key),
    }
}

fn on_approvals(state: &mut State, selected: Option<ApprovalId>, key: Key) -> Vec<Action> {
    let (is_approved, always) = match key {
        Key::Escape | Key::Tab | Key::Char('a') => {
            state.screen = Screen::Bottles;
            return Vec::new();
        }
        Key::Char('y') => (true, false),
        Key::Char('Y') => (true, true),
        Key::Char('n') => (false, false),
        Key::Char('N') => (false, true),
        _ => {
            let at = state.approvals.iter().position(|row| Some(row.id) == selected);
            if let Some(step) = steps(state, key) {
                let last = state.approvals.len().saturating_sub(1);
                let to = at.map_or(0, |at| stepped(at, step).min(last));
                state.screen = Screen::Approvals(state.approvals.get(to).map(|row| row.id));
            }
            return Vec::new();
        }
    };
    match selected {
        Some(id) => begin(state, Job::Decide { id, is_approved, request: DecideRequest { always } }),
        None => {
            say(state, "no question is chosen: choose one with the arrow keys");
            Vec::new()
        }
    }
}

/// What is done to a bottle.
fn act(state: &mut State, key: Key) -> Vec<Action> {
    let Key::Char(letter @ ('c' | 'r' | 'f' | 'u' | 'k' | 'g')) = key else { return Vec::new() };
    let Some(name) = state.subject().cloned() else {
        say(state, "there is no bottle to do that to");
        return Vec::new();
    };
    let Some(bottle) = state.bottles.get(&name) else {
        say(state, format!("{name} is gone"));
        return Vec::new();
    };
    match letter {
        'c' => begin(state, Job::Cut(name)),
        'r' => begin(state, Job::Restore(name)),
        'u' if bottle.info.state != BottleState::Frozen => {
            say(state, format!("{name} is not frozen: there is nothing to resume"));
            Vec::new()
        }
        'u' => begin(state, Job::Resume(name)),
        'g' => {
            let targets = grant_targets(&bottle.info);
            if targets.is_empty() {
                say(state, format!("{name} has no budget to add to: `egress budget set claude=5M --bottle {name}`"));
            } else {
                let form = GrantForm { bottle: name, targets, chosen: 0, amount: String::new(), problem: None };
                open(state, Overlay::Grant(form));
            }
            Vec::new()
        }
        _ => {
            let stop = if letter == 'f' { Stop::Freeze } else { Stop::Kill };
            open(state, Overlay::Confirm(Confirmation { bottle: name, stop }));
            Vec::new()
        }
    }
}

fn open(state: &mut State, overlay: Overlay) {
    state.overlay = Some(overlay);
    state.message = None;
}

fn look_at(state: &mut State, bottle: BottleName) -> Vec<Action> {
    let actions = feed::fetch_all(&bottle).collect();
    state.screen = Screen::Detail(Box::new(Detail::of(bottle)));
    actions
}

fn open_approvals(state: &mut State) {
    state.screen = Screen::Approvals(state.approvals.first().map(|row| row.id));
}

fn sort_by(state: &mut State, by: SortBy) {
    state.order.by = by;
    state.order.is_reversed = false;
}

fn move_cursor(state: &mut State, step: isize) {
    let rows = shown(state);
    let last = rows.len().saturating_sub(1);
    let to = state.cursor(&rows).map_or(0, |at| stepped(at, step).min(last));
    let name = rows.get(to).map(|bottle| bottle.info.name.clone());
    state.selected = name;
}

/// How many rows a key goes down; up when negative.
fn steps(state: &State, key: Key) -> Option<isize> {
    let page = isize::try_from(state.size.lines.saturating_sub(LINES_BESIDE_ROWS).max(1)).unwrap_or(1);
    match key {
        Key::Up => Some(-1),
        Key::Down => Some(1),
        Key::PageUp => Some(-page),
        Key::PageDown => Some(page),
        Key::Home => Some(isize::MIN),
        Key::End => Some(isize::MAX),
        _ => None,
    }
}

fn stepped(at: usize, step: isize) -> usize {
    at.saturating_add_signed(step)
}

/// How many rows the section that is shown has.
fn rows_of(state: &State) -> usize {
    let Screen::Detail(detail) = &state.screen else { return 0 };
    match detail.section {
        Section::Requests => state.in_flight(&detail.bottle) + detail.requests.value().map_or(0, Vec::len),
        Section::Scopes => {
            let bottle = state.bottles.get(&detail.bottle);
            bottle.map_or(0, |bottle| bottle.info.budgets.iter().map(|view| view.chain.len()).sum())
        }
        Section::Routes => detail.routes.value().map_or(0, Vec::len),
        Section::Counters => {
            let gates = detail.counters.value().and_then(Option::as_ref).map(|reply| &reply.gates);
            gates.into_iter().flatten().map(|gate| gate.counters.len()).sum()
        }
        Section::Audit => detail.audit.value().map_or(0, Vec::len),
    }
}
