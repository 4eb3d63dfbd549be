//! `egress top`: every bottle as it is, while it is, and the keys to do something about it.
//!
//! `state` is everything that is known, `update` what changes it, `view` how it looks: none of them reads a clock or does
//! anything. Here they are joined to a terminal, to the daemon's feed and to its control API.

mod act;
mod environment;
mod feed;
mod state;
mod terminal;
mod update;
mod view;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::control::{Client, ClientError, StatusReply};
use crate::domain::UnixMillis;

use act::Hands;
use state::State;
use terminal::Terminal;
use update::{Action, Event, update};

/// How often the clock on the screen goes on.
const TICK: Duration = Duration::from_secs(1);
/// The screen is drawn no more often than this.
const FRAME: Duration = Duration::from_millis(30);
/// Whether the caller may see anything is known before; a daemon that does not say so in time is waited for on the screen.
const PERMITTED_WITHIN: Duration = Duration::from_secs(1);
/// Events that wait to be taken notice of; whoever has more waits.
const EVENTS_MAX: usize = 1_024;

/// Why there is no dashboard.
#[derive(Debug, Error)]
pub enum TopError {
    /// Nobody would see it.
    #[error("egress top draws on a terminal, and {0}: `egress list` shows the bottles once")]
    NoTerminal(&'static str),
    /// The terminal does not do what terminals do.
    #[error("the terminal cannot be drawn on")]
    Terminal(#[source] std::io::Error),
    /// No threads or signals are to be had.
    #[error("the dashboard cannot be started")]
    Start(#[source] std::io::Error),
    /// The caller may not see it.
    #[error(transparent)]
    Daemon(#[from] ClientError),
}

/// Shows the dashboard until its user leaves it.
///
/// # Errors
/// As [`TopError`] says. A daemon that does not run is no error: it is waited for.
pub fn run(run_directory: &Path) -> Result<(), TopError> {
    environment::check_terminal().map_err(TopError::NoTerminal)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TopError::Start)?;
    let outcome = runtime.block_on(watch(run_directory));
    // A read of the terminal cannot be cancelled; it must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn watch(run_directory: &Path) -> Result<(), TopError> {
    let client = Client::new(run_directory);
    let asked = tokio::time::timeout(PERMITTED_WITHIN, client.get::<StatusReply>("status")).await;
    if let Ok(Err(error @ ClientError::NotPermitted { .. })) = asked {
        return Err(error.into());
    }
    let mut ends = Ends::new().map_err(TopError::Start)?;
    let mut terminal = Terminal::open().map_err(TopError::Terminal)?;
    let (events, mut heard) = mpsc::channel(EVENTS_MAX);
    let size = terminal.size().map_err(TopError::Terminal)?;
    let mut state = State::new(environment::look(), TimeZone::system(), size, now());
    let hands = Hands::new(client, run_directory, events.clone());
    terminal::read_keys(events);
    hands.begin(Action::Connect(0));
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = heard.recv() => event.unwrap_or(Event::Ended),
            () = ends.next() => Event::Ended,
            _ = ticks.tick() => Event::Tick(now()),
        };
        update(&mut state, Event::Tick(now()));
        let mut next = Some(event);
        while let Some(event) = next {
            for action in update(&mut state, event) {
                match action {
                    Action::Quit => return Ok(()),
                    Action::Redraw => terminal.clear().map_err(TopError::Terminal)?,
                    Action::Connect(_) | Action::History | Action::Fetch(..) | Action::Begin(..) => hands.begin(action),
                }
            }
            next = heard.try_recv().ok();
        }
        terminal.draw(&state).map_err(TopError::Terminal)?;
        tokio::time::sleep(FRAME).await;
    }
}

/// Signals that end the dashboard, its terminal put back.
struct Ends {
    signals: [Signal; 3],
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        let of = |kind| signal(kind);
        Ok(Self { signals: [of(SignalKind::terminate())?, of(SignalKind::interrupt())?, of(SignalKind::hangup())?] })
    }

    async fn next(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.signals;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

fn now() -> UnixMillis {
    UnixMillis(Timestamp::now().as_millisecond())
}
