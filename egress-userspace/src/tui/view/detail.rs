//! One bottle: its requests, its budgets, where it may go, what its gate has counted, what happened to it.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use crate::control::{GateCounter, KernelReply, LiveBottle, LiveRequest};
use crate::domain::{
    AuditRow, LimitSource, ListedRoute, RouteAuth, ScopeState, UnixMillis, UsageRow, happened, printable,
};

use super::super::state::{Detail, Loaded, Section, State, governing};
use super::bottles::standing_cell;
use super::style::{quiet, strong};
use super::table::{Heading, Table, number, rest, words};
use super::text::{between, human, moment};
use super::{cells, put, rule, summary};

const REQUESTS: [Heading; 9] = [
    words("TIME", 8),
    words("CODE", 4),
    words("MODEL", 15),
    rest("REQUEST"),
    number("INPUT", 5),
    number("CACHE", 5),
    number("OUT", 5),
    number("TOOK", 5),
    words("KNOWN", 9),
];
const SCOPES: [Heading; 8] = [
    words("PROVIDER", 8),
    rest("SCOPE"),
    number("USED", 5),
    number("HELD", 5),
    number("LIMIT", 5),
    words("PER", 5),
    number("LEFT", 6),
    words("SAID BY", 12),
];
const ROUTES: [Heading; 6] =
    [rest("HOST"), words("PORTS", 7), words("METHODS", 12), words("PATHS", 14), words("KEY", 8), words("ON MATCH", 16)];
const COUNTERS: [Heading; 4] = [words("DIRECTION", 12), rest("OUTCOME"), number("PACKETS", 9), number("BYTES", 9)];
const AUDIT: [Heading; 3] = [number("NO", 6), words("TIME", 8), rest("WHAT")];

/// Draws it.
pub(super) fn draw(state: &State, detail: &Detail, buffer: &mut Buffer, area: Rect) {
    let width = cells(area.width);
    let mut lines = vec![rule(state, detail.bottle.as_str(), width)];
    match state.bottles.get(&detail.bottle) {
        Some(bottle) => {
            lines.push(what_it_is(state, bottle));
            lines.extend(summary::lines(state, bottle, width));
        }
        None => lines.push(Line::raw(" It is gone. What it has spent stays on record.")),
    }
    lines.push(Line::default());
    lines.push(tabs(state, detail.section));
    let (heading, rows) = section(state, detail, width);
    lines.push(heading);
    let room = usize::from(area.height).saturating_sub(lines.len());
    let first = detail.scroll.min(rows.len().saturating_sub(room));
    lines.extend(rows.into_iter().skip(first).take(room));
    put(buffer, area, &lines);
}

fn what_it_is(state: &State, bottle: &LiveBottle) -> Line<'static> {
    let info = &bottle.info;
    let (standing, style) = standing_cell(state, bottle, usize::MAX);
    let agent = info.agent.as_ref().map(|agent| format!(" as {agent}")).unwrap_or_default();
    let container = info.container.as_deref().map(|id| format!(", container {}", printable(id))).unwrap_or_default();
    let interface =
        info.interface.as_deref().map(|name| format!(", interface {}", printable(name))).unwrap_or_default();
    let rest = format!("{agent}, {} when a budget is gone{interface}{container}", info.policy.as_str());
    Line::from(vec![Span::raw(" "), Span::styled(standing, style), Span::raw(rest)])
}

fn tabs(state: &State, section: Section) -> Line<'static> {
    let mut spans = Vec::new();
    for (tab, digit) in Section::ALL.into_iter().zip(1..) {
        let style = if tab == section { strong().add_modifier(Modifier::REVERSED) } else { Style::new() };
        spans.push(Span::raw(" "));
        spans.push(Span::styled(format!("{digit}"), state.look.key()));
        spans.push(Span::raw(" "));
        spans.push(Span::styled(format!(" {} ", tab.as_str()), style));
        spans.push(Span::raw(" "));
    }
    Line::from(spans)
}

type Rows = (Line<'static>, Vec<Line<'static>>);

fn section(state: &State, detail: &Detail, width: usize) -> Rows {
    match detail.section {
        Section::Requests => requests(state, detail, &table(state, &REQUESTS, width)),
        Section::Scopes => scopes(state, detail, &table(state, &SCOPES, width)),
        Section::Routes => {
            let table = table(state, &ROUTES, width);
            loaded(&table, &detail.routes, |routes| {
                routes.iter().map(|route| plain(&table, &route_cells(route))).collect()
            })
        }
        Section::Counters => {
            let table = table(state, &COUNTERS, width);
            loaded(&table, &detail.counters, |reply| {
                reply.as_ref().map(|reply| counters(&table, reply)).unwrap_or_default()
            })
        }
        Section::Audit => {
            let table = table(state, &AUDIT, width);
            let of = |row: &AuditRow| plain(&table, &audit_cells(state, row));
            loaded(&table, &detail.audit, |rows| rows.iter().rev().map(of).collect())
        }
    }
}

fn table<'a>(state: &State, headings: &'a [Heading], width: usize) -> Table<'a> {
    Table::new(headings, width, state.look.has_unicode)
}

fn plain(table: &Table<'_>, cells: &[String]) -> Line<'static> {
    table.row(Span::raw(" "), cells, Style::new())
}

/// Rows of what has come, or why there are none.
fn loaded<T>(table: &Table<'_>, loaded: &Loaded<T>, rows: impl FnOnce(&T) -> Vec<Line<'static>>) -> Rows {
    let said = |text: String| vec![Line::styled(format!(" {text}"), quiet())];
    let rows = match loaded {
        Loaded::Failed(why) => said(printable(why)),
        Loaded::Waiting(value) | Loaded::Here(value) => {
            let rows = rows(value);
            match (rows.is_empty(), loaded) {
                (false, _) => rows,
                (true, Loaded::Waiting(_)) => said("asking the daemon".to_owned()),
                (true, Loaded::Here(_) | Loaded::Failed(_)) => said("none".to_owned()),
            }
        }
    };
    (table.heading(), rows)
}

/// Those on their way, then those that were settled, the newest first.
fn requests(state: &State, detail: &Detail, table: &Table<'_>) -> Rows {
    let on_their_way = state.requests.values().filter(|request| request.bottle == detail.bottle);
    let lead = || Span::styled(state.look.cursor(), state.look.warning());
    let mut rows: Vec<Line<'static>> =
        on_their_way.map(|request| table.row(lead(), &flying_cells(state, request), Style::new())).collect();
    rows.reverse();
    let of = |row: &UsageRow| plain(table, &settled_cells(state, row));
    let (heading, settled) = loaded(table, &detail.requests, |settled| settled.iter().rev().map(of).collect());
    let is_answer = detail.requests.value().is_some_and(|settled| !settled.is_empty()) || rows.is_empty();
    if is_answer {
        rows.extend(settled);
    }
    (heading, rows)
}

fn flying_cells(state: &State, request: &LiveRequest) -> [String; 9] {
    [
        moment(request.admitted, state.as_of(), &state.zone),
        state.look.ellipsis().to_owned(),
        request.model.as_deref().map(printable).unwrap_or_default(),
        printable(&request.target),
        String::new(),
        String::new(),
        human(request.held.0),
        between(request.admitted, state.as_of()),
        "held".to_owned(),
    ]
}

fn settled_cells(state: &State, row: &UsageRow) -> [String; 9] {
    [
        moment(row.settled, state.as_of(), &state.zone),
        row.status.map_or_else(|| state.look.none().to_owned(), |status| status.to_string()),
        row.model.as_deref().map(printable).unwrap_or_default(),
        printable(&row.target),
        human(row.usage.input.0),
        human((row.usage.cache_read + row.usage.cache_write).0),
        human(row.usage.output.0),
        between(row.admitted, row.settled),
        row.known.as_str().to_owned(),
    ]
}

fn scopes(state: &State, detail: &Detail, table: &Table<'_>) -> Rows {
    let Some(bottle) = state.bottles.get(&detail.bottle) else { return (table.heading(), Vec::new()) };
    let governing = governing(&bottle.info).map(|one| (one.provider, &one.state.scope));
    let mut rows = Vec::new();
    for view in &bottle.info.budgets {
        for scope in &view.chain {
            let lead = if scope.binds { state.look.cursor() } else { " " };
            let is_governing = governing == Some((&view.provider, &scope.scope));
            let style = if is_governing { strong() } else { Style::new() };
            let cells = scope_cells(state, view.provider.as_str(), scope);
            rows.push(table.row(Span::styled(lead, state.look.key()), &cells, style));
        }
    }
    if rows.is_empty() {
        rows.push(Line::styled(" no budget says anything, and nothing was used", quiet()));
    }
    (table.heading(), rows)
}

fn scope_cells(state: &State, provider: &str, scope: &ScopeState) -> [String; 8] {
    let none = || state.look.none().to_owned();
    let left = scope.limit.map(|limit| match scope.used.0.checked_sub(limit.0) {
        Some(0) | None => human(limit.saturating_sub(scope.used + scope.held).0),
        Some(over) => format!("-{}", human(over)),
    });
    let source = scope.source.map(|source| match source {
        LimitSource::Settings => "settings.yml",
        LimitSource::Launch => "launch flag",
        LimitSource::Operator => "operator",
    });
    [
        provider.to_owned(),
        scope.scope.to_string(),
        human(scope.used.0),
        human(scope.held.0),
        scope.limit.map_or_else(none, |limit| human(limit.0)),
        scope.window.map_or_else(none, |window| window.as_str().to_owned()),
        left.unwrap_or_else(none),
        source.map_or_else(none, str::to_owned),
    ]
}

fn route_cells(route: &ListedRoute) -> [String; 6] {
    let ports: Vec<String> = route.ports.iter().map(ToString::to_string).collect();
    let all = |words: &[String]| if words.is_empty() { "all".to_owned() } else { printable(&words.join(",")) };
    let auth = match (route.intercept, route.auth) {
        (false, _) => "unseen",
        (true, RouteAuth::Injected) => "the host",
        (true, RouteAuth::Passthrough) => "any",
        (true, RouteAuth::Own) => "its own",
    };
    [
        printable(&route.host),
        ports.join(","),
        all(&route.methods),
        all(&route.paths),
        auth.to_owned(),
        format!("{}/{}", route.outbound_on_match.as_str(), route.inbound_on_match.as_str()),
    ]
}

/// What was counted first, then the cells that are empty.
fn counters(table: &Table<'_>, reply: &KernelReply) -> Vec<Line<'static>> {
    let all = reply.gates.iter().flat_map(|gate| &gate.counters);
    let (counted, empty): (Vec<_>, Vec<_>) = all.partition(|counter| counter.packets > 0);
    let row = |counter: &GateCounter, style| {
        let (direction, outcome) = (printable(&counter.direction), printable(&counter.outcome));
        let cells = [direction, outcome, human(counter.packets), human(counter.bytes)];
        table.row(Span::raw(" "), &cells, style)
    };
    let counted = counted.into_iter().map(|counter| row(counter, Style::new()));
    counted.chain(empty.into_iter().map(|counter| row(counter, quiet()))).collect()
}

fn audit_cells(state: &State, row: &AuditRow) -> [String; 3] {
    let time = |at: UnixMillis| moment(at, state.as_of(), &state.zone).trim_end().to_owned();
    [row.number.to_string(), moment(row.at, state.as_of(), &state.zone), printable(&happened(&row.kind, &time))]
}
