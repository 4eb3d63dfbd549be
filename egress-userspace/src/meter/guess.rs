//! The dialect of a saved response that nobody has named, from its first bytes.

use std::io::{Error, ErrorKind, Result, Write};

use memchr::memmem;

use super::decode::Pipe;
use super::surface::Dialect;

/// Bytes looked at, decoded.
const GUESS_BYTES_MAX: usize = 64 * 1024;

/// What stands in each dialect and in none before it, without white space.
const MARKS: [(&[u8], Dialect); 20] = [
    (b"\"object\":\"chat.completion", Dialect::OpenAiChat),
    (b"\"object\":\"text_completion", Dialect::OpenAiChat),
    (b"\"object\":\"embedding\"", Dialect::OpenAiEmbeddings),
    (b"\"object\":\"response", Dialect::OpenAiResponses),
    (b"\"type\":\"response.", Dialect::OpenAiResponses),
    (b"\"type\":\"message_start\"", Dialect::AnthropicMessages),
    (b"\"type\":\"message\",\"role\"", Dialect::AnthropicMessages),
    (b"\"cache_creation_input_tokens\"", Dialect::AnthropicMessages),
    (b"\"usageMetadata\"", Dialect::Gemini),
    (b"\"candidates\"", Dialect::Gemini),
    (b"\"total_input_tokens\"", Dialect::Gemini),
    (b"\"stopReason\"", Dialect::Bedrock),
    (b"\"inputTokens\"", Dialect::Bedrock),
    (b"\"inputTextTokenCount\"", Dialect::Bedrock),
    (b"\"generation_token_count\"", Dialect::Bedrock),
    (b"\"eval_count\"", Dialect::Ollama),
    (b"\"done\":", Dialect::Ollama),
    (b"\"choices\"", Dialect::OpenAiChat),
    (b"\"prompt_tokens\"", Dialect::OpenAiChat),
    (b"\"input_tokens\"", Dialect::AnthropicMessages),
];

/// The dialect a response seems to be in.
#[must_use]
pub fn guess(content_encoding: Option<&str>, body: &[u8]) -> Option<Dialect> {
    let mut pipe = Pipe::new(content_encoding, Prefix::default())?;
    // What could be decoded before the limit, or before something broke, is enough.
    let _ = pipe.write_all(body).and_then(|()| pipe.finish());
    let text = &pipe.writer().bytes;
    if text.first() == Some(&0) {
        return Some(Dialect::Bedrock);
    }
    MARKS.iter().find(|(mark, _)| memmem::find(text, mark).is_some()).map(|(_, dialect)| *dialect)
}

/// The first bytes without white space.
#[derive(Debug, Default)]
struct Prefix {
    bytes: Vec<u8>,
}

impl Write for Prefix {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let room = GUESS_BYTES_MAX.saturating_sub(self.bytes.len());
        if room == 0 {
            return Err(Error::from(ErrorKind::FileTooLarge));
        }
        self.bytes.extend(bytes.iter().filter(|byte| !byte.is_ascii_whitespace()).take(room));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
