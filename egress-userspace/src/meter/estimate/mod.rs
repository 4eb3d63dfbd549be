//! How many tokens a request will be billed, before it is sent, and what bytes of output stand for where the provider has
//! not said. The numbers, where they come from and how far off they are: `docs/estimator.md`.
//!
//! Nobody sees what a model thinks in secret: of an answer that is cut off, only what was shown is estimated.

mod content;
mod family;
mod field;
mod sample;
mod vocabulary;

use crate::domain::Tokens;

use content::Content;

pub(super) use family::Family;
pub use vocabulary::prepare;

/// Most input the part of a body that was never looked at may add, in tokens: the usual context window. Without it a
/// few attached pictures, read as text, would refuse a request that costs little.
const UNSEEN_INPUT_TOKENS_MAX: u64 = 200_000;

/// Most input one request can be billed, in tokens: the largest context window on offer. More is refused by the provider.
const INPUT_TOKENS_MAX: u64 = 1_000_000;

/// Bytes per token of what cannot be read.
const OPAQUE_BYTES_PER_TOKEN: u64 = 3;

/// Output assumed possible when the request's cap was not seen, in tokens: the largest `max_tokens` models accept.
pub(super) const OUTPUT_TOKENS_ASSUMED: Tokens = Tokens(128_000);

/// A request's body as it is read for its estimate.
#[derive(Debug, Default)]
pub(super) struct Input {
    content: Content,
    bytes: u64,
}

impl Input {
    /// Takes more of the body, decoded.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.content.push(bytes);
    }

    /// Input the request will be billed by a model of this family. `unseen_bytes` of the body were not looked at: what is in
    /// them is taken to be as dense as what was.
    pub(super) fn tokens(mut self, family: Family, unseen_bytes: u64) -> Tokens {
        self.content.finish();
        let seen = self.seen(family);
        let unseen = u128::from(seen) * u128::from(unseen_bytes) / u128::from(self.bytes.max(1));
        let unseen = u64::try_from(unseen).unwrap_or(u64::MAX).min(UNSEEN_INPUT_TOKENS_MAX);
        Tokens(seen.saturating_add(unseen).min(INPUT_TOKENS_MAX))
    }

    fn seen(&self, family: Family) -> u64 {
        let (content, rates) = (&self.content, family.rates());
        if self.bytes == 0 {
            return 0;
        }
        if !content.is_json() {
            return self.bytes.div_ceil(OPAQUE_BYTES_PER_TOKEN);
        }
        let tools = if content.has_tools { rates.tools } else { 0 };
        [
            rates.text(content.text.features(rates.vocabulary)),
            rates.request,
            content.messages.saturating_mul(rates.message),
            tools,
            content.schema_words.saturating_mul(rates.schema_word),
            content.images.saturating_mul(rates.image),
            content.media_tokens,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(family: Family, body: &str, unseen_bytes: u64, expected: u64) {
        let mut input = Input::default();
        input.push(body.as_bytes());
        assert_eq!(input.tokens(family, unseen_bytes), Tokens(expected), "{family:?} {unseen_bytes} {}", body.len());
    }

    #[test]
    fn words_messages_tools_and_files_add_up() {
        check(Family::OpenAi, "", 0, 0);
        check(Family::OpenAi, "{}", 0, 4);
        let asked = r#"{"messages":[{"role":"user","content":"What is the capital of France?"}]}"#;
        // The provider said 14.
        check(Family::OpenAi, asked, 0, 4 + 6 + 7);
        check(Family::Claude, asked, 0, 6 + 6 + 14);
        let tool = r#"{"tools":[{"name":"now","input_schema":{}}]}"#;
        check(Family::OpenAi, tool, 0, 4 + 100 + 2 + 2);
        let picture = r#"{"messages":[{"role":"user","content":[{"image_url":{"url":"https://a.example/b.png"}}]}]}"#;
        check(Family::OpenAi, picture, 0, 4 + 6 + 2_000);
        check(Family::Claude, picture, 0, 6 + 6 + 5_000);
    }

    #[test]
    fn what_was_not_seen_is_as_dense_as_what_was() {
        let words = format!(r#"{{"system":"{}"}}"#, "word ".repeat(1000));
        let seen = 4 + 1001;
        check(Family::OpenAi, &words, 0, seen);
        check(Family::OpenAi, &words, 10 * words.len() as u64, 11 * seen);
        check(Family::OpenAi, &words, u64::MAX, seen + UNSEEN_INPUT_TOKENS_MAX);
        let endless = format!(r#"{{"system":"{}"}}"#, "word ".repeat(2_000_000));
        check(Family::OpenAi, &endless, 0, INPUT_TOKENS_MAX);
    }

    #[test]
    fn what_cannot_be_read_counts_by_its_bytes() {
        check(Family::Claude, &"\u{1}".repeat(3000), 0, 1000);
        check(Family::Claude, "no JSON", 7, 3 + 3);
    }
}
