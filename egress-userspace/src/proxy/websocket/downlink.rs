//! From the provider to the client: every event is metered, and what ends a response waits for its settlement.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::domain::{Ending, with_causes};
use crate::meter::ServerEvent;
use crate::meter::websocket::{Frame, Opcode};

use super::super::delivery::Delivery;
use super::super::limits::WEBSOCKET_CLOSE_TIME_MAX;
use super::talk::{Settling, Step, Stranger, Talk, Unsent, Word};
use super::wire::{FrameSource, HeldFrame, WireError, send_to_client};
use super::{Broken, MAY_NOT_PASS, NO_ROOM, POLICY_VIOLATION, Reader, TRY_AGAIN_LATER, Writer};

/// All that was to be said has been said (RFC 6455 §7.4.1).
const NORMAL: u16 = 1000;
/// Something nobody expected happened on the way (RFC 6455 §7.4.1).
const INTERNAL_ERROR: u16 = 1011;

/// One direction of a socket.
pub(super) struct Downlink {
    provider: FrameSource<Reader>,
    client: Writer,
    words: mpsc::Receiver<Word>,
    talk: Arc<Talk>,
    /// When the provider last said something.
    heard: Instant,
    /// A message passes in pieces: the proxy's own words wait.
    is_in_message: bool,
}

/// Has the client been told that nothing follows?
#[derive(PartialEq, Eq)]
enum Provider {
    Goes,
    Stays,
}

impl Downlink {
    /// Through `words` comes what the proxy has to say itself.
    pub(super) fn new(
        provider: FrameSource<Reader>,
        client: Writer,
        words: mpsc::Receiver<Word>,
        talk: Arc<Talk>,
    ) -> Self {
        Self { provider, client, words, talk, heard: Instant::now(), is_in_message: false }
    }

    /// Until the provider closes, or either side breaks.
    pub(super) async fn run(mut self) -> Result<(), Broken> {
        let ended = self.pass().await;
        if let Err(
            broken @ (Broken::Provider(_)
            | Broken::Screened(_)
            | Broken::TooMuch(_)
            | Broken::Silent
            | Broken::Exceeded
            | Broken::Unasked),
        ) = &ended
        {
            tracing::warn!(host = %self.talk.target.host, error = with_causes(broken), "a WebSocket is ended");
            settled(self.talk.settle_unfinished(broken.ending())).await?;
            // How the farewell ends changes nothing.
            let farewell = if matches!(broken, Broken::Screened(_)) {
                Frame::close(POLICY_VIOLATION, MAY_NOT_PASS)
            } else if matches!(broken, Broken::TooMuch(_)) {
                Frame::close(TRY_AGAIN_LATER, NO_ROOM)
            } else {
                Frame::close(INTERNAL_ERROR, "egress ends this WebSocket")
            };
            let _ = timeout(WEBSOCKET_CLOSE_TIME_MAX, self.send(&farewell)).await;
        }
        let _ = timeout(WEBSOCKET_CLOSE_TIME_MAX, self.client.shutdown()).await;
        ended
    }

    async fn pass(&mut self) -> Result<(), Broken> {
        loop {
            let deadline = self.talk.silent_from(self.heard).unwrap_or(Instant::now() + self.talk.idle_max());
            tokio::select! {
                biased;
                Some(word) = self.words.recv(), if !self.is_in_message => {
                    if self.say(word).await? == Provider::Goes {
                        return Ok(());
                    }
                }
                frame = self.provider.next() => {
                    if self.take(frame).await? == Provider::Goes {
                        return Ok(());
                    }
                }
                () = sleep_until(deadline) => {
                    // A request may have left meanwhile.
                    if self.talk.silent_from(self.heard).is_some_and(|silent| silent <= Instant::now()) {
                        return Err(Broken::Silent);
                    }
                }
            }
        }
    }

    async fn take(&mut self, frame: Result<HeldFrame, WireError>) -> Result<Provider, Broken> {
        let frame = match frame {
            Ok(frame) => frame,
            Err(WireError::Gone) => {
                settled(self.talk.settle_unfinished(Ending::HungUp)).await?;
                return Err(Broken::ProviderLeft);
            }
            Err(WireError::Malformed(error)) => return Err(Broken::Provider(error)),
            Err(WireError::Screened(found)) => return Err(Broken::Screened(found)),
            Err(WireError::TooMuch(too_much)) => return Err(Broken::TooMuch(too_much)),
        };
        if frame.opcode != Opcode::Pong {
            self.heard = Instant::now();
        }
        match frame.opcode {
            Opcode::Ping | Opcode::Pong => self.send(&frame).await?,
            Opcode::Close => {
                settled(self.talk.settle_unfinished(Ending::HungUp)).await?;
                self.send(&frame).await?;
                return Ok(Provider::Goes);
            }
            Opcode::Text | Opcode::Binary if frame.is_final => self.message(frame).await?,
            Opcode::Text | Opcode::Binary => {
                self.is_in_message = true;
                let event = ServerEvent::read(&frame.payload);
                let settling = self.talk.take_beginning(&event, frame.payload.len());
                let has_crossed = settled(settling.map_err(|Stranger| Broken::Unasked)?).await?;
                self.hand_over(&frame, has_crossed).await?;
            }
            Opcode::Continuation => {
                self.is_in_message = !frame.is_final;
                self.send(&frame).await?;
            }
        }
        Ok(Provider::Stays)
    }

    async fn message(&mut self, frame: HeldFrame) -> Result<(), Broken> {
        let event = ServerEvent::read(&frame.payload);
        let mut step = self.talk.take(&event, &frame.payload);
        if matches!(step, Step::Stranger) {
            self.adopt(&event).await?;
            step = self.talk.take(&event, &frame.payload);
        }
        match step {
            Step::Pass => self.send(&frame).await,
            Step::Settles(settling) => {
                let has_crossed = settling.await?.crossed;
                self.hand_over(&frame, has_crossed).await
            }
            Step::Exceeds => Err(Broken::Exceeded),
            Step::Exhausts => self.end_early(&frame).await,
            Step::Stranger => Err(Broken::Unasked),
        }
    }

    /// The budget is used up: everything in flight on this socket ends, and the socket with it, as the provider cannot be told
    /// otherwise to stop.
    async fn end_early(&mut self, last: &Frame) -> Result<(), Broken> {
        let (settling, words) = self.talk.end_early();
        let has_crossed = settled(settling).await?;
        for frame in std::iter::once(last).chain(&words) {
            self.send(frame).await?;
        }
        self.hand_over(&Frame::close(NORMAL, "the budget is used up"), has_crossed).await?;
        Err(Broken::Exhausted)
    }

    /// Nothing of a response passes for which there is no permit. The provider stops when the socket ends.
    async fn adopt(&mut self, event: &ServerEvent) -> Result<(), Broken> {
        match self.talk.adopt(event).await {
            Ok(()) => Ok(()),
            Err(Unsent::Refused(word)) => {
                self.say(word).await?;
                Err(Broken::Unasked)
            }
            Err(Unsent::Severed) => Err(Broken::Severed),
        }
    }

    /// Hands over what ended a response; with it, perhaps, a budget.
    async fn hand_over(&mut self, frame: &Frame, has_crossed: bool) -> Result<(), Broken> {
        let delivery = has_crossed.then(|| self.talk.delivery());
        self.write(frame, delivery).await
    }

    /// Says something that may be followed to the client.
    async fn say(&mut self, word: Word) -> Result<Provider, Broken> {
        let Word { frame, delivery } = word;
        self.write(&frame, delivery).await?;
        Ok(if frame.opcode == Opcode::Close { Provider::Goes } else { Provider::Stays })
    }

    async fn write(&mut self, frame: &Frame, delivery: Option<Delivery>) -> Result<(), Broken> {
        self.client.write_all(&frame.encode(None)).await.map_err(|_| Broken::ClientLeft)?;
        // Between writing and flushing: the flush says that nothing older is on its way.
        if let Some(delivery) = delivery {
            delivery.start();
        }
        self.client.flush().await.map_err(|_| Broken::ClientLeft)
    }

    async fn send(&mut self, frame: &Frame) -> Result<(), Broken> {
        send_to_client(&mut self.client, frame).await.map_err(|_| Broken::ClientLeft)
    }
}

/// Waits until all of these have committed. Has one of them used up a budget?
async fn settled(settling: Vec<Settling>) -> Result<bool, Broken> {
    let mut has_crossed = false;
    for settling in settling {
        has_crossed |= settling.await?.crossed;
    }
    Ok(has_crossed)
}
