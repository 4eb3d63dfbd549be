//! All bottles, and in a few lines the one under the cursor.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use crate::control::LiveBottle;
use crate::domain::{BottleState, CutCause, GateView, printable};

use super::super::state::{Governing, Lasts, Look, State, Whose, governing, shown, standing};
use super::columns::{Column, columns};
use super::gauge::{gauge, sparkline, tone};
use super::style::{quiet, strong};
use super::text::{counted, fit, fit_right, human, span};
use super::{cells, first_row, put, rule, summary};

/// Cells of a gauge that its percentage takes.
const PERCENT_CELLS: usize = 5;
/// A budget that lasts no longer than this is about to be gone.
const SOON_SECONDS: u64 = 300;

/// Draws them.
pub(super) fn draw(state: &State, buffer: &mut Buffer, area: Rect) {
    let rows = shown(state);
    let Some(selected) = state.cursor(&rows).and_then(|at| rows.get(at)) else {
        return put(buffer, area, &nothing(state));
    };
    let below = summary_lines(state, selected, cells(area.width));
    let below_height = super::lines_of(&below);
    let above = Rect { height: area.height.saturating_sub(below_height), ..area };
    let room = usize::from(above.height).saturating_sub(1);
    put(buffer, above, &table(state, &rows, cells(area.width), room));
    put(buffer, Rect { y: above.bottom(), height: below_height, ..area }, &below);
}

fn nothing(state: &State) -> Vec<Line<'static>> {
    let filter = printable(&state.filter);
    let said = match (state.daemon.is_some(), filter.is_empty()) {
        (false, _) => vec![],
        (true, true) => vec!["There are no bottles. Start one:", "", "    egress run web -- claude"],
        (true, false) => {
            return vec![Line::raw(format!("  Nothing has {filter:?} in name, agent, state or provider."))];
        }
    };
    said.into_iter().map(|line| Line::raw(format!("  {line}"))).collect()
}

fn table(state: &State, rows: &[&LiveBottle], cells: usize, room: usize) -> Vec<Line<'static>> {
    let columns = columns(cells, rows);
    let cursor = state.cursor(rows).unwrap_or(0);
    let mut lines = vec![heading(state, &columns)];
    let first = first_row(cursor, rows.len(), room);
    for (at, bottle) in rows.iter().enumerate().skip(first).take(room) {
        lines.push(row(state, bottle, &columns, at == cursor));
    }
    lines
}

fn heading(state: &State, columns: &[(Column, usize)]) -> Line<'static> {
    let unicode = state.look.has_unicode;
    let mut spans = Vec::new();
    for (column, cells) in columns {
        let fit = if column.is_right() { fit_right } else { fit };
        spans.push(Span::raw(" "));
        spans
            .push(Span::styled(fit(column.title(*cells), *cells, unicode), quiet().add_modifier(Modifier::UNDERLINED)));
    }
    Line::from(spans)
}

fn row(state: &State, bottle: &LiveBottle, columns: &[(Column, usize)], is_under_cursor: bool) -> Line<'static> {
    let look = state.look;
    let budget = governing(&bottle.info);
    let mut spans = Vec::new();
    for (index, (column, cells)) in columns.iter().enumerate() {
        let lead = if index == 0 && is_under_cursor { look.cursor() } else { " " };
        spans.push(Span::styled(lead, look.key()));
        spans.extend(cell(state, bottle, budget.as_ref(), *column, *cells));
    }
    let line = Line::from(spans);
    match (is_under_cursor, bottle.info.state) {
        (true, _) => line.patch_style(strong()),
        (false, BottleState::Running) => line,
        (false, BottleState::Frozen | BottleState::Ended) => line.patch_style(quiet()),
    }
}

fn cell(
    state: &State,
    bottle: &LiveBottle,
    budget: Option<&Governing<'_>>,
    column: Column,
    cells: usize,
) -> Vec<Span<'static>> {
    let (look, info) = (state.look, &bottle.info);
    let none = || look.none().to_owned();
    let whose = || Whose::Bottle(info.name.clone());
    let (text, style) = match column {
        Column::Bottle => (info.name.to_string(), Style::new()),
        Column::Agent => (info.agent.as_ref().map_or_else(none, ToString::to_string), Style::new()),
        Column::Provider => (provider(bottle, budget).unwrap_or_else(none), Style::new()),
        Column::State => standing_cell(state, bottle, cells),
        Column::Policy => (info.policy.as_str().to_owned(), Style::new()),
        Column::Gauge => return gauge_cell(look, bottle, budget, cells),
        Column::Amount => {
            let amount = |one: &Governing<'_>| format!("{}/{}", human(one.state.used.0), human(one.limit.0));
            (budget.map_or_else(none, amount), Style::new())
        }
        Column::Scope => (budget.map_or_else(none, |one| one.state.scope.to_string()), Style::new()),
        Column::Burn => (human(state.rates.per_minute(&whose(), state.as_of()).0), Style::new()),
        Column::Spark => (sparkline(look, &state.rates.points(&whose(), state.as_of()), cells), look.still()),
        Column::Lasts => budget.map_or_else(|| (none(), Style::new()), |one| lasts(state, one)),
        Column::Flying => (state.in_flight(&info.name).to_string(), Style::new()),
        Column::Traffic => {
            let [sent, got] = [bottle.counts.passed_bytes_from_bottle, bottle.counts.passed_bytes_to_bottle].map(human);
            (format!("{sent}/{got}"), Style::new())
        }
        Column::Drops => (human(info.dropped_packets), Style::new()),
    };
    let fitted = if column.is_right() { fit_right } else { fit }(&text, cells, look.has_unicode);
    vec![Span::styled(fitted, style)]
}

/// Whose budget governs; without one, all providers that it has spent tokens of.
fn provider(bottle: &LiveBottle, budget: Option<&Governing<'_>>) -> Option<String> {
    let views = &bottle.info.budgets;
    match budget {
        Some(one) => Some(one.provider.to_string()),
        None if views.is_empty() => None,
        None => Some(views.iter().map(|view| view.provider.to_string()).collect::<Vec<_>>().join(",")),
    }
}

fn gauge_cell(look: Look, bottle: &LiveBottle, budget: Option<&Governing<'_>>, cells: usize) -> Vec<Span<'static>> {
    let Some(budget) = budget else {
        let own: u64 = bottle.info.budgets.iter().fold(0, |sum, view| sum.saturating_add(view.own.0));
        let text = if own == 0 { "no budget".to_owned() } else { format!("{} used", human(own)) };
        return vec![Span::styled(fit(&text, cells, look.has_unicode), quiet())];
    };
    let percent = budget.percent();
    let text = if percent > 999 { ">999%".to_owned() } else { format!("{percent:>4}%") };
    let picture = gauge(look, budget, cells.saturating_sub(PERCENT_CELLS));
    picture.into_iter().chain([Span::styled(text, tone(look, percent))]).collect()
}

/// What it is, with a sign; why, where there is room.
pub(super) fn standing_cell(state: &State, bottle: &LiveBottle, cells: usize) -> (String, Style) {
    let look = state.look;
    if let Some(running) = state.doing(&bottle.info.name) {
        return (format!("{}{}", running.verb, look.ellipsis()), look.warning());
    }
    let (_, word) = standing(bottle);
    let (sign, style) = match (bottle.info.state, bottle.info.gate) {
        (BottleState::Running, GateView::Open) => (look.dot(), look.good()),
        (BottleState::Running, GateView::Cut(_)) => (look.block(), look.bad()),
        (BottleState::Frozen, _) => (look.diamond(), look.still()),
        (BottleState::Ended, _) => (look.circle(), Style::new()),
    };
    let cause = match bottle.info.frozen.map_or(bottle.info.gate, GateView::Cut) {
        GateView::Cut(CutCause::Budget) => " (budget)",
        GateView::Cut(CutCause::Operator) => " (operator)",
        GateView::Open => "",
    };
    let short = format!("{sign} {word}");
    let long = format!("{short}{cause}");
    (if super::text::width(&long) <= cells { long } else { short }, style)
}

/// How long a budget lasts, at the rate at which everything that counts for it spends.
pub(super) fn lasts(state: &State, budget: &Governing<'_>) -> (String, Style) {
    let look = state.look;
    let whose = Whose::Budget(budget.state.scope.clone(), budget.provider.clone());
    match budget.lasts(state.rates.per_minute(&whose, state.as_of()), state.as_of()) {
        Lasts::Gone => ("gone".to_owned(), look.bad()),
        Lasts::Seconds(seconds) if seconds <= SOON_SECONDS => (span(seconds), look.warning()),
        Lasts::Seconds(seconds) => (span(seconds), Style::new()),
        Lasts::Renewed => ("anew".to_owned(), Style::new()),
        Lasts::Idle => (look.none().to_owned(), Style::new()),
    }
}

fn summary_lines(state: &State, bottle: &LiveBottle, cells: usize) -> Vec<Line<'static>> {
    let order = state.order;
    let reversed = if order.is_reversed { ", reversed" } else { "" };
    let filter = if state.filter.is_empty() { String::new() } else { format!(", with {:?}", printable(&state.filter)) };
    let rows = shown(state);
    let place = state.cursor(&rows).map_or(0, |at| at + 1);
    let (name, of) = (&bottle.info.name, counted(rows.len(), "bottle", "bottles"));
    let title = format!("{name}  {place} of {of} {} by {}{reversed}{filter}", state.look.middle(), order.by.as_str());
    let mut lines = vec![rule(state, &title, cells)];
    lines.extend(summary::lines(state, bottle, cells));
    lines.push(summary::on_its_way(state, bottle, cells));
    lines
}
