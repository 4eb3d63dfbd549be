//! What ties a run to those who care for it: front-ends that follow it, the controller that may have to end it.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

/// One run's; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Lifeline {
    /// Ends everything in the bottle: when nobody wants the run any more, and as the last resort when its gate cannot be cut.
    pub(super) end: Arc<Notify>,
    /// Told when a front-end follows a run that another controller started.
    pub(super) followed: Arc<Notify>,
    /// The exit code, once there is one.
    pub(super) exit: watch::Receiver<Option<i32>>,
}

impl Lifeline {
    /// A lifeline, and where its exit code is to be said.
    pub(super) fn new() -> (Self, watch::Sender<Option<i32>>) {
        let (said, exit) = watch::channel(None);
        (Self { end: Arc::default(), followed: Arc::default(), exit }, said)
    }
}
