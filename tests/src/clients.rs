//! Programs that use the providers' own SDKs as anyone would: `clients/` holds them, `cargo xtask test` installs what they
//! need.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::{Tokens, UsageDetails};
use serde::Deserialize;
use serde_json::Value;

use crate::privilege;
use crate::provider::Counts;
use crate::world::program;

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// What it is written in.
    pub language: Language,
    /// Whom it asks.
    pub sdk: Sdk,
}

/// What a program is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// The Python of a virtual environment.
    Python,
    /// The machine's Node.
    Node,
}

/// Whose SDK it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sdk {
    /// Anthropic's.
    Anthropic,
    /// OpenAI's.
    OpenAi,
}

/// What a program says of one exchange.
#[derive(Clone, Debug, Deserialize)]
pub struct Exchange {
    /// What it asked for.
    pub scenario: String,
    /// By which call.
    pub way: String,
    /// Of the request or, where the SDK does not tell it, of the response.
    id: String,
    /// As the SDK reports it.
    pub usage: Value,
    /// The model's name, where no id of a request tells the exchange.
    pub model: Option<String>,
    /// Bytes of text that came, where the scenario is about it.
    pub text_length: Option<u64>,
}

/// What a program says of a refused request.
#[derive(Clone, Debug, Deserialize)]
pub struct Refused {
    /// The class of the error.
    #[serde(rename = "refused")]
    pub error: String,
    /// By which call.
    pub way: String,
    /// Of the answer.
    pub status: u16,
    /// What a person reads.
    pub message: String,
    /// The answer, or the part of it that the SDK keeps.
    pub body: Value,
    /// Until the error was raised.
    pub seconds: f64,
}

/// One line of a program's output.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// An exchange that succeeded.
    Exchange(Exchange),
    /// One that did not.
    Refused(Refused),
}

impl Client {
    /// Can it be run? Prints that it cannot, and fails where `CI` is `true`.
    pub fn is_installed(self, test: &str) -> Result<bool> {
        let (pins, installed) = match self.language {
            Language::Python => ("requirements.txt", "python/installed"),
            Language::Node => ("package-lock.json", "node/installed"),
        };
        let wanted = fs::read(sources().join(pins)).with_context(|| format!("cannot read {pins}"))?;
        let is_there = fs::read(directory().join(installed)).is_ok_and(|found| found == wanted);
        if is_there { Ok(true) } else { privilege::skip(test, "the SDKs, which `cargo xtask test` installs") }
    }

    /// The line of shell that runs these scenarios.
    #[must_use]
    pub fn line(self, scenarios: &[&str]) -> String {
        let name = match self.sdk {
            Sdk::Anthropic => "anthropic_client",
            Sdk::OpenAi => "openai_client",
        };
        let source = sources().join(name);
        let (source, directory, scenarios) = (source.display(), directory(), scenarios.join(" "));
        let keys = "ANTHROPIC_API_KEY=sk-ant-test OPENAI_API_KEY=sk-test";
        match self.language {
            Language::Python => format!("{keys} {}/python/bin/python {source}.py {scenarios}", directory.display()),
            // A program that Node reads from its input finds its packages where it is run.
            Language::Node => format!(
                "cd {}/node && {keys} node --input-type=module - {scenarios} <{source}.mjs",
                directory.display()
            ),
        }
    }

    /// What an SDK's usage comes to, each kind of token once.
    pub fn counts(self, usage: &Value) -> Result<Counts> {
        let number = |pointers: &[&str]| {
            let found = pointers.iter().find_map(|pointer| usage.pointer(pointer)?.as_u64());
            found.with_context(|| format!("no {} in {usage}", pointers.join(" or ")))
        };
        match self.sdk {
            Sdk::Anthropic => Ok(Counts {
                input: number(&["/input_tokens"])?,
                cache_write: number(&["/cache_creation_input_tokens"])?,
                cache_read: number(&["/cache_read_input_tokens"])?,
                output: number(&["/output_tokens"])?,
            }),
            Sdk::OpenAi => {
                let detail = |name: &str| {
                    let mut details = ["prompt_tokens_details", "input_tokens_details"].iter();
                    details.find_map(|details| usage.get(details)?.get(name)?.as_u64()).unwrap_or(0)
                };
                let (cache_write, cache_read) = (detail("cache_write_tokens"), detail("cached_tokens"));
                let input = number(&["/prompt_tokens", "/input_tokens"])?.checked_sub(cache_write + cache_read);
                // Embeddings have none.
                let output = number(&["/completion_tokens", "/output_tokens"]).unwrap_or(0);
                let input = input.context("more was cached than there was")?;
                let counts = Counts { input, cache_write, cache_read, output };
                ensure!(number(&["/total_tokens"])? == counts.total(), "the total is another: {usage}");
                Ok(counts)
            }
        }
    }
}

impl Client {
    /// What an SDK's usage is made of, as far as its provider tells.
    #[must_use]
    pub fn details(self, usage: &Value) -> UsageDetails {
        let number = |pointer: &str| Tokens(usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0));
        match self.sdk {
            Sdk::Anthropic => UsageDetails {
                cache_write_1h: number("/cache_creation/ephemeral_1h_input_tokens"),
                reasoning: number("/output_tokens_details/thinking_tokens"),
            },
            Sdk::OpenAi => {
                let details = ["completion_tokens_details", "output_tokens_details"].map(|name| usage.get(name));
                let reasoning =
                    details.into_iter().flatten().find_map(|details| details.get("reasoning_tokens")?.as_u64());
                UsageDetails { reasoning: Tokens(reasoning.unwrap_or(0)), ..UsageDetails::default() }
            }
        }
    }
}

impl Exchange {
    /// The provider's id of the request, which it puts into that of the response.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.id.find("req_").and_then(|at| self.id.get(at..)).unwrap_or(&self.id)
    }
}

/// What a program said, line by line; warnings of others' are passed over.
pub fn lines(output: &str) -> Result<Vec<Line>> {
    let lines = output.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// Where the programs are.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Where what they need is installed: beside the directory of this build's kind.
pub(crate) fn directory() -> PathBuf {
    program("clients").parent().and_then(Path::parent).unwrap_or(Path::new(".")).join("clients")
}
