//! The families of provider APIs: what the same path means depends on who is asked.

use serde::{Deserialize, Serialize};

/// Whose API a host speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// Anthropic's own, wherever it is hosted under its own paths.
    Anthropic,
    /// api.openai.com.
    #[serde(rename = "openai")]
    OpenAi,
    /// What Codex talks to when it is logged in to ChatGPT.
    #[serde(rename = "chatgpt")]
    ChatGpt,
    /// Google's Gemini API.
    Gemini,
    /// What the Gemini CLI talks to when it is logged in with Google: Gemini answers in an envelope.
    CodeAssist,
    /// Google Cloud: Gemini, Claude and others.
    Vertex,
    /// OpenAI's and others' models on Azure.
    Azure,
    /// Amazon Bedrock, native and its compatible endpoints.
    Bedrock,
    /// OpenRouter, which speaks several dialects.
    #[serde(rename = "openrouter")]
    OpenRouter,
    /// A server with OpenAI's paths below any prefix: Mistral, Groq, xAI, DeepSeek, vLLM and many more.
    #[serde(rename = "openai_compatible")]
    OpenAiCompatible,
    /// Ollama, native and compatible paths.
    Ollama,
}

/// Whether a streamed chat completion tells what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamUsage {
    /// In any case. Such a server may refuse `stream_options` as an unknown field.
    Told,
    /// When the request says `stream_options.include_usage`.
    OnRequest,
}

impl Api {
    /// Every family.
    pub const ALL: [Self; 11] = [
        Self::Anthropic,
        Self::OpenAi,
        Self::ChatGpt,
        Self::Gemini,
        Self::CodeAssist,
        Self::Vertex,
        Self::Azure,
        Self::Bedrock,
        Self::OpenRouter,
        Self::OpenAiCompatible,
        Self::Ollama,
    ];
    /// As it is called in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::OpenAi => "openai",
            Self::ChatGpt => "chatgpt",
            Self::Gemini => "gemini",
            Self::CodeAssist => "code_assist",
            Self::Vertex => "vertex",
            Self::Azure => "azure",
            Self::Bedrock => "bedrock",
            Self::OpenRouter => "openrouter",
            Self::OpenAiCompatible => "openai_compatible",
            Self::Ollama => "ollama",
        }
    }

    /// What its servers do about the usage of a streamed chat completion, unless something is known of one.
    #[must_use]
    pub fn stream_usage(self) -> StreamUsage {
        match self {
            Self::OpenRouter | Self::ChatGpt | Self::CodeAssist => StreamUsage::Told,
            Self::Anthropic
            | Self::OpenAi
            | Self::Gemini
            | Self::Vertex
            | Self::Azure
            | Self::Bedrock
            | Self::OpenAiCompatible
            | Self::Ollama => StreamUsage::OnRequest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_settings_are_the_wires() {
        for api in Api::ALL {
            assert_eq!(serde_json::to_value(api).unwrap(), api.as_str());
        }
    }
}
