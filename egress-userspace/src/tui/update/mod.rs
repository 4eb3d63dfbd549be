//! What happens, and what is to be done about it. The state changes here and nowhere else.

mod dialog;
mod feed;
mod keys;

use crate::control::{DecideRequest, LiveEvent};
use crate::domain::{ApprovalId, BottleName, Stop, Tokens, UnixMillis, UsageRow};

use super::state::{Fetched, GrantTarget, JobNumber, MESSAGE_MS, Message, Running, Screen, Section, Size, State};

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::tui) enum Event {
    /// It is this late.
    Tick(UnixMillis),
    /// The terminal is of another size.
    Resized(Size),
    /// A key was pressed.
    Key(Key),
    /// The daemon told something.
    Live(Box<LiveEvent>),
    /// The daemon tells nothing any more, or cannot be reached: why.
    Lost(String),
    /// Requests that were settled before the connection was made.
    History(Vec<UsageRow>),
    /// What the detail view asked for has come, or cannot be had.
    Fetched {
        /// Of which bottle.
        bottle: BottleName,
        /// For which section.
        section: Section,
        /// What.
        outcome: Result<Fetched, String>,
    },
    /// An action has ended: what it came to, in words.
    Done(JobNumber, Result<String, String>),
    /// The process is to end.
    Ended,
}

/// A key, as far as any means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tui) enum Key {
    /// Shift included.
    Char(char),
    /// Return.
    Enter,
    /// Escape.
    Escape,
    /// Tabulator.
    Tab,
    /// The same with shift.
    BackTab,
    /// Takes a character back.
    Backspace,
    /// An arrow.
    Up,
    /// An arrow.
    Down,
    /// An arrow.
    Left,
    /// An arrow.
    Right,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// To the first.
    Home,
    /// To the last.
    End,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-L.
    Redraw,
}

/// Something is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) enum Action {
    /// End.
    Quit,
    /// The whole screen is to be drawn anew.
    Redraw,
    /// The daemon is to be connected to, after so many milliseconds.
    Connect(i64),
    /// Requests that were settled before are wanted.
    History,
    /// A section of a bottle is wanted.
    Fetch(BottleName, Section),
    /// Something is to be done.
    Begin(JobNumber, Job),
}

/// Something that is done to a bottle, a budget or a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tui) enum Job {
    /// `egress cut`
    Cut(BottleName),
    /// `egress restore`
    Restore(BottleName),
    /// `egress freeze` and `egress kill`
    Stop(BottleName, Stop),
    /// `egress resume`
    Resume(BottleName),
    /// `egress budget grant`
    Grant(GrantTarget, Tokens),
    /// `egress approvals approve` and `deny`
    Decide {
        /// Which.
        id: ApprovalId,
        /// The request goes; else it is refused.
        is_approved: bool,
        /// Once or for good.
        request: DecideRequest,
    },
}

/// Takes notice of something.
pub(in crate::tui) fn update(state: &mut State, event: Event) -> Vec<Action> {
    match event {
        Event::Tick(now) => {
            state.now = now;
            if state.message.as_ref().is_some_and(|message| now.0 - message.at.0 > MESSAGE_MS) {
                state.message = None;
            }
            Vec::new()
        }
        Event::Resized(size) => {
            state.size = size;
            Vec::new()
        }
        Event::Key(key) => keys::press(state, key),
        Event::Live(event) => feed::hear(state, *event),
        Event::Lost(why) => {
            let wait = state.link.lose(why, state.now);
            vec![Action::Connect(wait)]
        }
        Event::History(rows) => {
            feed::remember(state, &rows);
            Vec::new()
        }
        Event::Fetched { bottle, section, outcome } => {
            if let Screen::Detail(detail) = &mut state.screen
                && detail.bottle == bottle
            {
                match outcome {
                    Ok(fetched) => detail.take(fetched),
                    Err(why) => detail.fail(section, why),
                }
            }
            Vec::new()
        }
        Event::Done(number, outcome) => {
            state.running.retain(|running| running.number != number);
            let is_error = outcome.is_err();
            let (Ok(text) | Err(text)) = outcome;
            state.message = Some(Message { is_error, text, at: state.now });
            Vec::new()
        }
        Event::Ended => vec![Action::Quit],
    }
}

/// Begins something, if there is somebody to do it.
fn begin(state: &mut State, job: Job) -> Vec<Action> {
    if !state.link.is_live() {
        say(state, "there is no daemon to do that: it is being looked for");
        return Vec::new();
    }
    state.jobs += 1;
    let number = JobNumber(state.jobs);
    let (verb, object, bottle) = match &job {
        Job::Cut(bottle) => ("cutting", bottle.to_string(), Some(bottle.clone())),
        Job::Restore(bottle) => ("opening", bottle.to_string(), Some(bottle.clone())),
        Job::Stop(bottle, Stop::Freeze) => ("freezing", bottle.to_string(), Some(bottle.clone())),
        Job::Stop(bottle, Stop::Kill) => ("killing", bottle.to_string(), Some(bottle.clone())),
        Job::Resume(bottle) => ("resuming", bottle.to_string(), Some(bottle.clone())),
        Job::Grant(target, tokens) => ("granting", format!("{tokens} tokens to {target}"), None),
        Job::Decide { id, is_approved: true, .. } => ("approving", format!("question {id}"), None),
        Job::Decide { id, is_approved: false, .. } => ("denying", format!("question {id}"), None),
    };
    state.running.push(Running { number, verb, object, bottle, since: state.now });
    state.message = None;
    vec![Action::Begin(number, job)]
}

/// Why a key did nothing.
fn say(state: &mut State, text: impl Into<String>) {
    state.message = Some(Message { is_error: true, text: text.into(), at: state.now });
}
