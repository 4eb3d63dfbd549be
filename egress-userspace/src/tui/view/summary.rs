//! One bottle in a few lines: its budget, how fast it spends, its gate, what it waits for.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::control::LiveBottle;
use crate::domain::{CutCause, GateView, RuntimeKind, printable};

use super::super::state::{Governing, POINTS, State, Whose, governing};
use super::bottles::lasts;
use super::gauge::{gauge, sparkline, tone};
use super::style::quiet;
use super::text::{between, cut, fit, fit_right, human, moment};

/// Cells of the words before each line.
const LABEL_CELLS: usize = 9;
/// Cells of its gauge, and of a line in which it can be twice as long.
const GAUGE_CELLS: usize = 10;
const ROOMY_CELLS: usize = 100;

/// Budget, burn rate and gate.
pub(super) fn lines(state: &State, bottle: &LiveBottle, cells: usize) -> Vec<Line<'static>> {
    let budget = governing(&bottle.info);
    vec![
        budget_line(state, bottle, budget.as_ref(), cells),
        burn_line(state, bottle, cells),
        gate_line(state, bottle, cells),
    ]
}

/// The request that has been on its way longest, and how many more there are.
pub(super) fn on_its_way(state: &State, bottle: &LiveBottle, cells: usize) -> Line<'static> {
    let mut requests = state.requests.values().filter(|request| request.bottle == bottle.info.name);
    let Some(first) = requests.next() else {
        return labelled("asks", vec![Span::styled("nothing is on its way", quiet())]);
    };
    let more = requests.count();
    let more = if more == 0 { String::new() } else { format!(", {more} more") };
    let model = first.model.as_deref().map(|model| format!(" {}", printable(model))).unwrap_or_default();
    let since = between(first.admitted, state.as_of());
    let tail = format!("  {} held, for {since}{more}", human(first.held.0));
    let room = cells.saturating_sub(LABEL_CELLS + tail.len());
    let what = format!("{} at {}{model}", printable(&first.target), first.host);
    labelled("asks", vec![Span::raw(cut(&what, room, state.look.has_unicode)), Span::styled(tail, quiet())])
}

fn budget_line(state: &State, bottle: &LiveBottle, budget: Option<&Governing<'_>>, cells: usize) -> Line<'static> {
    let look = state.look;
    let Some(budget) = budget else {
        let spent = bottle.info.budgets.iter().map(|view| format!("{} {}", view.provider, human(view.own.0)));
        let spent = spent.collect::<Vec<_>>().join(", ");
        let spent = if spent.is_empty() { "nothing is used".to_owned() } else { format!("used: {spent}") };
        return labelled("budget", vec![Span::raw(format!("none binds; {spent}"))]);
    };
    let (used, held, limit) = (budget.state.used, budget.state.held, budget.limit);
    let held = if held.0 > 0 { format!(" + {} held", human(held.0)) } else { String::new() };
    let left = if used >= limit {
        format!("over by {}", human(used.saturating_sub(limit).0))
    } else {
        format!("{} left", human(budget.left().0))
    };
    let window = budget.state.window.map(|window| format!(" a {}", window.as_str())).unwrap_or_default();
    let turns =
        budget.state.turns.map(|turns| format!(", anew at {}", moment(turns, state.as_of(), &state.zone).trim_end()));
    let numbers = format!("{}{held} of {}{window}, {left}{}", human(used.0), human(limit.0), turns.unwrap_or_default());
    let mut spans = gauge(look, budget, if cells < ROOMY_CELLS { GAUGE_CELLS } else { 2 * GAUGE_CELLS }).to_vec();
    spans.push(Span::styled(format!(" {}%", budget.percent()), tone(look, budget.percent())));
    spans.push(Span::raw(format!("  {numbers}")));
    let taken: usize = LABEL_CELLS + spans.iter().map(Span::width).sum::<usize>();
    let whose = format!("  {} of {}", budget.provider, budget.state.scope);
    spans.push(Span::styled(cut(&whose, cells.saturating_sub(taken), look.has_unicode), quiet()));
    labelled("budget", spans)
}

fn burn_line(state: &State, bottle: &LiveBottle, cells: usize) -> Line<'static> {
    let look = state.look;
    let whose = Whose::Bottle(bottle.info.name.clone());
    let picture = sparkline(look, &state.rates.points(&whose, state.as_of()), POINTS);
    let rate = format!("{}/min", human(state.rates.per_minute(&whose, state.as_of()).0));
    let mut spans = vec![Span::styled(picture, look.still()), Span::raw(fit_right(&rate, 10, look.has_unicode))];
    if let Some(budget) = governing(&bottle.info)
        && cells >= ROOMY_CELLS
    {
        let (text, style) = lasts(state, &budget);
        spans.extend([Span::styled("  lasts ", quiet()), Span::styled(text, style)]);
    }
    labelled("burn", spans)
}

fn gate_line(state: &State, bottle: &LiveBottle, cells: usize) -> Line<'static> {
    let (look, info) = (state.look, &bottle.info);
    let (gate, style) = match info.gate {
        GateView::Open if info.address.is_none() => ("open when it runs", Style::new()),
        GateView::Open => ("open", look.good()),
        GateView::Cut(CutCause::Budget) => ("cut (budget)", look.bad()),
        GateView::Cut(CutCause::Operator) => ("cut (operator)", look.bad()),
    };
    let [sent, got] = look.arrows();
    let counts = &bottle.counts;
    let mut rest = format!(
        "  {sent}{}B {got}{}B, {} dropped",
        human(counts.passed_bytes_from_bottle),
        human(counts.passed_bytes_to_bottle),
        human(info.dropped_packets)
    );
    if let Some(address) = info.address {
        rest.push_str(&format!("  {} {address}", look.middle()));
    }
    if info.runtime == RuntimeKind::Docker {
        rest.push_str(&format!("  {} {}", look.middle(), info.runtime.as_str()));
    }
    let started = moment(info.started, state.as_of(), &state.zone);
    rest.push_str(&format!("  {} started {}", look.middle(), started.trim_end()));
    let room = cells.saturating_sub(LABEL_CELLS + gate.len());
    labelled("gate", vec![Span::styled(gate, style), Span::styled(cut(&rest, room, look.has_unicode), quiet())])
}

fn labelled(label: &str, spans: Vec<Span<'static>>) -> Line<'static> {
    let label = Span::styled(format!(" {}", fit(label, LABEL_CELLS - 1, false)), quiet());
    Line::from([vec![label], spans].concat())
}
