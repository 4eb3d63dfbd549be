//! Budgets: what each scope allows and has used → may this request go, and has a budget been crossed.
//!
//! Pure: imports `domain`, knows nothing of databases, clocks or sockets. The ledger calls [`decide`] inside its transaction.

use crate::domain::{Crossing, Refusal, RefusalReason, ScopeState, Tokens};

/// What a request wants to spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Estimated input, cache reads and writes included.
    pub input_estimate: Tokens,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may go.
    Admit,
    /// It may not; the text says which scope and what to do.
    Refuse(Refusal),
}

/// The nearest scope that defines a limit governs.
#[must_use]
pub fn governing(chain: &[ScopeState]) -> Option<&ScopeState> {
    chain.iter().find(|state| state.limit.is_some())
}

/// May a request that wants `want` go? Nothing that defines a limit: yes.
#[must_use]
pub fn decide(chain: &[ScopeState], want: Want) -> Decision {
    let Some((state, limit)) = governing(chain).and_then(|state| Some((state, state.limit?))) else {
        return Decision::Admit;
    };
    let left = limit.saturating_sub(state.used);
    let refusal = |message: String| {
        Decision::Refuse(Refusal {
            reason: RefusalReason::BudgetExhausted,
            message,
            scope: Some(state.scope.clone()),
            budget: Some(limit),
            used: Some(state.used),
        })
    };
    if left == Tokens::ZERO {
        return refusal(format!("the budget of {} is used up: {} of {limit} tokens", state.scope, state.used));
    }
    let free = left.saturating_sub(state.held);
    if want.input_estimate > free {
        return refusal(format!(
            "about {} tokens of input do not fit in the {free} tokens that {} has left of {limit}",
            want.input_estimate, state.scope
        ));
    }
    Decision::Admit
}

/// Is the governing budget used up?
#[must_use]
pub fn crossed(chain: &[ScopeState]) -> Option<Crossing> {
    let state = governing(chain)?;
    let budget = state.limit?;
    (state.used >= budget).then(|| Crossing { scope: state.scope.clone(), budget, used: state.used })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Scope;

    fn scope(limit: Option<u64>, used: u64, held: u64) -> ScopeState {
        ScopeState { scope: Scope::Host, limit: limit.map(Tokens), used: Tokens(used), held: Tokens(held) }
    }

    fn check(chain: &[ScopeState], input: u64, admitted: bool) {
        let decision = decide(chain, Want { input_estimate: Tokens(input) });
        assert_eq!(decision == Decision::Admit, admitted, "{decision:?}");
    }

    #[test]
    fn a_request_goes_while_its_input_fits() {
        check(&[scope(None, 1_000_000, 0)], 1_000_000, true);
        check(&[scope(Some(100), 0, 0)], 100, true);
        check(&[scope(Some(100), 0, 0)], 101, false);
        check(&[scope(Some(100), 60, 30)], 10, true);
        check(&[scope(Some(100), 60, 30)], 11, false);
        check(&[scope(Some(100), 100, 0)], 0, false);
        check(&[scope(Some(0), 0, 0)], 0, false);
    }

    #[test]
    fn the_nearest_scope_that_defines_the_provider_governs() {
        check(&[scope(None, 0, 0), scope(Some(10), 10, 0)], 1, false);
        check(&[scope(Some(10), 0, 0), scope(Some(10), 10, 0)], 1, true);
    }

    #[test]
    fn a_budget_is_crossed_when_nothing_is_left() {
        assert_eq!(crossed(&[scope(Some(100), 99, 500)]), None);
        assert_eq!(crossed(&[scope(Some(100), 100, 0)]).map(|crossing| crossing.used), Some(Tokens(100)));
        assert_eq!(crossed(&[scope(None, 100, 0)]), None);
    }
}
