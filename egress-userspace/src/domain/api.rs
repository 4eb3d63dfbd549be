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
    OpenRouter,
    /// A server with OpenAI's paths below any prefix: Mistral, Groq, xAI, DeepSeek, vLLM and many more.
    #[serde(rename = "openai_compatible")]
    OpenAiCompatible,
    /// Ollama, native and compatible paths.
    Ollama,
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
}
