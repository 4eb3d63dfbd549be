//! A budget is used up: whom it binds, and what of it is noted.

use std::collections::BTreeSet;

use crate::domain::{AuditKind, BottleId, BudgetView, Crossing, ProviderName, Tokens};
use crate::ledger::Settled;

use super::controller::{Controller, Record, refusal, spends};
use super::cutting::Stage;

impl Controller {
    /// Budgets are used up: every bottle that one of them binds is on its way to being cut.
    pub(super) async fn crossed(&mut self, settled: Settled) {
        let Settled { bottle, provider, provider_request_id: request, crossing, crossed_for_others, .. } = settled;
        let is_first = self.running.get(&bottle).is_some_and(|running| running.stage == Stage::Open);
        for (crossing, is_own) in
            crossing.into_iter().zip([true]).chain(crossed_for_others.into_iter().zip(std::iter::repeat(false)))
        {
            let refusal = refusal(&crossing, &provider);
            let mut bound = self.bound(&crossing, &provider).await;
            if is_own {
                bound.insert(bottle);
            }
            // Noted first, as the cut that may follow at once is told after its cause.
            self.note_crossing(bottle, crossing, &provider, request.clone(), is_first || !is_own);
            for bottle in bound {
                let refusal = refusal.clone();
                self.advance(bottle, |stage, bounds, now| stage.crossed(refusal, bounds, now)).await;
            }
        }
    }

    fn note_crossing(
        &mut self,
        bottle: BottleId,
        crossing: Crossing,
        provider: &ProviderName,
        request: Option<String>,
        is_first: bool,
    ) {
        let Crossing { scope, budget, used, held } = crossing;
        let provider = provider.clone();
        let kind = match (is_first, held) {
            (true, _) => AuditKind::BudgetCrossed { scope, provider, budget, used, held, request },
            // The last of those that were in flight when it was crossed.
            (false, Tokens::ZERO) => AuditKind::BudgetOvershot { scope, provider, budget, used },
            (false, _) => return,
        };
        self.unrecorded.push_back(Record::Audit(Some(bottle), kind));
    }

    /// The bottles that spend from a budget and are bound by it.
    async fn bound(&self, crossing: &Crossing, provider: &ProviderName) -> BTreeSet<BottleId> {
        let mut bound = BTreeSet::new();
        for id in self.running.keys().copied() {
            let budgets = self.ledger.budgets(id).await.unwrap_or_default();
            let binds = |view: &BudgetView| {
                let mut binding = crate::budget::binding(&view.chain);
                view.provider == *provider && binding.any(|(state, _)| state.scope == crossing.scope) && spends(view)
            };
            if budgets.iter().any(binds) {
                bound.insert(id);
            }
        }
        bound
    }
}
