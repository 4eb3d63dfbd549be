//! What is left of rate limits and plans, as a provider's response headers tell it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::UnixMillis;

/// Headers that are kept; `*` stands for one or more characters.
const KEPT: [&str; 21] = [
    "retry-after",
    // Anthropic's limits a minute, and the windows of its plans (`anthropic-ratelimit-unified-5h-utilization`).
    "anthropic-ratelimit-*",
    "anthropic-priority-*",
    // OpenAI, Azure, Groq, xAI, Mistral, OpenRouter.
    "x-ratelimit-limit",
    "x-ratelimit-limit-*",
    "x-ratelimit-remaining",
    "x-ratelimit-remaining-*",
    "x-ratelimit-reset",
    "x-ratelimit-reset-*",
    "x-ratelimitbysize-*",
    // The windows of ChatGPT plans, for each limit (`x-codex-primary-used-percent`). Other headers of that family route.
    "x-codex-*-used-percent",
    "x-codex-*-window-minutes",
    "x-codex-*-reset-at",
    "x-codex-*-reset-after-seconds",
    "x-codex-*-limit-percent",
    "x-codex-limit-name",
    "x-codex-*-limit-name",
    "x-codex-credits-*",
    "x-codex-plan-type",
    "x-codex-active-limit",
    "x-codex-rate-limit-reached-type",
];
/// Most headers of one response that are kept: a Claude plan tells about twenty.
const HEADERS_MAX: usize = 32;
/// Longest name that is kept, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Longest value that is kept, in bytes: they are numbers, times and single words.
const VALUE_BYTES_MAX: usize = 64;

/// Headers that tell of rate limits and plans, by name. Holds nothing else, wherever it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct RateLimits(BTreeMap<String, String>);

/// One of a plan's windows of time.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanWindow {
    /// As people call it: `5h`, `7d opus`.
    pub name: String,
    /// What of it is used, in percent; may be more than 100.
    pub used_percent: f64,
    /// When it begins afresh.
    pub resets: Option<UnixMillis>,
}

impl RateLimits {
    /// Those among a response's headers, which have lower-case names; of one that is there twice, the first.
    #[must_use]
    pub fn among<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut kept = BTreeMap::new();
        for (name, value) in headers.filter(|(name, _)| is_kept(name)) {
            if let Some(value) = plain(value).filter(|_| kept.len() < HEADERS_MAX && !kept.contains_key(name)) {
                kept.insert(name.to_owned(), value.to_owned());
            }
        }
        Self(kept)
    }

    /// Nothing was told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a header.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The windows of the plan that the request ran on, as they were when this was told.
    #[must_use]
    pub fn windows(&self, told: UnixMillis) -> Vec<PlanWindow> {
        self.0
            .iter()
            .filter_map(|(name, value)| {
                self.claude_window(name, value).or_else(|| self.codex_window(name, value, told))
            })
            .collect()
    }

    fn claude_window(&self, name: &str, used: &str) -> Option<PlanWindow> {
        let window = name.strip_suffix("-utilization")?;
        let name = window.strip_prefix("anthropic-ratelimit-unified-")?.replace('_', " ");
        let resets = self.number(&format!("{window}-reset")).map(seconds);
        Some(PlanWindow { name, used_percent: amount(used)? * 100.0, resets })
    }

    fn codex_window(&self, name: &str, used: &str, told: UnixMillis) -> Option<PlanWindow> {
        let window = name.strip_suffix("-used-percent")?;
        let place = window.strip_prefix("x-codex-")?;
        // Limits of single models stand beside the plan's own, with their names in front.
        let (limit, rank) = place.rsplit_once('-').unwrap_or(("", place));
        let length = self.number(&format!("{window}-window-minutes")).map_or_else(|| rank.to_owned(), duration);
        let after = || {
            let seconds = self.number(&format!("{window}-reset-after-seconds"))?;
            Some(UnixMillis(told.0.saturating_add(seconds.saturating_mul(1_000))))
        };
        let resets = self.number(&format!("{window}-reset-at")).map(seconds).or_else(after);
        let name = format!("{} {length}", limit.replace('-', " ")).trim().to_owned();
        Some(PlanWindow { name, used_percent: amount(used)?, resets })
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.get(name)?.parse().ok()
    }
}

impl From<BTreeMap<String, String>> for RateLimits {
    fn from(headers: BTreeMap<String, String>) -> Self {
        Self::among(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
    }
}

impl From<RateLimits> for BTreeMap<String, String> {
    fn from(limits: RateLimits) -> Self {
        limits.0
    }
}

fn is_kept(name: &str) -> bool {
    let follows = |pattern: &str| match pattern.split_once('*') {
        None => name == pattern,
        Some((before, after)) => {
            name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(|rest| !rest.is_empty())
        }
    };
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain) && KEPT.into_iter().any(follows)
}

/// A value that is short and printable.
fn plain(value: &[u8]) -> Option<&str> {
    let text = str::from_utf8(value).ok()?.trim();
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    (!text.is_empty() && text.len() <= VALUE_BYTES_MAX && is_plain).then_some(text)
}

fn amount(text: &str) -> Option<f64> {
    text.parse().ok().filter(|amount: &f64| amount.is_finite() && *amount >= 0.0)
}

fn seconds(unix: i64) -> UnixMillis {
    UnixMillis(unix.saturating_mul(1_000))
}

/// Servers are a minute off: 299 minutes are five hours.
fn duration(minutes: i64) -> String {
    match minutes.saturating_add(1) {
        ..60 => format!("{minutes}m"),
        minutes @ 60..1440 => format!("{}h", minutes / 60),
        minutes => format!("{}d", minutes / 1440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: UnixMillis = UnixMillis(1_000);

    fn check(headers: &[(&str, &[u8])], expected: &[(&str, &str)]) {
        let kept: BTreeMap<String, String> = RateLimits::among(headers.iter().copied()).into();
        let kept: Vec<_> = kept.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(kept, expected);
    }

    #[test]
    fn limits_are_kept_and_nothing_else() {
        check(
            &[
                ("anthropic-ratelimit-unified-5h-utilization", b"0.42"),
                ("anthropic-ratelimit-tokens-reset", b"2026-11-22T12:40:59Z"),
                ("anthropic-organization-id", b"0b51f4a2-96a1-4b6e-8d3c-4f1f9f9e0a11"),
                ("x-ratelimit-remaining-tokens", b" 950000 "),
                ("x-ratelimit-remaining-tokens", b"1"),
                ("x-ratelimit-user", b"somebody"),
                ("x-codex-primary-used-percent", b"12.5"),
                ("x-codex-turn-state", b"opaque"),
                ("x-codex-limit-name", b"gpt-5"),
                ("x-codex--used-percent", b"1"),
                ("retry-after", b"Sun, 22 Nov 2026 12:40:59 GMT"),
                ("set-cookie", b"session=1"),
                ("authorization", b"Bearer x"),
            ],
            &[
                ("anthropic-ratelimit-tokens-reset", "2026-11-22T12:40:59Z"),
                ("anthropic-ratelimit-unified-5h-utilization", "0.42"),
                ("retry-after", "Sun, 22 Nov 2026 12:40:59 GMT"),
                ("x-codex-limit-name", "gpt-5"),
                ("x-codex-primary-used-percent", "12.5"),
                ("x-ratelimit-remaining-tokens", "950000"),
            ],
        );
    }

    #[test]
    fn values_are_short_and_printable() {
        let (longest, longer) = ([b'1'; VALUE_BYTES_MAX], [b'1'; VALUE_BYTES_MAX + 1]);
        check(&[("retry-after", &longest)], &[("retry-after", &"1".repeat(VALUE_BYTES_MAX))]);
        for bad in [&longer[..], b"", b"  ", b"\x00", b"1\x1b[2J", b"\xff\xfe", "ä".as_bytes(), b"1\n2"] {
            check(&[("retry-after", bad)], &[]);
        }
        let name = |bytes: usize| format!("x-ratelimit-limit-{}", "x".repeat(bytes - "x-ratelimit-limit-".len()));
        check(&[(&name(NAME_BYTES_MAX), b"1")], &[(&name(NAME_BYTES_MAX), "1")]);
        check(&[(&name(NAME_BYTES_MAX + 1), b"1")], &[]);
        check(&[("x-ratelimit-limit-A B", b"1")], &[]);
    }

    #[test]
    fn no_more_are_kept_than_the_limit() {
        let names: Vec<String> = (0..=HEADERS_MAX).map(|number| format!("x-ratelimit-limit-{number}")).collect();
        let limits = RateLimits::among(names.iter().map(|name| (name.as_str(), &b"1"[..])));
        assert_eq!(limits.0.len(), HEADERS_MAX);
        assert!(!limits.0.contains_key(&names[HEADERS_MAX]), "the first are kept");
    }

    #[test]
    fn what_comes_over_the_wire_is_held_to_the_same() {
        let text = r#"{"retry-after":"7","x-secret":"1","x-codex-plan-type":"\u0007"}"#;
        let limits: RateLimits = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&limits).unwrap(), r#"{"retry-after":"7"}"#);
        assert!(serde_json::from_str::<RateLimits>("{}").unwrap().is_empty());
    }

    fn check_windows(headers: &[(&str, &str)], expected: &[(&str, f64, Option<i64>)]) {
        let limits = RateLimits::among(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        let window = |(name, used_percent, resets): &(&str, f64, Option<i64>)| PlanWindow {
            name: (*name).to_owned(),
            used_percent: *used_percent,
            resets: resets.map(UnixMillis),
        };
        assert_eq!(limits.windows(TOLD), expected.iter().map(window).collect::<Vec<_>>());
    }

    #[test]
    fn a_plan_is_read_from_its_windows() {
        check_windows(
            &[
                ("anthropic-ratelimit-unified-status", "allowed"),
                ("anthropic-ratelimit-unified-5h-utilization", "0.25"),
                ("anthropic-ratelimit-unified-5h-reset", "1800000000"),
                ("anthropic-ratelimit-unified-7d_opus-utilization", "1.5"),
                ("anthropic-ratelimit-unified-7d-utilization", "lots"),
            ],
            &[("5h", 25.0, Some(1_800_000_000_000)), ("7d opus", 150.0, None)],
        );
        check_windows(
            &[
                ("x-codex-primary-used-percent", "12.5"),
                ("x-codex-primary-window-minutes", "299"),
                ("x-codex-primary-reset-after-seconds", "60"),
                ("x-codex-secondary-used-percent", "3"),
                ("x-codex-secondary-window-minutes", "10080"),
                ("x-codex-secondary-reset-at", "1800000000"),
                ("x-codex-other-primary-used-percent", "-1"),
                ("x-codex-spare-model-secondary-used-percent", "0"),
            ],
            &[("5h", 12.5, Some(61_000)), ("7d", 3.0, Some(1_800_000_000_000)), ("spare model secondary", 0.0, None)],
        );
        check_windows(&[("x-ratelimit-remaining-tokens", "5"), ("anthropic-ratelimit-tokens-limit", "9")], &[]);
    }
}
