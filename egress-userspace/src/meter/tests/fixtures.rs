//! Recorded responses, which are not part of the project: read where they are found, skipped where they are not.

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;

use super::super::guess;
use super::properties::pieces;
use super::wire::{ENCODINGS, encoded};
use super::*;

/// A recorded response and what it must come to.
pub(super) struct Recorded {
    pub(super) name: String,
    pub(super) case: Value,
    pub(super) body: Vec<u8>,
}

/// All there are; `None`, and said so, where there is no folder of them.
pub(super) fn recorded() -> Option<Vec<Recorded>> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
    let folder = std::env::var_os("EGRESS_FIXTURES").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: no recorded responses in {}", folder.display());
        return None;
    };
    let folders = entries.map(|entry| entry.unwrap().path()).filter(|path| path.join("case.json").exists());
    let mut paths: Vec<PathBuf> = folders.collect();
    paths.sort();
    let read = |path: PathBuf| Recorded {
        name: path.file_name().unwrap().to_string_lossy().into_owned(),
        case: serde_json::from_slice(&std::fs::read(path.join("case.json")).unwrap()).unwrap(),
        body: std::fs::read(path.join("body")).unwrap(),
    };
    println!("{} recorded responses in {}", paths.len(), folder.display());
    assert!(!paths.is_empty());
    Some(paths.into_iter().map(read).collect())
}

#[test]
fn recorded_responses_settle_to_their_known_totals() {
    for Recorded { name, case, body } in recorded().unwrap_or_default() {
        for encodings in ENCODINGS {
            for piece_bytes in [13, 1021, usize::MAX] {
                check(&name, &case, encodings, &body, piece_bytes);
            }
        }
    }
}

#[test]
fn recorded_responses_read_the_same_wherever_they_are_cut() {
    for Recorded { name, case, body } in recorded().unwrap_or_default() {
        let ask = Ask::unseen(case["dialect"].as_str().unwrap().parse().unwrap());
        let content_type = case["content_type"].as_str();
        let plain = ResponseHead { status: 200, content_type, ..ResponseHead::default() };
        let expected = meter(&ask, &plain, [&body], Ending::Complete);
        for encodings in ENCODINGS {
            let (header, bytes) = encoded(encodings, &body);
            let head =
                ResponseHead { status: 200, content_type, content_encoding: Some(&header), ..ResponseHead::default() };
            splits::check(&name, &ask, &head, (&bytes, body.len()), &expected);
        }
    }
}

/// An event stream in another spelling: other line ends, a mark in front, comments between the events.
fn respelt(body: &str, line_end: &str, is_annotated: bool) -> Vec<u8> {
    let lines = body.replace("\r\n", "\n");
    let events = lines.split_inclusive("\n\n");
    let comment = if is_annotated { ": keep-alive\n\n:\n" } else { "" };
    let stream: String = events.flat_map(|event| [comment, event]).collect();
    let mark = if is_annotated { "\u{feff}" } else { "" };
    format!("{mark}{stream}").replace('\n', line_end).into_bytes()
}

#[test]
fn recorded_streams_read_the_same_however_they_are_spelt() {
    let streams = recorded().unwrap_or_default().into_iter().filter(|recorded| !recorded.body.starts_with(b"{"));
    for Recorded { name, case, body } in streams {
        let Ok(text) = String::from_utf8(body) else { continue };
        if !case["content_type"].as_str().is_some_and(|media| media.starts_with("text/event-stream")) {
            continue;
        }
        for (line_end, is_annotated) in [("\n", true), ("\r\n", false), ("\r\n", true), ("\r", false), ("\r", true)] {
            let body = respelt(&text, line_end, is_annotated);
            for encodings in ["identity", "gzip"] {
                check(&name, &case, encodings, &body, 1021);
            }
        }
    }
}

#[test]
fn recorded_responses_read_the_same_in_pieces_of_any_size() {
    let all = recorded().unwrap_or_default();
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..60);
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
    let which = (any::<prop::sample::Index>(), prop::sample::select(ENCODINGS.to_vec()), cuts);
    proptest!(config, |((recorded, encodings, cuts) in which)| {
        let Some(Recorded { name, case, body }) = all.get(recorded.index(all.len().max(1))) else { return Ok(()) };
        let ask = Ask::unseen(case["dialect"].as_str().unwrap().parse().unwrap());
        let (header, bytes) = encoded(encodings, body);
        let expected = meter(&ask, &head(Some(&header)), [&bytes], Ending::Complete);
        let found = meter(&ask, &head(Some(&header)), pieces(&bytes, &cuts), Ending::Complete);
        prop_assert_eq!(found, expected, "{} {}", name, encodings);
    });
}

fn check(name: &str, case: &Value, encodings: &str, body: &[u8], piece_bytes: usize) {
    let dialect = case["dialect"].as_str().unwrap().parse().unwrap();
    let (header, bytes) = encoded(encodings, body);
    let head = ResponseHead {
        status: 200,
        content_type: case["content_type"].as_str(),
        content_encoding: Some(&header),
        ..ResponseHead::default()
    };
    let found = meter(&Ask::unseen(dialect), &head, bytes.chunks(piece_bytes), Ending::Complete);
    let label = format!("{name} {encodings} in pieces of {piece_bytes}");
    let guessed = guess(Some(&header), &bytes).unwrap();
    let by_guess = meter(&Ask::unseen(guessed), &head, [&bytes], Ending::Complete);
    assert_eq!((by_guess.usage, by_guess.known), (found.usage, found.known), "{label}: guessed {guessed:?}");
    let Some(expected) = case.get("expected").filter(|expected| expected.is_object()) else {
        assert!(!found.has_report, "{label}: {found:?}");
        return;
    };
    let (usage, details) = (found.usage, found.details);
    let totals = [
        ("input_uncached", usage.input),
        ("cache_read", usage.cache_read),
        ("cache_write", usage.cache_write),
        ("cache_write_1h", details.cache_write_1h),
        ("input_total", usage.input_total()),
        ("output_total", usage.output),
        ("reasoning", details.reasoning),
    ];
    for (key, found) in totals {
        assert_eq!(Some(found.0), expected[key].as_u64(), "{label}: {key}");
    }
    assert_eq!((found.known, found.has_report), (Known::Reported, true), "{label}");
}
