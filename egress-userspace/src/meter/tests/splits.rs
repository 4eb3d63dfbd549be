//! Every byte of every response as the place of a cut, in every encoding: the reading stays the same to the token.

use super::dialects::SPOKEN;
use super::wire::{ENCODINGS, encoded};
use super::*;

/// Work for one body in one encoding, in bytes metered: two pieces at every byte where that is no more.
const TWO_PIECES_WORK_MAX: usize = 24_000_000;
/// Sizes of the many pieces that are tried otherwise.
const TEETH_BYTES: [usize; 2] = [61, 4099];
/// Sizes the first piece takes then: with the smaller teeth each byte is a cut once.
const OFFSETS: usize = 61;

/// Times a delta is repeated for a long stream.
const DELTAS: usize = 500;

/// Cuts `bytes`, which carry a body of `body_bytes`, at every byte, and meters them each time.
pub(super) fn check(
    name: &str,
    ask: &Ask,
    head: &ResponseHead<'_>,
    (bytes, body_bytes): (&[u8], usize),
    expected: &Reading,
) {
    let encoding = head.content_encoding.unwrap_or("");
    if bytes.len() * body_bytes <= TWO_PIECES_WORK_MAX {
        for at in 0..=bytes.len() {
            let (start, end) = bytes.split_at(at);
            assert_eq!(&meter(ask, head, [start, end], Ending::Complete), expected, "{name} {encoding} cut at {at}");
        }
    } else {
        for (tooth_bytes, offset) in TEETH_BYTES.into_iter().flat_map(|tooth| (0..OFFSETS).map(move |at| (tooth, at))) {
            let (start, rest) = bytes.split_at((offset * tooth_bytes / OFFSETS).min(bytes.len()));
            let pieces = std::iter::once(start).chain(rest.chunks(tooth_bytes));
            let found = meter(ask, head, pieces, Ending::Complete);
            assert_eq!(&found, expected, "{name} {encoding} in pieces of {tooth_bytes} after {}", start.len());
        }
    }
    assert_eq!(&meter(ask, head, bytes.chunks(1), Ending::Complete), expected, "{name} {encoding} byte by byte");
}

fn check_in_every_encoding(name: &str, ask: &Ask, body: &[u8]) {
    let expected = meter(ask, &head(None), [body], Ending::Complete);
    for encodings in ENCODINGS {
        let (header, bytes) = encoded(encodings, body);
        check(name, ask, &head(Some(&header)), (&bytes, body.len()), &expected);
    }
}

#[test]
fn messages_read_the_same_wherever_they_are_cut() {
    for case in &CASES {
        check_in_every_encoding(case.name, &request(), case.body.as_bytes());
    }
}

#[test]
fn every_other_dialect_reads_the_same_wherever_it_is_cut() {
    for spoken in &SPOKEN {
        check_in_every_encoding(spoken.name, &spoken.ask(), &spoken.body());
    }
}

#[test]
fn a_stream_as_long_as_real_ones_reads_the_same_wherever_it_is_cut() {
    for (name, dialect, delta) in [
        ("stream-basic.sse", Dialect::AnthropicMessages, "event: content_block_delta\n"),
        ("chat-usage-chunk.sse", Dialect::OpenAiChat, "data: {\"id\":\"c1\""),
        ("responses-completed.sse", Dialect::OpenAiResponses, "event: response.output_text.delta\n"),
    ] {
        let short = CASES.iter().map(|case| (case.name, case.body));
        let (_, body) = short
            .chain(SPOKEN.iter().map(|spoken| (spoken.name, spoken.text)))
            .find(|(found, _)| *found == name)
            .unwrap();
        let events: Vec<&str> = body.split_inclusive("\n\n").collect();
        let at = events.iter().position(|event| event.starts_with(delta)).unwrap();
        let long = [&events[..at], &vec![events[at]; DELTAS], &events[at..]].concat().concat();
        let ask = Ask { dialect: Some(dialect), ..request() };
        let (long_reading, short_reading) =
            (meter(&ask, &head(None), [&long], Ending::Complete), meter(&ask, &head(None), [body], Ending::Complete));
        assert_eq!(long_reading, short_reading, "{name}");
        for encodings in ["identity", "gzip", "br", "zstd"] {
            let (header, bytes) = encoded(encodings, long.as_bytes());
            check(name, &ask, &head(Some(&header)), (&bytes, long.len()), &long_reading);
        }
    }
}
