//! Endpoints that count a request's input without answering it: what to ask them, and what they say.
//!
//! The question is the request itself, but for what only matters to its answer: these endpoints refuse what they do not know.

use serde_json::Value;

use crate::domain::{Api, Tokens};

use super::usage_asked::{Fields, decoded};

/// A provider's counting endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Counter(&'static Endpoint);

/// What is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountQuestion {
    /// Path and query.
    pub target: String,
    /// A JSON object.
    pub body: Vec<u8>,
}

/// One row of the table.
#[derive(Debug)]
struct Endpoint {
    api: Api,
    /// Ends of the paths whose requests it counts.
    counted: &'static [&'static str],
    /// What its own path has there.
    counts: &'static str,
    /// Top-level fields it knows.
    fields: &'static [&'static str],
    /// Its request is the other one inside this field, with the model's name.
    envelope: Option<&'static str>,
    /// Where its answer has the count.
    answer: &'static str,
}

/// Fields as in the types of the providers' own SDKs.
const ENDPOINTS: [Endpoint; 3] = [
    Endpoint {
        api: Api::Anthropic,
        counted: &["/v1/messages"],
        counts: "/v1/messages/count_tokens",
        fields: &[
            "model",
            "messages",
            "system",
            "tools",
            "tool_choice",
            "thinking",
            "mcp_servers",
            "output_config",
            "context_management",
            "cache_control",
            "speed",
        ],
        envelope: None,
        answer: "/input_tokens",
    },
    Endpoint {
        api: Api::OpenAi,
        counted: &["/v1/responses"],
        counts: "/v1/responses/input_tokens",
        fields: &[
            "model",
            "input",
            "instructions",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "previous_response_id",
            "conversation",
            "reasoning",
            "text",
            "truncation",
        ],
        envelope: None,
        answer: "/input_tokens",
    },
    Endpoint {
        api: Api::Gemini,
        counted: &[":generateContent", ":streamGenerateContent"],
        counts: ":countTokens",
        fields: &[
            "contents",
            "systemInstruction",
            "system_instruction",
            "tools",
            "toolConfig",
            "tool_config",
            "generationConfig",
            "cachedContent",
        ],
        envelope: Some("generateContentRequest"),
        answer: "/totalTokens",
    },
];

impl Counter {
    /// The endpoint that counts requests to this path, query or not.
    #[must_use]
    pub fn of(api: Api, target: &str) -> Option<Self> {
        let path = path(target);
        ENDPOINTS.iter().find(|endpoint| endpoint.api == api && endpoint.base(path).is_some()).map(Self)
    }

    /// What to ask it about a request with this target (path and query) and whole body. `None` when that cannot be read:
    /// compressed in a way that is not known, too long, or no object.
    #[must_use]
    pub fn question(self, target: &str, content_encoding: Option<&str>, body: &[u8]) -> Option<CountQuestion> {
        let path = path(target);
        let base = self.0.base(path)?;
        let body = decoded(content_encoding, body)?;
        let fields: Fields<'_> = serde_json::from_slice(&body).ok()?;
        let mut kept = Vec::with_capacity(body.len());
        if self.0.envelope.is_some() {
            let (_, model) = base.split_once("/models/")?;
            put(&mut kept, "model", &serde_json::to_string(&format!("models/{model}")).ok()?)?;
        }
        for (key, value) in fields.0.iter().filter(|(key, _)| self.0.fields.contains(&key.as_ref())) {
            put(&mut kept, key, value.get())?;
        }
        kept.extend_from_slice(if kept.is_empty() { b"{}" } else { b"}" });
        if let Some(envelope) = self.0.envelope {
            kept = [b"{\"", envelope.as_bytes(), b"\":", &kept, b"}"].concat();
        }
        Some(CountQuestion { target: format!("{base}{}{}", self.0.counts, query(target)), body: kept })
    }

    /// What it said.
    #[must_use]
    pub fn answer(self, body: &[u8]) -> Option<Tokens> {
        let answer: Value = serde_json::from_slice(body).ok()?;
        answer.pointer(self.0.answer)?.as_u64().map(Tokens)
    }
}

impl Endpoint {
    /// The path without its end, if this endpoint counts its requests.
    fn base<'a>(&self, path: &'a str) -> Option<&'a str> {
        self.counted.iter().find_map(|end| path.strip_suffix(end))
    }
}

fn put(object: &mut Vec<u8>, key: &str, value: &str) -> Option<()> {
    object.push(if object.is_empty() { b'{' } else { b',' });
    serde_json::to_writer(&mut *object, key).ok()?;
    object.push(b':');
    object.extend_from_slice(value.as_bytes());
    Some(())
}

fn path(target: &str) -> &str {
    target.split('?').next().unwrap_or(target)
}

/// The query, which may hold a key; but not as what the answer shall come.
fn query(target: &str) -> String {
    let Some((_, query)) = target.split_once('?') else { return String::new() };
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("alt=")).collect();
    if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(api: Api, target: &str, body: &str, expected: Option<(&str, &str)>) {
        let question = Counter::of(api, target).and_then(|counter| counter.question(target, None, body.as_bytes()));
        let found = question.map(|question| (question.target, String::from_utf8(question.body).unwrap()));
        let expected = expected.map(|(target, body)| (target.to_owned(), body.to_owned()));
        assert_eq!(found, expected, "{target} {body}");
    }

    #[test]
    fn a_request_is_asked_about_without_what_concerns_its_answer() {
        check(
            Api::Anthropic,
            "/v1/messages?beta=true",
            r#"{"model":"claude-x","max_tokens":64000,"stream":true, "messages":[{"role":"user","content":"\u0048i"}],"metadata":{"user_id":"u"},"temperature":1.0,"thinking":{"type":"adaptive"},"system":"s","tools":[]}"#,
            Some((
                "/v1/messages/count_tokens?beta=true",
                r#"{"model":"claude-x","messages":[{"role":"user","content":"\u0048i"}],"thinking":{"type":"adaptive"},"system":"s","tools":[]}"#,
            )),
        );
        check(
            Api::OpenAi,
            "/v1/responses",
            r#"{"model":"gpt-5","input":"Hi","stream":true,"store":false,"max_output_tokens":9,"include":[]}"#,
            Some(("/v1/responses/input_tokens", r#"{"model":"gpt-5","input":"Hi"}"#)),
        );
        check(
            Api::Gemini,
            "/v1beta/models/gemini-x:streamGenerateContent?alt=sse&key=k",
            r#"{"contents":[{"parts":[{"text":"Hi"}]}],"safetySettings":[]}"#,
            Some((
                "/v1beta/models/gemini-x:countTokens?key=k",
                r#"{"generateContentRequest":{"model":"models/gemini-x","contents":[{"parts":[{"text":"Hi"}]}]}}"#,
            )),
        );
        check(Api::Anthropic, "/v1/messages", "{}", Some(("/v1/messages/count_tokens", "{}")));
    }

    #[test]
    fn what_nobody_counts_or_can_be_read_is_not_asked_about() {
        check(Api::OpenAi, "/v1/chat/completions", "{}", None);
        check(Api::OpenAi, "/v1/responses/compact", "{}", None);
        check(Api::Anthropic, "/v1/responses", "{}", None);
        check(Api::Anthropic, "/v1/messages/count_tokens", "{}", None);
        check(Api::Bedrock, "/v1/messages", "{}", None);
        check(Api::Gemini, "/v1beta/models/gemini-x:embedContent", "{}", None);
        check(Api::Gemini, "/v1internal:generateContent", "{}", None);
        for unreadable in ["", "[]", "{\"messages\":[", "\u{1}", "{\"a\":1}}"] {
            check(Api::Anthropic, "/v1/messages", unreadable, None);
        }
    }

    #[test]
    fn a_compressed_request_is_asked_about_in_clear() {
        let counter = Counter::of(Api::OpenAi, "/v1/responses").unwrap();
        let body = zstd::bulk::compress(br#"{"input":"Hi","stream":true}"#, 3).unwrap();
        let question = counter.question("/v1/responses", Some("zstd"), &body).unwrap();
        assert_eq!(question.body, br#"{"input":"Hi"}"#);
        assert_eq!(counter.question("/v1/responses", Some("secret"), &body), None);
    }

    #[test]
    fn an_answer_is_a_count_or_none() {
        let answer = |api, target, body: &str| Counter::of(api, target).unwrap().answer(body.as_bytes());
        assert_eq!(answer(Api::Anthropic, "/v1/messages", r#"{"input_tokens":2095}"#), Some(Tokens(2095)));
        let openai = r#"{"object":"response.input_tokens","input_tokens":11}"#;
        assert_eq!(answer(Api::OpenAi, "/v1/responses", openai), Some(Tokens(11)));
        let gemini = r#"{"totalTokens":31,"cachedContentTokenCount":5}"#;
        assert_eq!(answer(Api::Gemini, "/v1/models/m:generateContent", gemini), Some(Tokens(31)));
        for bad in
            ["", "{}", "[5]", r#"{"input_tokens":-1}"#, r#"{"input_tokens":"5"}"#, r#"{"input_tokens":1.5}"#, "<html>"]
        {
            assert_eq!(answer(Api::Anthropic, "/v1/messages", bad), None, "{bad}");
        }
    }
}
