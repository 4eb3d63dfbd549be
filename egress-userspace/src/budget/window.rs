//! When does a calendar window end?

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::domain::{UnixMillis, Window, Zone};

/// How long the clocks repeat themselves at most when they are set back, in milliseconds.
const REPEATED_MILLIS: i64 = 60 * 60 * 1000;

/// The end of the window that `at` lies in. Where clocks are set back, the repeated hour belongs to the window before it.
#[must_use]
pub fn window_end(window: Window, at: UnixMillis, zone: &Zone) -> UnixMillis {
    end(window, at, zone.rules()).unwrap_or(UnixMillis(i64::MAX))
}

/// `None` past the end of the calendar, in the year 9999.
fn end(window: Window, at: UnixMillis, zone: &TimeZone) -> Option<UnixMillis> {
    let local = Timestamp::from_millisecond(at.0).ok()?.to_zoned(zone.clone()).datetime();
    let today = local.date();
    let end: DateTime = match window {
        Window::Hour => today.at(local.hour(), 0, 0, 0).checked_add(1.hour()).ok()?,
        Window::Day => today.tomorrow().ok()?.into(),
        Window::Week => today.checked_add(i64::from(8 - today.weekday().to_monday_one_offset()).days()).ok()?.into(),
        Window::Month => today.last_of_month().tomorrow().ok()?.into(),
    };
    // A local time that clocks skip is the moment of the change, one that they repeat the first of the two.
    let moment = end.to_zoned(zone.clone()).ok()?.timestamp().as_millisecond();
    // In a repeated hour the first of the two may have passed.
    Some(UnixMillis(if moment > at.0 { moment } else { moment + REPEATED_MILLIS }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(zone: &str, window: Window, at: &str, expected: &str) {
        let millis = |text: &str| UnixMillis(text.parse::<Timestamp>().unwrap().as_millisecond());
        assert_eq!(
            window_end(window, millis(at), &zone.parse().unwrap()),
            millis(expected),
            "{window:?} at {at}, {zone}"
        );
    }

    #[test]
    fn windows_follow_the_calendar() {
        check("UTC", Window::Hour, "2026-03-04T10:00:00Z", "2026-03-04T11:00:00Z");
        check("UTC", Window::Hour, "2026-03-04T10:59:59.999Z", "2026-03-04T11:00:00Z");
        check("UTC", Window::Day, "2026-02-28T23:00:00Z", "2026-03-01T00:00:00Z");
        check("UTC", Window::Week, "2026-11-22T12:00:00Z", "2026-11-23T00:00:00Z");
        check("UTC", Window::Week, "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z");
        check("UTC", Window::Month, "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z");
        check("UTC", Window::Month, "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z");
    }

    #[test]
    fn windows_follow_the_zones_clocks() {
        check("Europe/Berlin", Window::Day, "2026-03-04T22:30:00Z", "2026-03-04T23:00:00Z");
        check("Europe/Berlin", Window::Day, "2026-03-28T23:30:00Z", "2026-03-29T22:00:00Z");
        check("Asia/Kolkata", Window::Hour, "2026-03-04T10:00:00Z", "2026-03-04T10:30:00Z");
        // 02:00 becomes 03:00.
        check("Europe/Berlin", Window::Hour, "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z");
        // 03:00 becomes 02:00: the hour from two to three takes two.
        check("Europe/Berlin", Window::Hour, "2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z");
        check("Europe/Berlin", Window::Hour, "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z");
        // Midnight does not exist: clocks go from 24:00 to 01:00.
        check("Africa/Cairo", Window::Day, "2026-04-23T20:00:00Z", "2026-04-23T22:00:00Z");
    }

    #[test]
    fn every_window_ends_after_each_of_its_moments() {
        let zone: Zone = "America/St_Johns".parse().unwrap();
        for step in 0..20_000_i64 {
            let at = UnixMillis(1_790_000_000_000 + step * 977_777);
            for window in Window::ALL {
                let end = window_end(window, at, &zone);
                assert!(end > at, "{window:?} {at:?}");
                assert!(window_end(window, UnixMillis(end.0 - 1), &zone) >= end, "{window:?} {at:?}");
            }
        }
    }

    #[test]
    fn the_calendars_end_is_no_window_s() {
        assert_eq!(window_end(Window::Day, UnixMillis(i64::MAX), &Zone::utc()), UnixMillis(i64::MAX));
    }
}
