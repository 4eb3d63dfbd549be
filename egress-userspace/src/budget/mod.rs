//! Budgets: what each scope allows and has used → may this request go, and has a budget been crossed.
//!
//! Pure: imports `domain`, knows nothing of databases, clocks or sockets. The ledger calls [`decide`] inside its transaction.

mod chain;
mod window;

pub use chain::{Cycle, lineage, scopes};
pub use window::window_end;

use crate::domain::{
    Allowance, Crossing, Precedence, Preflight, Refusal, RefusalReason, ScopeState, Thresholds, Tokens,
};

/// By how much more than estimated a request's input may be before a strict budget is overshot, in percent. Recorded
/// requests of all providers stay below; what a provider adds of its own accord (results of its tools, earlier responses
/// it has kept) nobody can know.
const STRICT_INPUT_MARGIN_PERCENT: u64 = 25;

/// What a request wants to spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// What has to fit in each budget that binds.
    pub needed: Tokens,
    /// What is set aside while it is in flight.
    pub held: Tokens,
}

impl Want {
    /// Of a request of which this much is known.
    #[must_use]
    pub fn of(preflight: Preflight, input_estimate: Tokens, output_cap: Tokens) -> Self {
        match preflight {
            Preflight::Off => Self { needed: Tokens::ZERO, held: input_estimate },
            Preflight::Estimate | Preflight::Exact => Self { needed: input_estimate, held: input_estimate },
            Preflight::Strict => {
                let margin = Tokens(input_estimate.0.saturating_mul(STRICT_INPUT_MARGIN_PERCENT).div_ceil(100));
                let most = input_estimate + margin + output_cap;
                Self { needed: most, held: most }
            }
        }
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may go.
    Admit,
    /// It may not; the text says which scope and what to do.
    Refuse(Refusal),
}

/// Says of each scope of a chain, nearest first, whether its budget binds.
pub fn bind(chain: &mut [ScopeState], precedence: Precedence) {
    let mut is_bound = false;
    for state in chain {
        let binds = state.limit.is_some() && (!is_bound || precedence == Precedence::Strict);
        state.binds = binds;
        is_bound |= binds;
    }
}

/// The scopes whose budgets bind, and their limits.
pub fn binding(chain: &[ScopeState]) -> impl Iterator<Item = (&ScopeState, Tokens)> {
    chain.iter().filter(|state| state.binds).filter_map(|state| Some((state, state.limit?)))
}

/// May a request that wants `want` go? Nothing that binds: yes.
#[must_use]
pub fn decide(chain: &[ScopeState], want: Want) -> Decision {
    let refusal = binding(chain).find_map(|(state, limit)| refuse(state, limit, want));
    refusal.map_or(Decision::Admit, Decision::Refuse)
}

fn refuse(state: &ScopeState, limit: Tokens, want: Want) -> Option<Refusal> {
    let left = limit.saturating_sub(state.used);
    let free = left.saturating_sub(state.held);
    let message = if left == Tokens::ZERO {
        format!("the budget of {} is used up: {} of {limit} tokens", state.scope, state.used)
    } else if want.needed > free {
        format!(
            "about {} tokens that this request needs do not fit in the {free} tokens that {} has left of {limit}",
            want.needed, state.scope
        )
    } else {
        return None;
    };
    Some(Refusal {
        reason: RefusalReason::BudgetExhausted,
        message,
        scope: Some(state.scope.clone()),
        budget: Some(limit),
        used: Some(state.used),
        rule: None,
    })
}

/// The nearest binding budget that is used up.
#[must_use]
pub fn crossed(chain: &[ScopeState]) -> Option<Crossing> {
    binding(chain).find_map(|(state, budget)| crossing(state, budget))
}

/// A scope's budget, if it is used up.
#[must_use]
pub fn crossing(state: &ScopeState, budget: Tokens) -> Option<Crossing> {
    let is_used_up = state.used >= budget;
    is_used_up.then(|| Crossing { scope: state.scope.clone(), budget, used: state.used, held: state.held })
}

/// What is left in each budget that binds, requests in flight not considered.
#[must_use]
pub fn allowances(chain: &[ScopeState]) -> Vec<Allowance> {
    let allowance = |(state, budget): (&ScopeState, Tokens)| Allowance {
        scope: state.scope.clone(),
        budget,
        left: budget.saturating_sub(state.used),
        held: state.held,
    };
    binding(chain).map(allowance).collect()
}

/// The highest part of a budget, in percent, that spending from `before` to `after` has reached.
#[must_use]
pub fn passed(thresholds: &Thresholds, budget: Tokens, before: Tokens, after: Tokens) -> Option<u8> {
    let reached = |used: Tokens, percent: u8| u128::from(used.0) * 100 >= u128::from(budget.0) * u128::from(percent);
    let is_news = |percent: &u8| reached(after, *percent) && !reached(before, *percent);
    thresholds.0.iter().copied().filter(is_news).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Scope;

    fn scope(limit: Option<u64>, used: u64, held: u64) -> ScopeState {
        let (limit, used, held) = (limit.map(Tokens), Tokens(used), Tokens(held));
        ScopeState { limit, used, held, ..ScopeState::of(Scope::Host) }
    }

    fn check(precedence: Precedence, chain: &[ScopeState], needed: u64, admitted: bool) {
        let want = Want { needed: Tokens(needed), held: Tokens(needed) };
        let mut chain = chain.to_vec();
        bind(&mut chain, precedence);
        let decision = decide(&chain, want);
        assert_eq!(decision == Decision::Admit, admitted, "{decision:?}");
    }

    #[test]
    fn a_request_goes_while_it_fits() {
        check(Precedence::Nearest, &[scope(None, 1_000_000, 0)], 1_000_000, true);
        check(Precedence::Nearest, &[scope(Some(100), 0, 0)], 100, true);
        check(Precedence::Nearest, &[scope(Some(100), 0, 0)], 101, false);
        check(Precedence::Nearest, &[scope(Some(100), 60, 30)], 10, true);
        check(Precedence::Nearest, &[scope(Some(100), 60, 30)], 11, false);
        check(Precedence::Nearest, &[scope(Some(100), 100, 0)], 0, false);
        check(Precedence::Nearest, &[scope(Some(0), 0, 0)], 0, false);
    }

    #[test]
    fn the_nearest_scope_that_defines_the_provider_governs() {
        check(Precedence::Nearest, &[scope(None, 0, 0), scope(Some(10), 10, 0)], 1, false);
        check(Precedence::Nearest, &[scope(Some(10), 0, 0), scope(Some(10), 10, 0)], 1, true);
    }

    #[test]
    fn strict_precedence_binds_every_scope() {
        check(Precedence::Strict, &[scope(Some(10), 0, 0), scope(Some(10), 10, 0)], 1, false);
        check(Precedence::Strict, &[scope(Some(10), 0, 0), scope(None, 0, 0), scope(Some(10), 5, 0)], 6, false);
        check(Precedence::Strict, &[scope(Some(10), 0, 0), scope(None, 0, 0), scope(Some(10), 5, 0)], 5, true);
    }

    #[test]
    fn each_preflight_needs_what_it_looks_at() {
        for (preflight, needed, held) in [
            (Preflight::Off, 0, 100),
            (Preflight::Estimate, 100, 100),
            (Preflight::Exact, 100, 100),
            (Preflight::Strict, 1_125, 1_125),
        ] {
            let want = Want::of(preflight, Tokens(100), Tokens(1_000));
            assert_eq!(want, Want { needed: Tokens(needed), held: Tokens(held) }, "{preflight:?}");
        }
        assert_eq!(Want::of(Preflight::Strict, Tokens(u64::MAX), Tokens(1)).needed, Tokens(u64::MAX));
    }

    #[test]
    fn a_budget_is_crossed_when_nothing_is_left() {
        let used = |chain: &[ScopeState], precedence| {
            let mut chain = chain.to_vec();
            bind(&mut chain, precedence);
            crossed(&chain).map(|crossing| crossing.used.0)
        };
        assert_eq!(used(&[scope(Some(100), 99, 500)], Precedence::Nearest), None);
        assert_eq!(used(&[scope(Some(100), 100, 0)], Precedence::Nearest), Some(100));
        assert_eq!(used(&[scope(None, 100, 0)], Precedence::Nearest), None);
        assert_eq!(used(&[scope(Some(100), 1, 0), scope(Some(50), 60, 0)], Precedence::Nearest), None);
        assert_eq!(used(&[scope(Some(100), 1, 0), scope(Some(50), 60, 0)], Precedence::Strict), Some(60));
    }

    #[test]
    fn thresholds_are_passed_once() {
        let passed = |before, after| passed(&Thresholds::default(), Tokens(1_000), Tokens(before), Tokens(after));
        assert_eq!(passed(0, 799), None);
        assert_eq!(passed(0, 800), Some(80));
        assert_eq!(passed(800, 899), None);
        assert_eq!(passed(799, 5_000), Some(99));
        assert_eq!(passed(990, 5_000), None);
    }
}
