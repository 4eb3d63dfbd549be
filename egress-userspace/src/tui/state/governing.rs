//! Which of a bottle's budgets decides, what is left of it and for how long.

use crate::control::BottleInfo;
use crate::domain::{ProviderName, Scope, ScopeState, Tokens, UnixMillis};

use super::GrantTarget;

/// The budget with the least left of those that bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tui) struct Governing<'a> {
    /// Of which provider.
    pub(in crate::tui) provider: &'a ProviderName,
    /// Whose.
    pub(in crate::tui) state: &'a ScopeState,
    /// What it allows.
    pub(in crate::tui) limit: Tokens,
}

/// How long a budget lasts at the rate at which it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tui) enum Lasts {
    /// It is used up.
    Gone,
    /// So many seconds.
    Seconds(u64),
    /// Until it begins anew.
    Renewed,
    /// Nothing is being used.
    Idle,
}

/// The governing budget of a bottle over all its providers, if any budget binds.
pub(in crate::tui) fn governing(bottle: &BottleInfo) -> Option<Governing<'_>> {
    let binding = bottle.budgets.iter().flat_map(|view| {
        let states = view.chain.iter().filter(|state| state.binds);
        states.filter_map(|state| Some(Governing { provider: &view.provider, state, limit: state.limit? }))
    });
    // A budget of nothing forbids a provider; as long as nobody tries, it is not what a bottle will run into.
    binding.min_by_key(|one| (one.limit == Tokens::ZERO && one.state.used == Tokens::ZERO, one.left()))
}

/// Every budget a bottle counts for that says something, the governing one first.
pub(in crate::tui) fn grant_targets(bottle: &BottleInfo) -> Vec<GrantTarget> {
    let of = |provider: &ProviderName, scope: &Scope| GrantTarget { provider: provider.clone(), scope: scope.clone() };
    let mut targets: Vec<GrantTarget> =
        governing(bottle).map(|one| of(one.provider, &one.state.scope)).into_iter().collect();
    for view in &bottle.budgets {
        for state in view.chain.iter().filter(|state| state.limit.is_some()) {
            let target = of(&view.provider, &state.scope);
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
    }
    targets
}

impl Governing<'_> {
    /// Neither used nor held for requests on their way.
    pub(in crate::tui) fn left(&self) -> Tokens {
        self.limit.saturating_sub(self.state.used + self.state.held)
    }

    /// Used, in percent; what forbids is used up.
    pub(in crate::tui) fn percent(&self) -> u64 {
        percent(self.state.used, self.limit)
    }

    /// At this many tokens a minute.
    pub(in crate::tui) fn lasts(&self, per_minute: Tokens, now: UnixMillis) -> Lasts {
        if self.state.used >= self.limit {
            return Lasts::Gone;
        }
        if per_minute == Tokens::ZERO {
            return Lasts::Idle;
        }
        let seconds = u128::from(self.left().0) * 60 / u128::from(per_minute.0);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        let is_renewed = self.state.turns.is_some_and(|turns| {
            let until_turn = turns.0.saturating_sub(now.0).max(0).unsigned_abs() / 1000;
            seconds >= until_turn
        });
        if is_renewed { Lasts::Renewed } else { Lasts::Seconds(seconds) }
    }
}

/// A part of a whole; everything of nothing.
fn percent(part: Tokens, whole: Tokens) -> u64 {
    let percent = (u128::from(part.0) * 100).checked_div(u128::from(whole.0)).unwrap_or(100);
    u64::try_from(percent).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BudgetView, Window};
    use crate::tui::tests::sample;

    fn state(scope: Scope, limit: u64, used: u64, binds: bool) -> ScopeState {
        ScopeState { limit: Some(Tokens(limit)), used: Tokens(used), binds, ..ScopeState::of(scope) }
    }

    fn bottle_scope() -> Scope {
        Scope::Bottle("web".parse().unwrap())
    }

    fn bottle(views: Vec<(&str, Vec<ScopeState>)>) -> BottleInfo {
        let view =
            |(provider, chain): (&str, _)| BudgetView { provider: provider.parse().unwrap(), own: Tokens::ZERO, chain };
        BottleInfo { budgets: views.into_iter().map(view).collect(), ..sample::bottle("web").info }
    }

    fn check(views: Vec<(&str, Vec<ScopeState>)>, expected: Option<(&str, u64, u64)>) {
        let bottle = bottle(views);
        let found = governing(&bottle).map(|one| (one.provider.as_str(), one.left().0, one.percent()));
        assert_eq!(found, expected, "{:?}", bottle.budgets);
    }

    #[test]
    fn the_budget_with_the_least_left_governs() {
        check(vec![], None);
        check(vec![("claude", vec![ScopeState::of(Scope::Host)])], None);
        check(vec![("claude", vec![state(Scope::Host, 10, 1, false)])], None);
        let chain = vec![state(bottle_scope(), 100, 10, true), state(Scope::Host, 50, 20, true)];
        check(vec![("claude", chain.clone())], Some(("claude", 30, 40)));
        let held = ScopeState { held: Tokens(80), ..state(bottle_scope(), 100, 10, true) };
        check(vec![("claude", chain.clone()), ("codex", vec![held])], Some(("codex", 10, 10)));
        let over = state(Scope::Host, 5_000, 6_000, true);
        check(vec![("claude", chain.clone()), ("codex", vec![over])], Some(("codex", 0, 120)));
        let forbidden = state(Scope::Host, 0, 0, true);
        check(vec![("codex", vec![forbidden.clone()]), ("claude", chain)], Some(("claude", 30, 40)));
        check(vec![("codex", vec![forbidden])], Some(("codex", 0, 100)));
    }

    #[test]
    fn a_grant_goes_to_the_governing_budget_unless_said_otherwise() {
        let chain = vec![
            ScopeState::of(Scope::Agent("reviewer".parse().unwrap())),
            state(bottle_scope(), 100, 10, false),
            state(Scope::Host, 50, 20, true),
        ];
        let info = bottle(vec![("claude", chain), ("codex", vec![state(Scope::Host, 500, 0, true)])]);
        let targets: Vec<String> = grant_targets(&info).iter().map(ToString::to_string).collect();
        assert_eq!(targets, ["claude of host", "claude of bottle web", "codex of host"]);
    }

    #[test]
    fn a_budget_lasts_as_long_as_its_rate_says() {
        let provider = "claude".parse().unwrap();
        let check = |state: &ScopeState, per_minute: u64, expected: Lasts| {
            let limit = state.limit.unwrap();
            let found = Governing { provider: &provider, state, limit }.lasts(Tokens(per_minute), UnixMillis(10_000));
            assert_eq!(found, expected, "{state:?} at {per_minute}");
        };
        let half = state(Scope::Host, 1_000, 500, true);
        check(&half, 0, Lasts::Idle);
        check(&half, 100, Lasts::Seconds(300));
        check(&half, u64::MAX, Lasts::Seconds(0));
        check(&ScopeState { held: Tokens(400), ..half.clone() }, 100, Lasts::Seconds(60));
        check(&ScopeState { used: Tokens(1_000), ..half.clone() }, 0, Lasts::Gone);
        check(&state(Scope::Host, 0, 0, true), 5, Lasts::Gone);
        let daily = |turns| ScopeState { window: Some(Window::Day), turns: Some(UnixMillis(turns)), ..half.clone() };
        check(&daily(310_000), 100, Lasts::Renewed);
        check(&daily(311_000), 100, Lasts::Seconds(300));
    }
}
