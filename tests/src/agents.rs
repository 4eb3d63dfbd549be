//! The agents that people run in bottles, as npm has them: without a terminal, a login, or a file or setting of their user's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::clients;
use crate::privilege;
use crate::provider::{Counts, Served};

/// Longest that an agent may take for anything here, on a busy machine. One that waits in silence takes minutes.
pub const AGENT_TIME_MAX: Duration = Duration::from_secs(60);

/// An agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// Anthropic's.
    ClaudeCode,
    /// OpenAI's, with an API key.
    Codex,
    /// Google's, with an API key.
    GeminiCli,
}

/// What an agent writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As its user reads it.
    Text,
    /// With what it used.
    Json,
}

impl Agent {
    /// Can it be run? Prints that it cannot, and fails where `CI` is `true`.
    pub fn is_installed(self, test: &str) -> Result<bool> {
        let wanted = fs::read(clients::sources().join("agents/package-lock.json")).context("cannot read the pins")?;
        let is_there = fs::read(directory().join("installed")).is_ok_and(|found| found == wanted);
        if is_there { Ok(true) } else { privilege::skip(test, "the agents, which `cargo xtask test` installs") }
    }

    /// Lays out a home for it, which is also where it works: it writes nowhere else.
    pub fn furnish(self, home: &Path) -> Result<()> {
        fs::create_dir_all(home.join("tmp"))?;
        if self == Self::Codex {
            fs::create_dir_all(home.join(".codex"))?;
            fs::write(home.join(".codex/auth.json"), r#"{"OPENAI_API_KEY":"sk-test"}"#)?;
        }
        Ok(())
    }

    /// The line of shell that has it do something, to be run in its home.
    #[must_use]
    pub fn line(self, prompt: &str, format: Format) -> String {
        let bin = directory().join("node_modules/.bin");
        let (command, json) = match self {
            Self::ClaudeCode => ("ANTHROPIC_API_KEY=sk-ant-test {bin}/claude -p", "--output-format json"),
            Self::Codex => ("{bin}/codex exec --skip-git-repo-check", "--json"),
            Self::GeminiCli => ("GEMINI_API_KEY=test {bin}/gemini --skip-trust", "--output-format json"),
        };
        let command = command.replace("{bin}", &bin.display().to_string());
        let format = if format == Format::Json { json } else { "" };
        let option = if self == Self::GeminiCli { "-p" } else { "" };
        format!("TMPDIR=$PWD/tmp {command} {format} {option} '{prompt}'")
    }

    /// Exchanges that a turn takes before the one that writes: Codex warms its socket up, Gemini CLI asks a small model which
    /// model is to take it.
    #[must_use]
    pub fn exchanges_before(self) -> usize {
        match self {
            Self::ClaudeCode => 0,
            Self::Codex | Self::GeminiCli => 1,
        }
    }

    /// Is this a request for work, in the words of a row of the ledger or of the proxy's log?
    #[must_use]
    pub fn is_work(self, target: &str) -> bool {
        match self {
            Self::ClaudeCode => target == "POST /v1/messages",
            Self::Codex => target.ends_with(" /v1/responses"),
            Self::GeminiCli => target.ends_with("enerateContent"),
        }
    }

    /// What of this the provider has done for it.
    #[must_use]
    pub fn work(self, served: Vec<Served>) -> Vec<Served> {
        let is_work = |served: &Served| self.is_work(&format!("{} {}", served.method, served.path));
        served.into_iter().filter(|served| is_work(served) && served.status == 200).collect()
    }

    /// What it says in the end that it used.
    pub fn used(self, output: &str) -> Result<Counts> {
        match self {
            Self::ClaudeCode => {
                let line = output.lines().find(|line| line.starts_with('{')).context("no report")?;
                let report: Value = serde_json::from_str(line)?;
                let models = report.get("modelUsage").and_then(Value::as_object).context("no usage")?;
                Ok(models.values().fold(Counts::default(), |sum, model| Counts {
                    input: sum.input + number(model, "/inputTokens"),
                    cache_write: sum.cache_write + number(model, "/cacheCreationInputTokens"),
                    cache_read: sum.cache_read + number(model, "/cacheReadInputTokens"),
                    output: sum.output + number(model, "/outputTokens"),
                }))
            }
            Self::Codex => {
                let ended = output.lines().find(|line| line.starts_with(r#"{"type":"turn.completed""#));
                let ended: Value = serde_json::from_str(ended.context("the turn has not ended")?)?;
                let cache_read = number(&ended, "/usage/cached_input_tokens");
                let cache_write = number(&ended, "/usage/cache_write_input_tokens");
                let input = number(&ended, "/usage/input_tokens").saturating_sub(cache_read + cache_write);
                Ok(Counts { input, cache_write, cache_read, output: number(&ended, "/usage/output_tokens") })
            }
            Self::GeminiCli => {
                let report = output.find("\n{\n").and_then(|at| output.get(at..)).context("no report")?;
                let report: Value = serde_json::from_str(report)?;
                let models = report.pointer("/stats/models").and_then(Value::as_object).context("no usage")?;
                Ok(models.values().fold(Counts::default(), |sum, model| {
                    let cache_read = number(model, "/tokens/cached");
                    Counts {
                        input: sum.input + number(model, "/tokens/prompt").saturating_sub(cache_read),
                        cache_write: 0,
                        cache_read: sum.cache_read + cache_read,
                        output: sum.output + number(model, "/tokens/candidates") + number(model, "/tokens/thoughts"),
                    }
                }))
            }
        }
    }
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// Where they are installed.
fn directory() -> PathBuf {
    clients::directory().join("agents")
}
