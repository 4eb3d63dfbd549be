//! The names that APIs give to parts of a request, and what stands under them. Data, mostly.

/// Base64 bytes of a document per token: a page of 18 to 25 kB was billed 1,600 to 3,500 tokens, by several providers.
const DOCUMENT_BYTES_PER_TOKEN: u64 = 5;
/// Most tokens that one document may add: the usual context window. A picture in an unknown place must refuse nothing.
const DOCUMENT_TOKENS_MAX: u64 = 200_000;
/// Base64 bytes of sound or film per token: 70 kB of sound were billed 190 tokens, 835 kB of film 2,700.
const RECORDING_BYTES_PER_TOKEN: u64 = 128;
/// Bytes of a sealed thought or reasoning item per token.
const SEALED_BYTES_PER_TOKEN: u64 = 4;

/// What stands under a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Field {
    /// Nothing that the model reads.
    Label,
    /// Text, whatever it looks like.
    Words,
    /// A file in base64, or a URL that holds one.
    Payload,
    /// The same, or a link to one.
    Url,
    /// Reasoning that only the provider can read.
    Sealed,
    /// Parts of their own.
    Part,
    /// No word of an API's, such as an agent's parameter: text, or a file in base64 if it is long and looks like one.
    #[default]
    Foreign,
}

impl Field {
    /// What an API means by a key, if it is one of an API's.
    pub(super) fn of(key: &[u8]) -> Option<Self> {
        Some(match key {
            b"role" | b"type" | b"id" | b"model" | b"object" | b"status" | b"detail" | b"format" | b"ttl" | b"user"
            | b"tool_use_id" | b"tool_call_id" | b"call_id" | b"toolUseId" | b"media_type" | b"mime_type"
            | b"mimeType" | b"service_tier" | b"user_id" | b"safety_identifier" | b"prompt_cache_key"
            | b"anthropic_version" | b"effort" | b"display" | b"file_id" | b"finish_reason" | b"stop_reason"
            | b"session_id" => Self::Label,
            b"text" | b"content" | b"input" | b"output" | b"arguments" | b"instructions" | b"description"
            | b"system" | b"thinking" | b"reasoning" | b"reasoning_content" | b"prompt" | b"parts" | b"summary"
            | b"title" | b"name" | b"refusal" | b"result" | b"response" | b"context" => Self::Words,
            b"data" | b"bytes" | b"file_data" | b"b64_json" => Self::Payload,
            b"url" | b"image_url" | b"document_url" | b"file_url" | b"fileUri" | b"file_uri" | b"uri" => Self::Url,
            b"signature" | b"thoughtSignature" | b"thought_signature" | b"encrypted_content" | b"redactedContent" => {
                Self::Sealed
            }
            b"messages" | b"contents" | b"tools" | b"source" | b"cache_control" | b"tool_calls" | b"function"
            | b"functionCall" | b"functionResponse" | b"args" | b"inlineData" | b"inline_data" | b"fileData"
            | b"input_audio" | b"is_error" | b"toolUse" | b"toolResult" | b"image" | b"document" | b"file"
            | b"json" | b"s3Location" | b"video" | b"audio" | b"cachePoint" | b"citations" | b"annotations" => {
                Self::Part
            }
            _ => return None,
        })
    }

    /// Under this key a URL is one that the provider fetches, not one that is talked about.
    pub(super) fn holds_links(self) -> bool {
        matches!(self, Self::Url | Self::Label | Self::Part)
    }

    /// At the top: the list of tools.
    pub(super) fn is_tools(key: &[u8]) -> bool {
        matches!(key, b"tools" | b"toolConfig" | b"functions")
    }

    /// In that list: a word of JSON Schema or around it, of which providers make something shorter.
    pub(super) fn is_schema_word(key: &[u8]) -> bool {
        matches!(
            key,
            b"input_schema"
                | b"parameters"
                | b"inputSchema"
                | b"parametersJsonSchema"
                | b"type"
                | b"properties"
                | b"required"
                | b"additionalProperties"
                | b"items"
                | b"enum"
                | b"anyOf"
                | b"oneOf"
                | b"allOf"
                | b"$ref"
                | b"$defs"
                | b"$schema"
                | b"title"
                | b"default"
                | b"format"
                | b"description"
                | b"name"
                | b"function"
                | b"functionDeclarations"
                | b"toolSpec"
                | b"json"
                | b"strict"
                | b"tools"
                | b"minimum"
                | b"maximum"
                | b"cache_control"
        )
    }
}

/// What is not text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    /// A picture, which is billed by its pixels.
    Image,
    /// Pages, or a file of another kind.
    Document,
    /// Sound or film, which are billed by their length.
    Recording,
    /// A sealed thought.
    Sealed,
}

impl Media {
    /// What a `data:` URL says it is, or base64, of either alphabet, by its first bytes.
    pub(super) fn of(head: &[u8]) -> Self {
        let starts = |beginnings: &[&[u8]]| beginnings.iter().any(|beginning| head.starts_with(beginning));
        // PNG, JPEG, GIF; RIFF, which may be WebP.
        if starts(&[b"data:image/", b"iVBORw0KGgo", b"/9j/", b"_9j_", b"R0lGOD", b"UklGR"]) {
            return Self::Image;
        }
        // MP4 and its kin have their mark after a length.
        let is_film = starts(&[b"AAAA"]) && head.get(5..).is_some_and(|rest| rest.starts_with(b"GZ0eX"));
        // WebM, MP3 with and without a title, Ogg, FLAC.
        let is_recording = starts(&[b"GkXfo", b"SUQz", b"//", b"__", b"T2dnUw", b"ZkxhQw"]);
        if is_film || is_recording || starts(&[b"data:audio/", b"data:video/"]) {
            return Self::Recording;
        }
        Self::Document
    }

    /// Tokens of so many bytes; pictures count by the piece.
    pub(super) fn tokens(self, bytes: u64) -> u64 {
        match self {
            Self::Image => 0,
            Self::Document => bytes.div_ceil(DOCUMENT_BYTES_PER_TOKEN).min(DOCUMENT_TOKENS_MAX),
            Self::Recording => bytes.div_ceil(RECORDING_BYTES_PER_TOKEN),
            Self::Sealed => bytes.div_ceil(SEALED_BYTES_PER_TOKEN),
        }
    }
}
