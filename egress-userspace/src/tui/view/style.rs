//! Colours and signs. Of colours the sixteen of the terminal's own palette, on its own background, so that light and dark both
//! work; nothing is told by a colour alone.

use ratatui::style::{Color, Modifier, Style};

use super::super::state::Look;

impl Look {
    fn coloured(self, color: Color) -> Style {
        if self.has_colour { Style::new().fg(color) } else { Style::new() }
    }

    /// As it should be.
    pub(super) fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    /// Soon something happens.
    pub(super) fn warning(self) -> Style {
        self.coloured(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    /// Something is at its end.
    pub(super) fn bad(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// Nothing bad, but at rest.
    pub(super) fn still(self) -> Style {
        self.coloured(Color::Blue)
    }

    /// A key that can be pressed.
    pub(super) fn key(self) -> Style {
        self.coloured(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    /// A line that must not be overlooked.
    pub(super) fn alarm(self) -> Style {
        self.bad().add_modifier(Modifier::REVERSED)
    }

    /// Sign of something as it should be.
    pub(super) fn dot(self) -> &'static str {
        if self.has_unicode { "●" } else { "*" }
    }

    /// Sign of something that wants attention.
    pub(super) fn flag(self) -> &'static str {
        if self.has_unicode { "▲" } else { "!" }
    }

    /// Sign of something that is cut.
    pub(super) fn block(self) -> &'static str {
        if self.has_unicode { "■" } else { "#" }
    }

    /// Sign of something that can go on.
    pub(super) fn diamond(self) -> &'static str {
        if self.has_unicode { "◇" } else { "=" }
    }

    /// Sign of something that has ended.
    pub(super) fn circle(self) -> &'static str {
        if self.has_unicode { "○" } else { "-" }
    }

    /// Sign of something going on.
    pub(super) fn ellipsis(self) -> &'static str {
        if self.has_unicode { "…" } else { "..." }
    }

    /// Marks the row of the cursor.
    pub(super) fn cursor(self) -> &'static str {
        if self.has_unicode { "▌" } else { ">" }
    }

    /// A horizontal line.
    pub(super) fn rule(self) -> &'static str {
        if self.has_unicode { "─" } else { "-" }
    }

    /// For nothing.
    pub(super) fn none(self) -> &'static str {
        if self.has_unicode { "–" } else { "-" }
    }

    /// Between two things of one line.
    pub(super) fn middle(self) -> &'static str {
        if self.has_unicode { "·" } else { "|" }
    }

    /// The return key.
    pub(super) fn enter(self) -> &'static str {
        if self.has_unicode { "↵" } else { "Enter" }
    }

    /// From the bottle, and to it.
    pub(super) fn arrows(self) -> [&'static str; 2] {
        if self.has_unicode { ["↑", "↓"] } else { ["out ", "in "] }
    }
}

/// Titles.
pub(super) fn strong() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// What matters less.
pub(super) fn quiet() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}
