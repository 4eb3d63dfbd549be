//! What goes on while a command waits, on standard error: a line that is rewritten on a terminal, a line for each step that
//! takes long elsewhere. Standard output is never touched.
#![expect(clippy::print_stderr, reason = "printing is what this file is for")]

use std::io::{IsTerminal, stderr};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::termios::tcgetwinsize;

/// Between two looks at the time.
const TICK: Duration = Duration::from_millis(250);
/// A step that takes longer is told of where there is no terminal.
const LONG: Duration = Duration::from_secs(2);
/// Of a terminal that does not say how wide it is.
const COLUMNS: usize = 80;
/// To the first column, and nothing right of it.
const CLEAR: &str = "\r\x1b[K";

/// Says what goes on until it is dropped. Nothing is said of what is over within a moment.
#[derive(Debug)]
pub(super) struct Progress {
    /// `None` only while dropping.
    orders: Option<Sender<Order>>,
    teller: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Order {
    Step(String),
    Hide(SyncSender<()>),
}

impl Progress {
    /// `what` a command does: `freezing web`.
    pub(super) fn of(what: impl Into<String>) -> Self {
        let (orders, queue) = channel();
        let mut line = Line::new(what.into(), stderr().is_terminal());
        // Without a thread nothing is said, and nobody waits for it.
        let teller = thread::Builder::new().name("progress".to_owned()).spawn(move || tell(&mut line, &queue)).ok();
        Self { orders: Some(orders), teller }
    }

    /// From here on it does this.
    pub(super) fn step(&self, step: impl Into<String>) {
        self.order(Order::Step(step.into()));
    }

    /// Takes the line away until the next moment, for whoever prints something else.
    pub(super) fn hide(&self) {
        let (done, hidden) = sync_channel(1);
        self.order(Order::Hide(done));
        // Nobody answers when there is no thread, and then there is no line.
        let _ = hidden.recv();
    }

    fn order(&self, order: Order) {
        // See above.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.orders.take();
        // It has nothing left to say.
        let _ = self.teller.take().map(JoinHandle::join);
    }
}

fn tell(line: &mut Line, orders: &Receiver<Order>) {
    loop {
        let said = match orders.recv_timeout(TICK) {
            Ok(Order::Step(step)) => line.step(step, Instant::now()),
            Ok(Order::Hide(done)) => {
                eprint!("{}", line.hide());
                // Whoever asked may have gone.
                let _ = done.send(());
                continue;
            }
            Err(RecvTimeoutError::Timeout) => line.tick(Instant::now(), columns()),
            Err(RecvTimeoutError::Disconnected) => return eprint!("{}", line.hide()),
        };
        eprint!("{said}");
    }
}

fn columns() -> usize {
    tcgetwinsize(stderr()).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(COLUMNS)
}

/// What is to be written and when; the time is told to it.
#[derive(Debug)]
struct Line {
    what: String,
    is_terminal: bool,
    step: Option<(String, Instant)>,
    /// Without a terminal: of this step there is a line.
    is_told: bool,
    /// On a terminal: there is a line.
    is_shown: bool,
}

impl Line {
    fn new(what: String, is_terminal: bool) -> Self {
        Self { what, is_terminal, step: None, is_told: false, is_shown: false }
    }

    /// A step that goes on is told of with the next tick.
    fn step(&mut self, step: String, now: Instant) -> String {
        if self.step.as_ref().is_none_or(|(known, _)| *known != step) {
            (self.step, self.is_told) = (Some((step, now)), false);
        }
        String::new()
    }

    fn tick(&mut self, now: Instant, columns: usize) -> String {
        let Some((step, since)) = &self.step else { return String::new() };
        let taken = now.saturating_duration_since(*since);
        if self.is_terminal {
            self.is_shown = true;
            let text = format!("egress: {}: {step} ({} s)", self.what, taken.as_secs());
            // A line that wraps is not rewritten but written again.
            let text: String = text.chars().take(columns.saturating_sub(1)).collect();
            return format!("{CLEAR}{text}");
        }
        if self.is_told || taken < LONG {
            return String::new();
        }
        self.is_told = true;
        format!("egress: {}: {step}\n", self.what)
    }

    fn hide(&mut self) -> &'static str {
        if std::mem::take(&mut self.is_shown) { CLEAR } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps by name, or `None` for a look at the time, each so many milliseconds after the start; and all that is written.
    fn check((is_terminal, columns, happens): (bool, usize, &[(u64, Option<&str>)]), expected: &[&str]) {
        let start = Instant::now();
        let mut line = Line::new("freezing web".to_owned(), is_terminal);
        let mut written = Vec::new();
        for (at, step) in happens {
            let now = start + Duration::from_millis(*at);
            written.push(match step {
                Some(step) => line.step((*step).to_owned(), now),
                None => line.tick(now, columns),
            });
        }
        written.push(line.hide().to_owned());
        written.retain(|text| !text.is_empty());
        assert_eq!(written, expected, "{happens:?}");
    }

    #[test]
    fn a_terminal_has_one_line_that_is_rewritten_and_taken_away() {
        let happens = [
            (0, None),
            (0, Some("committing its image")),
            (250, None),
            (12_400, None),
            (12_500, Some("ending its processes")),
            (12_600, None),
        ];
        let expected = [
            "\r\x1b[Kegress: freezing web: committing its image (0 s)",
            "\r\x1b[Kegress: freezing web: committing its image (12 s)",
            "\r\x1b[Kegress: freezing web: ending its processes (0 s)",
            CLEAR,
        ];
        check((true, 80, &happens), &expected);
        check((true, 20, &[(0, Some("waiting")), (300, None)]), &["\r\x1b[Kegress: freezing we", CLEAR]);
    }

    #[test]
    fn what_is_over_at_once_is_not_told_of() {
        check((true, 80, &[(0, Some("a")), (5, Some("b"))]), &[]);
        check((false, 80, &[(0, Some("a")), (250, None), (1_900, Some("b")), (3_800, None)]), &[]);
    }

    #[test]
    fn without_a_terminal_a_long_step_has_one_line() {
        let happens = [(0, Some("a")), (2_000, None), (9_000, None), (9_001, Some("a")), (11_500, None)];
        check((false, 80, &happens), &["egress: freezing web: a\n"]);
        let happens = [(0, Some("a")), (2_000, None), (3_000, Some("b")), (5_000, None)];
        check((false, 80, &happens), &["egress: freezing web: a\n", "egress: freezing web: b\n"]);
    }
}
