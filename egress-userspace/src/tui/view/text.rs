//! Text that fits: cut to a width, numbers and times as people read them.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::text::Span;

use crate::domain::UnixMillis;

/// Cells it takes.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Exactly so many cells: padded, or cut with a mark.
pub(super) fn fit(text: &str, cells: usize, has_unicode: bool) -> String {
    let mut fitted = cut(text, cells, has_unicode);
    fitted.extend(std::iter::repeat_n(' ', cells.saturating_sub(width(&fitted))));
    fitted
}

/// The same to the right.
pub(super) fn fit_right(text: &str, cells: usize, has_unicode: bool) -> String {
    let fitted = cut(text, cells, has_unicode);
    let mut padded = " ".repeat(cells.saturating_sub(width(&fitted)));
    padded.push_str(&fitted);
    padded
}

/// No more than so many cells.
pub(super) fn cut(text: &str, cells: usize, has_unicode: bool) -> String {
    if width(text) <= cells {
        return text.to_owned();
    }
    let mark = if has_unicode { "…" } else { "~" };
    let mut shown = String::new();
    let mut left = cells.saturating_sub(1);
    for character in text.chars() {
        let mut buffer = [0; 4];
        let needed = width(character.encode_utf8(&mut buffer));
        if needed > left {
            break;
        }
        left -= needed;
        shown.push(character);
    }
    if cells > 0 {
        shown.push_str(mark);
    }
    shown
}

/// Lines of no more than so many cells, broken at spaces.
pub(super) fn wrap(text: &str, cells: usize, has_unicode: bool) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= cells => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(cut(word, cells, has_unicode)),
        }
    }
    lines
}

/// In at most five cells: `999`, `1.2k`, `12.3k`, `123k`, `1.2M`.
pub(super) fn human(number: u64) -> String {
    const UNITS: [(u64, &str); 6] = [
        (1_000_000_000_000_000_000, "E"),
        (1_000_000_000_000_000, "P"),
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
        (1_000, "k"),
    ];
    let unit = UNITS.into_iter().find(|(unit, _)| number >= *unit);
    let Some((unit, letter)) = unit else { return number.to_string() };
    let (whole, tenths) = (number / unit, number % unit / (unit / 10));
    if whole < 100 && tenths > 0 { format!("{whole}.{tenths}{letter}") } else { format!("{whole}{letter}") }
}

/// In at most five cells: `45s`, `4m10s`, `38m`, `2h05m`, `19h`, `3d04h`, `20d`, `99d+`.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, 1..10) => format!("{minutes}m{:02}s", seconds % 60),
        (0, 0, _) => format!("{minutes}m"),
        (0, 1..10, _) => format!("{hours}h{:02}m", minutes % 60),
        (0, _, _) => format!("{hours}h"),
        (1..10, _, _) => format!("{days}d{:02}h", hours % 24),
        (10..100, _, _) => format!("{days}d"),
        (_, _, _) => "99d+".to_owned(),
    }
}

/// Between two times; nothing when the second is earlier.
pub(super) fn between(from: UnixMillis, until: UnixMillis) -> String {
    span(until.0.saturating_sub(from.0).max(0).unsigned_abs() / 1_000)
}

/// A time of day; of another day, the day. Eight cells.
pub(super) fn moment(at: UnixMillis, now: UnixMillis, zone: &TimeZone) -> String {
    let of = |at: UnixMillis| Timestamp::from_millisecond(at.0).map(|at| at.to_zoned(zone.clone()));
    match (of(at), of(now)) {
        (Ok(at), Ok(now)) if at.date() == now.date() => at.strftime("%H:%M:%S").to_string(),
        (Ok(at), Ok(_)) => at.strftime("%b %e  ").to_string(),
        (Err(_), _) | (_, Err(_)) => "-".to_owned(),
    }
}

/// One or many.
pub(super) fn counted(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_and_padded_by_the_cells_it_takes() {
        let check = |text: &str, cells: usize, expected: [&str; 2]| {
            assert_eq!([fit(text, cells, true), fit_right(text, cells, false)], expected, "{text:?} in {cells}");
        };
        check("web", 5, ["web  ", "  web"]);
        check("web", 3, ["web", "web"]);
        check("webapp", 4, ["web…", "web~"]);
        check("東京都", 5, ["東京…", "東京~"]);
        check("東京都", 4, ["東… ", " 東~"]);
        check("web", 0, ["", ""]);
        assert_eq!(wrap("one two three four", 9, true), ["one two", "three", "four"]);
        assert_eq!(wrap("abcdefghij k", 5, true), ["abcd…", "k"]);
    }

    #[test]
    fn numbers_and_times_take_five_cells() {
        let check = |number: u64, expected: &str| assert_eq!(human(number), expected, "{number}");
        check(0, "0");
        check(999, "999");
        check(1_000, "1k");
        check(1_250, "1.2k");
        check(12_345, "12.3k");
        check(99_999, "99.9k");
        check(123_456, "123k");
        check(999_999, "999k");
        check(1_000_000, "1M");
        check(5_250_000_000, "5.2G");
        check(u64::MAX, "18.4E");
        let check = |seconds: u64, expected: &str| assert_eq!(span(seconds), expected, "{seconds}");
        check(0, "0s");
        check(59, "59s");
        check(250, "4m10s");
        check(2_310, "38m");
        check(7_500, "2h05m");
        check(69_000, "19h");
        check(273_600, "3d04h");
        check(1_800_000, "20d");
        check(u64::MAX, "99d+");
    }

    #[test]
    fn another_day_is_named() {
        let now = UnixMillis(1_767_268_800_000);
        let check = |at: i64, expected: &str| assert_eq!(moment(UnixMillis(at), now, &TimeZone::UTC), expected, "{at}");
        check(now.0, "12:00:00");
        check(now.0 - 86_400_000, "Dec 31  ");
        check(i64::MAX, "-");
    }
}
