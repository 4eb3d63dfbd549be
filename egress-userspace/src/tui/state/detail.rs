//! One bottle, looked at closely.

use crate::control::KernelReply;
use crate::domain::{AuditRow, BottleName, ListedRoute, UsageRow};

/// Most rows of requests, and of the audit, that a detail view asks for and keeps.
pub(in crate::tui) const ROWS_MAX: usize = 200;

/// What is shown of a bottle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tui) enum Section {
    /// What it asks providers for.
    Requests,
    /// The budgets it counts for.
    Scopes,
    /// Where it may go.
    Routes,
    /// What its gate has counted.
    Counters,
    /// What happened to it.
    Audit,
}

impl Section {
    /// Each, in the order of their tabs.
    pub(in crate::tui) const ALL: [Self; 5] = [Self::Requests, Self::Scopes, Self::Routes, Self::Counters, Self::Audit];

    /// In a word.
    pub(in crate::tui) fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Scopes => "scopes",
            Self::Routes => "routes",
            Self::Counters => "counters",
            Self::Audit => "audit",
        }
    }

    /// The one so many tabs further, around the ends.
    pub(in crate::tui) fn turned(self, is_forward: bool) -> Self {
        match (self, is_forward) {
            (Self::Requests, true) | (Self::Routes, false) => Self::Scopes,
            (Self::Scopes, true) | (Self::Counters, false) => Self::Routes,
            (Self::Routes, true) | (Self::Audit, false) => Self::Counters,
            (Self::Counters, true) | (Self::Requests, false) => Self::Audit,
            (Self::Audit, true) | (Self::Scopes, false) => Self::Requests,
        }
    }
}

/// Something that has to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) enum Loaded<T> {
    /// It was, and has not come. What became known meanwhile.
    Waiting(T),
    /// It has come.
    Here(T),
    /// It cannot be had, and why.
    Failed(String),
}

impl<T> Loaded<T> {
    /// What is known.
    pub(in crate::tui) fn value(&self) -> Option<&T> {
        match self {
            Self::Waiting(value) | Self::Here(value) => Some(value),
            Self::Failed(_) => None,
        }
    }

    fn value_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Waiting(value) | Self::Here(value) => Some(value),
            Self::Failed(_) => None,
        }
    }
}

/// What was asked for, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) enum Fetched {
    /// Oldest first.
    Requests(Vec<UsageRow>),
    /// Everywhere it may go.
    Routes(Vec<ListedRoute>),
    /// Its gate.
    Counters(Box<KernelReply>),
    /// Oldest first.
    Audit(Vec<AuditRow>),
}

/// See the module. Its budgets are the bottle's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) struct Detail {
    /// Which.
    pub(in crate::tui) bottle: BottleName,
    /// What is shown of it.
    pub(in crate::tui) section: Section,
    /// How many rows are above the first that is shown.
    pub(in crate::tui) scroll: usize,
    /// Settled ones, oldest first.
    pub(in crate::tui) requests: Loaded<Vec<UsageRow>>,
    /// Everywhere it may go.
    pub(in crate::tui) routes: Loaded<Vec<ListedRoute>>,
    /// Its gate; `None` until it has come.
    pub(in crate::tui) counters: Loaded<Option<KernelReply>>,
    /// Oldest first.
    pub(in crate::tui) audit: Loaded<Vec<AuditRow>>,
}

impl Detail {
    /// Nothing of it has come.
    pub(in crate::tui) fn of(bottle: BottleName) -> Self {
        Self {
            bottle,
            section: Section::Requests,
            scroll: 0,
            requests: Loaded::Waiting(Vec::new()),
            routes: Loaded::Waiting(Vec::new()),
            counters: Loaded::Waiting(None),
            audit: Loaded::Waiting(Vec::new()),
        }
    }

    /// Something that was asked for has come. Rows that were heard of meanwhile are in it already, or newer than it.
    pub(in crate::tui) fn take(&mut self, fetched: Fetched) {
        match fetched {
            Fetched::Requests(mut rows) => {
                let heard = self.requests.value().into_iter().flatten().filter(|row| !rows.contains(row));
                let heard: Vec<UsageRow> = heard.cloned().collect();
                rows.extend(heard);
                self.requests = Loaded::Here(rows);
            }
            Fetched::Audit(mut rows) => {
                let newest = rows.last().map_or(i64::MIN, |row| row.number);
                let heard = self.audit.value().into_iter().flatten().filter(|row| row.number > newest);
                let heard: Vec<AuditRow> = heard.cloned().collect();
                rows.extend(heard);
                self.audit = Loaded::Here(rows);
            }
            Fetched::Routes(routes) => self.routes = Loaded::Here(routes),
            Fetched::Counters(counters) => self.counters = Loaded::Here(Some(*counters)),
        }
    }

    /// A section cannot be had.
    pub(in crate::tui) fn fail(&mut self, section: Section, why: String) {
        match section {
            Section::Requests => self.requests = Loaded::Failed(why),
            Section::Routes => self.routes = Loaded::Failed(why),
            Section::Counters => self.counters = Loaded::Failed(why),
            Section::Audit => self.audit = Loaded::Failed(why),
            Section::Scopes => {}
        }
    }

    /// A request of the bottle was settled.
    pub(in crate::tui) fn settled(&mut self, row: &UsageRow) {
        if let Some(rows) = self.requests.value_mut() {
            push(rows, row.clone());
        }
    }

    /// Something happened to the bottle.
    pub(in crate::tui) fn happened(&mut self, row: &AuditRow) {
        if let Some(rows) = self.audit.value_mut()
            && rows.last().is_none_or(|last| last.number < row.number)
        {
            push(rows, row.clone());
        }
    }
}

fn push<T>(rows: &mut Vec<T>, row: T) {
    rows.push(row);
    let too_many = rows.len().saturating_sub(ROWS_MAX);
    rows.drain(..too_many);
}
