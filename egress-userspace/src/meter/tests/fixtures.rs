//! Recorded responses, which are not part of the project: read where they are found, skipped where they are not.

use std::path::PathBuf;

use serde_json::Value;

use super::super::guess;
use super::wire::{ENCODINGS, encoded};
use super::*;

#[test]
fn recorded_responses_settle_to_their_known_totals() {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
    let folder = std::env::var_os("EGRESS_FIXTURES").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: no recorded responses in {}", folder.display());
        return;
    };
    let folders = entries.map(|entry| entry.unwrap().path()).filter(|path| path.join("case.json").exists());
    let mut names: Vec<PathBuf> = folders.collect();
    names.sort();
    for path in &names {
        let body = std::fs::read(path.join("body")).unwrap();
        let case: Value = serde_json::from_slice(&std::fs::read(path.join("case.json")).unwrap()).unwrap();
        // A whole recording byte by byte in each of eight encodings would take minutes where it is long.
        let smallest_bytes = if body.len() > 50_000 { 61 } else { 1 };
        for encodings in ENCODINGS {
            for piece_bytes in [smallest_bytes, 13.max(smallest_bytes), 1021, usize::MAX] {
                check(&path.display().to_string(), &case, encodings, &body, piece_bytes);
            }
        }
        println!("read {}", path.display());
    }
    println!("{} recorded responses read", names.len());
}

fn check(name: &str, case: &Value, encodings: &str, body: &[u8], piece_bytes: usize) {
    let dialect = case["dialect"].as_str().unwrap().parse().unwrap();
    let (header, bytes) = encoded(encodings, body);
    let head =
        ResponseHead { status: 200, content_type: case["content_type"].as_str(), content_encoding: Some(&header) };
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
