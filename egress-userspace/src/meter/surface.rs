//! Which requests spend tokens, and in which dialect their answers tell of it. One table; a new dialect adds rows.

use std::borrow::Cow;

/// The shape in which a response reports usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Anthropic Messages, JSON or server-sent events.
    AnthropicMessages,
}

/// What a request does to a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surface {
    /// Carries no usage.
    Free,
    /// Spends tokens and reports them.
    Metered(Dialect),
    /// Spends tokens that no response to it ever reports.
    Blind,
}

/// How a path is compared with a row.
#[derive(Clone, Copy)]
enum Match {
    /// The path is this.
    Exact(&'static str),
    /// The path is this or lies below it.
    Under(&'static str),
}

/// What `POST` targets do; the first that matches decides. Anything else on a metered host is free: telemetry, settings.
///
/// Batches run after their request is answered and report usage only to whoever fetches the results, which the agent may
/// never do; sessions and agents work on between requests; legacy completions report nothing at all; chat completions
/// are another dialect. What is not known below `/v1/messages` is taken to spend.
const SURFACES: [(Match, Surface); 10] = [
    (Match::Exact("/v1/messages"), Surface::Metered(Dialect::AnthropicMessages)),
    (Match::Exact("/v1/messages/count_tokens"), Surface::Free),
    (Match::Exact("/v1/messages/batches"), Surface::Blind),
    (Match::Under("/v1/messages/batches"), Surface::Free),
    (Match::Under("/v1/messages"), Surface::Blind),
    (Match::Exact("/v1/complete"), Surface::Blind),
    (Match::Exact("/v1/chat/completions"), Surface::Blind),
    (Match::Under("/v1/agents"), Surface::Blind),
    (Match::Under("/v1/sessions"), Surface::Blind),
    (Match::Under("/v1/dreams"), Surface::Blind),
];

/// What this request does to a budget; `path` without query.
pub(super) fn surface(method: &str, path: &str) -> Surface {
    if !method.eq_ignore_ascii_case("POST") {
        return Surface::Free;
    }
    let path = normalised(path);
    let matches = |rule: Match| match rule {
        Match::Exact(row) => path == row,
        Match::Under(row) => path.strip_prefix(row).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    };
    SURFACES.iter().find(|(rule, _)| matches(*rule)).map_or(Surface::Free, |(_, surface)| *surface)
}

/// The path as a lenient server might read it, so that `//V1/%6dessages/` cannot pass for something else: escapes decoded,
/// lower case, no empty or dot segments.
fn normalised(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let decoded = percent_decoded(path);
    let text = String::from_utf8_lossy(&decoded).to_ascii_lowercase();
    let mut kept: Vec<&str> = Vec::new();
    for segment in text.split(['/', '\\']) {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    format!("/{}", kept.join("/"))
}

fn percent_decoded(path: &str) -> Cow<'_, [u8]> {
    if !path.contains('%') {
        return Cow::Borrowed(path.as_bytes());
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escape = (*first == b'%').then(|| tail.first_chunk::<2>()).flatten().and_then(|pair| hex(*pair));
        match escape {
            Some(byte) => {
                decoded.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(decoded)
}

fn hex(pair: [u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let [high, low] = pair;
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, path: &str, expected: Surface) {
        assert_eq!(surface(method, path), expected, "{method} {path}");
    }

    #[test]
    fn what_spends_is_known_by_its_path_however_it_is_spelt() {
        let messages = Surface::Metered(Dialect::AnthropicMessages);
        for path in
            ["/v1/messages", "/v1/messages/", "//v1/messages", "/v1/%6Dessages", "/v1/./messages", "/V1/Messages"]
        {
            check("POST", path, messages);
        }
        check("POST", "/v1/x/../messages", messages);
        check("POST", "/v1/messages?beta=true", messages);
        check("POST", "/v1/messages/new", Surface::Blind);
        check("POST", "/v1/chat/completions", Surface::Blind);
        check("POST", "/v1/messages/batches", Surface::Blind);
        check("POST", "/v1/complete", Surface::Blind);
        check("POST", "/v1/sessions/s1/events", Surface::Blind);
        for path in ["/v1/messages/count_tokens", "/v1/messages/batches/b1/cancel", "/api/event_logging/v2/batch"] {
            check("POST", path, Surface::Free);
        }
        for path in ["/v1/sessionsx", "/v1/files", "/", "", "/%", "/%zz/v1"] {
            check("POST", path, Surface::Free);
        }
        check("GET", "/v1/messages", Surface::Free);
        check("GET", "/v1/models", Surface::Free);
    }
}
