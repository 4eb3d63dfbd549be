//! Amounts as pictures.

use ratatui::style::Style;
use ratatui::text::Span;

use super::super::state::{Governing, Look, POINTS};
use super::style::quiet;

/// From this part used on, in percent, a budget is about to be gone.
const NEARLY_GONE_PERCENT: u64 = 80;

/// How a budget with this part used is shown.
pub(super) fn tone(look: Look, percent: u64) -> Style {
    match percent {
        0..NEARLY_GONE_PERCENT => look.good(),
        NEARLY_GONE_PERCENT..100 => look.warning(),
        _ => look.bad(),
    }
}

/// What is used of a budget, what is held beyond that, and the rest, in so many cells.
pub(super) fn gauge(look: Look, budget: &Governing<'_>, cells: usize) -> [Span<'static>; 3] {
    let [used, held] = parts(budget, cells);
    let [full, some, rest] = if look.has_unicode { ["━", "╍", "─"] } else { ["#", "+", "."] };
    [
        Span::styled(full.repeat(used), tone(look, budget.percent())),
        Span::styled(some.repeat(held), look.warning()),
        Span::styled(rest.repeat(cells.saturating_sub(used + held)), quiet()),
    ]
}

/// Cells for what is used and what is held. Something is never shown as nothing, and full is only what is.
fn parts(budget: &Governing<'_>, cells: usize) -> [usize; 2] {
    let (limit, used, held) = (budget.limit.0, budget.state.used.0, budget.state.held.0);
    let whole = u128::try_from(cells).unwrap_or(0);
    let of = |tokens: u64| {
        let part = (u128::from(tokens) * whole).checked_div(u128::from(limit)).unwrap_or(whole).min(whole);
        let part = usize::try_from(part).unwrap_or(cells);
        if tokens > 0 && cells > 0 { part.max(1) } else { part }
    };
    if used >= limit {
        return [cells, 0];
    }
    let used = of(used).min(cells.saturating_sub(1));
    [used, of(held).min(cells - used)]
}

/// Points in so many cells, the newest to the right.
pub(super) fn sparkline(look: Look, points: &[u64; POINTS], cells: usize) -> String {
    const BLOCKS: [&str; 9] = ["▁", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
    const SIGNS: [&str; 9] = ["_", ".", ":", "-", "=", "+", "*", "#", "@"];
    let signs = if look.has_unicode { BLOCKS } else { SIGNS };
    let together = POINTS.div_ceil(cells.max(1));
    // From the newest back, so that the oldest cell holds what is left over.
    let mut sums: Vec<u64> =
        points.rchunks(together).map(|chunk| chunk.iter().copied().fold(0, u64::saturating_add)).collect();
    sums.reverse();
    let highest = sums.iter().copied().max().unwrap_or(0);
    let height = |sum: u64| {
        let eighths = (u128::from(sum) * 8).div_ceil(u128::from(highest.max(1)));
        usize::try_from(eighths).unwrap_or(8)
    };
    sums.into_iter().filter_map(|sum| signs.get(height(sum))).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Scope, ScopeState, Tokens};

    const LOOK: Look = Look { has_colour: false, has_unicode: true };

    fn check((used, held, limit): (u64, u64, u64), expected: &str) {
        let provider = "claude".parse().unwrap();
        let state = ScopeState { used: Tokens(used), held: Tokens(held), ..ScopeState::of(Scope::Host) };
        let budget = Governing { provider: &provider, state: &state, limit: Tokens(limit) };
        let text: String = gauge(LOOK, &budget, 10).iter().map(|span| span.content.to_string()).collect();
        assert_eq!(text, expected, "{used} and {held} of {limit}");
    }

    #[test]
    fn a_gauge_shows_what_is_used_and_what_is_held() {
        check((0, 0, 100), "──────────");
        check((1, 0, 100), "━─────────");
        check((50, 20, 100), "━━━━━╍╍───");
        check((50, 70, 100), "━━━━━╍╍╍╍╍");
        check((99, 1, 100), "━━━━━━━━━╍");
        check((100, 0, 100), "━━━━━━━━━━");
        check((500, 50, 100), "━━━━━━━━━━");
        check((0, 0, 0), "━━━━━━━━━━");
        check((u64::MAX - 1, 1, u64::MAX), "━━━━━━━━━╍");
    }

    #[test]
    fn a_sparkline_is_as_high_as_its_highest_point() {
        let mut points = [0; POINTS];
        (points[0], points[57], points[58], points[59]) = (9, 1, 4, 8);
        let check = |look: Look, cells: usize, expected: &str| assert_eq!(sparkline(look, &points, cells), expected);
        check(LOOK, 60, &format!("█{}▁▄█", "▁".repeat(56)));
        check(LOOK, 6, "▆▁▁▁▁█");
        check(Look { has_unicode: false, ..LOOK }, 6, "*____@");
        assert_eq!(sparkline(LOOK, &[0; POINTS], 20), "▁".repeat(20));
        assert_eq!(sparkline(LOOK, &[u64::MAX; POINTS], 1), "█");
    }
}
