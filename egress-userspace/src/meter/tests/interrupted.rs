//! Responses that end early, fail, or cannot be read: never less output than was seen, never an absurd amount.

use super::*;

const ENDINGS: [Ending; 6] =
    [Ending::Error, Ending::HungUp, Ending::TimedOut, Ending::Cancelled, Ending::Cut, Ending::ProxyLost];

fn check(status: u16, encoding: Option<&str>, body: &[u8], ending: Ending, expected: [u64; 4], known: Known) {
    let head = ResponseHead { status, ..head(encoding) };
    let found = meter(&request(), &head, [body], ending);
    assert_eq!((found.usage, found.known), (usage(expected), known), "{status} {}", String::from_utf8_lossy(body));
}

/// The largest output total told in whole lines of a prefix.
fn told(prefix: &str) -> u64 {
    let lines = prefix.rfind('\n').map_or("", |end| &prefix[..end]);
    let numbers = lines.split("\"output_tokens\":").skip(1).filter(|_| !lines.contains("a_new_event"));
    numbers.filter_map(|rest| rest.split([',', '}']).next()?.parse::<u64>().ok()).max().unwrap_or(0)
}

#[test]
fn a_stream_cut_anywhere_never_counts_less_than_it_showed() {
    for case in CASES.iter().filter(|case| case.name.ends_with(".sse")) {
        let boundaries = (0..=case.body.len()).filter(|at| case.body.is_char_boundary(*at));
        for prefix in boundaries.map(|at| &case.body[..at]) {
            for ending in ENDINGS {
                let found = meter(&request(), &head(None), [prefix.as_bytes()], ending);
                assert!(found.usage.output.0 >= told(prefix), "{} cut after {prefix:?}: {found:?}", case.name);
                assert!(found.usage.output.0 <= 1000, "{} cut after {prefix:?}: {found:?}", case.name);
                assert_ne!(found.known, Known::Unmetered);
            }
        }
    }
}

#[test]
fn an_interrupted_stream_keeps_what_was_reported_and_estimates_the_rest() {
    let whole = include_str!("../testdata/stream-totals-grow.sse");
    let cut_after = |text: &str| &whole.as_bytes()[..whole.find(text).unwrap() + text.len()];
    check(200, None, b"", Ending::Cancelled, [500, 0, 0, 0], Known::Estimated);
    check(200, None, cut_after("\"output_tokens\":5}}}\n\n"), Ending::Cancelled, [10, 300, 0, 5], Known::Partial);
    check(200, None, cut_after("\"output_tokens\":60}}\n\n"), Ending::Cut, [900, 300, 4000, 60], Known::Partial);
    check(200, None, cut_after("\"text\":\"two\"}}\n\n"), Ending::Cut, [900, 300, 4000, 62], Known::Partial);
    check(200, None, cut_after("\"output_tokens\":75}}\n\n"), Ending::Cut, [1200, 300, 4000, 75], Known::Reported);
    check(200, None, cut_after("\"output_tokens\":60}}\n\n"), Ending::Complete, [900, 300, 4000, 60], Known::Reported);
}

#[test]
fn a_close_without_a_total_is_not_a_report() {
    let whole = include_str!("../testdata/stream-basic.sse");
    let without_total: Vec<&str> =
        whole.split_inclusive("\n\n").filter(|event| !event.contains("message_delta")).collect();
    check(200, None, without_total.concat().as_bytes(), Ending::Complete, [25, 0, 0, 34], Known::Partial);
}

/// Found by fuzzing: input alone was taken over and called an estimate.
#[test]
fn a_total_of_the_input_alone_is_part_of_a_report() {
    let event = br#"data: {"type":"message_delta","delta":{},"usage":{"input_tokens":1200}}"#;
    check(200, None, event, Ending::Complete, [1200, 0, 0, 0], Known::Partial);
}

#[test]
fn an_estimate_stays_within_the_requests_output_cap() {
    let text = "x".repeat(10_000);
    let event = format!(
        "data: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
    );
    check(200, None, event.as_bytes(), Ending::Cancelled, [500, 0, 0, 1000], Known::Estimated);
}

#[test]
fn errors_cost_nothing_unless_they_say_so() {
    let error = include_bytes!("../testdata/error.json");
    for status in [400, 429, 500, 529] {
        check(status, None, error, Ending::Complete, [0; 4], Known::Reported);
        check(status, None, b"", Ending::Error, [0; 4], Known::Reported);
        check(status, Some("foo"), b"upstream connect error", Ending::Complete, [0; 4], Known::Reported);
    }
    check(500, None, include_bytes!("../testdata/message.json"), Ending::Complete, [15, 13, 12, 21], Known::Reported);
}

#[test]
fn a_body_nobody_can_read_is_estimated() {
    check(200, Some("compress"), &[7; 100], Ending::Complete, [500, 0, 0, 50], Known::Estimated);
    check(200, Some("br"), &[0x11; 100], Ending::Complete, [500, 0, 0, 50], Known::Estimated);
    check(
        200,
        Some("gzip"),
        b"\x1f\x8b\x08garbage that is no header",
        Ending::Complete,
        [500, 0, 0, 14],
        Known::Estimated,
    );
    check(0, None, b"", Ending::Error, [500, 0, 0, 0], Known::Estimated);
}

#[test]
fn a_batch_that_was_let_through_is_estimated() {
    let batch = Ask { dialect: None, ..request() };
    let found = meter(&batch, &head(None), [br#"{"id":"batch_1"}"#.as_slice()], Ending::Complete);
    assert_eq!((found.usage, found.known), (usage([500, 0, 0, 8]), Known::Estimated));
}
