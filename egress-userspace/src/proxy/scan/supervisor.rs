//! Who is asked whether something may leave that was found.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::domain::{BottleId, Host, Supervised};

use super::super::approval::{Found, supervise};
use super::super::link::Link;
use super::super::view::Passage;

/// The way to an operator, for one request.
#[derive(Clone)]
pub(super) struct Supervisor {
    pub(super) link: Arc<Link>,
    pub(super) passage: Arc<Passage>,
    pub(super) bottle: BottleId,
    pub(super) host: Host,
    pub(super) target: String,
    pub(super) patience: Duration,
}

impl Supervisor {
    /// May it leave? Where nobody says yes in time, it may not.
    pub(super) async fn approves(self, detector: String, value: Zeroizing<Vec<u8>>) -> bool {
        let Self { link, passage, bottle, host, target, patience } = self;
        let found = Found { host: &host, target: &target, detector: &detector, value: &value };
        matches!(supervise(&link, &passage, bottle, found, patience).await, Ok(Supervised::Approved))
    }
}
