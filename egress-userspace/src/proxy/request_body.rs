//! A request's body: a bounded beginning that has been read, and the rest as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::limits::{BODY_PREFIX_TIME_MAX, REFUSED_BODY_BYTES_MAX, REFUSED_BODY_TIME_MAX};

/// The client did not send what it announced.
#[derive(Debug, Error)]
pub(super) enum BodyBroken {
    /// Too slow.
    #[error("the request's body is too slow")]
    TimedOut,
    /// Broken off or malformed.
    #[error("the request's body broke off")]
    Client(#[from] hyper::Error),
}

/// What is sent to the provider: what the client sent.
#[derive(Debug)]
pub(super) struct RequestBody {
    prefix: Bytes,
    rest: Option<Incoming>,
    trailers: Option<HeaderMap>,
    /// Room for a long beginning.
    _place: Option<OwnedSemaphorePermit>,
}

impl RequestBody {
    /// All of it still to come.
    pub(super) fn unread(body: Incoming) -> Self {
        Self { prefix: Bytes::new(), rest: Some(body), trailers: None, _place: None }
    }

    /// Waits for the beginning: all of the body, or `bytes_max` bytes and what came with the last of them.
    pub(super) async fn with_prefix(self, bytes_max: usize) -> Result<Self, BodyBroken> {
        timeout(BODY_PREFIX_TIME_MAX, read_prefix(self, bytes_max)).await.map_err(|_| BodyBroken::TimedOut)?
    }

    /// The same in a place that it leaves when it has been sent.
    pub(super) fn in_place(self, place: OwnedSemaphorePermit) -> Self {
        Self { _place: Some(place), ..self }
    }

    /// One of the proxy's own.
    pub(super) fn of(bytes: Bytes) -> Self {
        Self { prefix: bytes, rest: None, trailers: None, _place: None }
    }

    fn beginning_with(mut self, gathered: BytesMut) -> Self {
        if !gathered.is_empty() {
            self.prefix = gathered.freeze();
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
        self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    /// Sends something else in place of the beginning.
    pub(super) fn replace_prefix(&mut self, prefix: Bytes) {
        self.prefix = prefix;
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
    let Some(mut rest) = body.rest.take() else { return Ok(body) };
    let mut gathered = BytesMut::new();
    while body.prefix.len().max(gathered.len()) < bytes_max {
        let Some(frame) = rest.frame().await else { return Ok(body.beginning_with(gathered)) };
        match frame?.into_data() {
            // Most bodies come in one piece, which is not copied.
            Ok(data) if body.prefix.is_empty() && gathered.is_empty() => body.prefix = data,
            Ok(data) => {
                gathered.extend_from_slice(&std::mem::take(&mut body.prefix));
                gathered.extend_from_slice(&data);
            }
            Err(frame) => {
                body.trailers = frame.into_trailers().ok();
                return Ok(body.beginning_with(gathered));
            }
        }
    }
    body.rest = Some(rest);
    Ok(body.beginning_with(gathered))
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

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if !self.prefix.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.prefix)))));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.prefix.is_empty() && self.trailers.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let prefix = u64::try_from(self.prefix.len()).unwrap_or(u64::MAX);
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        longer(&rest, prefix)
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
