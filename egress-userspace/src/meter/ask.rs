//! What a request asks for, from its head and the first part of its body.

use std::io::{Error, ErrorKind, Result, Write};

use serde_json::Value;

use crate::domain::{Api, Tokens};

use super::decode::Pipe;
use super::estimate::{Family, Input, OUTPUT_TOKENS_ASSUMED};
use super::json::TopLevel;
use super::parse::parse;
use super::reader::count;
use super::surface::{Dialect, Surface, target};
use super::usage_asked::UsageAsked;

/// Keys of the request that matter, whatever the dialect or in some.
const KEYS: &[&str] = &[
    "model",
    "stream",
    "stream_options",
    "background",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_gen_len",
    "max_tokens_to_sample",
    "maxTokens",
    "generationConfig",
    "generation_config",
    "inferenceConfig",
    "textGenerationConfig",
    "options",
    "request",
    "n",
    "best_of",
];
/// Where the objects among them say how much output is allowed.
const OUTPUT_CAPS: &[&str] =
    &["/maxOutputTokens", "/max_output_tokens", "/maxTokens", "/max_new_tokens", "/maxTokenCount", "/num_predict"];
/// Longest model name kept, in characters; a longer one is cut.
const MODEL_CHARS_MAX: usize = 128;
/// Most bytes a compressed prefix is decoded to.
const DECODED_PREFIX_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The request spends tokens.
    pub is_metered: bool,
    /// No table names its path: it passes unmetered, and nobody knows whether it spends.
    pub is_unknown: bool,
    /// How its response tells of them. `None` on a metered request: no response ever does (a batch, an agent session), so
    /// nothing can be settled; see [`Ask::is_meterable`].
    pub dialect: Option<Dialect>,
    /// The model it names.
    pub model: Option<String>,
    /// Whose tokenizer counts.
    pub(super) family: Family,
    /// Conservative estimate of the input.
    pub input_estimate: Tokens,
    /// The most output it allows (`max_tokens`), or what is assumed when no cap was seen.
    pub output_cap: Tokens,
    /// It asks for an event stream. Decides nothing: the response says what it is.
    pub is_streaming: bool,
    /// Whether a chat completion to be streamed asks for its usage: unless somebody does in its place
    /// ([`super::ask_for_usage`]), many servers will report none.
    pub usage_asked: UsageAsked,
}

impl Ask {
    /// What it spends can be known from its response. A metered request for which this is false must be refused
    /// (`not_meterable`): forwarded, it would work on unseen after its answer.
    #[must_use]
    pub fn is_meterable(&self) -> bool {
        !self.is_metered || self.dialect.is_some()
    }

    /// A request that spends no tokens.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            is_metered: false,
            is_unknown: false,
            dialect: None,
            model: None,
            family: Family::Unknown,
            input_estimate: Tokens::ZERO,
            output_cap: Tokens::ZERO,
            is_streaming: false,
            usage_asked: UsageAsked::default(),
        }
    }

    /// A request that left no trace but its response, in this dialect: for one that was saved.
    #[must_use]
    pub fn unseen(dialect: Dialect) -> Self {
        let output_cap = if dialect.has_output() { OUTPUT_TOKENS_ASSUMED } else { Tokens::ZERO };
        let family = match dialect {
            Dialect::AnthropicMessages => Family::Claude,
            Dialect::OpenAiResponses => Family::OpenAi,
            Dialect::Gemini => Family::Gemini,
            Dialect::OpenAiChat | Dialect::OpenAiEmbeddings | Dialect::Bedrock | Dialect::Ollama => Family::Unknown,
        };
        Self { is_metered: true, dialect: Some(dialect), family, output_cap, ..Self::free() }
    }

    fn free() -> Self {
        Self {
            is_metered: false,
            is_unknown: false,
            dialect: None,
            model: None,
            family: Family::default(),
            input_estimate: Tokens::ZERO,
            output_cap: Tokens::ZERO,
            is_streaming: false,
            usage_asked: UsageAsked::Yes,
        }
    }
}

/// The dialect that responses to `POST path` are in, on whichever host that means something.
#[must_use]
pub fn dialect_of_path(path: &str) -> Option<Dialect> {
    Api::ALL.into_iter().find_map(|api| match target(api, "POST", path).surface {
        Surface::Metered(dialect) => Some(dialect),
        Surface::Free | Surface::Blind | Surface::Unknown => None,
    })
}

/// Reads a request to a host that speaks `api`. `path` is without query; `body_prefix` the first bytes of the body as sent, cut anywhere (gzip and zstd
/// are recognised); `body_bytes` its whole length, if known. A longer prefix makes better estimates; 1 MiB is ample.
#[must_use]
pub fn ask(api: Api, method: &str, path: &str, body_prefix: &[u8], body_bytes: Option<u64>) -> Ask {
    let target = target(api, method, path);
    let dialect = match target.surface {
        Surface::Free => return Ask::free(),
        Surface::Unknown => return Ask { is_unknown: true, ..Ask::free() },
        Surface::Blind => None,
        Surface::Metered(dialect) => Some(dialect),
    };
    let prefix = Prefix::read(body_prefix, dialect);
    // What works in the background tells its usage to whoever asks later, which may be nobody.
    let dialect = dialect.filter(|dialect| !(prefix.is_in_background && *dialect == Dialect::OpenAiResponses));
    let sent = body_prefix.len() as u64;
    let unseen_sent = body_bytes.unwrap_or(sent).saturating_sub(sent);
    // What was not looked at is taken to expand as what was.
    let unseen = unseen_sent.saturating_mul(prefix.bytes.div_ceil(sent.max(1)).max(1));
    let model = prefix.model.or(target.model);
    let family = Family::of(api, model.as_deref());
    Ask {
        is_metered: true,
        is_unknown: false,
        dialect,
        model,
        family,
        input_estimate: prefix.input.tokens(family, unseen),
        output_cap: match dialect {
            Some(dialect) if !dialect.has_output() => Tokens::ZERO,
            _ => Tokens(prefix.output_cap.unwrap_or(OUTPUT_TOKENS_ASSUMED).0.saturating_mul(prefix.choices.max(1))),
        },
        is_streaming: prefix.is_streaming,
        usage_asked: match dialect {
            Some(Dialect::OpenAiChat) if prefix.is_streaming => prefix.usage_asked,
            _ => UsageAsked::Yes,
        },
    }
}

/// Keys that say how much output a request in this dialect allows, and of how many answers. A server passes over what it
/// does not know, so that a key of another dialect would promise what nobody keeps.
fn output_keys(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::AnthropicMessages => &["max_tokens"],
        Dialect::OpenAiChat => &["max_tokens", "max_completion_tokens", "n", "best_of"],
        Dialect::OpenAiEmbeddings => &[],
        Dialect::OpenAiResponses => &["max_output_tokens"],
        // The request of Code Assist holds Gemini's.
        Dialect::Gemini => &["generationConfig", "generation_config", "request"],
        // Each maker's models have their own under `invoke`.
        Dialect::Bedrock => &[
            "inferenceConfig",
            "textGenerationConfig",
            "max_tokens",
            "max_completion_tokens",
            "max_gen_len",
            "max_tokens_to_sample",
            "maxTokens",
        ],
        Dialect::Ollama => &["options"],
    }
}

/// What the first bytes of a body say.
#[derive(Debug)]
struct Prefix {
    output_keys: &'static [&'static str],
    object: TopLevel,
    input: Input,
    bytes: u64,
    model: Option<String>,
    output_cap: Option<Tokens>,
    choices: u64,
    is_streaming: bool,
    is_in_background: bool,
    usage_asked: UsageAsked,
}

impl Default for Prefix {
    fn default() -> Self {
        Self {
            output_keys: &[],
            object: TopLevel::new(KEYS),
            input: Input::default(),
            bytes: 0,
            model: None,
            output_cap: None,
            choices: 0,
            is_streaming: false,
            is_in_background: false,
            usage_asked: UsageAsked::Unsaid,
        }
    }
}

impl Prefix {
    fn read(bytes: &[u8], dialect: Option<Dialect>) -> Self {
        let unread = Self { output_keys: dialect.map_or(&[], output_keys), ..Self::default() };
        let Some(mut pipe) = Pipe::new(None, unread) else { return Self::default() };
        // A body cut inside its encoding, or larger than the limit, says what it said so far.
        let _ = pipe.write_all(bytes).and_then(|()| pipe.finish());
        std::mem::take(pipe.writer_mut())
    }

    /// A key may stand there twice, and the provider may take either: the model is the last, else the one that costs more.
    fn field(&mut self, key: &str, value: &[u8]) {
        match key {
            "model" => self.model = text(value).or(self.model.take()),
            "stream" => self.is_streaming = value == b"true",
            "background" => self.is_in_background |= value == b"true",
            "stream_options" => {
                let asks = object(value).get("include_usage") == Some(&Value::Bool(true));
                self.usage_asked = if asks { UsageAsked::Yes } else { UsageAsked::Declined };
            }
            key if self.output_keys.contains(&key) => self.output(key, value),
            _ => {}
        }
    }

    fn output(&mut self, key: &str, value: &[u8]) {
        match key {
            "n" | "best_of" => self.choices = number(value).map_or(0, |choices| choices.0).max(self.choices),
            "request" => TopLevel::new(&["generationConfig"]).push(value, &mut |key, value| self.output(key, value)),
            "generationConfig" | "generation_config" | "inferenceConfig" | "textGenerationConfig" | "options" => {
                let object = object(value);
                self.output_cap = count(&object, OUTPUT_CAPS).map(Tokens).max(self.output_cap);
                self.choices = count(&object, &["/candidateCount"]).unwrap_or(0).max(self.choices);
            }
            _ => self.output_cap = number(value).max(self.output_cap),
        }
    }
}

impl Write for Prefix {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let room = usize::try_from(DECODED_PREFIX_BYTES_MAX - self.bytes).unwrap_or(usize::MAX);
        let within = bytes.get(..room).unwrap_or(bytes);
        if within.is_empty() && !bytes.is_empty() {
            return Err(Error::from(ErrorKind::FileTooLarge));
        }
        self.bytes += within.len() as u64;
        self.input.push(within);
        let mut object = std::mem::take(&mut self.object);
        object.push(within, &mut |key, value| self.field(key, value));
        self.object = object;
        Ok(within.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

fn text(value: &[u8]) -> Option<String> {
    let text: String = serde_json::from_slice(value).ok()?;
    Some(text.chars().take(MODEL_CHARS_MAX).collect())
}

fn object(value: &[u8]) -> Value {
    parse(value).unwrap_or_default()
}

fn number(value: &[u8]) -> Option<Tokens> {
    serde_json::from_slice(value).ok().map(Tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str =
        r#"{"model":"claude-opus-4-8","messages":[{"role":"user","content":"hi"}],"max_tokens":300,"stream":true}"#;

    fn check(body: &[u8], body_bytes: Option<u64>, expected: (Option<&str>, u64, u64, bool)) {
        let ask = ask(Api::Anthropic, "POST", "/v1/messages", body, body_bytes);
        let found = (ask.model.as_deref(), ask.input_estimate.0, ask.output_cap.0, ask.is_streaming);
        assert_eq!(found, expected, "{}", String::from_utf8_lossy(body));
        assert!(ask.is_metered && ask.is_meterable());
    }

    #[test]
    fn a_request_is_read_as_far_as_it_is_there() {
        check(REQUEST.as_bytes(), None, (Some("claude-opus-4-8"), 16, 300, true));
        check(&REQUEST.as_bytes()[..40], Some(102), (Some("claude-opus-4-8"), 6 + 9, 128_000, false));
        check(br#"{"max_tokens":12"#, None, (None, 6, 128_000, false));
        check(br#"{"max_tokens":12,"max_tokens":900,"model":7}"#, None, (None, 6, 900, false));
        check(b"", None, (None, 0, 128_000, false));
        check(b"\xff\xfe\x00", None, (None, 1, 128_000, false));
    }

    #[test]
    fn a_compressed_request_is_read_too() {
        let body = zstd::bulk::compress(REQUEST.as_bytes(), 3).unwrap();
        check(&body, Some(body.len() as u64), (Some("claude-opus-4-8"), 16, 300, true));
        let bomb = zstd::bulk::compress(&vec![b' '; 64 << 20], 3).unwrap();
        let ask = ask(Api::Anthropic, "POST", "/v1/messages", &bomb, Some(bomb.len() as u64));
        assert!(ask.input_estimate <= Tokens(1_000_000), "{ask:?}");
    }

    #[test]
    fn a_prefix_longer_than_what_is_looked_at_says_what_it_says() {
        let long = format!("{{\"model\":\"m\",\"max_tokens\":7,\"x\":\"{}\"}}", "y ".repeat(4 << 20));
        let ask = ask(Api::Anthropic, "POST", "/v1/messages", long.as_bytes(), None);
        assert_eq!((ask.model.as_deref(), ask.output_cap), (Some("m"), Tokens(7)));
        assert!(ask.input_estimate >= Tokens(500_000), "{ask:?}");
    }

    #[test]
    fn what_cannot_be_metered_is_marked() {
        let batch = ask(Api::Anthropic, "POST", "/v1/messages/batches", b"{\"requests\":[]}", None);
        assert!(batch.is_metered && !batch.is_meterable());
        let free = ask(Api::Anthropic, "POST", "/v1/messages/count_tokens", REQUEST.as_bytes(), None);
        assert!(!free.is_metered && free.is_meterable());
        assert_eq!((free.input_estimate, free.is_unknown), (Tokens::ZERO, false));
        let unknown = ask(Api::Anthropic, "POST", "/v1/other", REQUEST.as_bytes(), None);
        assert_eq!(unknown, Ask { is_unknown: true, ..free });
    }

    fn asked(api: Api, path: &str, body: &str) -> Ask {
        ask(api, "POST", path, body.as_bytes(), None)
    }

    #[test]
    fn each_api_says_its_output_cap_in_its_own_way() {
        let chat = "/v1/chat/completions";
        for (api, path, body, expected) in [
            (Api::OpenAi, chat, r#"{"max_completion_tokens":70,"max_tokens":50}"#, 70),
            (Api::OpenAi, chat, r#"{"max_tokens":50,"n":4}"#, 200),
            (Api::OpenAi, chat, r#"{"n":0,"messages":[]}"#, 128_000),
            (Api::OpenAi, "/v1/responses", r#"{"max_output_tokens":60}"#, 60),
            (Api::OpenAi, "/v1/embeddings", r#"{"input":"a"}"#, 0),
            (Api::Gemini, "/v1/models/m:generateContent", r#"{"generationConfig":{"maxOutputTokens":40}}"#, 40),
            (Api::Bedrock, "/model/m/converse", r#"{"inferenceConfig":{"maxTokens":30}}"#, 30),
            (Api::Bedrock, "/model/m/invoke", r#"{"inferenceConfig":{"max_new_tokens":20}}"#, 20),
            (Api::Bedrock, "/model/m/invoke", r#"{"max_tokens":10}"#, 10),
            (Api::Bedrock, "/model/m/invoke", r#"{"textGenerationConfig":{"maxTokenCount":15}}"#, 15),
            (Api::Bedrock, "/model/m/invoke", r#"{"prompt":"a","max_gen_len":25}"#, 25),
            (Api::Ollama, "/api/chat", r#"{"options":{"seed":1,"num_predict":35}}"#, 35),
            (Api::Ollama, "/api/chat", r#"{"options":{"num_predict":-1}}"#, 128_000),
            (
                Api::CodeAssist,
                "/v1internal:generateContent",
                r#"{"model":"m","request":{"contents":[{"parts":[{"text":"{"}]}],"generationConfig":{"maxOutputTokens":45}}}"#,
                45,
            ),
            (
                Api::Gemini,
                "/v1/models/m:generateContent",
                r#"{"generationConfig":{"maxOutputTokens":5,"candidateCount":3}}"#,
                15,
            ),
            (Api::Gemini, "/v1beta/interactions", r#"{"generation_config":{"max_output_tokens":55}}"#, 55),
            (Api::OpenAiCompatible, "/v2/chat", r#"{"model":"command-a","max_tokens":65}"#, 65),
            (Api::OpenAi, "/v1/completions", r#"{"max_tokens":50,"best_of":2}"#, 100),
        ] {
            assert_eq!(asked(api, path, body).output_cap, Tokens(expected), "{path} {body}");
        }
    }

    #[test]
    fn a_cap_in_another_apis_words_is_none() {
        let everyone =
            r#"{"max_gen_len":1,"options":{"num_predict":1},"max_output_tokens":1,"inferenceConfig":{"maxTokens":1}}"#;
        assert_eq!(asked(Api::OpenAi, "/v1/chat/completions", everyone).output_cap, Tokens(128_000));
        assert_eq!(asked(Api::Anthropic, "/v1/messages", everyone).output_cap, Tokens(128_000));
        assert_eq!(asked(Api::OpenAi, "/v1/responses", everyone).output_cap, Tokens(1));
    }

    #[test]
    fn the_model_stands_in_the_body_or_in_the_path() {
        let gemini = asked(Api::Gemini, "/v1beta/models/gemini-x:streamGenerateContent", "{}");
        assert_eq!(gemini.model.as_deref(), Some("gemini-x"));
        let azure = asked(Api::Azure, "/openai/deployments/mine/chat/completions", r#"{"model":"gpt-x"}"#);
        assert_eq!(azure.model.as_deref(), Some("gpt-x"));
    }

    #[test]
    fn what_works_in_the_background_cannot_be_metered() {
        let body = r#"{"model":"m","background":true,"stream":true}"#;
        assert!(!asked(Api::OpenAi, "/v1/responses", body).is_meterable());
        assert!(asked(Api::OpenAi, "/v1/responses", r#"{"background":false}"#).is_meterable());
        assert!(asked(Api::OpenAi, "/v1/chat/completions", body).is_meterable());
    }

    #[test]
    fn a_streamed_chat_that_does_not_ask_for_usage_is_known() {
        use UsageAsked::{Declined, Unsaid, Yes};
        let check = |path, body, expected| assert_eq!(asked(Api::OpenAi, path, body).usage_asked, expected, "{body}");
        let chat = "/v1/chat/completions";
        check(chat, r#"{"stream":true}"#, Unsaid);
        check(chat, r#"{"stream":true,"stream_options":{}}"#, Declined);
        check(chat, r#"{"stream":true,"stream_options":{"include_usage":false}}"#, Declined);
        check(chat, r#"{"stream":true,"stream_options":null}"#, Declined);
        check(chat, r#"{"stream":true,"stream_options":{"include_usage":true}}"#, Yes);
        check(chat, r#"{"stream":false}"#, Yes);
        check("/v1/responses", r#"{"stream":true}"#, Yes);
    }
}
