//! Bottles and budgets that change without a request: windows turn, operators set and grant, settings are read anew.

use std::time::Duration;

use tracing::{error, info};

use crate::budget;
use crate::domain::{BottleId, BudgetView, CutCause, with_causes};
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
            let Some(stage) = self.running.get(&bottle).map(|running| running.stage.clone()) else { continue };
            let is_of_interest = match &stage {
                Stage::Open => review == Review::Whole,
                Stage::Draining { .. } | Stage::LastWord { .. } | Stage::Cut(CutCause::Budget) => true,
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
        let spending = budgets.iter().filter(|view| spends(view));
        let gone = spending.filter_map(|view| Some((view, budget::crossed(&view.chain)?))).next();
        match (stage, gone) {
            (Stage::Open, Some((view, crossing))) => {
                let refusal = refusal(&crossing, &view.provider);
                self.advance(bottle, |stage, bounds, now| stage.exhausted(refusal, bounds, now)).await;
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
