//! Amounts as horizontal bars.
//!
//! Pure: amounts and the terminal's width in, lines out.

use jiff::civil::Date;

/// Narrowest bars that say something, in columns.
const BAR_COLUMNS_MIN: usize = 10;
/// Longest label, in characters; a longer one loses its end.
const LABEL_CHARACTERS_MAX: usize = 40;
/// Days without usage between two with it that are shown, at most.
const DAYS_MAX: usize = 400;
/// Parts of a column, from one eighth on.
const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Canvas {
    pub(super) columns: usize,
    /// It shows more than ASCII.
    pub(super) is_unicode: bool,
}

/// One bar of each amount. The largest fills what labels and amounts leave.
pub(super) fn lines(bars: &[(String, u64)], canvas: Canvas) -> Vec<String> {
    let labels: Vec<String> = bars.iter().map(|(label, _)| shortened(label)).collect();
    let amounts: Vec<String> = bars.iter().map(|(_, amount)| crate::domain::Tokens(*amount).to_string()).collect();
    let label_width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let amount_width = amounts.iter().map(String::len).max().unwrap_or(0);
    let room = canvas.columns.saturating_sub(label_width + amount_width + 2).max(BAR_COLUMNS_MIN);
    let most = bars.iter().map(|(_, amount)| *amount).max().unwrap_or(0);
    let line = |((label, amount), (_, value)): ((String, String), &(String, u64))| {
        let bar = bar(*value, most, room, canvas.is_unicode);
        format!("{label:<label_width$} {amount:>amount_width$} {bar}").trim_end().to_owned()
    };
    labels.into_iter().zip(amounts).zip(bars).map(line).collect()
}

/// The same days, and those between them.
pub(super) fn with_empty_days(bars: Vec<(String, u64)>) -> Vec<(String, u64)> {
    let mut filled: Vec<(String, u64)> = Vec::new();
    for (label, amount) in bars {
        let next = filled.last().and_then(|(before, _)| before.parse::<Date>().ok()?.tomorrow().ok());
        if let (Some(mut missing), Ok(day)) = (next, label.parse::<Date>()) {
            while missing < day && filled.len() < DAYS_MAX {
                filled.push((missing.to_string(), 0));
                let Ok(tomorrow) = missing.tomorrow() else { break };
                missing = tomorrow;
            }
        }
        filled.push((label, amount));
    }
    filled
}

fn bar(value: u64, most: u64, room: usize, is_unicode: bool) -> String {
    let steps = if is_unicode { EIGHTHS.len() + 1 } else { 1 };
    let parts = u128::from(value) * (room * steps) as u128 / u128::from(most.max(1));
    // Whatever there is, shows.
    let parts = usize::try_from(parts).unwrap_or(0).max(usize::from(value > 0));
    let (whole, part) = (parts / steps, parts % steps);
    let full = if is_unicode { "█" } else { "#" };
    let rest = part.checked_sub(1).and_then(|part| EIGHTHS.get(part));
    full.repeat(whole) + &rest.map(ToString::to_string).unwrap_or_default()
}

fn shortened(label: &str) -> String {
    if label.chars().count() <= LABEL_CHARACTERS_MAX {
        return label.to_owned();
    }
    label.chars().take(LABEL_CHARACTERS_MAX - 1).chain(['~']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bars: &[(&str, u64)], (columns, is_unicode): (usize, bool), expected: &str) {
        let bars: Vec<_> = bars.iter().map(|(label, amount)| ((*label).to_owned(), *amount)).collect();
        assert_eq!(lines(&bars, Canvas { columns, is_unicode }).join("\n"), expected);
    }

    const DAYS: [(&str, u64); 4] = [("2026-11-20", 1_200), ("2026-11-21", 1), ("2026-11-22", 0), ("2026-11-23", 4_800)];

    #[test]
    fn bars_fill_the_terminal() {
        check(
            &DAYS,
            (38, true),
            "\
2026-11-20 1,200 █████▎
2026-11-21     1 ▏
2026-11-22     0
2026-11-23 4,800 █████████████████████",
        );
        check(
            &DAYS,
            (38, false),
            "\
2026-11-20 1,200 #####
2026-11-21     1 #
2026-11-22     0
2026-11-23 4,800 #####################",
        );
    }

    #[test]
    fn nothing_and_too_little_room_are_no_reason_to_fail() {
        check(&[], (80, true), "");
        check(&[("web", 0)], (80, true), "web 0");
        check(&[("web", u64::MAX)], (0, false), "web 18,446,744,073,709,551,615 ##########");
        let long = "x".repeat(50);
        check(&[(&long, 1)], (0, false), &format!("{}~ 1 ##########", "x".repeat(39)));
    }

    #[test]
    fn days_without_usage_are_shown() {
        let days = |days: &[(&str, u64)]| days.iter().map(|(day, n)| ((*day).to_owned(), *n)).collect::<Vec<_>>();
        let filled = with_empty_days(days(&[("2026-02-27", 1), ("2026-03-01", 2)]));
        assert_eq!(filled, days(&[("2026-02-27", 1), ("2026-02-28", 0), ("2026-03-01", 2)]));
        assert_eq!(with_empty_days(days(&[("2026-02-27", 1), ("9999-12-31", 2)])).len(), DAYS_MAX + 1);
        assert_eq!(with_empty_days(days(&[("no day", 1), ("2026-02-27", 1)])).len(), 2);
    }
}
