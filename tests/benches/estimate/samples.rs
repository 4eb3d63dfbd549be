//! Small texts, each as the one message of a request.

use std::path::Path;

use anyhow::{Context, Result};
use egress_userspace::domain::Api;
use serde_json::json;

use super::error::{Errors, HEADS, estimate};

/// A column of the table: its name, who is asked, where, and for which model.
type Column = (&'static str, Api, &'static str, &'static str);

const CHAT: &str = "/v1/chat/completions";

const COLUMNS: [Column; 9] = [
    ("openai", Api::OpenAi, CHAT, "gpt-5"),
    ("openai_earlier", Api::OpenAi, CHAT, "gpt-4-turbo"),
    ("claude", Api::Anthropic, "/v1/messages", "claude-opus-4-8"),
    ("claude_earlier", Api::Anthropic, "/v1/messages", "claude-sonnet-4-5"),
    ("gemini", Api::Gemini, "/v1beta/models/gemini-3-pro:generateContent", ""),
    ("mistral", Api::OpenAiCompatible, CHAT, "mistral-large-latest"),
    ("qwen", Api::OpenAiCompatible, CHAT, "qwen3-coder"),
    ("deepseek", Api::OpenAiCompatible, CHAT, "deepseek-chat"),
    ("alike", Api::OpenAiCompatible, CHAT, "kimi-k2"),
];

pub(crate) fn run() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/estimate");
    let counts = std::fs::read_to_string(folder.join("counts.tsv")).context("no counts.tsv")?;
    let mut columns = COLUMNS.map(|_| Errors::default());
    println!("error of the estimate, in percent of the count\n");
    println!("{:<12}{}", "sample", COLUMNS.map(|(name, ..)| format!("{name:>16}")).concat());
    for line in counts.lines().skip(1) {
        let mut fields = line.split('\t');
        let name = fields.next().unwrap_or_default();
        let text = std::fs::read_to_string(folder.join("samples").join(name).with_extension("txt"))
            .with_context(|| format!("no sample {name}"))?;
        let mut row = String::new();
        for ((column, errors), count) in COLUMNS.iter().zip(&mut columns).zip(fields) {
            let truth = count.parse().with_context(|| format!("{name}: {count:?} is no count"))?;
            row += &format!("{:>+16.1}", errors.add(truth, estimated(column, &text)));
        }
        println!("{name:<12}{row}");
    }
    println!("\n{:<18}{HEADS}", "tokenizer");
    for ((name, ..), errors) in COLUMNS.iter().zip(&mut columns) {
        println!("{name:<18}{}", errors.row());
    }
    Ok(())
}

fn estimated(column: &Column, text: &str) -> u64 {
    let (_, api, path, model) = *column;
    let body = if api == Api::Gemini {
        json!({ "contents": [{ "role": "user", "parts": [{ "text": text }] }] })
    } else {
        json!({ "model": model, "messages": [{ "role": "user", "content": text }] })
    };
    estimate(api, path, body.to_string().as_bytes())
}
