//! Bottles and budgets that change without a request: windows turn, operators set and grant, settings are read anew.

use std::time::Duration;

use tracing::{error, info};

use crate::budget;
use crate::domain::{BottleId, BudgetView, CutCause, CutoffPolicy, Tokens, with_causes};
use crate::ledger::GateChange;

use super::controller::{Controller, refusal, spends};
use super::cutting::Stage;

/// How late a cut is lifted when its window turns, at most.
pub(super) const REVIEW_EVERY: Duration = Duration::from_secs(1);

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Review {
    /// Budgets that allow something again.
    Lifts,
    /// Those, and budgets that have become too small. A bottle that an operator restored as it was is left alone by the
    /// clock: it hears why at its next request.
    Whole,
}

impl Controller {
    /// Time has passed.
    pub(super) async fn review_clock(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let ended = self.ledger.end_grants().await.unwrap_or_else(|error| {
            error!(error = with_causes(&error), "what was granted for a time is over, but not in the audit yet");
            0
        });
        self.review(if ended > 0 { Review::Whole } else { Review::Lifts }).await;
    }

    /// Makes every bottle what its budgets want.
    pub(super) async fn review(&mut self, review: Review) {
        let bottles: Vec<BottleId> = self.running.keys().copied().collect();
        for bottle in bottles {
            let Some(running) = self.running.get(&bottle) else { continue };
            let stage = running.stage.clone();
            let is_of_interest = match &stage {
                Stage::Open => review == Review::Whole,
                Stage::Draining { .. } | Stage::LastWord { .. } => true,
                // What is being frozen or killed for its budget is not opened half-way.
                Stage::Cut(CutCause::Budget) => running.policy == CutoffPolicy::Cutoff,
                Stage::Cut(CutCause::Operator) => false,
            };
            if !is_of_interest {
                continue;
            }
            // What cannot be read lifts nothing.
            let Ok(budgets) = self.ledger.budgets(bottle).await else { continue };
            self.review_one(bottle, &stage, &budgets).await;
        }
    }

    async fn review_one(&mut self, bottle: BottleId, stage: &Stage, budgets: &[BudgetView]) {
        // A cut stays as long as any budget is used up, by whomever. Only what has spent is cut when there is less to spend.
        let counts = |view: &&BudgetView| *stage != Stage::Open || spends(view);
        let mut crossed = budgets.iter().filter(counts).filter_map(|view| Some((view, budget::crossed(&view.chain)?)));
        let gone = crossed.find(|(_, crossing)| crossing.used > Tokens::ZERO);
        match (stage, gone) {
            (Stage::Open, Some((view, crossing))) => {
                let refusal = refusal(&crossing, &view.provider);
                self.advance(bottle, |stage, bounds, now| stage.exhausted(refusal, true, bounds, now)).await;
            }
            (Stage::Draining { .. } | Stage::LastWord { .. }, None) => {
                self.advance(bottle, |stage, _, _| stage.relieved()).await;
            }
            (Stage::Cut(CutCause::Budget), None) => match self.open(bottle, GateChange::Lift).await {
                Ok(_) => info!(bottle = bottle.0, "the budget it was cut for is no longer used up"),
                Err(error) => error!(bottle = bottle.0, error = with_causes(&error), "a cut is not lifted yet"),
            },
            (Stage::Open | Stage::Cut(_), None)
            | (Stage::Draining { .. } | Stage::LastWord { .. } | Stage::Cut(_), Some(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::world::World;
    use super::*;
    use crate::domain::GateView;

    const HOUR: i64 = 3_600_000;

    /// Longer than two reviews.
    async fn pass_time(world: &World, millis: i64) {
        world.clock.fetch_add(millis, Ordering::SeqCst);
        tokio::time::sleep(2 * REVIEW_EVERY + REVIEW_EVERY / 2).await;
    }

    #[tokio::test]
    async fn a_cut_made_by_a_window_lifts_when_the_window_turns() {
        let world = World::started("100/hour").await;
        world.spend(100).await;
        assert!(world.is_cut());
        pass_time(&world, 1).await;
        assert!(world.is_cut(), "the window goes on");
        pass_time(&world, HOUR).await;
        assert!(!world.is_cut(), "the window has turned");
        assert_eq!(world.recorded().await, GateView::Open);
        world.spend(99).await;
        assert!(!world.is_cut());
        world.controller.cut(world.bottle.id).await.unwrap();
        pass_time(&world, HOUR).await;
        assert!(world.is_cut(), "an operator's cut is lifted by no clock");
    }

    #[tokio::test]
    async fn a_plain_budget_turns_never() {
        let world = World::started("100").await;
        world.spend(100).await;
        pass_time(&world, 400 * 24 * HOUR).await;
        assert!(world.is_cut());
        assert_eq!(world.recorded().await, GateView::Cut(CutCause::Budget));
    }
}
