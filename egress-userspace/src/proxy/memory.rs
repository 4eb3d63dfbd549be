//! Memory that requests and messages make the proxy hold while they are looked at: a share for each bottle, and as much for all
//! of them as the host can bear. What is held is charged as it grows, and given back when it is dropped, wherever that is.
//!
//! Counted are the bytes that are held, not what allocators make of them: at most as much again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use thiserror::Error;

use crate::domain::{Refusal, RefusalReason};

use super::limits::{MEMORY_BYTES_MAX, MEMORY_PER_BOTTLE_BYTES_MAX};

/// There is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("too much is held for this bottle at once")]
pub(super) struct TooMuch;

impl From<TooMuch> for Refusal {
    fn from(_: TooMuch) -> Self {
        let message = format!(
            "egress holds as much of this bottle's requests as it may hold at once ({} MiB, or less while other bottles hold as \
             much): send fewer at once, or this one again when others have been answered",
            MEMORY_PER_BOTTLE_BYTES_MAX >> 20
        );
        Self::of(RefusalReason::TooMuchAtOnce, message)
    }
}

/// Of all bottles.
#[derive(Debug)]
pub(super) struct Memory {
    bytes_max: usize,
    held: AtomicUsize,
}

/// One bottle's.
#[derive(Debug)]
pub(super) struct Share {
    all: Arc<Memory>,
    bytes_max: usize,
    held: AtomicUsize,
}

/// So many bytes of a share. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    share: Arc<Share>,
    bytes: usize,
}

/// Bytes and what they are charged as.
struct Charged {
    bytes: Bytes,
    _held: Held,
}

impl Default for Memory {
    fn default() -> Self {
        Self { bytes_max: MEMORY_BYTES_MAX, held: AtomicUsize::new(0) }
    }
}

impl Memory {
    /// What one bottle may have of it.
    pub(super) fn share(self: &Arc<Self>) -> Arc<Share> {
        let all = Arc::clone(self);
        Arc::new(Share { all, bytes_max: MEMORY_PER_BOTTLE_BYTES_MAX, held: AtomicUsize::new(0) })
    }
}

impl Share {
    /// Nothing so far.
    pub(super) fn nothing(self: &Arc<Self>) -> Held {
        Held { share: Arc::clone(self), bytes: 0 }
    }

    /// Room for so many bytes, if there is any.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize) -> Result<Held, TooMuch> {
        let mut held = self.nothing();
        held.set(bytes)?;
        Ok(held)
    }

    /// The same for bytes that are here already, in place of as many that are not any more.
    pub(super) fn hold_instead(self: &Arc<Self>, bytes: usize) -> Held {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.all.held.fetch_add(bytes, Ordering::Relaxed);
        Held { share: Arc::clone(self), bytes }
    }

    fn take(&self, more: usize) -> Result<(), TooMuch> {
        let own = |held: usize| held.checked_add(more).filter(|own| *own <= self.bytes_max);
        let before = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, own).map_err(|_| TooMuch)?;
        let all =
            |held: usize| held.checked_add(more).filter(|held| may_hold(self.all.bytes_max, *held, before + more));
        if self.all.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, all).is_err() {
            self.held.fetch_sub(more, Ordering::Relaxed);
            return Err(TooMuch);
        }
        Ok(())
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.all.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Held {
    /// Holds so many bytes from now on, more or less than before. Where there is no room for more, as many as before.
    pub(super) fn set(&mut self, bytes: usize) -> Result<(), TooMuch> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.share.take(more)?,
            None => self.share.give_back(self.bytes - bytes),
        }
        self.bytes = bytes;
        Ok(())
    }

    /// So many of the bytes, or all that there are, as something of its own.
    pub(super) fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { share: Arc::clone(&self.share), bytes }
    }

    /// Charges `bytes` until the last of them is dropped.
    pub(super) fn keep(self, bytes: Bytes) -> Bytes {
        if self.bytes == 0 { bytes } else { Bytes::from_owner(Charged { bytes, _held: self }) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.share.give_back(self.bytes);
    }
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// May a bottle hold `own` of `held` bytes? No more than is left free: one that takes all it can leaves half to others, two of
/// them a third, and so on.
fn may_hold(bytes_max: usize, held: usize, own: usize) -> bool {
    bytes_max.checked_sub(held).is_some_and(|free| own <= free)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much bottles get that take turns, ten bytes at a time, until none of them gets more.
    fn check(bytes_max: usize, own_max: usize, bottles: usize, expected: usize) {
        let all = Arc::new(Memory { bytes_max, held: AtomicUsize::new(0) });
        let share = || Arc::new(Share { all: Arc::clone(&all), bytes_max: own_max, held: AtomicUsize::new(0) });
        let shares: Vec<_> = (0..bottles).map(|_| share()).collect();
        let mut held: Vec<Held> = Vec::new();
        loop {
            let before = held.len();
            held.extend(shares.iter().filter_map(|share| share.hold(10).ok()));
            if held.len() == before {
                break;
            }
        }
        let own: Vec<_> = shares.iter().map(|share| share.held.load(Ordering::Relaxed)).collect();
        assert_eq!(own, vec![expected; bottles], "{bottles} bottles");
        assert!(share().hold(10).is_ok(), "another bottle is let in");
        held.clear();
        assert_eq!(all.held.load(Ordering::Relaxed), 0);
        assert!(shares.iter().all(|share| share.held.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn bottles_that_take_all_they_can_leave_room_for_another() {
        check(1_000, 100, 1, 100);
        check(1_000, 900, 1, 500);
        check(900, 900, 2, 300);
        check(1_100, 200, 10, 100);
    }

    #[test]
    fn what_there_is_no_room_for_changes_nothing() {
        let share = Arc::new(Memory::default()).share();
        let mut held = share.hold(MEMORY_PER_BOTTLE_BYTES_MAX - 1).unwrap();
        assert_eq!(share.hold(2).err(), Some(TooMuch));
        assert_eq!(held.set(usize::MAX), Err(TooMuch));
        let rest = share.hold(1).unwrap();
        assert_eq!(held.set(10), Ok(()));
        let instead = share.hold_instead(7);
        assert_eq!(share.held.load(Ordering::Relaxed), 18);
        drop((held, rest, instead));
        assert_eq!(share.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn bytes_are_charged_until_the_last_of_them_is_dropped() {
        let share = Arc::new(Memory::default()).share();
        let mut held = share.hold(8).unwrap();
        let bytes = held.split(5).keep(Bytes::from_static(b"hello"));
        assert_eq!((&bytes[..], held.bytes), (&b"hello"[..], 3));
        drop(held);
        let part = bytes.slice(1..2);
        drop(bytes);
        assert_eq!(share.held.load(Ordering::Relaxed), 5);
        drop(part);
        assert_eq!(share.held.load(Ordering::Relaxed), 0);
    }
}
