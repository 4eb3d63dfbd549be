//! How far freezes and kills are, for front-ends that wait for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::control::{ApiError, StopEvent};
use crate::domain::{BottleId, BottleName, RuntimeKind, StopStep};
use crate::ledger::BottleRow;

use super::api::Desk;
use super::launch::refused;

/// Steps that a front-end may be behind; what it misses is over.
const FOLLOWED_STEPS_MAX: usize = 8;

/// What is being done with which bottle. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct StopSteps(Arc<watch::Sender<BTreeMap<BottleId, StopStep>>>);

impl StopSteps {
    /// From here on this is done.
    pub(super) fn at(&self, bottle: BottleId, step: StopStep) {
        self.0.send_if_modified(|steps| steps.insert(bottle, step) != Some(step));
    }

    /// Whether anything is done with a bottle.
    pub(super) fn is_at(&self, bottle: BottleId) -> bool {
        self.0.borrow().contains_key(&bottle)
    }

    /// It is over, or given up.
    pub(super) fn over(&self, bottle: BottleId) {
        self.0.send_if_modified(|steps| steps.remove(&bottle).is_some());
    }

    /// What is done with a bottle, and each further step, until the receiver is dropped.
    fn follow(&self, bottle: BottleId) -> mpsc::Receiver<StopEvent> {
        let mut steps = self.0.subscribe();
        let (events, receiver) = mpsc::channel(FOLLOWED_STEPS_MAX);
        tokio::spawn(async move {
            let mut told = None;
            loop {
                let step = steps.borrow_and_update().get(&bottle).copied();
                if told != Some(step) && events.send(StopEvent { step }).await.is_err() {
                    return;
                }
                told = Some(step);
                tokio::select! {
                    changed = steps.changed() => if changed.is_err() { return },
                    () = events.closed() => return,
                }
            }
        });
        receiver
    }
}

/// What is done to keep what a frozen bottle is made of.
pub(super) fn saving(row: &BottleRow) -> StopStep {
    match row.runtime {
        RuntimeKind::Native => StopStep::SavingLaunch,
        RuntimeKind::Docker => StopStep::CommittingImage,
    }
}

/// What is done to end what runs.
pub(super) fn ending(row: &BottleRow) -> StopStep {
    match row.runtime {
        RuntimeKind::Native => StopStep::EndingProcesses,
        RuntimeKind::Docker => StopStep::TakingContainerDown,
    }
}

impl Desk {
    pub(super) async fn follow_stopping(&self, name: &BottleName) -> Result<mpsc::Receiver<StopEvent>, ApiError> {
        let row = self.launcher.ledger.bottle(name).await.map_err(|error| refused(&error))?;
        Ok(self.launcher.stop_steps.follow(row.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_front_end_hears_of_its_bottle_from_where_it_is_to_its_end() {
        let (steps, web, api) = (StopSteps::default(), BottleId(1), BottleId(2));
        let mut early = steps.follow(web);
        assert_eq!(early.recv().await, Some(StopEvent { step: None }));
        assert!(!steps.is_at(web));
        steps.at(api, StopStep::RemovingFiles);
        for step in [StopStep::Holding, StopStep::CommittingImage] {
            steps.at(web, step);
            assert_eq!(early.recv().await, Some(StopEvent { step: Some(step) }));
        }
        let mut late = steps.follow(web);
        assert_eq!(late.recv().await, Some(StopEvent { step: Some(StopStep::CommittingImage) }));
        assert!(steps.is_at(web));
        steps.over(web);
        for follower in [&mut early, &mut late] {
            assert_eq!(follower.recv().await, Some(StopEvent { step: None }));
        }
        assert_eq!(steps.follow(api).recv().await, Some(StopEvent { step: Some(StopStep::RemovingFiles) }));
    }
}
