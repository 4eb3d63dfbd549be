//! What ties a run to those who care for it: front-ends that follow it, the controller that may have to end it.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::control::RunEvent;
use crate::domain::{CutCause, Stop};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunEnd {
    /// As a shell would report it.
    pub(super) exit_code: i32,
    /// When it did not end by itself.
    pub(super) stopped: Option<Stopped>,
}

/// A run that was frozen or killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stopped {
    pub(super) stop: Stop,
    /// For people.
    pub(super) message: String,
    /// What is not as it should be.
    pub(super) left: Option<String>,
}

impl From<RunEnd> for RunEvent {
    fn from(RunEnd { exit_code, stopped }: RunEnd) -> Self {
        match stopped {
            Some(Stopped { stop, message, .. }) => Self::Stopped { stop, exit_code, message },
            None => Self::Exited { exit_code },
        }
    }
}

/// One run's; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Lifeline {
    /// Ends everything in the bottle: when nobody wants the run any more, and as the last resort when its gate cannot be cut.
    pub(super) end: Arc<Notify>,
    /// Set when the bottle, cut already, is to be frozen or killed.
    pub(super) stop: watch::Sender<Option<(Stop, CutCause)>>,
    /// Says what remains when a freeze failed; the run goes on.
    pub(super) remains: watch::Sender<Option<String>>,
    /// Told when a front-end follows a run that another controller started.
    pub(super) followed: Arc<Notify>,
    /// How it ended, once it has.
    pub(super) exit: watch::Receiver<Option<RunEnd>>,
}

impl Lifeline {
    /// A lifeline, and where its end is to be said.
    pub(super) fn new() -> (Self, watch::Sender<Option<RunEnd>>) {
        let (said, exit) = watch::channel(None);
        let (stop, remains) = (watch::Sender::new(None), watch::Sender::new(None));
        (Self { end: Arc::default(), stop, remains, followed: Arc::default(), exit }, said)
    }

    /// Whoever waits for a freeze hears what remains. A kill that was ordered meanwhile comes next.
    pub(super) fn freeze_failed(&self, what: String) {
        self.stop.send_if_modified(|stop| stop.take_if(|(stop, _)| *stop == Stop::Freeze).is_some());
        self.remains.send_replace(Some(what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_that_fails_takes_no_kill_back() {
        for (stop, left) in [(Stop::Freeze, None), (Stop::Kill, Some((Stop::Kill, CutCause::Operator)))] {
            let (lifeline, _exit) = Lifeline::new();
            lifeline.stop.send_replace(Some((stop, CutCause::Operator)));
            lifeline.freeze_failed("full".to_owned());
            assert_eq!(*lifeline.stop.borrow(), left);
            assert_eq!(lifeline.remains.borrow().as_deref(), Some("full"));
        }
    }
}
