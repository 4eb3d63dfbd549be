//! The body of a response: hands over one piece after another, breaks where the script says, and logs how far it came.

use std::collections::VecDeque;
use std::io::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::log::{Log, Served};
use super::render::Piece;
use super::script::Fault;

/// Before hanging up, so that what was written leaves first.
const ABORT_DELAY: Duration = Duration::from_millis(30);

/// A response on its way. Logged when it is dropped, however that comes about.
pub(super) struct Delivery {
    pieces: VecDeque<Piece>,
    /// Runs before the next piece.
    pause: Option<Pin<Box<Sleep>>>,
    fault: Fault,
    length: Option<u64>,
    served: Served,
    log: Arc<Log>,
}

impl Delivery {
    /// `is_sized`: the client is told the length beforehand.
    pub(super) fn new(pieces: Vec<Piece>, fault: Fault, is_sized: bool, served: Served, log: Arc<Log>) -> Self {
        let length = is_sized.then(|| pieces.iter().map(|piece| piece.bytes.len() as u64).sum());
        Self { pieces: pieces.into(), pause: None, fault, length, served, log }
    }

    /// What has become of it so far.
    pub(super) fn served(&self) -> &Served {
        &self.served
    }

    /// Waits as long as must be waited before whatever comes next.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let delay = match (self.pieces.front(), self.fault) {
            (Some(piece), _) => piece.delay,
            (None, Fault::Abort(_)) => ABORT_DELAY,
            (None, Fault::None | Fault::Stall(_) | Fault::Error(_)) => Duration::ZERO,
        };
        if !delay.is_zero() {
            ready!(self.pause.get_or_insert_with(|| Box::pin(sleep(delay))).as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }
}

/// 0 where there is no such clock, which no Linux is.
fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

impl Body for Delivery {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        ready!(self.poll_pause(cx));
        if let Some(piece) = self.pieces.pop_front() {
            self.served.output_sent = piece.output_sent;
            self.served.reported = piece.reported;
            let breaks = matches!(self.fault, Fault::Abort(_) | Fault::Stall(_));
            self.served.is_complete = self.pieces.is_empty() && !breaks;
            return Poll::Ready(Some(Ok(Frame::data(piece.leave(monotonic_ns)))));
        }
        match self.fault {
            Fault::None | Fault::Error(_) => Poll::Ready(None),
            Fault::Abort(_) => Poll::Ready(Some(Err(Error::other("the script says to hang up here")))),
            Fault::Stall(_) => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.log.push(std::mem::take(&mut self.served));
    }
}
