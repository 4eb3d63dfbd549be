//! From the client to the provider: what asks for work waits for its permit.

use std::pin::pin;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::meter;
use crate::meter::websocket::{Frame, Opcode};

use super::talk::{Talk, Unsent, Word};
use super::wire::{FrameSource, HeldFrame, WireError, send_to_provider};
use super::{Broken, MAY_NOT_PASS, NO_ROOM, POLICY_VIOLATION, Reader, TRY_AGAIN_LATER, Writer};

/// The client breaks the protocol (RFC 6455 §7.4.1).
const PROTOCOL_ERROR: u16 = 1002;
/// Its message is too large.
const TOO_LARGE: u16 = 1009;

/// One direction of a socket.
pub(super) struct Uplink {
    client: FrameSource<Reader>,
    provider: Writer,
    words: mpsc::Sender<Word>,
    talk: Arc<Talk>,
    /// Came while another waited for its permit.
    next: Option<HeldFrame>,
}

/// Has the client said its last word?
#[derive(PartialEq, Eq)]
enum Client {
    Goes,
    Stays,
}

impl Uplink {
    /// Through `words` the client is told what the provider never hears of.
    pub(super) fn new(
        client: FrameSource<Reader>,
        provider: Writer,
        words: mpsc::Sender<Word>,
        talk: Arc<Talk>,
    ) -> Self {
        Self { client, provider, words, talk, next: None }
    }

    /// Until the client closes, or either side breaks.
    pub(super) async fn run(mut self) -> Result<(), Broken> {
        loop {
            let frame = match self.next.take() {
                Some(frame) => frame,
                None => match self.client.next().await {
                    Ok(frame) => frame,
                    Err(WireError::Gone) => return Err(Broken::ClientLeft),
                    Err(WireError::Screened(_)) => {
                        // The provider, which has heard nothing of it, is left as it would be left by a client.
                        let _ = self.send(&Frame::close(POLICY_VIOLATION, MAY_NOT_PASS)).await;
                        return self.dismiss(POLICY_VIOLATION, MAY_NOT_PASS).await;
                    }
                    Err(WireError::TooMuch(_)) => return self.dismiss(TRY_AGAIN_LATER, NO_ROOM).await,
                    Err(WireError::Malformed(error)) => {
                        tracing::debug!(%error, "a client sends no frames");
                        return self.dismiss(PROTOCOL_ERROR, "these are no frames").await;
                    }
                },
            };
            if self.take(frame).await? == Client::Goes {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, frame: HeldFrame) -> Result<Client, Broken> {
        match frame.opcode {
            Opcode::Ping | Opcode::Pong => self.send(&frame).await?,
            Opcode::Close => {
                self.talk.client_leaves();
                self.send(&frame).await?;
                return Ok(Client::Goes);
            }
            Opcode::Text | Opcode::Binary if frame.is_final => self.message(frame).await?,
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                self.dismiss(TOO_LARGE, "egress holds no message this large").await?;
                return Ok(Client::Goes);
            }
        }
        Ok(Client::Stays)
    }

    async fn message(&mut self, frame: HeldFrame) -> Result<(), Broken> {
        let Some(work) = meter::work(self.talk.metered.api, &self.talk.path, &frame.payload) else {
            return self.send(&frame).await;
        };
        match self.admit(work).await? {
            Ok((work, account)) => {
                self.talk.begin(&work, account);
                self.send(&frame).await
            }
            Err(Unsent::Refused(word)) => self.say(word).await,
            Err(Unsent::Severed) => Err(Broken::Severed),
        }
    }

    /// Waits for a permit. Pings pass meanwhile; one message may wait behind, and then the client is not read.
    async fn admit(
        &mut self,
        work: meter::Work,
    ) -> Result<Result<(meter::Work, super::super::account::Account), Unsent>, Broken> {
        let talk = Arc::clone(&self.talk);
        let mut admitting = pin!(talk.admit(work));
        loop {
            let frame = tokio::select! {
                biased;
                admitted = &mut admitting => return Ok(admitted),
                frame = self.client.next(), if self.next.is_none() => frame,
            };
            match frame {
                Ok(frame) if matches!(frame.opcode, Opcode::Ping | Opcode::Pong) => self.send(&frame).await?,
                Ok(frame) => self.next = Some(frame),
                Err(WireError::Gone) => return Err(Broken::ClientLeft),
                // Said again when it is read again.
                Err(WireError::Malformed(_) | WireError::Screened(_) | WireError::TooMuch(_)) => {
                    return Ok(admitting.await);
                }
            }
        }
    }

    /// Ends the conversation in the client's place.
    async fn dismiss(&mut self, code: u16, reason: &'static str) -> Result<(), Broken> {
        self.talk.client_leaves();
        self.say(Word { frame: Frame::close(code, reason), delivery: None }).await
    }

    async fn say(&mut self, word: Word) -> Result<(), Broken> {
        self.words.send(word).await.map_err(|_| Broken::ClientLeft)
    }

    async fn send(&mut self, frame: &Frame) -> Result<(), Broken> {
        send_to_provider(&mut self.provider, frame).await.map_err(|_| Broken::ProviderLeft)
    }
}
