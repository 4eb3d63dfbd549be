//! A connection whose TLS is not ended here, for clients that trust one certificate only: bytes pass as they are, to the host
//! that the client names in SNI and to no other address than that name has.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncWriteExt, copy_bidirectional};

use crate::domain::{Host, RefusalReason, RequestLog};
use crate::policy::Way;

use super::exchange::{Exchange, Origin};
use super::request_log::Line;
use super::socket::ClientStream;
use super::upstream::{DialError, Reach};
use super::view::{Bottle, PolicyView};

/// What a connection is called that is no request.
const CONNECT: &str = "CONNECT";

/// Why a spliced connection ended other than by its end.
#[derive(Debug, Error)]
pub(super) enum SpliceError {
    /// There is no other end.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// One of the ends broke off.
    #[error("an end broke off")]
    Broken(#[from] io::Error),
}

/// A connection that is to be passed on.
pub(super) struct Spliced {
    pub(super) stream: ClientStream,
    /// What the client has said so far.
    pub(super) hello: Vec<u8>,
    pub(super) host: Host,
    pub(super) port: u16,
    /// May the name lead to an address of this network?
    pub(super) private: bool,
    pub(super) rule: Option<String>,
    pub(super) log: RequestLog,
}

impl Exchange {
    /// May the name leave that a connection is to be passed on to? Whoever is asked for its address gets to know it.
    pub(super) fn judge_spliced(&self, policy: &PolicyView, bottle: &Bottle, way: &Way, host: &Host) -> bool {
        let Err(refusal) = self.sets.judge_host(policy, bottle, way.outbound, host) else { return true };
        Line::new(&bottle.view.name, CONNECT, "", Some(refusal.reason)).by(refusal.rule.as_deref()).write(way.log);
        self.link.tell_refused(bottle, refusal.reason, None, CONNECT, refusal.rule);
        false
    }

    /// Passes bytes both ways until both ends have closed, or the bottle is cut.
    pub(super) async fn splice(&self, origin: &Origin, bottle: &Bottle, spliced: Spliced) -> Result<(), SpliceError> {
        let Spliced { mut stream, hello, host, port, private, rule, log } = spliced;
        let dialled = self.upstream.connect(&host, port, if private { Reach::Private } else { Reach::Public }).await;
        let reason = match &dialled {
            Err(DialError::NotPublic) => Some(RefusalReason::AddressNotPublic),
            Ok(_) | Err(_) => None,
        };
        let name = &bottle.view.name;
        Line::new(name, CONNECT, "", reason).at(Some(&host)).by(rule.as_deref()).write(log);
        if let Some(reason) = reason {
            self.link.tell_refused(bottle, reason, Some(&host), CONNECT, rule.clone());
        }
        let mut upstream = dialled?;
        upstream.write_all(&hello).await?;
        tokio::select! {
            biased;
            () = origin.passage.severed() => Ok(()),
            passed = copy_bidirectional(&mut stream, &mut upstream) => Ok(passed.map(|_| ())?),
        }
    }
}
