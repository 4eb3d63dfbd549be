//! Plain tables: a heading, and rows of text in columns.

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::style::quiet;
use super::text::{fit, fit_right};

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heading {
    title: &'static str,
    /// 0: what the others leave.
    cells: usize,
    is_right: bool,
}

/// A column of words.
pub(super) const fn words(title: &'static str, cells: usize) -> Heading {
    Heading { title, cells, is_right: false }
}

/// A column of numbers.
pub(super) const fn number(title: &'static str, cells: usize) -> Heading {
    Heading { title, cells, is_right: true }
}

/// The column that takes what the others leave.
pub(super) const fn rest(title: &'static str) -> Heading {
    Heading { title, cells: 0, is_right: false }
}

/// A table of so many cells across.
#[derive(Clone, Debug)]
pub(super) struct Table<'a> {
    headings: &'a [Heading],
    rest: usize,
    has_unicode: bool,
}

impl<'a> Table<'a> {
    /// With these columns.
    pub(super) fn new(headings: &'a [Heading], cells: usize, has_unicode: bool) -> Self {
        let taken: usize = headings.iter().map(|heading| heading.cells + 1).sum();
        Self { headings, rest: cells.saturating_sub(taken), has_unicode }
    }

    /// The line above the rows.
    pub(super) fn heading(&self) -> Line<'static> {
        let style = quiet().add_modifier(Modifier::UNDERLINED);
        let spans = self
            .headings
            .iter()
            .flat_map(|heading| [Span::raw(" "), Span::styled(self.fitted(*heading, heading.title), style)]);
        Line::from(spans.collect::<Vec<_>>())
    }

    /// One row, its cells already safe for a terminal. `lead` stands before it.
    pub(super) fn row(&self, lead: Span<'static>, cells: &[String], style: Style) -> Line<'static> {
        let mut spans = vec![lead];
        for (index, (heading, cell)) in self.headings.iter().zip(cells).enumerate() {
            let gap = if index == 0 { "" } else { " " };
            spans.push(Span::styled(format!("{gap}{}", self.fitted(*heading, cell)), style));
        }
        Line::from(spans)
    }

    fn fitted(&self, heading: Heading, text: &str) -> String {
        let cells = if heading.cells == 0 { self.rest } else { heading.cells };
        if heading.is_right { fit_right(text, cells, self.has_unicode) } else { fit(text, cells, self.has_unicode) }
    }
}
