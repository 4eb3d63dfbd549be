//! Everything the dashboard knows and shows. Changed by `update` alone, drawn by `view`; time is a field.

mod detail;
mod dialog;
mod governing;
mod link;
mod order;
mod rates;

pub(in crate::tui) use detail::{Detail, Fetched, Loaded, ROWS_MAX, Section};
pub(in crate::tui) use dialog::{Confirmation, GrantForm, GrantTarget, Overlay};
pub(in crate::tui) use governing::{Governing, Lasts, governing, grant_targets};
pub(in crate::tui) use link::Link;
pub(in crate::tui) use order::{Order, SortBy, shown, standing};
pub(in crate::tui) use rates::{POINTS, Rates, Whose};

use std::collections::{BTreeMap, VecDeque};

use jiff::tz::TimeZone;

use crate::control::{LiveBottle, LiveRequest, StatusReply};
use crate::domain::{ApprovalId, ApprovalRow, AuditRow, BottleName, PermitId, UnixMillis};

/// How long the result of an action is shown.
pub(in crate::tui) const MESSAGE_MS: i64 = 30_000;

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tui) struct Look {
    /// The sixteen colours of its own palette; bold, dim and reversed are used in any case.
    pub(in crate::tui) has_colour: bool,
    /// More than ASCII.
    pub(in crate::tui) has_unicode: bool,
}

/// Of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tui) struct Size {
    /// Cells across.
    pub(in crate::tui) columns: u16,
    /// Lines.
    pub(in crate::tui) lines: u16,
}

/// What fills the screen.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::tui) enum Screen {
    /// All bottles.
    Bottles,
    /// One of them.
    Detail(Box<Detail>),
    /// What waits for an operator; the question the cursor is on.
    Approvals(Option<ApprovalId>),
}

/// What an action came to, or why it was not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) struct Message {
    /// It failed.
    pub(in crate::tui) is_error: bool,
    /// For people; not yet safe for a terminal.
    pub(in crate::tui) text: String,
    /// When.
    pub(in crate::tui) at: UnixMillis,
}

/// Tells one action from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::tui) struct JobNumber(pub(in crate::tui) u64);

/// An action that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) struct Running {
    /// Which.
    pub(in crate::tui) number: JobNumber,
    /// `freezing`
    pub(in crate::tui) verb: &'static str,
    /// `web`
    pub(in crate::tui) object: String,
    /// The bottle it is done to, if it changes what that is.
    pub(in crate::tui) bottle: Option<BottleName>,
    /// Since when.
    pub(in crate::tui) since: UnixMillis,
}

/// See the module.
#[derive(Clone, Debug)]
pub(in crate::tui) struct State {
    /// What the terminal can show.
    pub(in crate::tui) look: Look,
    /// For times of day.
    pub(in crate::tui) zone: TimeZone,
    /// Of the terminal.
    pub(in crate::tui) size: Size,
    /// The time.
    pub(in crate::tui) now: UnixMillis,
    /// Whether there is a daemon.
    pub(in crate::tui) link: Link,
    /// How it said it is.
    pub(in crate::tui) daemon: Option<StatusReply>,
    /// By name.
    pub(in crate::tui) bottles: BTreeMap<BottleName, LiveBottle>,
    /// On their way.
    pub(in crate::tui) requests: BTreeMap<PermitId, LiveRequest>,
    /// How fast tokens go.
    pub(in crate::tui) rates: Rates,
    /// Requests that were settled later are heard of as they are; earlier ones are asked for once.
    pub(in crate::tui) heard_from: UnixMillis,
    /// Questions that wait, oldest first.
    pub(in crate::tui) approvals: Vec<ApprovalRow>,
    /// The newest rows, oldest first.
    pub(in crate::tui) audit: VecDeque<AuditRow>,
    /// What fills the screen.
    pub(in crate::tui) screen: Screen,
    /// What lies above it.
    pub(in crate::tui) overlay: Option<Overlay>,
    /// The bottle the cursor is on.
    pub(in crate::tui) selected: Option<BottleName>,
    /// What rows have to contain.
    pub(in crate::tui) filter: String,
    /// What rows are in.
    pub(in crate::tui) order: Order,
    /// Actions that have not ended, oldest first.
    pub(in crate::tui) running: Vec<Running>,
    /// What the last one came to.
    pub(in crate::tui) message: Option<Message>,
    /// How many there were.
    pub(in crate::tui) jobs: u64,
}

impl State {
    /// Nothing is known.
    pub(in crate::tui) fn new(look: Look, zone: TimeZone, size: Size, now: UnixMillis) -> Self {
        Self {
            look,
            zone,
            size,
            now,
            link: Link::Opening { since: now },
            daemon: None,
            bottles: BTreeMap::new(),
            requests: BTreeMap::new(),
            rates: Rates::default(),
            heard_from: now,
            approvals: Vec::new(),
            audit: VecDeque::new(),
            screen: Screen::Bottles,
            overlay: None,
            selected: None,
            filter: String::new(),
            order: Order::default(),
            running: Vec::new(),
            message: None,
            jobs: 0,
        }
    }

    /// The bottle that keys are about: the one that is looked at, else the one under the cursor.
    pub(in crate::tui) fn subject(&self) -> Option<&BottleName> {
        match &self.screen {
            Screen::Detail(detail) => Some(&detail.bottle),
            Screen::Bottles => self.selected.as_ref(),
            Screen::Approvals(_) => None,
        }
    }

    /// The time at which everything was as it is shown: what is known of a daemon that has gone does not grow older.
    pub(in crate::tui) fn as_of(&self) -> UnixMillis {
        match self.link {
            Link::Lost { since, .. } => since,
            Link::Opening { .. } | Link::Live => self.now,
        }
    }

    /// How many requests of a bottle are on their way.
    pub(in crate::tui) fn in_flight(&self, bottle: &BottleName) -> usize {
        self.requests.values().filter(|request| request.bottle == *bottle).count()
    }

    /// What is being done to it.
    pub(in crate::tui) fn doing(&self, bottle: &BottleName) -> Option<&Running> {
        self.running.iter().rev().find(|running| running.bottle.as_ref() == Some(bottle))
    }
}
