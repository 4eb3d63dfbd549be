//! What exchanges in flight have used so far, against what the ledger says is left: when must one of them end?
//!
//! Pure. Budgets are told apart by provider and scope. What is left is the ledger's latest word, which does not know of what is
//! in flight; an exchange's count stays in the sum until the ledger has taken it over, so that no tokens are forgotten in between.

use std::collections::HashMap;

use crate::domain::{Allowance, PermitId, ProviderName, Scope, Tokens};

/// Every exchange that a budget binds and that is to end with it.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    exchanges: HashMap<PermitId, Counted>,
    budgets: HashMap<Budget, Sum>,
}

type Budget = (ProviderName, Scope);

/// One exchange.
#[derive(Debug)]
struct Counted {
    budgets: Vec<Budget>,
    count: Tokens,
}

/// One budget.
#[derive(Debug, Default)]
struct Sum {
    /// As the ledger last said.
    left: Tokens,
    /// Of all exchanges that it binds.
    counts: u128,
    exchanges: usize,
}

impl InFlight {
    /// The budget, of those that bind an exchange to be, of which others in flight have left nothing: it must not begin.
    pub(super) fn used_up<'a>(&self, provider: &ProviderName, allowances: &'a [Allowance]) -> Option<&'a Allowance> {
        let is_used_up = |allowance: &&Allowance| {
            let sum = self.budgets.get(&(provider.clone(), allowance.scope.clone()));
            sum.is_some_and(|sum| sum.counts >= u128::from(allowance.left.0))
        };
        allowances.iter().find(is_used_up)
    }

    /// An exchange may begin, and is expected to use so much; these budgets bind it.
    pub(super) fn admitted(
        &mut self,
        permit: PermitId,
        provider: &ProviderName,
        allowances: &[Allowance],
        expected: Tokens,
    ) {
        let budgets: Vec<Budget> =
            allowances.iter().map(|allowance| (provider.clone(), allowance.scope.clone())).collect();
        for (budget, allowance) in budgets.iter().zip(allowances) {
            let sum = self.budgets.entry(budget.clone()).or_default();
            sum.left = allowance.left;
            sum.counts += u128::from(expected.0);
            sum.exchanges += 1;
        }
        self.exchanges.insert(permit, Counted { budgets, count: expected });
    }

    /// An exchange has used so much. Must it end, because nothing is left of a budget that binds it?
    pub(super) fn counts(&mut self, permit: PermitId, count: Tokens) -> bool {
        let Some(exchange) = self.exchanges.get_mut(&permit) else { return false };
        let before = std::mem::replace(&mut exchange.count, count);
        let mut is_over = false;
        for budget in &exchange.budgets {
            let Some(sum) = self.budgets.get_mut(budget) else { continue };
            sum.counts = (sum.counts + u128::from(count.0)).saturating_sub(u128::from(before.0));
            is_over |= sum.counts >= u128::from(sum.left.0);
        }
        is_over
    }

    /// The ledger has taken an exchange over, and says what is left.
    pub(super) fn settled(&mut self, permit: PermitId, allowances: &[Allowance]) {
        let Some(Counted { budgets, count }) = self.exchanges.remove(&permit) else { return };
        for budget in budgets {
            let Some(sum) = self.budgets.get_mut(&budget) else { continue };
            sum.exchanges = sum.exchanges.saturating_sub(1);
            if sum.exchanges == 0 {
                self.budgets.remove(&budget);
                continue;
            }
            sum.counts = sum.counts.saturating_sub(u128::from(count.0));
            let said = allowances.iter().find(|allowance| allowance.scope == budget.1);
            sum.left = said.map_or(sum.left, |allowance| allowance.left);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claude() -> ProviderName {
        "claude".parse().unwrap()
    }

    fn left(scope: Scope, left: u64) -> Allowance {
        Allowance { scope, budget: Tokens(1_000), left: Tokens(left), held: Tokens::ZERO }
    }

    fn web() -> Scope {
        Scope::Bottle("web".parse().unwrap())
    }

    /// Two exchanges under one budget of 100, counting in turns; when must the counting one end?
    fn check(counts: &[(i64, u64, bool)]) {
        let mut in_flight = InFlight::default();
        for permit in [1, 2] {
            in_flight.admitted(PermitId(permit), &claude(), &[left(Scope::Host, 100)], Tokens::ZERO);
        }
        for (permit, count, is_over) in counts {
            assert_eq!(in_flight.counts(PermitId(*permit), Tokens(*count)), *is_over, "{permit} {count} of {counts:?}");
        }
    }

    #[test]
    fn exchanges_that_share_a_budget_end_when_they_have_used_it_together() {
        check(&[(1, 99, false), (1, 100, true)]);
        check(&[(1, 50, false), (2, 49, false), (2, 50, true), (1, 50, true)]);
        check(&[(1, 90, false), (2, 9, false), (1, 20, false), (2, 80, true)]);
        check(&[(3, 500, false)]);
    }

    #[test]
    fn what_is_settled_leaves_less_and_counts_no_more() {
        let mut in_flight = InFlight::default();
        for permit in [1, 2] {
            in_flight.admitted(PermitId(permit), &claude(), &[left(Scope::Host, 100)], Tokens(10));
        }
        assert!(!in_flight.counts(PermitId(1), Tokens(60)));
        in_flight.settled(PermitId(1), &[left(Scope::Host, 40)]);
        assert!(!in_flight.counts(PermitId(2), Tokens(39)));
        assert!(in_flight.counts(PermitId(2), Tokens(40)));
    }

    #[test]
    fn nothing_begins_on_what_others_have_used() {
        let mut in_flight = InFlight::default();
        let used_up = |in_flight: &InFlight, left: Allowance| in_flight.used_up(&claude(), &[left]).is_some();
        assert!(!used_up(&in_flight, left(Scope::Host, 0)), "the ledger's to say");
        in_flight.admitted(PermitId(1), &claude(), &[left(Scope::Host, 100)], Tokens(99));
        assert!(!used_up(&in_flight, left(Scope::Host, 100)));
        assert!(!used_up(&in_flight, left(web(), 10)));
        assert!(used_up(&in_flight, left(Scope::Host, 99)));
    }

    #[test]
    fn the_tightest_budget_decides_and_others_are_not_touched() {
        let mut in_flight = InFlight::default();
        in_flight.admitted(PermitId(1), &claude(), &[left(web(), 10), left(Scope::Host, 100)], Tokens::ZERO);
        in_flight.admitted(PermitId(2), &claude(), &[left(Scope::Host, 100)], Tokens::ZERO);
        in_flight.admitted(PermitId(3), &"codex".parse().unwrap(), &[left(Scope::Host, 100)], Tokens::ZERO);
        assert!(in_flight.counts(PermitId(1), Tokens(10)));
        assert!(!in_flight.counts(PermitId(2), Tokens(89)));
        assert!(in_flight.counts(PermitId(2), Tokens(90)));
        assert!(!in_flight.counts(PermitId(3), Tokens(99)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Admit { permit: i64, expected: u64 },
        Count { permit: i64, count: u64 },
        Settle { permit: i64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let permit = 0i64..6;
        prop_oneof![
            (permit.clone(), 0u64..50).prop_map(|(permit, expected)| Step::Admit { permit, expected }),
            (permit.clone(), 0u64..400).prop_map(|(permit, count)| Step::Count { permit, count }),
            permit.prop_map(|permit| Step::Settle { permit }),
        ]
    }

    proptest! {
        /// Against a ledger that hears of everything at once.
        #[test]
        fn an_exchange_ends_exactly_when_nothing_is_left(steps in prop::collection::vec(step(), 0..60)) {
            let (mut in_flight, mut spent) = (InFlight::default(), 0u64);
            let mut counts: HashMap<i64, u64> = HashMap::new();
            let allowance = |spent: u64| left(Scope::Host, 1_000u64.saturating_sub(spent));
            for step in steps {
                match step {
                    Step::Admit { permit, .. } if counts.contains_key(&permit) => {}
                    Step::Admit { permit, expected } => {
                        in_flight.admitted(PermitId(permit), &claude(), &[allowance(spent)], Tokens(expected));
                        counts.insert(permit, expected);
                    }
                    Step::Count { permit, count } if counts.contains_key(&permit) => {
                        counts.insert(permit, count);
                        let is_over = spent + counts.values().sum::<u64>() >= 1_000;
                        prop_assert_eq!(in_flight.counts(PermitId(permit), Tokens(count)), is_over);
                    }
                    Step::Count { permit, count } => {
                        prop_assert!(!in_flight.counts(PermitId(permit), Tokens(count)));
                    }
                    Step::Settle { permit } => {
                        spent += counts.remove(&permit).unwrap_or(0);
                        in_flight.settled(PermitId(permit), &[allowance(spent)]);
                    }
                }
            }
            for permit in counts.into_keys() {
                in_flight.settled(PermitId(permit), &[]);
            }
            prop_assert!(in_flight.exchanges.is_empty() && in_flight.budgets.is_empty());
        }
    }
}
