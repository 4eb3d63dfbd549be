//! What a scope may spend: an amount, for good or per calendar window.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{AmountError, Tokens};

/// A stretch of the calendar, after which a budget begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    /// From the full hour.
    Hour,
    /// From midnight.
    Day,
    /// From Monday (ISO 8601).
    Week,
    /// From the first.
    Month,
}

impl Window {
    /// Every window, the shortest first.
    pub const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Month];

    /// As it stands behind the `/`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }
}

/// A budget of one provider: `5M` for good, `2M/day` anew every day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// How many.
    pub tokens: Tokens,
    /// How often; once when `None`.
    pub window: Option<Window>,
}

/// Budgets of one scope, each provider once.
pub type Budget = Vec<(super::ProviderName, Limit)>;

/// Why a limit was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LimitError {
    /// See there.
    #[error(transparent)]
    Amount(#[from] AmountError),
    /// What stands behind the `/` is no window.
    #[error("{0:?} is not a window: write an amount alone, or with /hour, /day, /week or /month, such as 2M/day")]
    Window(String),
}

impl Limit {
    /// For good.
    #[must_use]
    pub fn lifetime(tokens: Tokens) -> Self {
        Self { tokens, window: None }
    }
}

impl std::str::FromStr for Limit {
    type Err = LimitError;

    /// Reads an amount with or without a window.
    fn from_str(text: &str) -> Result<Self, LimitError> {
        let Some((amount, window)) = text.split_once('/') else { return Ok(Self::lifetime(text.parse()?)) };
        let found = Window::ALL.into_iter().find(|known| known.as_str() == window);
        let window = found.ok_or_else(|| LimitError::Window(format!("/{window}")))?;
        Ok(Self { tokens: amount.parse()?, window: Some(window) })
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.window {
            Some(window) => f.pad(&format!("{}/{}", self.tokens, window.as_str())),
            None => self.tokens.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(u64, Option<Window>)>) {
        let limit = expected.map(|(tokens, window)| Limit { tokens: Tokens(tokens), window });
        assert_eq!(text.parse().ok(), limit, "{text}");
    }

    #[test]
    fn limits_are_read_as_people_write_them() {
        check("5M", Some((5_000_000, None)));
        check("2M/day", Some((2_000_000, Some(Window::Day))));
        check("500k/hour", Some((500_000, Some(Window::Hour))));
        check("1_000/week", Some((1_000, Some(Window::Week))));
        check("0/month", Some((0, Some(Window::Month))));
        for bad in ["", "/day", "5/", "5/Day", "5/days", "5 /day", "5/day/hour", "x/day", "5/ day", "5/year"] {
            check(bad, None);
        }
    }

    #[test]
    fn a_limit_is_shown_with_its_window() {
        assert_eq!(Limit { tokens: Tokens(2_000_000), window: Some(Window::Day) }.to_string(), "2,000,000/day");
        assert_eq!(Limit::lifetime(Tokens(5)).to_string(), "5");
    }
}
