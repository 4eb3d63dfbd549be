//! A request's body: a bounded beginning that has been read, and the rest as it comes, looked at on its way if it is to be.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use crate::domain::Refusal;

use super::limits::{BODY_PREFIX_TIME_MAX, REFUSED_BODY_BYTES_MAX, REFUSED_BODY_TIME_MAX};
use super::memory::{Held, Share, TooMuch};
use super::scan::{Screen, Verdict};

/// The client did not send what it announced.
#[derive(Debug, Error)]
pub(super) enum BodyBroken {
    /// Too slow.
    #[error("the request's body is too slow")]
    TimedOut,
    /// Broken off or malformed.
    #[error("the request's body broke off")]
    Client(#[from] hyper::Error),
    /// Something is in it that may not leave, or there is no room to hold it.
    #[error("the request's body may not leave")]
    Refused(Box<Refusal>),
}

impl From<TooMuch> for BodyBroken {
    fn from(too_much: TooMuch) -> Self {
        Self::Refused(Box::new(too_much.into()))
    }
}

/// What is sent to the provider: what the client sent.
#[derive(Debug)]
pub(super) struct RequestBody {
    prefix: Bytes,
    rest: Option<Incoming>,
    trailers: Option<HeaderMap>,
    /// What looks at the rest as it comes.
    screen: Option<Box<Screen>>,
    /// What is read of it is charged there.
    memory: Arc<Share>,
    /// Room for a long beginning.
    _place: Option<OwnedSemaphorePermit>,
}

impl RequestBody {
    /// All of it still to come. `memory` is that of its bottle.
    pub(super) fn unread(body: Incoming, memory: &Arc<Share>) -> Self {
        let memory = Arc::clone(memory);
        Self { prefix: Bytes::new(), rest: Some(body), trailers: None, screen: None, memory, _place: None }
    }

    /// Waits for the beginning: all of the body, or `bytes_max` bytes and what came with the last of them.
    pub(super) async fn with_prefix(self, bytes_max: usize) -> Result<Self, BodyBroken> {
        read_prefix(self, bytes_max).await
    }

    /// Makes everything be looked at, what has been read as well.
    pub(super) fn screened(mut self, mut screen: Screen) -> Result<Self, Refusal> {
        screen.push(&std::mem::take(&mut self.prefix))?;
        if let Some(trailers) = &self.trailers {
            screen.judge_trailers(trailers)?;
        }
        Ok(Self { screen: Some(Box::new(screen)), ..self })
    }

    /// Where it stands why the body was not sent to its end.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.screen.as_ref().map(|screen| screen.verdict())
    }

    /// The same in a place that it leaves when it has been sent.
    pub(super) fn in_place(self, place: OwnedSemaphorePermit) -> Self {
        Self { _place: Some(place), ..self }
    }

    /// One of the proxy's own, about what a bottle asked.
    pub(super) fn of(bytes: Bytes, memory: &Arc<Share>) -> Result<Self, TooMuch> {
        let prefix = memory.hold(bytes.len())?.keep(bytes);
        let memory = Arc::clone(memory);
        Ok(Self { prefix, rest: None, trailers: None, screen: None, memory, _place: None })
    }

    fn beginning_with(mut self, gathered: BytesMut, held: Held) -> Self {
        if !gathered.is_empty() {
            self.prefix = held.keep(gathered.freeze());
        }
        self
    }

    /// The beginning.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The same for whoever looks at it elsewhere.
    pub(super) fn shared_prefix(&self) -> Bytes {
        self.prefix.clone()
    }

    /// The beginning is all of it.
    pub(super) fn is_whole(&self) -> bool {
        self.screen.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    /// There is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.is_end_stream()
    }

    /// Nothing of it is sent. What was held is given back before anybody waits for the client to have sent the rest.
    async fn give_up(self, broken: impl Into<BodyBroken>) -> BodyBroken {
        let (broken, rest) = (broken.into(), self.into_rest());
        if let (BodyBroken::Refused(_), Some(rest)) = (&broken, rest) {
            discard(rest).await;
        }
        broken
    }

    /// Sends something else in place of the beginning.
    pub(super) fn replace_prefix(&mut self, prefix: Bytes) {
        self.prefix = Bytes::new();
        self.prefix = self.memory.hold_instead(prefix.len()).keep(prefix);
    }

    /// What has not been read.
    pub(super) fn into_rest(self) -> Option<Incoming> {
        self.rest
    }

    /// How long all of it is, as far as that is known.
    pub(super) fn bytes_total(&self) -> Option<u64> {
        self.size_hint().exact()
    }
}

async fn read_prefix(mut body: RequestBody, bytes_max: usize) -> Result<RequestBody, BodyBroken> {
    let (mut gathered, mut held) = (BytesMut::new(), body.memory.nothing());
    let mut deadline = Instant::now() + BODY_PREFIX_TIME_MAX;
    while body.prefix.len().max(gathered.len()) < bytes_max {
        let frame = match timeout_at(deadline, poll_fn(|cx| body.poll_rest(cx))).await {
            Ok(frame) => frame,
            // The client does not wait for itself.
            Err(_) if body.screen.as_ref().is_some_and(|screen| screen.is_asking()) => {
                let frame = poll_fn(|cx| body.poll_rest(cx)).await;
                deadline = Instant::now() + BODY_PREFIX_TIME_MAX;
                frame
            }
            Err(_) => return Err(BodyBroken::TimedOut),
        };
        let Some(frame) = frame else { break };
        let frame = match frame {
            Ok(frame) => frame.into_data(),
            Err(broken) => {
                drop((gathered, held));
                return Err(body.give_up(broken).await);
            }
        };
        match frame {
            // Most bodies come in one piece, which is not copied.
            Ok(data) if body.prefix.is_empty() && gathered.is_empty() => match body.memory.hold(data.len()) {
                Ok(held) => body.prefix = held.keep(data),
                Err(too_much) => return Err(body.give_up(too_much).await),
            },
            Ok(data) => {
                let more = body.prefix.len() + data.len();
                if let Err(too_much) = held.set(gathered.len() + more) {
                    drop((gathered, held));
                    return Err(body.give_up(too_much).await);
                }
                gathered.extend_from_slice(&std::mem::take(&mut body.prefix));
                gathered.extend_from_slice(&data);
            }
            Err(frame) => {
                body.trailers = frame.into_trailers().ok();
                break;
            }
        }
    }
    Ok(body.beginning_with(gathered, held))
}

/// Reads a body that nobody wants, within bounds: closing a socket with unread bytes would reset it, and the answer with it.
pub(super) async fn discard(body: Incoming) {
    discard_within(body, REFUSED_BODY_BYTES_MAX, REFUSED_BODY_TIME_MAX).await;
}

/// The same within other bounds.
pub(super) async fn discard_within(mut body: Incoming, bytes_max: usize, time_max: Duration) {
    let reading = async {
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(Ok(frame)) = body.frame().await
        {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Whoever sends longer than this gets the reset.
    let _ = timeout(time_max, reading).await;
}

impl RequestBody {
    /// What comes after the beginning; nothing is left of it at its end.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        loop {
            if let Some(screen) = &mut self.screen {
                match ready!(screen.poll_passing(cx)) {
                    Ok(bytes) if !bytes.is_empty() => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Ok(_) if screen.is_finished() => self.screen = None,
                    Ok(_) => {}
                    Err(refusal) => return Poll::Ready(Some(Err(self.refuse(refusal)))),
                }
            }
            let Some(rest) = &mut self.rest else {
                let Some(screen) = &mut self.screen else {
                    return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
                };
                if let Err(refusal) = screen.finish() {
                    return Poll::Ready(Some(Err(self.refuse(refusal))));
                }
                continue;
            };
            let frame = ready!(Pin::new(rest).poll_frame(cx)).transpose()?;
            if frame.is_none() {
                self.rest = None;
            }
            let Some(screen) = &mut self.screen else { return Poll::Ready(frame.map(Ok)) };
            let looked = match frame.map(Frame::into_data) {
                None => Ok(()),
                Some(Ok(data)) => screen.push(&data),
                Some(Err(frame)) => {
                    self.trailers = frame.into_trailers().ok();
                    self.trailers.as_ref().map_or(Ok(()), |trailers| screen.judge_trailers(trailers))
                }
            };
            if let Err(refusal) = looked {
                return Poll::Ready(Some(Err(self.refuse(refusal))));
            }
        }
    }

    /// Nothing more of it leaves.
    fn refuse(&mut self, refusal: Refusal) -> BodyBroken {
        if let Some(screen) = self.screen.take() {
            screen.close(refusal.clone());
        }
        self.trailers = None;
        BodyBroken::Refused(Box::new(refusal))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyBroken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        if !self.prefix.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.prefix)))));
        }
        if self.screen.is_none() {
            return self.poll_rest(cx);
        }
        // What the screen holds no longer is held until it has been sent.
        let charged = |frame: Frame<Bytes>, memory: &Arc<Share>| {
            frame.map_data(|data| memory.hold_instead(data.len()).keep(data))
        };
        let frame = ready!(self.poll_rest(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| charged(frame, &self.memory))))
    }

    fn is_end_stream(&self) -> bool {
        let is_over = self.prefix.is_empty() && self.trailers.is_none() && self.screen.is_none();
        is_over && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let prefix = u64::try_from(self.prefix.len()).unwrap_or(u64::MAX);
        let held = match &self.screen {
            Some(screen) if screen.is_decoded() => return longer(&SizeHint::new(), prefix),
            Some(screen) => u64::try_from(screen.held()).unwrap_or(u64::MAX),
            None => 0,
        };
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        longer(&rest, prefix.saturating_add(held))
    }
}

/// A hint for a body with `more` bytes in front.
pub(super) fn longer(hint: &SizeHint, more: u64) -> SizeHint {
    let mut longer = SizeHint::new();
    if let Some(upper) = hint.upper() {
        longer.set_upper(upper.saturating_add(more));
    }
    longer.set_lower(hint.lower().saturating_add(more));
    longer
}
