//! Room that bottles share: sockets, of which the kernel gives a process so many. No bottle can take what others need.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::OwnedSemaphorePermit;

use super::limits::{FILES_OF_OUR_OWN, FILES_PER_CONNECTION, FILES_WANTED};
use super::response_body::ResponseBody;
use super::tee::TeeError;

/// Allows this process as many open files as it may have; returns how many. To be called while it may raise the limit.
pub(super) fn raise_files_max() -> nix::Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = most.max(FILES_WANTED);
    // Only the privileged may have more than they are given, and not all of them.
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map(|()| most)
}

/// Connections of all bottles.
#[derive(Debug)]
pub(super) struct Room {
    connections_max: usize,
    held: AtomicUsize,
}

/// A connection's place. Free when it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Room>);

impl Room {
    /// As much as so many open files are enough for.
    pub(super) fn new(files_max: u64) -> Arc<Self> {
        let connections = files_max.saturating_sub(FILES_OF_OUR_OWN) / FILES_PER_CONNECTION;
        let connections_max = usize::try_from(connections).unwrap_or(usize::MAX);
        Arc::new(Self { connections_max, held: AtomicUsize::new(0) })
    }

    /// A place for one more connection of a bottle that holds `own`, if there is one for it.
    pub(super) fn admit(self: &Arc<Self>, own: usize) -> Option<Place> {
        let place = |held: usize| may_hold(self.connections_max, held, own).then_some(held + 1);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).ok()?;
        Some(Place(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// May a bottle that holds `own` of `held` connections hold one more? No more than is left free: one that takes all it can
/// leaves half to others, two of them a third, and so on.
fn may_hold(connections_max: usize, held: usize, own: usize) -> bool {
    own < connections_max.saturating_sub(held)
}

/// A response that keeps its request's turn until it has been delivered.
pub(super) struct InTurn {
    body: ResponseBody,
    _turn: OwnedSemaphorePermit,
}

impl InTurn {
    pub(super) fn new(body: ResponseBody, turn: OwnedSemaphorePermit) -> Self {
        Self { body, _turn: turn }
    }
}

impl Body for InTurn {
    type Data = Bytes;
    type Error = TeeError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TeeError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many places bottles get that take turns until none of them gets another.
    fn check(files_max: u64, bottles: usize, expected: usize) {
        let (room, mut places) = (Room::new(files_max), Vec::new());
        let mut own = vec![0; bottles];
        loop {
            let before = places.len();
            for own in &mut own {
                if let Some(place) = room.admit(*own) {
                    places.push(place);
                    *own += 1;
                }
            }
            if places.len() == before {
                break;
            }
        }
        assert_eq!(own, vec![expected; bottles], "{bottles} bottles");
        assert!(room.admit(0).is_some(), "another bottle is let in");
        places.clear();
        assert_eq!(room.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn bottles_that_take_all_they_can_leave_room_for_another() {
        let files = |connections| FILES_OF_OUR_OWN + FILES_PER_CONNECTION * connections;
        check(files(1_000), 1, 500);
        check(files(900), 2, 300);
        check(files(1_100), 10, 100);
        assert!(Room::new(0).admit(0).is_none());
    }
}
