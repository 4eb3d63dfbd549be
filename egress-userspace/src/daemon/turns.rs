//! Who takes a bottle down: one at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use crate::domain::BottleId;

/// Which bottles are being taken down. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<watch::Sender<BTreeSet<BottleId>>>);

/// Dropped, it is the next one's.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    bottle: BottleId,
}

impl Turns {
    /// Waits until nobody else is at it. What was known of the bottle before may be otherwise by then.
    pub(super) async fn take(&self, bottle: BottleId) -> Turn {
        let mut taken = self.0.subscribe();
        while !self.0.send_if_modified(|taken| taken.insert(bottle)) {
            // It fails only without a sender, and this is one.
            let _ = taken.wait_for(|taken| !taken.contains(&bottle)).await;
        }
        Turn { turns: self.clone(), bottle }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.0.send_if_modified(|taken| taken.remove(&self.bottle));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_bottle_is_one_persons_at_a_time() {
        let turns = Turns::default();
        let first = turns.take(BottleId(1)).await;
        drop(turns.take(BottleId(2)).await);
        let mut second = std::pin::pin!(turns.take(BottleId(1)));
        assert!(second.as_mut().now_or_never().is_none(), "two are at it");
        drop(first);
        assert!(second.as_mut().now_or_never().is_some());
    }
}
