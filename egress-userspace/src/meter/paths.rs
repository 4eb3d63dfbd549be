//! What `POST` targets do, by family of API. Data only.
//!
//! In a pattern `*` stands for any characters, slashes too, and `/**` at the end for the path itself and all below it. The first
//! row that matches decides; what no row names is free: telemetry, settings, files, counting tokens.
//!
//! Blind is what spends tokens that no answer to it ever reports, or reports in a dialect nobody reads here: batches run
//! after their request is answered, sessions and agents work on between requests, pictures and sound are billed by other
//! units. What is not known below a path that spends is taken to spend.

use crate::domain::Api;

use super::surface::Dialect::{
    AnthropicMessages, Bedrock, Gemini, Ollama, OpenAiChat, OpenAiEmbeddings, OpenAiResponses,
};
use super::surface::Surface::{self, Blind, Free, Metered};

/// A pattern and what its paths do.
pub(super) type Row = (&'static str, Surface);

/// The tables of a family, the first to be asked first.
pub(super) fn tables(api: Api) -> &'static [&'static [Row]] {
    match api {
        Api::Anthropic => &[ANTHROPIC],
        Api::OpenAi => &[OPENAI],
        Api::ChatGpt => &[CHATGPT],
        Api::Gemini | Api::CodeAssist | Api::Vertex => &[GOOGLE],
        Api::Azure => &[AZURE],
        Api::Bedrock => &[BEDROCK, COMPATIBLE],
        Api::OpenRouter | Api::OpenAiCompatible => &[COMPATIBLE],
        Api::Ollama => &[OLLAMA, COMPATIBLE],
    }
}

const ANTHROPIC: &[Row] = &[
    ("/v1/messages", Metered(AnthropicMessages)),
    ("/v1/messages/count_tokens", Free),
    ("/v1/messages/batches", Blind),
    ("/v1/messages/batches/**", Free),
    ("/v1/messages/**", Blind),
    ("/v1/complete", Blind),
    ("/v1/chat/completions", Metered(OpenAiChat)),
    ("/v1/agents/**", Blind),
    ("/v1/sessions/**", Blind),
    ("/v1/dreams/**", Blind),
];

const OPENAI: &[Row] = &[
    ("/v1/chat/completions", Metered(OpenAiChat)),
    ("/v1/completions", Metered(OpenAiChat)),
    ("/v1/embeddings", Metered(OpenAiEmbeddings)),
    ("/v1/responses", Metered(OpenAiResponses)),
    ("/v1/responses/compact", Metered(OpenAiResponses)),
    ("/v1/responses/input_tokens", Free),
    ("/v1/responses/*/cancel", Free),
    ("/v1/responses/**", Blind),
    ("/v1/decisions", Metered(OpenAiResponses)),
    ("/v1/batches", Blind),
    ("/v1/batches/**", Free),
    ("/v1/images/**", Blind),
    ("/v1/videos/**", Blind),
    ("/v1/audio/**", Blind),
    ("/v1/realtime/**", Blind),
    ("/v1/live/**", Blind),
    ("/v1/threads/runs/**", Blind),
    ("/v1/threads/*/runs/**", Blind),
    ("/v1/engines/**", Blind),
    ("/v1/edits", Blind),
    ("/v1/fine_tuning/**", Blind),
    ("/v1/evals/**", Blind),
];

const CHATGPT: &[Row] = &[
    ("/backend-api/codex/responses", Metered(OpenAiResponses)),
    ("/backend-api/codex/responses/compact", Metered(OpenAiResponses)),
    ("/backend-api/codex/responses/**", Blind),
    ("/backend-api/conversation/**", Blind),
    ("/backend-api/f/conversation/**", Blind),
    ("/backend-api/wham/tasks/**", Blind),
];

/// Google's verbs stand after a colon. Its servers also take calls in the shape of gRPC and in batches.
const GOOGLE: &[Row] = &[
    ("*/publishers/anthropic/models/count-tokens:rawpredict", Free),
    ("*/publishers/anthropic/models/*:rawpredict", Metered(AnthropicMessages)),
    ("*/publishers/anthropic/models/*:streamrawpredict", Metered(AnthropicMessages)),
    ("*/publishers/mistralai/models/*:rawpredict", Metered(OpenAiChat)),
    ("*/publishers/mistralai/models/*:streamrawpredict", Metered(OpenAiChat)),
    ("*:generatecontent", Metered(Gemini)),
    ("*:streamgeneratecontent", Metered(Gemini)),
    ("*:embedcontent", Metered(Gemini)),
    ("*:counttokens", Free),
    ("/v*/interactions", Metered(Gemini)),
    ("/v*/interactions/*/cancel", Free),
    ("*/openai/chat/completions", Metered(OpenAiChat)),
    ("*/openapi/chat/completions", Metered(OpenAiChat)),
    ("*/openai/embeddings", Metered(OpenAiEmbeddings)),
    ("*/openai/**", Blind),
    ("*/openapi/**", Blind),
    ("*:*generate*", Blind),
    ("*:*embed*", Blind),
    ("*:*predict*", Blind),
    ("*:*query", Blind),
    ("*:*explain", Blind),
    ("*:*evaluate*", Blind),
    ("*:complete*", Blind),
    ("*:transform*", Blind),
    ("*/batchpredictionjobs", Blind),
    ("*/tuningjobs", Blind),
    ("/batch/**", Blind),
    ("/$rpc/**", Blind),
    ("/google.*", Blind),
];

const AZURE: &[Row] = &[
    ("/openai/deployments/*/chat/completions", Metered(OpenAiChat)),
    ("/openai/deployments/*/completions", Metered(OpenAiChat)),
    ("/openai/deployments/*/embeddings", Metered(OpenAiEmbeddings)),
    ("/openai/deployments/**", Blind),
    ("/openai/v1/chat/completions", Metered(OpenAiChat)),
    ("/openai/v1/completions", Metered(OpenAiChat)),
    ("/openai/v1/embeddings", Metered(OpenAiEmbeddings)),
    ("/openai*/responses", Metered(OpenAiResponses)),
    ("/openai*/responses/compact", Metered(OpenAiResponses)),
    ("/openai*/responses/input_tokens", Free),
    ("/openai*/responses/*/cancel", Free),
    ("/openai*/responses/**", Blind),
    ("/openai*/batches", Blind),
    ("/openai*/images/**", Blind),
    ("/openai*/audio/**", Blind),
    ("/openai*/videos/**", Blind),
    ("/openai*/video/**", Blind),
    ("/openai*/realtime/**", Blind),
    ("/openai*/fine_tuning/**", Blind),
    ("/openai*/evals/**", Blind),
    ("/openai*/runs/**", Blind),
    ("/models/chat/completions", Metered(OpenAiChat)),
    ("/models/embeddings", Metered(OpenAiEmbeddings)),
    ("/models/**", Blind),
    ("/anthropic/v1/messages", Metered(AnthropicMessages)),
    ("/anthropic/v1/messages/count_tokens", Free),
    ("/anthropic/**", Blind),
    ("/providers/**", Blind),
    ("/api/projects/**", Blind),
];

const BEDROCK: &[Row] = &[
    ("/model/*/converse", Metered(Bedrock)),
    ("/model/*/converse-stream", Metered(Bedrock)),
    ("/model/*/invoke", Metered(Bedrock)),
    ("/model/*/invoke-with-response-stream", Metered(Bedrock)),
    ("/model/*/count-tokens", Free),
    ("/model/**", Blind),
    ("/async-invoke/**", Blind),
    ("/model-invocation-job/**", Blind),
];

/// OpenAI's paths, and Anthropic's, below any prefix.
const COMPATIBLE: &[Row] = &[
    ("*/chat/completions", Metered(OpenAiChat)),
    // Cohere's own.
    ("*/v2/chat", Metered(OpenAiChat)),
    ("*/v1/chat", Blind),
    ("*/v2/embed", Blind),
    ("*/v1/embed", Blind),
    ("*/fim/completions", Metered(OpenAiChat)),
    ("*/agents/completions", Metered(OpenAiChat)),
    ("*/completions", Metered(OpenAiChat)),
    ("*/embeddings", Metered(OpenAiEmbeddings)),
    ("*/responses", Metered(OpenAiResponses)),
    ("*/responses/compact", Metered(OpenAiResponses)),
    ("*/responses/input_tokens", Free),
    ("*/responses/*/cancel", Free),
    ("*/responses/**", Blind),
    ("*/messages/count_tokens", Free),
    ("*/messages/batches/*/cancel", Free),
    ("*/v1/messages", Metered(AnthropicMessages)),
    ("*/v1/messages/**", Blind),
    ("*/v1/complete", Blind),
    ("*/batches", Blind),
    ("*/batch/jobs", Blind),
    ("*/deferred-completion/**", Blind),
    ("*/conversations/**", Blind),
    ("*/images/**", Blind),
    ("*/videos/**", Blind),
    ("*/audio/**", Blind),
    ("*/ocr", Blind),
    ("*/moderations", Blind),
    ("*/rerank", Blind),
    ("*/realtime/**", Blind),
    ("*/fine_tuning/**", Blind),
];

const OLLAMA: &[Row] = &[
    ("/api/chat", Metered(Ollama)),
    ("/api/generate", Metered(Ollama)),
    ("/api/embed", Metered(Ollama)),
    ("/api/embeddings", Blind),
];
