//! Families of models by their tokenizers, and what each makes of text.
//!
//! OpenAI's vocabularies are public: its text is counted. The others are told from that count by a few features of the
//! text. Where the numbers come from, and how far they are off: `docs/estimator.md`.

use crate::domain::{Api, Tokens};

use super::vocabulary::Vocabulary;

/// Models whose tokenizers are alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::meter) enum Family {
    /// GPT-4o, 4.1, 5 and later, o1 and later.
    OpenAi,
    /// Before them, and embeddings.
    OpenAiEarlier,
    /// Claude from Opus 4.7 on, and every Claude that is not known to be older.
    Claude,
    /// Claude 3 to 4.6.
    ClaudeEarlier,
    /// Gemini and Gemma.
    Gemini,
    /// Mistral's models.
    Mistral,
    /// Alibaba's models.
    Qwen,
    /// DeepSeek's models.
    DeepSeek,
    /// Open models whose vocabularies differ little from OpenAI's: gpt-oss, Llama, Kimi, GLM, MiniMax.
    Alike,
    /// Any other.
    #[default]
    Unknown,
}

/// What a family makes of a request. Chosen on the high side: of the samples measured, one in twenty costs more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// What text is counted with.
    pub(super) vocabulary: Vocabulary,
    /// Tokens per thousand of that vocabulary's.
    per_token: i64,
    /// And per thousand words or runs of capitals: some spell a capital as a token of its own.
    per_capital: i64,
    /// And per thousand digits: some spell each digit as a token, where OpenAI's take three.
    per_digit: i64,
    /// Tokens around every request.
    pub(super) request: u64,
    /// Tokens around every message.
    pub(super) message: u64,
    /// Tokens that a provider says of tools as soon as there are any.
    pub(super) tools: u64,
    /// And for each word of their schemas, such as `type` and `properties`.
    pub(super) schema_word: u64,
    /// Tokens of one picture, at most.
    pub(super) image: u64,
    /// Bytes of visible output per hundred tokens.
    output_bytes: u64,
}

/// What the numbers of [`Rates`] are multiplied with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features {
    pub(super) tokens: u64,
    pub(super) capitals: u64,
    pub(super) digits: u64,
}

impl Family {
    /// The family of a model by its name, whoever serves it.
    pub(in crate::meter) fn of_model(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        if has(&["claude"]) {
            return Some(claude(&name));
        }
        // Names that a provider's other names may hold come later: Groq serves `deepseek-r1-distill-llama`.
        let rows: [(&[&str], Self); 8] = [
            (&["gpt-oss"], Self::Alike),
            (&["gpt-4o", "gpt-4.", "gpt-5", "gpt-6", "codex", "chatgpt"], Self::OpenAi),
            (&["gpt-4", "gpt-3", "text-embedding", "davinci", "babbage"], Self::OpenAiEarlier),
            (&["gemini", "gemma", "learnlm"], Self::Gemini),
            (&["mistral", "ministral", "magistral", "mixtral", "codestral", "devstral", "pixtral"], Self::Mistral),
            (&["deepseek"], Self::DeepSeek),
            (&["qwen", "qwq"], Self::Qwen),
            (&["llama", "kimi", "moonshot", "glm", "minimax"], Self::Alike),
        ];
        let found = rows.into_iter().find(|(parts, _)| has(parts)).map(|(_, family)| family);
        found.or_else(|| is_o_series(&name).then_some(Self::OpenAi))
    }

    /// The family of a request: by its model, else by whom it is sent to.
    pub(in crate::meter) fn of(api: Api, model: Option<&str>) -> Self {
        model.and_then(Self::of_model).unwrap_or(match api {
            Api::Anthropic => Self::Claude,
            Api::OpenAi | Api::ChatGpt | Api::Azure => Self::OpenAi,
            Api::Gemini | Api::CodeAssist => Self::Gemini,
            Api::Vertex | Api::Bedrock | Api::OpenRouter | Api::OpenAiCompatible | Api::Ollama => Self::Unknown,
        })
    }

    /// Tokens that so many bytes of visible output stand for.
    pub(in crate::meter) fn output(self, visible_bytes: u64) -> Tokens {
        Tokens(visible_bytes.saturating_mul(100).div_ceil(self.rates().output_bytes))
    }

    pub(super) fn rates(self) -> Rates {
        match self {
            Self::OpenAi => OPENAI,
            Self::OpenAiEarlier => Rates { vocabulary: Vocabulary::Cl100k, ..OPENAI },
            Self::Claude => CLAUDE,
            Self::ClaudeEarlier => CLAUDE_EARLIER,
            Self::Gemini => GEMINI,
            Self::Mistral => MISTRAL,
            Self::Qwen => Rates { per_token: 1014, per_digit: 474, ..MISTRAL },
            Self::DeepSeek => {
                Rates { per_token: 1142, per_digit: 0, request: 10, tools: 380, output_bytes: 230, ..MISTRAL }
            }
            Self::Alike => {
                Rates { per_token: 1040, per_digit: 60, request: 40, tools: 700, output_bytes: 240, ..MISTRAL }
            }
            Self::Unknown => UNKNOWN,
        }
    }
}

impl Rates {
    /// Tokens of text with these features.
    pub(super) fn text(self, features: Features) -> u64 {
        let part = |count: u64, rate: i64| i128::from(count) * i128::from(rate);
        let thousandths = part(features.tokens, self.per_token)
            + part(features.capitals, self.per_capital)
            + part(features.digits, self.per_digit);
        u64::try_from(thousandths.max(0).unsigned_abs().div_ceil(1000)).unwrap_or(u64::MAX)
    }
}

const OPENAI: Rates = Rates {
    vocabulary: Vocabulary::O200k,
    per_token: 1000,
    per_capital: 0,
    per_digit: 0,
    request: 4,
    message: 6,
    tools: 100,
    schema_word: 1,
    image: 2_000,
    output_bytes: 240,
};

const CLAUDE: Rates = Rates {
    per_token: 1715,
    per_capital: 884,
    per_digit: -447,
    request: 6,
    tools: 550,
    schema_word: 5,
    image: 5_000,
    output_bytes: 170,
    ..OPENAI
};

const CLAUDE_EARLIER: Rates = Rates {
    per_token: 1337,
    per_capital: 433,
    per_digit: -150,
    request: 7,
    tools: 650,
    schema_word: 4,
    image: 2_000,
    output_bytes: 200,
    ..CLAUDE
};

const GEMINI: Rates = Rates { per_token: 1295, per_digit: 382, message: 0, output_bytes: 190, ..OPENAI };

const MISTRAL: Rates = Rates { per_token: 1087, per_digit: 433, request: 10, tools: 60, output_bytes: 200, ..OPENAI };

/// The dearest of what is known, but for Claude.
const UNKNOWN: Rates =
    Rates { per_token: 1300, per_digit: 450, request: 85, tools: 900, image: 2_500, output_bytes: 170, ..OPENAI };

/// `claude-opus-4-8`, `claude-3-5-haiku-20241022`, `anthropic/claude-sonnet-4.6`: the first number is the version, a
/// short second one its minor; dates are long.
fn claude(name: &str) -> Family {
    let after = name.split_once("claude").map_or("", |(_, after)| after);
    let mut numbers = after.split(|character: char| !character.is_ascii_digit()).filter(|part| !part.is_empty());
    let short = |part: &str| (part.len() <= 2).then(|| part.parse::<u32>().ok()).flatten();
    let Some(major) = numbers.next().and_then(short) else { return Family::Claude };
    let minor = numbers.next().and_then(short).unwrap_or(0);
    if (major, minor) < (4, 7) { Family::ClaudeEarlier } else { Family::Claude }
}

/// `o1`, `o3-mini`, `openai/o4-mini`.
fn is_o_series(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name);
    name.strip_prefix('o').is_some_and(|rest| rest.starts_with(|character: char| character.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(model: &str, expected: Option<Family>) {
        assert_eq!(Family::of_model(model), expected, "{model}");
    }

    #[test]
    fn a_claude_is_told_by_its_version() {
        for earlier in [
            "claude-3-5-haiku-20241022",
            "claude-3-opus-20240229",
            "claude-sonnet-4-20250514",
            "claude-opus-4-1-20250805",
            "anthropic/claude-sonnet-4.6",
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "anthropic.claude-v2:1",
            "claude-opus-4@20250514",
        ] {
            check(earlier, Some(Family::ClaudeEarlier));
        }
        for current in
            ["claude-opus-4-7", "claude-opus-4.8", "claude-fable-5", "Claude-Sonnet-5", "claude-opus-10-1", "claude-x"]
        {
            check(current, Some(Family::Claude));
        }
    }

    #[test]
    fn others_are_told_by_their_names() {
        for (model, family) in [
            ("gpt-4o-mini", Family::OpenAi),
            ("gpt-4.1-nano", Family::OpenAi),
            ("openai/gpt-5.6-sol", Family::OpenAi),
            ("o3-mini", Family::OpenAi),
            ("openai/gpt-oss-120b", Family::Alike),
            ("gpt-5.1-codex", Family::OpenAi),
            ("gpt-4-turbo", Family::OpenAiEarlier),
            ("gpt-3.5-turbo", Family::OpenAiEarlier),
            ("text-embedding-3-small", Family::OpenAiEarlier),
            ("gemini-2.5-flash", Family::Gemini),
            ("mistral-large-latest", Family::Mistral),
            ("deepseek-r1-distill-llama-70b", Family::DeepSeek),
            ("Qwen/Qwen2.5-VL-72B-Instruct", Family::Qwen),
            ("moonshotai/kimi-k2", Family::Alike),
        ] {
            check(model, Some(family));
        }
        for unknown in ["grok-4", "us.amazon.nova-pro-v1:0", "my-deployment", "", "omni"] {
            check(unknown, None);
        }
    }

    #[test]
    fn a_name_that_says_nothing_leaves_it_to_the_host() {
        assert_eq!(Family::of(Api::Azure, Some("my-deployment")), Family::OpenAi);
        assert_eq!(Family::of(Api::Anthropic, None), Family::Claude);
        assert_eq!(Family::of(Api::OpenRouter, Some("anthropic/claude-3-haiku")), Family::ClaudeEarlier);
        assert_eq!(Family::of(Api::Bedrock, Some("amazon.nova-lite")), Family::Unknown);
    }

    #[test]
    fn features_are_weighed_and_rounded_up() {
        let features = Features { tokens: 1000, capitals: 100, digits: 10 };
        assert_eq!(Family::OpenAi.rates().text(features), 1000);
        assert_eq!(Family::Claude.rates().text(features), 1715 + 88 - 4);
        assert_eq!(Family::Claude.rates().text(Features { digits: 5, ..Features::default() }), 0);
        assert_eq!(Family::Qwen.rates().text(Features { tokens: 1, ..Features::default() }), 2);
        assert_eq!(Family::Claude.rates().text(Features { tokens: u64::MAX, ..features }), u64::MAX);
    }

    #[test]
    fn output_is_told_from_bytes_and_rounded_up() {
        assert_eq!([0, 1, 170, 171].map(|bytes| Family::Claude.output(bytes)), [0, 1, 100, 101].map(Tokens));
        assert_eq!(Family::OpenAi.output(u64::MAX), Tokens(u64::MAX.div_ceil(240)));
    }
}
