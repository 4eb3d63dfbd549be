//! Which bottles are shown, and in what order.

use crate::control::LiveBottle;
use crate::domain::{AgentName, BottleName, BottleState, GateView};

use super::{State, Whose, governing};

/// What decides the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::tui) enum SortBy {
    /// The largest used part of the governing budget first; what has ended last.
    #[default]
    Budget,
    /// By name.
    Name,
    /// The fastest first.
    Burn,
    /// Running, cut, frozen, ended.
    State,
    /// The most dropped packets first.
    Drops,
}

impl SortBy {
    /// In words.
    pub(in crate::tui) fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Name => "name",
            Self::Burn => "burn",
            Self::State => "state",
            Self::Drops => "drops",
        }
    }

    /// The one after it, and the first after the last.
    pub(in crate::tui) fn next(self) -> Self {
        match self {
            Self::Budget => Self::Name,
            Self::Name => Self::Burn,
            Self::Burn => Self::State,
            Self::State => Self::Drops,
            Self::Drops => Self::Budget,
        }
    }
}

/// An order of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::tui) struct Order {
    /// By what.
    pub(in crate::tui) by: SortBy,
    /// The last first.
    pub(in crate::tui) is_reversed: bool,
}

/// Bottles that the filter lets through, in order; those that are equal by name.
pub(in crate::tui) fn shown(state: &State) -> Vec<&LiveBottle> {
    let needle = state.filter.to_lowercase();
    let mut rows: Vec<&LiveBottle> = state.bottles.values().filter(|bottle| contains(bottle, &needle)).collect();
    match state.order.by {
        // The map is in the order of names, and sorting keeps it among equals.
        SortBy::Name => {}
        SortBy::Budget => rows.sort_by_cached_key(|bottle| (has_ended(bottle), std::cmp::Reverse(used(bottle)))),
        SortBy::Burn => rows.sort_by_cached_key(|bottle| {
            let whose = Whose::Bottle(bottle.info.name.clone());
            std::cmp::Reverse(state.rates.per_minute(&whose, state.now))
        }),
        SortBy::State => rows.sort_by_key(|bottle| standing(bottle)),
        SortBy::Drops => rows.sort_by_key(|bottle| std::cmp::Reverse(bottle.info.dropped_packets)),
    }
    if state.order.is_reversed {
        rows.reverse();
    }
    rows
}

/// The row a bottle is in.
pub(super) fn position(rows: &[&LiveBottle], name: Option<&BottleName>) -> Option<usize> {
    rows.iter().position(|bottle| Some(&bottle.info.name) == name)
}

impl State {
    /// The row under the cursor.
    pub(in crate::tui) fn cursor(&self, rows: &[&LiveBottle]) -> Option<usize> {
        position(rows, self.selected.as_ref())
    }
}

fn contains(bottle: &LiveBottle, needle: &str) -> bool {
    let info = &bottle.info;
    let words = [Some(info.name.as_str()), info.agent.as_ref().map(AgentName::as_str), Some(standing(bottle).1)];
    let providers = info.budgets.iter().map(|view| view.provider.as_str());
    words.into_iter().flatten().chain(providers).any(|word| word.contains(needle))
}

/// What it has used concerns nobody any more.
fn has_ended(bottle: &LiveBottle) -> bool {
    bottle.info.state == BottleState::Ended
}

/// Used parts in percent, none below nothing.
fn used(bottle: &LiveBottle) -> (bool, u64) {
    let governing = governing(&bottle.info);
    (governing.is_some(), governing.map_or(0, |one| one.percent()))
}

/// What a bottle is, in a word, and its place among others.
pub(in crate::tui) fn standing(bottle: &LiveBottle) -> (u8, &'static str) {
    match (bottle.info.state, bottle.info.gate) {
        (BottleState::Running, GateView::Open) => (0, "running"),
        (BottleState::Running, GateView::Cut(_)) => (1, "cut"),
        (BottleState::Frozen, _) => (2, "frozen"),
        (BottleState::Ended, _) => (3, "ended"),
    }
}
