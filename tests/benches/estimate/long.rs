//! What sampling adds to the error: a long request, of which a sample is counted, against the sum of its parts, which are
//! counted whole.

use std::path::Path;

use anyhow::Result;
use egress_userspace::domain::Api;
use serde_json::json;

use super::error::{Errors, estimate};

/// So much is counted whole, in bytes; the sampler keeps a little more.
const PART_BYTES: usize = 16 << 10;

pub(crate) fn run() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut text = String::new();
    for part in ["README.md", "docs", "egress-userspace/src", "tests"] {
        gather(&folder.join(part), &mut text)?;
    }
    println!("\n{:<36}{:>10}{:>10}", "a sample against the whole", "bytes", "error %");
    for bytes in [50_000, 200_000, 800_000] {
        let long = text.get(..boundary(&text, bytes)).unwrap_or(&text);
        let whole = parts(long).map(estimated).sum();
        println!(
            "{:<36}{:>10}{:>+10.1}",
            "this project's own files",
            long.len(),
            Errors::default().add(whole, estimated(long))
        );
    }
    Ok(())
}

fn estimated(text: &str) -> u64 {
    let body = json!({ "model": "claude-opus-4-8", "system": text }).to_string();
    estimate(Api::Anthropic, "/v1/messages", body.as_bytes())
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (part, after) = rest.split_at(boundary(rest, PART_BYTES));
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}

/// The last place up to `bytes` where a character begins.
fn boundary(text: &str, bytes: usize) -> usize {
    (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The text files of a folder, in the order of their names.
fn gather(path: &Path, text: &mut String) -> Result<()> {
    if path.is_dir() {
        let mut entries = std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| gather(entry, text));
    }
    if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
        text.push_str(&std::fs::read_to_string(path)?);
    }
    Ok(())
}
