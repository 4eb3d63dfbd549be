//! A WebSocket between a bottle and a host. One of OpenAI's Responses is many requests on one connection, each admitted before
//! it is forwarded and settled before its end is handed on; one with a host that spends no tokens passes (`passing`).
//!
//! ```text
//! handshake ─ relay ┬ uplink    client ─ work? ─ admit ─ provider
//!                   └ downlink  provider ─ whose? ─ meter ─ settle ─ client
//! ```
//!
//! Invariants: no message that asks for work leaves before there is a permit for it; the message that ends a response is
//! handed to the client after its settlement has committed; whatever ends the socket, each permit is settled once. Bytes of
//! messages pass unchanged, in frames of the proxy's own. One message is held per direction, and one waits behind it.

mod downlink;
mod handshake;
mod passing;
mod talk;
mod uplink;
mod wire;

use std::pin::pin;
use std::sync::Arc;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{ReadHalf, WriteHalf, split};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{sleep, timeout};

use crate::domain::Ending;
use crate::meter::websocket::{FrameError, Side};

use super::limits::{
    CLIENT_MESSAGE_BYTES_MAX, HANDSHAKE_TIME_MAX, PROVIDER_MESSAGE_BYTES_MAX, WEBSOCKET_CLOSE_TIME_MAX,
    WEBSOCKET_TIME_MAX, WEBSOCKET_WORDS_MAX,
};
use super::link::NoAnswer;
use super::memory::TooMuch;
use super::scan::{Found, FrameScreens};
use super::view::Passage;

use downlink::Downlink;
use talk::Talk;
use uplink::Uplink;
use wire::FrameSource;

/// Something passed that policy does not let pass (RFC 6455 §7.4.1).
const POLICY_VIOLATION: u16 = 1008;
/// Why, for people.
const MAY_NOT_PASS: &str = "a detector of egress found something that may not pass";
/// There is no room for a message (RFC 6455 §7.4.1, IANA's registry).
const TRY_AGAIN_LATER: u16 = 1013;
/// Why, for people.
const NO_ROOM: &str = "egress holds as much for this bottle at once as it may";

type Reader = ReadHalf<TokioIo<Upgraded>>;
type Writer = WriteHalf<TokioIo<Upgraded>>;

/// Why a socket ended other than by being closed.
#[derive(Debug, Error)]
pub(super) enum Broken {
    /// It hung up.
    #[error("the client left")]
    ClientLeft,
    /// It hung up.
    #[error("the provider left")]
    ProviderLeft,
    /// Not a WebSocket after all.
    #[error("the provider sends no frames")]
    Provider(#[source] FrameError),
    /// Nor here.
    #[error("the client sends no frames")]
    Client(#[source] FrameError),
    /// Something was found that may not pass.
    #[error(transparent)]
    Screened(#[from] Found),
    /// There was no room for a message.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    /// While a response was in flight.
    #[error("the provider fell silent")]
    Silent,
    /// As old as one may get.
    #[error("the socket is too old")]
    TooOld,
    /// Never became a socket.
    #[error("the connection did not change its protocol")]
    NoUpgrade(#[source] Option<hyper::Error>),
    /// The bottle is cut.
    #[error("the bottle is cut")]
    Severed,
    /// A response went on after its usage was final, and used more.
    #[error("a response used more than it had said")]
    Exceeded,
    /// A budget was used up by what is in flight.
    #[error("the budget is used up")]
    Exhausted,
    /// A response that nobody asked for was refused.
    #[error("a response that nobody asked for may not be delivered")]
    Unasked,
    /// A settlement could not be committed.
    #[error(transparent)]
    NotSettled(#[from] NoAnswer),
}

impl Broken {
    /// How that is recorded of a response in flight.
    fn ending(&self) -> Ending {
        match self {
            Self::ClientLeft => Ending::Cancelled,
            Self::ProviderLeft => Ending::HungUp,
            Self::Silent => Ending::TimedOut,
            Self::Severed | Self::Exhausted => Ending::Cut,
            Self::Provider(_)
            | Self::Client(_)
            | Self::Screened(_)
            | Self::TooMuch(_)
            | Self::TooOld
            | Self::NoUpgrade(_)
            | Self::Exceeded
            | Self::Unasked
            | Self::NotSettled(_) => Ending::Error,
        }
    }
}

/// Both ends of a socket whose handshake has been answered.
#[derive(Debug)]
pub(super) struct Relay {
    client: OnUpgrade,
    provider: OnUpgrade,
    what: What,
    screens: FrameScreens,
    /// One of those that the bottle may hold.
    _place: OwnedSemaphorePermit,
}

/// What passes over a socket.
#[derive(Debug)]
enum What {
    /// Requests that spend tokens.
    Work(Arc<Talk>),
    /// What spends none.
    Messages(Arc<Passage>),
}

impl Relay {
    /// Passes messages until an end closes or breaks.
    pub(super) async fn run(self) -> Result<(), Broken> {
        let Self { client, provider, what, screens, _place } = self;
        let upgraded = |end: &OnUpgrade| {
            let end = end.clone();
            async move {
                let upgraded = timeout(HANDSHAKE_TIME_MAX, end).await.map_err(|_| Broken::NoUpgrade(None))?;
                upgraded.map(TokioIo::new).map_err(|error| Broken::NoUpgrade(Some(error)))
            }
        };
        let (from_client, to_client) = split(upgraded(&client).await?);
        let (from_provider, to_provider) = split(upgraded(&provider).await?);
        let talk = match what {
            What::Work(talk) => talk,
            What::Messages(passage) => {
                let (client, provider) = ((from_client, to_client), (from_provider, to_provider));
                return passing::run(client, provider, screens, passage).await;
            }
        };
        let (words, waiting) = mpsc::channel(WEBSOCKET_WORDS_MAX);
        let room = || talk.passage.memory.nothing();
        let (outbound, inbound) = (screens.outbound, screens.inbound);
        let from_client = FrameSource::new(from_client, Side::Client, CLIENT_MESSAGE_BYTES_MAX, outbound, room());
        let from_provider = FrameSource::new(from_provider, Side::Server, PROVIDER_MESSAGE_BYTES_MAX, inbound, room());
        let uplink = Uplink::new(from_client, to_provider, words, Arc::clone(&talk));
        let downlink = Downlink::new(from_provider, to_client, waiting, Arc::clone(&talk));
        let ended = pass(uplink.run(), downlink.run()).await;
        talk.settle_rest(ended.as_ref().err().map_or(Ending::Cancelled, Broken::ending));
        ended
    }
}

/// Both directions, until one breaks or both have been closed.
async fn pass(
    uplink: impl Future<Output = Result<(), Broken>>,
    downlink: impl Future<Output = Result<(), Broken>>,
) -> Result<(), Broken> {
    let (mut uplink, mut downlink) = (pin!(uplink), pin!(downlink));
    // Whoever closes first waits for the other's word, but not for ever.
    tokio::select! {
        ended = &mut downlink => match ended {
            Ok(()) => timeout(WEBSOCKET_CLOSE_TIME_MAX, uplink).await.unwrap_or(Ok(())),
            broken @ Err(_) => broken,
        },
        ended = &mut uplink => match ended {
            // A provider that takes no more may have said why.
            Ok(()) | Err(Broken::ProviderLeft) => {
                timeout(WEBSOCKET_CLOSE_TIME_MAX, downlink).await.unwrap_or(Err(Broken::ProviderLeft))
            }
            broken @ Err(_) => broken,
        },
        () = sleep(WEBSOCKET_TIME_MAX) => Err(Broken::TooOld),
    }
}
