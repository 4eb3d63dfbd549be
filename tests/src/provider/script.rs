//! What a request asks the provider to do: directives in the model's name (`claude-test+deltas-50+abort-after-3`) or in
//! headers (`x-test-deltas: 50`), the latter winning; both win over what the provider was told to do with any request.
//!
//! | directive | does |
//! |---|---|
//! | `deltas-N`, `delta-bytes-N`, `delay-N` (ms between deltas), `slow` | shape the stream |
//! | `together-N` | is answered when there are N of this kind (or after half a minute) |
//! | `input-N`, `output-N`, `cache-read-N`, `cache-write-N` | the usage it reports |
//! | `cache-write-1h-N`, `reasoning-N` | which part of it was written for an hour, and which of the output was thinking |
//! | `tool-use` | answers with the call of a tool (Messages, Responses, Gemini) |
//! | `encoding-NAME` | `gzip`, `deflate`, `br`, `zstd`, `identity`, whatever the client accepts |
//! | `abort-after-N`, `stall-after-N`, `error-after-N`, `error-event` | breaks after N deltas: hangs up, goes silent, error event |
//! | `overloaded`, `rate-limited`, `status-N` | answers with an error |
//! | `no-usage`, `compaction` | leaves usage out; reports it in `iterations` only |
//! | `stamp` | each delta says when it left: `sent_ns`, of the clock that all processes of a host share |
//! | `fragments` | over a WebSocket: each message comes in three frames, a ping in between |
//! | `successor` | over a WebSocket: another response follows that nobody asked for |
//! | `count-N`, `count-status-N`, `count-delay-N` (ms), `count-garbage` | what the counting endpoints say instead |
//! | `reply-NAME` (header only) | the response has this header, with this value |

use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::HeaderName;
use hyper::http::request::Parts;
use serde::Deserialize;

use super::encode::Encoding;
use super::gemini;
use super::log::Counts;

const DELTAS: u64 = 8;
const DELTA_BYTES: usize = 16;
const INPUT_TOKENS: u64 = 25;
const SLOW: Duration = Duration::from_millis(200);

/// Where a response breaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nowhere.
    #[default]
    None,
    /// Hangs up after so many deltas.
    Abort(u64),
    /// Goes silent after so many deltas.
    Stall(u64),
    /// Sends an error event after so many deltas.
    Error(u64),
}

/// How usage is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Report {
    /// At the top level.
    #[default]
    Plain,
    /// Whole only in `iterations`.
    Iterations,
    /// Not at all.
    Nothing,
}

/// An answer of a counting endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Other than all of the input.
    pub tokens: Option<u64>,
    /// Other than 200: an error.
    pub status: u16,
    /// Before it comes.
    pub delay: Duration,
    /// It is no JSON.
    pub is_garbage: bool,
}

/// One response to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The model's name as the request has it.
    pub model: String,
    /// An event stream, not a JSON body.
    pub is_streaming: bool,
    /// Number of text deltas.
    pub deltas: u64,
    /// Bytes of text in each.
    pub delta_bytes: usize,
    /// Between deltas.
    pub delay: Duration,
    /// How many of its kind there are to be before it is answered.
    pub together: u64,
    /// What a whole response reports.
    pub usage: Counts,
    /// The part of the cache writes that lives for an hour.
    pub cache_write_1h: u64,
    /// The part of the output that is thinking.
    pub reasoning: u64,
    /// The text is the input of a tool.
    pub is_tool_use: bool,
    /// The client asked for usage in the stream (OpenAI).
    pub wants_usage: bool,
    /// The client asked for vectors in base64 (OpenAI).
    pub wants_base64: bool,
    /// The client asked for JSON in place of text (Gemini).
    pub wants_json: bool,
    /// Of the body.
    pub encoding: Encoding,
    /// Where it breaks.
    pub fault: Fault,
    /// How usage is reported.
    pub report: Report,
    /// Other than 200: an error.
    pub status: u16,
    /// What the counting endpoints say.
    pub count: Count,
    /// Deltas carry the time they left; in bodies without encoding only.
    pub is_stamped: bool,
    /// Messages come in fragments.
    pub is_fragmented: bool,
    /// A second response follows.
    pub has_successor: bool,
    /// Headers of the response.
    pub headers: HeaderMap,
}

/// What of a request's body matters.
#[derive(Debug, Default, Deserialize)]
struct Body {
    #[serde(default)]
    model: String,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    encoding_format: Option<String>,
    #[serde(default, rename = "generationConfig")]
    generation_config: GenerationConfig,
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Debug, Default, Deserialize)]
struct GenerationConfig {
    #[serde(default, rename = "responseMimeType")]
    response_mime_type: String,
}

impl Script {
    /// Reads a request; `standing` are directives for any of them.
    #[must_use]
    pub fn read(head: &Parts, body: &[u8], standing: &str) -> Self {
        let headers = &head.headers;
        let mut body: Body = serde_json::from_slice(body).unwrap_or_default();
        if let Some((model, is_streaming)) = gemini::asked(head) {
            (body.model, body.stream) = (model.to_owned(), is_streaming);
        }
        let accepted = headers.get("accept-encoding").and_then(|value| value.to_str().ok()).unwrap_or("");
        let mut script = Self {
            model: body.model.clone(),
            is_streaming: body.stream,
            deltas: DELTAS,
            delta_bytes: DELTA_BYTES,
            delay: Duration::ZERO,
            together: 0,
            usage: Counts { input: INPUT_TOKENS, ..Counts::default() },
            cache_write_1h: 0,
            reasoning: 0,
            is_tool_use: false,
            wants_usage: body.stream_options.is_some_and(|options| options.include_usage),
            wants_base64: body.encoding_format.as_deref() == Some("base64"),
            wants_json: body.generation_config.response_mime_type == "application/json",
            encoding: Encoding::accepted(accepted),
            fault: Fault::None,
            report: Report::Plain,
            status: 200,
            count: Count { status: 200, ..Count::default() },
            is_stamped: false,
            is_fragmented: false,
            has_successor: false,
            headers: HeaderMap::new(),
        };
        for directive in standing.split('+').chain(body.model.split('+')) {
            script.follow(directive);
        }
        for (name, value) in headers {
            if let Some(name) =
                name.as_str().strip_prefix("x-test-reply-").and_then(|name| name.parse::<HeaderName>().ok())
            {
                script.headers.append(name, value.clone());
                continue;
            }
            let directive = name.as_str().strip_prefix("x-test-").zip(value.to_str().ok());
            if let Some((name, value)) = directive {
                script.follow(format!("{name}-{value}").trim_end_matches('-'));
            }
        }
        if script.usage.output == 0 {
            script.usage.output = script.deltas;
        }
        script
    }

    fn follow(&mut self, directive: &str) {
        match directive {
            "slow" => self.delay = SLOW,
            "error-event" => self.fault = Fault::Error(1),
            "overloaded" => self.status = 529,
            "rate-limited" => self.status = 429,
            "no-usage" => self.report = Report::Nothing,
            "compaction" => self.report = Report::Iterations,
            "count-garbage" => self.count.is_garbage = true,
            "stamp" => self.is_stamped = true,
            "tool-use" => self.is_tool_use = true,
            "fragments" => self.is_fragmented = true,
            "successor" => self.has_successor = true,
            _ => {
                let Some((name, value)) = directive.rsplit_once('-') else { return };
                match value.parse() {
                    Ok(number) => self.set(name, number),
                    Err(_) if name == "encoding" => self.encoding = Encoding::named(value).unwrap_or(self.encoding),
                    Err(_) => {}
                }
            }
        }
    }

    fn set(&mut self, name: &str, number: u64) {
        match name {
            "deltas" => self.deltas = number,
            "delta-bytes" => self.delta_bytes = usize::try_from(number).unwrap_or(usize::MAX),
            "delay" => self.delay = Duration::from_millis(number),
            "together" => self.together = number,
            "input" => self.usage.input = number,
            "output" => self.usage.output = number,
            "cache-read" => self.usage.cache_read = number,
            "cache-write" => self.usage.cache_write = number,
            "cache-write-1h" => self.cache_write_1h = number,
            "reasoning" => self.reasoning = number,
            "abort-after" => self.fault = Fault::Abort(number),
            "stall-after" => self.fault = Fault::Stall(number),
            "error-after" => self.fault = Fault::Error(number),
            "count" => self.count.tokens = Some(number),
            "count-status" => self.count.status = u16::try_from(number).unwrap_or(500),
            "count-delay" => self.count.delay = Duration::from_millis(number),
            "status" => self.status = u16::try_from(number).unwrap_or(500),
            _ => {}
        }
    }

    /// Deltas that are sent.
    #[must_use]
    pub fn deltas_sent(&self) -> u64 {
        match self.fault {
            Fault::None => self.deltas,
            Fault::Abort(after) | Fault::Stall(after) | Fault::Error(after) => after.min(self.deltas),
        }
    }

    /// Tokens in the first so many deltas: every token of the usage is in one.
    #[must_use]
    pub fn tokens_in(&self, deltas: u64) -> u64 {
        self.usage.output.saturating_mul(deltas).checked_div(self.deltas).unwrap_or(self.usage.output)
    }
}
