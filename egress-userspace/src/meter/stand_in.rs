//! Just enough of a meter to carry requests end to end: uncompressed Anthropic JSON and SSE.

use serde_json::Value;

use crate::domain::{Ending, Known, Tokens, Usage};

use super::{Reading, ResponseHead};

/// Output that is assumed when a request sets no cap.
const OUTPUT_CAP_DEFAULT: u64 = 32_000;
/// What is remembered of a response.
const BODY_BYTES_MAX: usize = 1 << 20;

/// How a response is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Anthropic's messages.
    AnthropicMessages,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The path carries usage.
    pub is_metered: bool,
    /// How its response is read.
    pub dialect: Option<Dialect>,
    /// The model it names.
    pub model: Option<String>,
    /// Conservative estimate of the input.
    pub input_estimate: Tokens,
    /// The most output it allows.
    pub output_cap: Tokens,
    /// It asks for a stream.
    pub is_streaming: bool,
}

/// Reads a request.
#[must_use]
pub fn ask(method: &str, path: &str, body_prefix: &[u8], body_bytes_total_hint: Option<u64>) -> Ask {
    let is_metered = method == "POST" && path == "/v1/messages";
    let body: Value = if is_metered { serde_json::from_slice(body_prefix).unwrap_or_default() } else { Value::Null };
    let bytes = body_bytes_total_hint.unwrap_or_else(|| u64::try_from(body_prefix.len()).unwrap_or(u64::MAX));
    Ask {
        is_metered,
        dialect: is_metered.then_some(Dialect::AnthropicMessages),
        model: at(&body, "/model").as_str().map(str::to_owned),
        input_estimate: Tokens(bytes / 4),
        output_cap: Tokens(at(&body, "/max_tokens").as_u64().unwrap_or(OUTPUT_CAP_DEFAULT)),
        is_streaming: at(&body, "/stream").as_bool().unwrap_or(false),
    }
}

/// Follows one response.
#[derive(Debug)]
pub struct ResponseMeter {
    is_sse: bool,
    buffer: Vec<u8>,
    reading: Reading,
    input_estimate: Tokens,
}

impl ResponseMeter {
    /// For the response to `ask`.
    #[must_use]
    pub fn new(ask: &Ask, head: &ResponseHead<'_>) -> Self {
        let is_sse = head.content_type.is_some_and(|kind| kind.starts_with("text/event-stream"));
        let reading = Reading { usage: Usage::default(), known: Known::Estimated, is_final: false, model: None };
        Self { is_sse, buffer: Vec::new(), reading, input_estimate: ask.input_estimate }
    }

    /// The next bytes of the body.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.buffer.len() + bytes.len() > BODY_BYTES_MAX {
            return;
        }
        self.buffer.extend_from_slice(bytes);
        while self.is_sse
            && let Some(end) = memchr::memchr(b'\n', &self.buffer)
        {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            if let Some(event) = line.strip_prefix(b"data: ").and_then(|data| serde_json::from_slice(data).ok()) {
                self.take_event(&event);
            }
        }
        if !self.is_sse
            && let Ok(body) = serde_json::from_slice::<Value>(&self.buffer)
        {
            self.take_usage(at(&body, "/usage"));
        }
    }

    fn take_event(&mut self, event: &Value) {
        self.take_usage(at(event, "/message/usage"));
        self.take_usage(at(event, "/usage"));
        self.reading.is_final |= at(event, "/type") == "message_delta" && !at(event, "/delta/stop_reason").is_null();
    }

    fn take_usage(&mut self, usage: &Value) {
        let field = |name: &str| usage.get(name).and_then(Value::as_u64).map(Tokens);
        let seen = &mut self.reading.usage;
        seen.input = field("input_tokens").unwrap_or(seen.input);
        seen.output = field("output_tokens").unwrap_or(seen.output);
        if usage.is_object() {
            self.reading.known = Known::Reported;
        }
    }

    /// What is known so far.
    #[must_use]
    pub fn reading(&self) -> Reading {
        self.reading.clone()
    }

    /// What is known at the end.
    #[must_use]
    pub fn finish(self, ending: Ending) -> Reading {
        let mut reading = self.reading;
        let whole = reading.is_final || (!self.is_sse && ending == Ending::Complete);
        match reading.known {
            Known::Reported if !whole => reading.known = Known::Partial,
            Known::Estimated => reading.usage.input = self.input_estimate,
            Known::Reported | Known::Partial | Known::Unmetered => {}
        }
        reading
    }
}

fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}
