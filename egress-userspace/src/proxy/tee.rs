//! The response's body on its way: passed on unbuffered, unchanged but for usage that the client did not ask for, with a
//! copy to the meter. Where it ends with its budget (`crossing: sever`), it passes in whole events.
//!
//! Invariants: the settlement commits before the last byte is handed to the client; after it nothing passes that uses more;
//! the end is named once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep};

use crate::domain::Ending;
use crate::meter::UsageWithheld;

use super::account::{Account, Taken};
use super::delivery::Delivery;
use super::limits::BROKEN_OFF_AFTER;
use super::link::{Committed, NoAnswer};
use super::request_body::longer;
use super::scan::{InboundScreen, Screened};
use super::view::Passage;

/// Why a response ends before its end.
#[derive(Debug, Error)]
pub(super) enum TeeError {
    /// The bottle was cut.
    #[error("the bottle is cut")]
    Severed,
    /// The provider hung up.
    #[error("the provider broke off")]
    Upstream(#[from] hyper::Error),
    /// The provider fell silent.
    #[error("the provider fell silent")]
    Idle,
    /// The budget is used up, and the response cannot be ended otherwise.
    #[error("the budget is used up")]
    Exhausted,
    /// The response went on after its usage was final, and used more.
    #[error("the response used more than it had said")]
    Exceeded,
    /// What is taken out of it cannot be found.
    #[error("the response is not encoded as it says")]
    Undecodable(#[from] std::io::Error),
    /// Something is in it that may not come in.
    #[error(transparent)]
    Screened(#[from] Screened),
    /// The settlement could not be committed.
    #[error(transparent)]
    NotSettled(#[from] NoAnswer),
}

impl TeeError {
    /// How it is recorded.
    fn ending(&self) -> Ending {
        match self {
            Self::Severed | Self::Exhausted => Ending::Cut,
            Self::Upstream(_) => Ending::HungUp,
            Self::Idle => Ending::TimedOut,
            Self::Exceeded | Self::Undecodable(_) | Self::Screened(_) | Self::NotSettled(_) => Ending::Error,
        }
    }
}

type Settling = Pin<Box<dyn Future<Output = Result<Committed, NoAnswer>> + Send>>;

/// What the provider's side has come to.
#[derive(Debug)]
enum Source {
    Flowing(Incoming),
    Ended,
    Failed(TeeError),
    /// The client has been told.
    Over,
}

/// A body that is metered as it passes.
pub(super) struct Tee {
    source: Source,
    account: Account,
    withheld: Option<UsageWithheld>,
    screen: Option<InboundScreen>,
    /// The latest frame, until it is known not to be the last; with the last, until the settlement has committed.
    held: VecDeque<Frame<Bytes>>,
    settling: Option<Settling>,
    severed: Pin<Box<dyn Future<Output = ()> + Send>>,
    idle_max: Duration,
    idle: Pin<Box<Sleep>>,
    latest: Instant,
    /// Runs before a failure is told.
    pause: Option<Pin<Box<Sleep>>>,
    delivery: Option<Delivery>,
    crossed: bool,
}

/// What a body passes on.
pub(super) struct Terms<'a> {
    /// It ends when this does.
    pub(super) passage: &'a Arc<Passage>,
    /// Longest silence of the provider.
    pub(super) idle_max: Duration,
    /// Started when the response that crossed a budget has left.
    pub(super) delivery: Delivery,
    /// What is taken out.
    pub(super) withheld: Option<UsageWithheld>,
    /// What looks at the rest.
    pub(super) screen: Option<InboundScreen>,
}

impl Tee {
    /// Passes `body` on.
    pub(super) fn new(body: Incoming, account: Account, terms: Terms<'_>) -> Self {
        Self {
            source: Source::Flowing(body),
            account,
            withheld: terms.withheld,
            screen: terms.screen,
            held: VecDeque::new(),
            settling: None,
            severed: Box::pin(terms.passage.severed()),
            idle_max: terms.idle_max,
            idle: Box::pin(sleep(terms.idle_max)),
            latest: Instant::now(),
            pause: None,
            delivery: Some(terms.delivery),
            crossed: false,
        }
    }

    /// Sends the settlement; what is metered waits for it.
    fn settle(&mut self, ending: Ending) {
        if let Some(reply) = self.account.settle(ending)
            && self.account.is_metered()
        {
            self.settling = Some(Box::pin(reply));
        }
    }

    fn fail(&mut self, error: TeeError) {
        self.release();
        self.settle(error.ending());
        self.source = Source::Failed(error);
    }

    /// The bottle is cut: nothing more passes, not even what is held.
    fn sever(&mut self) -> TeeError {
        drop(self.account.settle(TeeError::Severed.ending()));
        self.settling = None;
        self.held.clear();
        self.source = Source::Over;
        TeeError::Severed
    }

    /// A frame from the provider. Returns what may pass.
    fn take_frame(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        self.latest = Instant::now();
        let (frame, is_final, is_over) = match frame.into_data() {
            Ok(data) => {
                let Taken { passes, is_final, is_over } = self.account.take(data);
                (Frame::data(passes), is_final, is_over)
            }
            Err(trailers) => (trailers, false, false),
        };
        if is_over {
            self.end_early(frame);
            return None;
        }
        let Source::Flowing(body) = &self.source else { return None };
        // All announced bytes are there, though the provider may yet say so: a client that counts waits for nothing more.
        let is_last = body.is_end_stream() || body.size_hint().exact() == Some(0);
        if body.is_end_stream() {
            self.source = Source::Ended;
        }
        if self.account.exceeds_settlement() {
            tracing::warn!("a response used more after its usage was final; its end is withheld");
            self.source = Source::Failed(TeeError::Exceeded);
            return None;
        }
        let is_settled = self.account.is_settled();
        self.hold(frame);
        if is_last {
            self.release();
        }
        if is_settled {
            return self.held.pop_front();
        }
        if is_last || is_final {
            self.settle(Ending::Complete);
        }
        if self.account.is_settled() {
            return None;
        }
        let waiting = usize::from(self.account.holds_back_last_frame());
        if self.held.len() > waiting { self.held.pop_front() } else { None }
    }

    /// The budget is used up with what is in `frame`, and the provider is hung up on. The client gets it and a proper end; where
    /// there is none, the response breaks off before it.
    fn end_early(&mut self, frame: Frame<Bytes>) {
        let Some(end) = self.account.end_early() else { return self.fail(TeeError::Exhausted) };
        self.hold(frame);
        self.release();
        self.held.push_back(Frame::data(end.into()));
        self.settle(TeeError::Exhausted.ending());
        self.source = Source::Ended;
    }

    /// Keeps what may pass of a frame.
    fn hold(&mut self, frame: Frame<Bytes>) {
        let frame = match (frame.into_data(), &mut self.withheld) {
            (Ok(data), None) => Frame::data(data),
            (Ok(data), Some(withheld)) => match withheld.push(&data) {
                Ok(passing) => Frame::data(passing.into()),
                Err(error) => return self.fail(error.into()),
            },
            (Err(trailers), _) => {
                self.release();
                trailers
            }
        };
        let frame = match (frame.into_data(), &mut self.screen) {
            (Ok(data), Some(screen)) => match screen.push(&data) {
                Ok(passing) => Frame::data(passing),
                Err(error) => return self.block(error),
            },
            (Ok(data), None) => Frame::data(data),
            (Err(trailers), _) => trailers,
        };
        // An empty frame says no more than whether it is the last; holding it would let go of the last bytes.
        if frame.data_ref().is_none_or(|data| !data.is_empty()) {
            self.held.push_back(frame);
        }
    }

    /// No more data comes: what was looked at and not withheld passes.
    fn release(&mut self) {
        let rest = self.account.take_rest();
        if !rest.is_empty() {
            self.hold(Frame::data(rest));
        }
        let rest = self.withheld.take().map(|mut withheld| withheld.finish()).unwrap_or_default();
        if !rest.is_empty() {
            self.hold(Frame::data(rest.into()));
        }
        match self.screen.take().map(|mut screen| screen.finish()) {
            Some(Ok(rest)) if !rest.is_empty() => self.held.push_back(Frame::data(rest)),
            Some(Err(error)) => self.block(error),
            Some(Ok(_)) | None => {}
        }
    }

    /// Something was found: what came before may pass, and nothing else.
    fn block(&mut self, error: Screened) {
        (self.screen, self.withheld) = (None, None);
        drop(self.account.take_rest());
        let error = TeeError::Screened(error);
        tracing::warn!(%error, "a response is broken off");
        self.settle(error.ending());
        self.source = Source::Failed(error);
    }

    /// The settlement has committed, or none is waited for.
    fn take_committed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(settling) = &mut self.settling else { return Poll::Ready(()) };
        let committed = ready!(settling.as_mut().poll(cx));
        self.settling = None;
        match committed {
            Ok(committed) => self.crossed |= committed.crossed,
            Err(error) => {
                self.held.clear();
                self.source = Source::Failed(error.into());
            }
        }
        Poll::Ready(())
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Source::Flowing(body) = &mut self.source else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if polled.is_pending() {
            while self.idle.as_mut().poll(cx).is_ready() {
                let limit = self.latest + self.idle_max;
                if limit <= Instant::now() {
                    self.fail(TeeError::Idle);
                    return Poll::Ready(None);
                }
                self.idle.as_mut().reset(limit);
            }
        }
        polled
    }
}

impl Body for Tee {
    type Data = Bytes;
    type Error = TeeError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TeeError>>> {
        let this = self.get_mut();
        loop {
            if matches!(this.source, Source::Over) {
                return Poll::Ready(None);
            }
            if this.severed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(Err(this.sever())));
            }
            ready!(this.take_committed(cx));
            if this.account.is_settled()
                && let Some(frame) = this.held.pop_front()
            {
                return Poll::Ready(Some(Ok(frame)));
            }
            match std::mem::replace(&mut this.source, Source::Over) {
                Source::Ended | Source::Over => return Poll::Ready(None),
                Source::Failed(error) => {
                    // Broken off at once, what was handed over is dropped unwritten, the head with it.
                    let pause = this.pause.get_or_insert_with(|| Box::pin(sleep(BROKEN_OFF_AFTER)));
                    if pause.as_mut().poll(cx).is_pending() {
                        this.source = Source::Failed(error);
                        return Poll::Pending;
                    }
                    return Poll::Ready(Some(Err(error)));
                }
                flowing @ Source::Flowing(_) => this.source = flowing,
            }
            match ready!(this.poll_source(cx)) {
                Some(Ok(frame)) => {
                    if let Some(frame) = this.take_frame(frame) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
                Some(Err(error)) => this.fail(error.into()),
                None if matches!(this.source, Source::Failed(_)) => {}
                None => {
                    this.release();
                    this.settle(Ending::Complete);
                    this.source = Source::Ended;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let nothing_left = self.held.is_empty() && self.settling.is_none() && self.account.is_settled();
        matches!(self.source, Source::Over) || (nothing_left && matches!(self.source, Source::Ended))
    }

    fn size_hint(&self) -> SizeHint {
        let held: usize = self.held.iter().filter_map(Frame::data_ref).map(Bytes::len).sum();
        let source = match &self.source {
            Source::Flowing(_) if self.withheld.is_some() || self.account.may_end_early() => SizeHint::new(),
            Source::Flowing(_) if self.screen.as_ref().is_some_and(InboundScreen::is_decoded) => SizeHint::new(),
            Source::Flowing(body) => {
                let held = self.screen.as_ref().map_or(0, InboundScreen::held);
                longer(&body.size_hint(), u64::try_from(held).unwrap_or(u64::MAX))
            }
            Source::Ended | Source::Failed(_) | Source::Over => SizeHint::with_exact(0),
        };
        longer(&source, u64::try_from(held).unwrap_or(u64::MAX))
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        if self.crossed
            && let Some(delivery) = self.delivery.take()
        {
            delivery.start();
        }
    }
}
