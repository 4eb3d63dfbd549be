//! The report that a client has all of an answer: a gate is not cut before its bottle could hear why.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::broker::FromProxy;

use super::link::Link;
use super::socket::ClientSocket;

/// Waits until an answer has arrived, and says so.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) socket: Arc<ClientSocket>,
    pub(super) link: Arc<Link>,
    pub(super) patience: Duration,
    pub(super) report: FromProxy,
}

impl Delivery {
    /// To be called when the last byte has been handed to the connection. Says nothing when the bytes do not arrive in
    /// time: the controller keeps its own bounds.
    pub(super) fn start(self) {
        let arrival = Arc::clone(&self.socket).delivered(self.patience);
        // Also called while a runtime that ends drops its tasks.
        let Ok(runtime) = Handle::try_current() else { return };
        drop(runtime.spawn(async move {
            if arrival.await {
                self.link.say(self.report);
            }
        }));
    }
}
