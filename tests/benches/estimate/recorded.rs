//! Recorded requests, against what the provider said that they used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use egress_userspace::domain::Api;
use egress_userspace::meter;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::{Errors, HEADS, estimate};

/// Requests smaller than this are told apart: the words around them outweigh theirs. In tokens.
const SMALL_TOKENS: u64 = 200;

/// What a request with pictures, documents, sound, film or sealed thoughts in it holds.
const FILES: [&str; 12] = [
    "\"image",
    "\"input_image",
    "\"document",
    "\"input_file",
    "\"file\"",
    "\"input_audio",
    "\"video",
    "inlineData",
    "fileData",
    "encrypted_content",
    "ignature\"",
    "s3Location",
];

#[derive(Deserialize)]
struct Recorded<'a> {
    api: Api,
    path: String,
    #[serde(borrow)]
    request: &'a RawValue,
    input_total: u64,
}

pub(crate) fn run() -> Result<()> {
    let folder = std::env::var_os("EGRESS_REQUESTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/requests"), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("\nrecorded requests: none in {}, skipped", folder.display());
        return Ok(());
    };
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let mut groups = BTreeMap::<String, Errors>::new();
    for file in files {
        let lines = std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        for line in lines.lines() {
            let recorded: Recorded<'_> = serde_json::from_str(line).with_context(|| file.display().to_string())?;
            let body = recorded.request.get().as_bytes();
            if !meter::ask(recorded.api, "POST", &recorded.path, &[], None).is_metered {
                continue;
            }
            let found = estimate(recorded.api, &recorded.path, body);
            groups.entry(kind(&recorded)).or_default().add(recorded.input_total, found);
        }
    }
    println!("\n{:<36}{HEADS}", "recorded requests");
    for (kind, errors) in &mut groups {
        println!("{kind:<36}{}", errors.row());
    }
    Ok(())
}

fn kind(recorded: &Recorded<'_>) -> String {
    let api = format!("{:?}", recorded.api);
    if FILES.iter().any(|mark| recorded.request.get().contains(mark)) {
        return format!("{api}, with files");
    }
    let size = if recorded.input_total < SMALL_TOKENS { "text, small" } else { "text" };
    format!("{api}, {size}")
}
