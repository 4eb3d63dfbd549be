//! What a client gets: nothing, the proxy's own words, or the host's.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::delivery::Delivery;
use super::tee::{Tee, TeeError};

/// What a client gets.
pub(super) enum ResponseBody {
    /// Nothing beyond the head.
    Empty,
    /// The proxy's own words.
    Answer {
        /// Until they are handed over.
        bytes: Option<Bytes>,
        /// Follows them to the client.
        delivery: Option<Delivery>,
    },
    /// The provider's.
    Tee(Box<Tee>),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = TeeError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TeeError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Answer { bytes, delivery } => {
                if let Some(delivery) = delivery.take() {
                    delivery.start();
                }
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Tee(tee) => Pin::new(tee.as_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Answer { bytes, .. } => bytes.is_none(),
            Self::Tee(tee) => tee.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Answer { bytes, .. } => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Self::Tee(tee) => tee.size_hint(),
        }
    }
}
