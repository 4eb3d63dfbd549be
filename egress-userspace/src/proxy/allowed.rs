//! A request that may go: where to, by what right, and over whose connections.

use crate::domain::Auth;
use crate::policy::{Credential, Way};

use super::target::{PLAIN_PORT, TLS_PORT, Target};
use super::upstream::{Lane, Reach};
use super::view::Passage;

/// A request that routes allow.
#[derive(Clone, Debug)]
pub(super) struct Allowed {
    /// Where it goes.
    pub(super) target: Target,
    pub(super) way: Way,
    /// What it presents there.
    pub(super) credential: Credential,
}

impl Allowed {
    /// To a provider, and with a secret, only over TLS.
    pub(super) fn new(target: Target, way: Way, credential: Credential) -> Self {
        let is_plain_allowed = way.metered.is_none() && !matches!(way.auth, Auth::Inject(..));
        let target = match target.is_tls || is_plain_allowed {
            true => target,
            false => {
                let port = if target.port == PLAIN_PORT { TLS_PORT } else { target.port };
                Target { is_tls: true, port, ..target }
            }
        };
        Self { target, way, credential }
    }

    /// Whose connections it takes.
    pub(super) fn lane<'a>(&self, passage: &'a Passage) -> Lane<'a> {
        match (self.way.private, &self.way.metered) {
            (false, Some(_)) => Lane::Metered(&passage.pools),
            (false, None) => Lane::Own(&passage.pools, Reach::Public),
            (true, _) => Lane::Own(&passage.pools, Reach::Private),
        }
    }
}
