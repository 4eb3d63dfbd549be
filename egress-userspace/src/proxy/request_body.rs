//! A request's body: a bounded beginning that has been read, and the rest as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::time::timeout;

use super::limits::{BODY_PREFIX_BYTES_MAX, BODY_PREFIX_TIME_MAX, REFUSED_BODY_BYTES_MAX, REFUSED_BODY_TIME_MAX};

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
}

impl RequestBody {
    /// All of it still to come.
    pub(super) fn unread(body: Incoming) -> Self {
        Self { prefix: Bytes::new(), rest: Some(body), trailers: None }
    }

    /// Waits for the beginning: all of the body, or as much as may be looked at.
    pub(super) async fn with_prefix(body: Incoming) -> Result<Self, BodyBroken> {
        timeout(BODY_PREFIX_TIME_MAX, read_prefix(body)).await.map_err(|_| BodyBroken::TimedOut)?
    }

    /// One of the proxy's own.
    pub(super) fn of(bytes: Bytes) -> Self {
        Self { prefix: bytes, rest: None, trailers: None }
    }

    /// The beginning.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
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

async fn read_prefix(mut body: Incoming) -> Result<RequestBody, BodyBroken> {
    let mut prefix = BytesMut::new();
    while prefix.len() < BODY_PREFIX_BYTES_MAX {
        let Some(frame) = body.frame().await else {
            return Ok(RequestBody { prefix: prefix.freeze(), rest: None, trailers: None });
        };
        match frame?.into_data() {
            Ok(data) if prefix.is_empty() && body.is_end_stream() => {
                return Ok(RequestBody { prefix: data, rest: None, trailers: None });
            }
            Ok(data) => prefix.extend_from_slice(&data),
            Err(frame) => {
                let trailers = frame.into_trailers().ok();
                return Ok(RequestBody { prefix: prefix.freeze(), rest: None, trailers });
            }
        }
    }
    Ok(RequestBody { prefix: prefix.freeze(), rest: Some(body), trailers: None })
}

/// Reads a body that nobody wants, within bounds: closing a socket with unread bytes would reset it, and the answer with it.
pub(super) async fn discard(mut body: Incoming) {
    let reading = async {
        let mut bytes = 0;
        while bytes < REFUSED_BODY_BYTES_MAX
            && let Some(Ok(frame)) = body.frame().await
        {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Whoever sends longer than this gets the reset.
    let _ = timeout(REFUSED_BODY_TIME_MAX, reading).await;
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
