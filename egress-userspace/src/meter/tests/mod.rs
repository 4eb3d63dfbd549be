//! The meter as its callers see it: whole responses, interrupted ones, and every way the bytes may arrive.

mod corpus;
mod deviations;
mod dialects;
mod ending;
mod fixtures;
mod interrupted;
mod properties;
mod splits;
mod tiers;
mod websocket;
mod wire;

use crate::domain::{Api, Ending, Known, Tokens, Usage};

use super::estimate::Family;
use super::{Ask, Dialect, Reading, ResponseHead, ResponseMeter, UsageAsked};

/// A hand-written response, and what it settles to when it arrives whole: input, cache write, cache read, output.
struct Case {
    name: &'static str,
    body: &'static str,
    expected: [u64; 4],
    known: Known,
    is_final: bool,
}

macro_rules! case {
    ($name:literal, $expected:expr, $known:ident, $is_final:literal) => {
        Case {
            name: $name,
            body: include_str!(concat!("../testdata/", $name)),
            expected: $expected,
            known: Known::$known,
            is_final: $is_final,
        }
    };
}

/// Input 500 and an output cap of 1,000 stand in the request.
const CASES: [Case; 17] = [
    case!("stream-basic.sse", [25, 0, 0, 40], Reported, true),
    case!("stream-totals-grow.sse", [1200, 300, 4000, 75], Reported, true),
    case!("stream-iterations.sse", [304, 30, 50_000, 90], Reported, true),
    case!("stream-two-starts.sse", [17, 0, 0, 227], Reported, true),
    case!("stream-zeroed-cache.sse", [3, 500, 34_000, 12], Reported, true),
    case!("stream-moved-cache.sse", [3500, 0, 30_400, 12], Reported, true),
    case!("stream-odd-spelling.sse", [25, 0, 0, 31], Reported, true),
    case!("stream-error.sse", [25, 0, 0, 5], Partial, false),
    case!("stream-error-first.sse", [0, 0, 0, 0], Reported, false),
    case!("stream-hidden-thinking.sse", [25, 0, 0, 120], Partial, false),
    case!("stream-advisor.sse", [4900, 0, 0, 163], Reported, true),
    case!("stream-redacted-thinking.sse", [92, 0, 1165, 189], Reported, true),
    case!("stream-no-usage.sse", [500, 0, 0, 5], Estimated, false),
    case!("message.json", [15, 13, 12, 21], Reported, true),
    case!("message-iterations.json", [2700, 0, 0, 27], Reported, true),
    case!("error.json", [0, 0, 0, 0], Reported, false),
    case!("message-no-usage.json", [500, 0, 0, 49], Estimated, false),
];

fn request() -> Ask {
    Ask {
        is_metered: true,
        is_unknown: false,
        dialect: Some(Dialect::AnthropicMessages),
        model: None,
        // Two bytes of output a token.
        family: Family::ClaudeEarlier,
        input_estimate: Tokens(500),
        output_cap: Tokens(1000),
        is_streaming: true,
        usage_asked: UsageAsked::Yes,
    }
}

fn usage([input, cache_write, cache_read, output]: [u64; 4]) -> Usage {
    Usage {
        input: Tokens(input),
        cache_write: Tokens(cache_write),
        cache_read: Tokens(cache_read),
        output: Tokens(output),
    }
}

fn head(encoding: Option<&str>) -> ResponseHead<'_> {
    ResponseHead {
        status: 200,
        content_type: Some("text/event-stream; charset=utf-8"),
        content_encoding: encoding,
        ..ResponseHead::default()
    }
}

/// Meters a response that arrives in these pieces.
fn meter(
    ask: &Ask,
    head: &ResponseHead<'_>,
    pieces: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ending: Ending,
) -> Reading {
    let mut meter = ResponseMeter::new(ask, head);
    for piece in pieces {
        meter.push(piece.as_ref());
    }
    meter.finish(ending)
}

#[test]
fn whole_responses_settle_to_what_they_report() {
    for case in CASES {
        let found = meter(&request(), &head(None), [case.body.as_bytes()], Ending::Complete);
        assert_eq!((found.usage, found.known), (usage(case.expected), case.known), "{}", case.name);
        assert_eq!(found.is_final, case.is_final, "{}", case.name);
        assert_eq!(found.failed, case.name.contains("error"), "{}", case.name);
        let names_model = case.body.contains("claude-test-1");
        assert_eq!(found.model.as_deref(), names_model.then_some("claude-test-1"), "{}", case.name);
    }
}

#[test]
fn the_last_word_is_known_before_the_last_byte_is_pushed_on() {
    for case in CASES.iter().filter(|case| case.is_final && !case.name.contains("odd")) {
        let mut meter = ResponseMeter::new(&request(), &head(None));
        meter.push(case.body.as_bytes());
        assert!(meter.reading().is_final, "{}", case.name);
        assert_eq!(meter.reading().usage, usage(case.expected), "{}", case.name);
    }
}

#[test]
fn only_an_event_stream_that_can_be_read_ends_itself() {
    let holds = |content_type, content_encoding| {
        let head = ResponseHead { status: 200, content_type, content_encoding, ..ResponseHead::default() };
        ResponseMeter::new(&request(), &head).holds_back_last_frame()
    };
    assert!(!holds(Some("text/event-stream"), Some("gzip")));
    assert!(!holds(Some("Text/Event-Stream; charset=utf-8"), None));
    assert!(holds(Some("application/json"), None));
    assert!(holds(None, None));
    assert!(holds(Some("text/event-stream"), Some("compress")));
    let free = super::ask(Api::Anthropic, "GET", "/v1/models", b"", None);
    assert!(!ResponseMeter::new(&free, &ResponseHead::default()).holds_back_last_frame());
}

#[test]
fn a_path_without_usage_counts_nothing() {
    let free = super::ask(Api::Anthropic, "POST", "/v1/messages/count_tokens", b"{}", None);
    let body = br#"{"input_tokens":7,"usage":{"input_tokens":7,"output_tokens":7}}"#;
    let found =
        meter(&free, &ResponseHead { status: 200, ..ResponseHead::default() }, [body.as_slice()], Ending::Complete);
    assert_eq!((found.usage, found.known), (Usage::default(), Known::Unmetered));
}

#[test]
fn a_meter_may_cross_threads() {
    fn is_send<T: Send>() {}
    is_send::<ResponseMeter>();
}
