//! Questions that wait for an operator. Never what was found.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::domain::{ApprovalId, ApprovalRow, printable};

use super::super::state::State;
use super::style::{quiet, strong};
use super::table::{Heading, Table, number, rest, words};
use super::text::{between, counted};
use super::{cells, first_row, put, rule};

/// At 80 columns the target has 18 of them.
const HEADINGS: [Heading; 7] = [
    number("ID", 4),
    words("BOTTLE", 11),
    words("DETECTOR", 12),
    words("HOST", 17),
    rest("TARGET"),
    number("AGE", 5),
    number("LEFT", 5),
];

/// Draws them.
pub(super) fn draw(state: &State, selected: Option<ApprovalId>, buffer: &mut Buffer, area: Rect) {
    let waiting = &state.approvals;
    let title = format!("{} for an operator", counted(waiting.len(), "request waits", "requests wait"));
    let mut lines = vec![rule(state, &title, cells(area.width)), Line::default()];
    if waiting.is_empty() {
        lines.push(Line::raw(
            "  Nothing waits. A request waits when a detector with `supervise` finds something in it.",
        ));
        return put(buffer, area, &lines);
    }
    let table = Table::new(&HEADINGS, cells(area.width), state.look.has_unicode);
    lines.push(table.heading());
    let cursor = waiting.iter().position(|row| Some(row.id) == selected);
    let room = usize::from(area.height).saturating_sub(lines.len() + 2);
    let first = first_row(cursor.unwrap_or(0), waiting.len(), room);
    for (at, row) in waiting.iter().enumerate().skip(first).take(room) {
        let is_under_cursor = Some(at) == cursor;
        let lead = if is_under_cursor { state.look.cursor() } else { " " };
        let style = if is_under_cursor { strong() } else { Style::new() };
        lines.push(table.row(Span::styled(lead, state.look.key()), &of(state, row), style));
    }
    lines.push(Line::default());
    let said = match cursor.and_then(|at| waiting.get(at)) {
        Some(row) => format!(" {} wants to send what {} found to {}", row.bottle, printable(&row.detector), row.host),
        None => " Choose one with the arrow keys.".to_owned(),
    };
    lines.push(Line::styled(said, quiet()));
    put(buffer, area, &lines);
}

fn of(state: &State, row: &ApprovalRow) -> [String; 7] {
    [
        row.id.to_string(),
        row.bottle.to_string(),
        printable(&row.detector),
        row.host.to_string(),
        printable(&row.target),
        between(row.asked, state.as_of()),
        between(state.as_of(), row.expires),
    ]
}
