//! What the provider served, as it knows it: the other side of the ledger.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Tokens, each kind once: Anthropic's columns. OpenAI's input is the sum of the first three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// `input_tokens`.
    pub input: u64,
    /// `cache_creation_input_tokens`.
    pub cache_write: u64,
    /// `cache_read_input_tokens`.
    pub cache_read: u64,
    /// `output_tokens`.
    pub output: u64,
}

impl Counts {
    /// All of them together.
    #[must_use]
    pub fn total(self) -> u64 {
        self.input_total() + self.output
    }

    /// All of the input, however it was cached.
    #[must_use]
    pub fn input_total(self) -> u64 {
        self.input + self.cache_write + self.cache_read
    }
}

/// One exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Also the `request-id` header of the response, or `x-request-id` where OpenAI answers.
    pub id: String,
    /// What `x-test-bottle` said.
    pub bottle: Option<String>,
    /// Of the request.
    pub method: String,
    /// Without query.
    pub path: String,
    /// What the request named.
    pub model: Option<String>,
    /// Of the response.
    pub status: u16,
    /// What the client accepts: `accept-encoding`.
    pub accepts: Option<String>,
    /// What the client presents: `authorization` and `x-api-key`.
    pub presented: Vec<String>,
    /// `content-encoding`.
    pub encoding: String,
    /// What a whole response says was used.
    pub usage: Counts,
    /// What the bytes handed over have said was used, at last word.
    pub reported: Counts,
    /// Tokens of text in the bytes handed over.
    pub output_sent: u64,
    /// The whole response was handed to the connection; not that the client read it.
    pub is_complete: bool,
}

/// Every exchange that has ended, in that order.
#[derive(Debug, Default)]
pub(super) struct Log {
    served: Mutex<Vec<Served>>,
    file: Option<Mutex<File>>,
}

impl Log {
    /// A log, also written to `file` as JSON lines.
    pub(super) fn new(file: Option<&Path>) -> Result<Self> {
        let open = |path: &Path| File::create(path).with_context(|| format!("cannot write {}", path.display()));
        Ok(Self { file: file.map(open).transpose()?.map(Mutex::new), ..Self::default() })
    }

    pub(super) fn push(&self, served: Served) {
        if let (Some(file), Ok(line)) = (&self.file, serde_json::to_string(&served)) {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // Called while a connection is dropped: there is nobody to tell.
            let _ = writeln!(file, "{line}");
        }
        self.served.lock().unwrap_or_else(PoisonError::into_inner).push(served);
    }

    pub(super) fn served(&self) -> Vec<Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
