//! Draws a state. Reads nothing but the state: the same state is the same screen.

mod approvals;
mod bottles;
mod columns;
mod detail;
mod gauge;
mod header;
mod overlay;
mod style;
mod summary;
mod table;
mod text;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::domain::{happened, printable};

use super::state::{Overlay, Screen, Size, State};
use style::{quiet, strong};

/// What a terminal needs to have.
const LEAST: Size = Size { columns: 80, lines: 20 };

/// Draws all of it.
pub(in crate::tui) fn draw(state: &State, frame: &mut Frame<'_>) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    if area.width < LEAST.columns || area.height < LEAST.lines {
        return too_small(buffer, area);
    }
    let top = header::lines(state, cells(area.width));
    let top_height = lines_of(&top);
    put(buffer, area, &top);
    let body = Rect { y: area.y + top_height + 1, height: area.height.saturating_sub(top_height + 3), ..area };
    match &state.screen {
        Screen::Bottles => bottles::draw(state, buffer, body),
        Screen::Detail(detail) => detail::draw(state, detail, buffer, body),
        Screen::Approvals(selected) => approvals::draw(state, *selected, buffer, body),
    }
    if !state.link.is_live() {
        // It was so, and may be otherwise.
        buffer.set_style(body, quiet());
    }
    let bottom = Rect { y: body.bottom(), height: 2, ..area };
    put(buffer, bottom, &[message(state, cells(area.width)), hints(state)]);
    if let Some(overlay) = &state.overlay {
        overlay::draw(state, overlay, buffer, area);
    }
}

fn too_small(buffer: &mut Buffer, area: Rect) {
    let Size { columns, lines } = LEAST;
    let said = [
        format!("egress top needs {columns} columns and {lines} lines;"),
        format!("this terminal has {} and {}.", area.width, area.height),
        "q quits".to_owned(),
    ];
    put(buffer, area, &said.map(Line::from));
}

/// What is going on, or what the last action came to; else what happened last.
fn message(state: &State, width: usize) -> Line<'static> {
    let look = state.look;
    if let Some(Overlay::Filter(_)) = state.overlay {
        let cursor = if look.has_unicode { "▏" } else { "_" };
        return Line::from(vec![
            Span::styled(" show only: ", strong()),
            Span::raw(format!("{}{cursor}", state.filter)),
        ]);
    }
    if !state.running.is_empty() {
        let doing = state.running.iter().map(|running| {
            let since = text::between(running.since, state.now);
            format!("{} {}{} {since}", running.verb, running.object, look.ellipsis())
        });
        let all = format!(" {} {}", look.dot(), doing.collect::<Vec<_>>().join(&format!("  {} ", look.dot())));
        return Line::styled(text::cut(&all, width, look.has_unicode), look.warning());
    }
    let Some(message) = &state.message else { return last_happened(state, width) };
    let (sign, style) = if message.is_error { (look.flag(), look.bad()) } else { (look.dot(), look.good()) };
    let said = printable(&message.text);
    let said = text::cut(&said, width.saturating_sub(3), look.has_unicode);
    Line::from(vec![Span::styled(format!(" {sign} "), style), Span::raw(said)])
}

/// The newest row of the audit.
fn last_happened(state: &State, width: usize) -> Line<'static> {
    let Some(row) = state.audit.back() else { return Line::default() };
    let time = |at| text::moment(at, state.as_of(), &state.zone).trim_end().to_owned();
    let bottle = row.bottle.as_ref().map(|bottle| format!("{bottle} ")).unwrap_or_default();
    let said = format!(" {}  {bottle}{}", time(row.at), printable(&happened(&row.kind, &time)));
    Line::styled(text::cut(&said, width, state.look.has_unicode), quiet())
}

/// Which keys there are.
fn hints(state: &State) -> Line<'static> {
    let enter = state.look.enter();
    let keys: &[(&str, &str)] = match (&state.overlay, &state.screen) {
        (Some(Overlay::Filter(_)), _) => &[(enter, "keep"), ("Esc", "as before")],
        (Some(Overlay::Grant(_)), _) => &[(enter, "grant"), ("Tab", "other budget"), ("Esc", "leave it")],
        (Some(Overlay::Confirm(_)), _) => &[("y", "yes"), ("any other key", "no")],
        (Some(Overlay::Help), _) => &[("any key", "back")],
        (None, Screen::Bottles) => &[
            ("c", "cut"),
            ("r", "restore"),
            ("f", "freeze"),
            ("u", "resume"),
            ("k", "kill"),
            ("g", "grant"),
            (enter, "detail"),
            ("?", "help"),
        ],
        (None, Screen::Detail(_)) => &[
            ("Tab", "next"),
            ("c", "cut"),
            ("r", "restore"),
            ("f", "freeze"),
            ("u", "resume"),
            ("k", "kill"),
            ("g", "grant"),
            ("Esc", "back"),
        ],
        (None, Screen::Approvals(_)) => &[
            ("y", "approve"),
            ("n", "deny"),
            ("Y", "approve always"),
            ("N", "deny always"),
            ("Esc", "back"),
            ("?", "help"),
        ],
    };
    let key = state.look.key();
    let spans = keys.iter().flat_map(|(name, does)| {
        [Span::raw(" "), Span::styled((*name).to_owned(), key), Span::styled(format!(" {does} "), quiet())]
    });
    Line::from(spans.collect::<Vec<_>>())
}

/// A line across with a title in it.
fn rule(state: &State, title: &str, width: usize) -> Line<'static> {
    let look = state.look;
    let title = text::cut(title, width.saturating_sub(6), look.has_unicode);
    let rest = width.saturating_sub(text::width(&title) + 5);
    Line::from(vec![
        Span::styled(format!(" {} ", look.rule()), quiet()),
        Span::styled(title, strong()),
        Span::styled(format!(" {}", look.rule().repeat(rest)), quiet()),
    ])
}

/// Writes lines from the top of an area down, as far as they fit.
fn put(buffer: &mut Buffer, area: Rect, lines: &[Line<'_>]) {
    for (line, y) in lines.iter().zip(area.y..area.bottom()) {
        buffer.set_line(area.x, y, line, area.width);
    }
}

fn cells(columns: u16) -> usize {
    usize::from(columns)
}

fn lines_of<T>(lines: &[T]) -> u16 {
    u16::try_from(lines.len()).unwrap_or(u16::MAX)
}

/// The first row to show, so that the row of the cursor is in the middle as long as there are rows around it.
fn first_row(cursor: usize, rows: usize, room: usize) -> usize {
    cursor.saturating_sub(room / 2).min(rows.saturating_sub(room))
}
