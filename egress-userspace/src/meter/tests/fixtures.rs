//! Recorded responses, which are not part of the project: read where they are found, skipped where they are not.

use std::path::PathBuf;

use serde_json::Value;

use super::wire::{ENCODINGS, in_pieces};

#[test]
fn recorded_responses_settle_to_their_known_totals() {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
    let folder = std::env::var_os("EGRESS_FIXTURES").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: no recorded responses in {}", folder.display());
        return;
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut checked = 0;
    for name in names.filter(|name| name.starts_with("anthropic-")) {
        let body = std::fs::read(folder.join(&name).join("body")).unwrap();
        let case: Value =
            serde_json::from_slice(&std::fs::read(folder.join(&name).join("case.json")).unwrap()).unwrap();
        for encodings in ENCODINGS {
            for piece_bytes in [1, 13, 1021, usize::MAX] {
                check(&name, &case, encodings, &body, piece_bytes);
            }
        }
        checked += 1;
    }
    println!("{checked} recorded responses read");
}

fn check(name: &str, case: &Value, encodings: &str, body: &[u8], piece_bytes: usize) {
    let found = in_pieces(encodings, body, piece_bytes);
    let Some(expected) = case.get("expected").filter(|expected| expected.is_object()) else { return };
    let total = |key: &str| expected[key].as_u64().unwrap();
    let usage = found.usage;
    let found_totals = [usage.input.0, usage.cache_read.0, usage.cache_write.0, usage.input_total().0, usage.output.0];
    let totals = ["input_uncached", "cache_read", "cache_write", "input_total", "output_total"].map(total);
    assert_eq!(found_totals, totals, "{name} {encodings} in pieces of {piece_bytes}");
    assert_eq!(found.known, crate::domain::Known::Reported, "{name} {encodings} in pieces of {piece_bytes}");
}
