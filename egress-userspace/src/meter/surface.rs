//! Which requests spend tokens, and in which dialect their answers tell of it.

use std::borrow::Cow;

use thiserror::Error;

use crate::domain::Api;

use super::paths;

/// The shape in which a response reports usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Anthropic Messages: JSON or server-sent events.
    AnthropicMessages,
    /// OpenAI chat completions and legacy completions, of any server: JSON or server-sent events.
    OpenAiChat,
    /// OpenAI embeddings, of any server: JSON.
    OpenAiEmbeddings,
    /// OpenAI Responses: JSON or server-sent events.
    OpenAiResponses,
    /// Gemini, in Google's envelopes too: JSON, a JSON array in pieces, or server-sent events.
    Gemini,
    /// Amazon Bedrock, `converse` and `invoke`: JSON or AWS event stream.
    Bedrock,
    /// Ollama's own: JSON, one object a line.
    Ollama,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 7] = [
        Self::AnthropicMessages,
        Self::OpenAiChat,
        Self::OpenAiEmbeddings,
        Self::OpenAiResponses,
        Self::Gemini,
        Self::Bedrock,
        Self::Ollama,
    ];

    /// As it is called on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AnthropicMessages => "anthropic",
            Self::OpenAiChat => "openai_chat",
            Self::OpenAiEmbeddings => "openai_embeddings",
            Self::OpenAiResponses => "openai_responses",
            Self::Gemini => "gemini",
            Self::Bedrock => "bedrock",
            Self::Ollama => "ollama",
        }
    }

    /// Its responses hold words of the model's, not vectors only.
    pub(super) fn has_output(self) -> bool {
        self != Self::OpenAiEmbeddings
    }
}

/// Why a name is none of a dialect's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a dialect: known are {known}", known = Dialect::ALL.map(Dialect::as_str).join(", "))]
pub struct DialectError(String);

impl std::str::FromStr for Dialect {
    type Err = DialectError;
    fn from_str(text: &str) -> Result<Self, DialectError> {
        let name = text.replace('-', "_").to_ascii_lowercase();
        let found = Self::ALL.into_iter().find(|dialect| dialect.as_str() == name);
        found.ok_or_else(|| DialectError(text.to_owned()))
    }
}

/// What a request does to a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surface {
    /// Carries no usage.
    Free,
    /// Spends tokens and reports them.
    Metered(Dialect),
    /// Spends tokens that no response to it ever reports.
    Blind,
    /// In no table: nobody has said that it spends nothing.
    Unknown,
}

/// A request's target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// What it does to a budget.
    pub(super) surface: Surface,
    /// The model that its path names, in lower case.
    pub(super) model: Option<String>,
}

/// What a request to this path, query or not, is for.
pub(super) fn target(api: Api, method: &str, path: &str) -> Target {
    let path = normalised(path);
    // Google's servers may take another method from a header; a verb in the path is a call whatever the method.
    let has_verb = path.rsplit('/').next().is_some_and(|segment| segment.contains(':'));
    let is_post = method.eq_ignore_ascii_case("POST");
    if !is_post && !has_verb {
        return Target { surface: Surface::Free, model: None };
    }
    let rows = paths::tables(api).iter().copied().flatten();
    let row = rows.copied().find(|(pattern, _)| matches(pattern, &path));
    let unnamed = if is_post { Surface::Unknown } else { Surface::Free };
    let surface = row.map_or(unnamed, |(_, surface)| surface);
    Target { surface, model: model(&path).map(str::to_owned) }
}

/// Does the path follow the pattern? See [`paths`].
fn matches(pattern: &str, path: &str) -> bool {
    if let Some(base) = pattern.strip_suffix("/**") {
        return matches(base, path) || pieces_match(pattern.strip_suffix('*').unwrap_or(pattern), path);
    }
    pieces_match(pattern, path)
}

fn pieces_match(pattern: &str, path: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == path };
    let Some(mut path) = path.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*') {
        let Some((_, after)) = path.split_once(piece) else { return false };
        path = after;
    }
    path.ends_with(last)
}

/// The model in a path that names one: Gemini and Vertex, Bedrock, Azure.
fn model(path: &str) -> Option<&str> {
    if let Some((_, rest)) = path.split_once("/models/") {
        return rest.rsplit_once(':').map(|(model, _)| model);
    }
    if let Some((_, rest)) = path.split_once("/model/") {
        return rest.rsplit_once('/').map(|(model, _)| model);
    }
    path.split_once("/deployments/")?.1.split_once('/').map(|(model, _)| model)
}

/// The path as a lenient server might read it, so that `//V1/%6dessages/` cannot pass for something else: escapes decoded,
/// lower case, no empty or dot segments.
pub(super) fn normalised(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let decoded = percent_decoded(path);
    let text = String::from_utf8_lossy(&decoded).to_ascii_lowercase();
    let mut kept: Vec<&str> = Vec::new();
    for segment in text.split(['/', '\\']) {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    format!("/{}", kept.join("/"))
}

fn percent_decoded(path: &str) -> Cow<'_, [u8]> {
    if !path.contains('%') {
        return Cow::Borrowed(path.as_bytes());
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escape = (*first == b'%').then(|| tail.first_chunk::<2>()).flatten().and_then(|pair| hex(*pair));
        match escape {
            Some(byte) => {
                decoded.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(decoded)
}

fn hex(pair: [u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let [high, low] = pair;
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: Surface = Surface::Metered(Dialect::AnthropicMessages);
    const CHAT: Surface = Surface::Metered(Dialect::OpenAiChat);
    const RESPONSES: Surface = Surface::Metered(Dialect::OpenAiResponses);
    const GEMINI: Surface = Surface::Metered(Dialect::Gemini);
    const BEDROCK: Surface = Surface::Metered(Dialect::Bedrock);

    fn check(api: Api, path: &str, surface: Surface, model: Option<&str>) {
        let expected = Target { surface, model: model.map(str::to_owned) };
        assert_eq!(target(api, "POST", path), expected, "{api:?} {path}");
        let is_call = path.rsplit('/').next().unwrap().contains(':');
        let by_get = if is_call && surface != Surface::Unknown { surface } else { Surface::Free };
        assert_eq!(target(api, "GET", path).surface, by_get, "{api:?} {path}");
    }

    #[test]
    fn what_spends_is_known_by_its_path_however_it_is_spelt() {
        for path in
            ["/v1/messages", "/v1/messages/", "//v1/messages", "/v1/%6Dessages", "/v1/./messages", "/V1/Messages"]
        {
            check(Api::Anthropic, path, MESSAGES, None);
        }
        check(Api::Anthropic, "/v1/x/../messages", MESSAGES, None);
        check(Api::Anthropic, "/v1/messages?beta=true", MESSAGES, None);
        check(Api::Anthropic, "/v1/messages/new", Surface::Blind, None);
        check(Api::Anthropic, "/v1/messages/batches", Surface::Blind, None);
        check(Api::Anthropic, "/v1/complete", Surface::Blind, None);
        check(Api::Anthropic, "/v1/sessions/s1/events", Surface::Blind, None);
        for path in ["/v1/messages/count_tokens", "/v1/messages/batches/b1/cancel", "/api/event_logging/v2/batch"] {
            check(Api::Anthropic, path, Surface::Free, None);
        }
        for path in ["/v1/sessionsx", "/v1", "/", "", "/%", "/%zz/v1"] {
            check(Api::Anthropic, path, Surface::Unknown, None);
        }
    }

    #[test]
    fn the_same_path_means_what_its_host_means() {
        check(Api::OpenAi, "/v1/responses", RESPONSES, None);
        check(Api::Anthropic, "/v1/responses", Surface::Unknown, None);
        check(Api::OpenAi, "/v1/messages", Surface::Unknown, None);
        check(Api::OpenRouter, "/api/v1/messages", MESSAGES, None);
        check(Api::OpenRouter, "/api/v1/chat/completions", CHAT, None);
        check(Api::OpenAiCompatible, "/openai/v1/chat/completions", CHAT, None);
        check(Api::OpenAiCompatible, "/chat/completions", CHAT, None);
        check(Api::OpenAiCompatible, "/v1/fim/completions", CHAT, None);
        check(Api::OpenAi, "/v1/responses/resp_1/cancel", Surface::Free, None);
        check(Api::OpenAi, "/v1/responses/input_tokens", Surface::Free, None);
        check(Api::OpenAi, "/v1/responses/other", Surface::Blind, None);
        check(Api::OpenAi, "/v1/threads/t/runs", Surface::Blind, None);
        check(Api::ChatGpt, "/backend-api/codex/responses", RESPONSES, None);
        check(Api::ChatGpt, "/backend-api/conversation", Surface::Blind, None);
        check(Api::ChatGpt, "/backend-api/codex/analytics-events/events", Surface::Free, None);
        check(Api::Ollama, "/api/chat", Surface::Metered(Dialect::Ollama), None);
        check(Api::Ollama, "/v1/chat/completions", CHAT, None);
    }

    #[test]
    fn what_clients_send_beside_model_calls_is_known_to_be_free() {
        for (api, paths) in [
            (
                Api::Anthropic,
                &[
                    "/api/event_logging/v2/batch",
                    "/api/eval/sdk-x",
                    "/api/claude_code/metrics",
                    "/api/claude_code_penguin_mode",
                    "/api/claude_cli/bootstrap",
                    "/api/oauth/claude_cli/create_api_key",
                    "/mcp-registry/v0/servers",
                    "/v1/messages/count_tokens?beta=true",
                    "/v1/files",
                ][..],
            ),
            (Api::ChatGpt, &["/backend-api/codex/analytics-events/events", "/backend-api/ps/mcp"]),
            (Api::OpenAi, &["/v1/files", "/v1/threads", "/v1/threads/t/messages", "/v1/chat/completions/c1"]),
            (Api::CodeAssist, &["/v1internal:loadCodeAssist", "/v1internal:recordCodeAssistMetrics"]),
            (Api::Gemini, &["/upload/v1beta/files", "/v1beta/models/gemini-x:countTokens"]),
            (Api::Ollama, &["/api/show", "/api/pull"]),
        ] {
            for path in paths {
                assert_eq!(target(api, "POST", path).surface, Surface::Free, "{api:?} {path}");
            }
        }
        for (api, path) in [
            (Api::OpenAiCompatible, "/completion"),
            (Api::Gemini, "/v1beta/cachedContents"),
            (Api::CodeAssist, "/v1internal:thinkAloud"),
            (Api::ChatGpt, "/backend-api/other"),
            (Api::Anthropic, "/api/generate"),
        ] {
            assert_eq!(target(api, "POST", path).surface, Surface::Unknown, "{api:?} {path}");
        }
    }

    #[test]
    fn a_model_in_the_path_is_found() {
        let flash = Some("gemini-2.5-flash");
        check(Api::Gemini, "/v1beta/models/gemini-2.5-flash:generateContent", GEMINI, flash);
        check(Api::Gemini, "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", GEMINI, flash);
        check(Api::Gemini, "/v1beta/models/gemini-2.5-flash:countTokens", Surface::Free, flash);
        check(Api::Gemini, "/v1beta/models/gemini-2.5-flash:batchGenerateContent", Surface::Blind, flash);
        check(Api::Gemini, "/v1beta/openai/chat/completions", CHAT, None);
        check(Api::Gemini, "/$rpc/google.ai.generativelanguage.v1.Service/GenerateContent", Surface::Blind, None);
        check(Api::CodeAssist, "/v1internal:streamGenerateContent?alt=sse", GEMINI, None);
        check(Api::CodeAssist, "/v1internal:loadCodeAssist", Surface::Free, None);
        let claude = "/v1/projects/p/locations/l/publishers/anthropic/models/claude-x@1";
        check(Api::Vertex, &format!("{claude}:streamRawPredict"), MESSAGES, Some("claude-x@1"));
        check(Api::Bedrock, "/model/anthropic.claude-x-v1%3A0/invoke", BEDROCK, Some("anthropic.claude-x-v1:0"));
        let profile = "/model/arn%3Aaws%3Abedrock%3Aeu%3A1%3Ainference-profile%2Feu.amazon.nova/converse-stream";
        check(Api::Bedrock, profile, BEDROCK, Some("arn:aws:bedrock:eu:1:inference-profile/eu.amazon.nova"));
        check(Api::Bedrock, "/model/m/count-tokens", Surface::Free, Some("m"));
        check(Api::Bedrock, "/model/m/other", Surface::Blind, Some("m"));
        check(Api::Bedrock, "/anthropic/v1/messages", MESSAGES, None);
        check(Api::Azure, "/openai/deployments/mine/chat/completions?api-version=1", CHAT, Some("mine"));
        check(Api::Azure, "/openai/deployments/mine/audio/speech", Surface::Blind, Some("mine"));
        check(Api::Azure, "/openai/v1/responses", RESPONSES, None);
    }

    #[test]
    fn patterns_match_as_they_are_read() {
        for (pattern, path, expected) in [
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("/a/**", "/a", true),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/ab", false),
            ("*/a/**", "/x/a", true),
            ("*/a/**", "/x/a/b", true),
            ("*/a/**", "/x/ab", false),
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a/c", false),
            ("*:*x*", "/y:wxz", true),
            ("*:*x*", "/x:y", false),
            ("/a*/a", "/a", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }
}
