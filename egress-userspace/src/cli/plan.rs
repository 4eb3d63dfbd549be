//! What is left of the plans that bottles run on, as their last requests told it.
//!
//! Pure: rows and the time in, lines out.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::domain::{BottleName, PlanWindow, ProviderName, UnixMillis, UsageRow};

/// One line for each bottle and provider whose rows, oldest first, tell of a plan: `web claude plan: 5h 42 % used, …`.
pub(super) fn lines(rows: &[UsageRow], now: UnixMillis, zone: &TimeZone) -> Vec<String> {
    let mut latest: Vec<(&BottleName, &ProviderName, Vec<PlanWindow>)> = Vec::new();
    for row in rows {
        // A window that has begun afresh is as used as the next request tells.
        let is_current = |window: &PlanWindow| window.resets.is_none_or(|resets| resets > now);
        let windows: Vec<_> = row.notes.limits.windows(row.settled).into_iter().filter(is_current).collect();
        if windows.is_empty() {
            continue;
        }
        latest.retain(|(bottle, provider, _)| (*bottle, *provider) != (&row.bottle, &row.provider));
        latest.push((&row.bottle, &row.provider, windows));
    }
    let line = |(bottle, provider, windows): (&BottleName, &ProviderName, Vec<PlanWindow>)| {
        let windows: Vec<String> = windows.iter().map(|window| text(window, zone)).collect();
        format!("{bottle} {provider} plan: {}", windows.join("; "))
    };
    latest.into_iter().map(line).collect()
}

fn text(window: &PlanWindow, zone: &TimeZone) -> String {
    let at = window.resets.and_then(|at| Timestamp::from_millisecond(at.0).ok());
    let resets = at.map(|at| format!(", resets {}", at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M")));
    format!("{} {:.0} % used{}", window.name, window.used_percent, resets.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Ending, Known, ProviderNotes, RateLimits, Usage, UsageDetails};

    fn row(bottle: &str, headers: &[(&str, &str)]) -> UsageRow {
        let limits = RateLimits::among(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        UsageRow {
            bottle: bottle.parse().unwrap(),
            agent: None,
            provider: "claude".parse().unwrap(),
            host: "api.anthropic.com".parse().unwrap(),
            target: "POST /v1/messages".to_owned(),
            model: None,
            request_id: None,
            status: Some(200),
            usage: Usage::default(),
            details: UsageDetails::default(),
            known: Known::Reported,
            ending: Ending::Complete,
            notes: ProviderNotes { service_tier: None, limits },
            admitted: UnixMillis(0),
            settled: UnixMillis(0),
        }
    }

    #[test]
    fn a_plan_is_as_its_last_request_told() {
        const FIVE_HOURS: &str = "anthropic-ratelimit-unified-5h-utilization";
        let rows = [
            row("web", &[(FIVE_HOURS, "0.1"), ("anthropic-ratelimit-unified-5h-reset", "1800000000")]),
            row("other", &[(FIVE_HOURS, "0.995"), ("anthropic-ratelimit-unified-5h-reset", "soon")]),
            row(
                "web",
                &[
                    (FIVE_HOURS, "0.42"),
                    ("anthropic-ratelimit-unified-5h-reset", "1800000000"),
                    ("anthropic-ratelimit-unified-7d-utilization", "0.07"),
                    ("anthropic-ratelimit-unified-7d-reset", "1800300000"),
                ],
            ),
            row("web", &[("retry-after", "7")]),
        ];
        let check = |now, expected: &[&str]| assert_eq!(lines(&rows, UnixMillis(now), &TimeZone::UTC), expected);
        let other = "other claude plan: 5h 100 % used";
        let week = "7d 7 % used, resets 2027-01-18 19:20";
        check(0, &[other, &format!("web claude plan: 5h 42 % used, resets 2027-01-15 08:00; {week}")]);
        check(1_800_000_000_000, &[other, &format!("web claude plan: {week}")]);
        assert!(lines(&[], UnixMillis(0), &TimeZone::UTC).is_empty());
    }
}
