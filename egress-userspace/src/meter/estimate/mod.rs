//! How many tokens a request will be billed, before it is sent, and what bytes of output stand for where the provider has
//! not said. The numbers, where they come from and how far off they are: `docs/estimator.md`.
//!
//! Nobody sees what a model thinks in secret: of an answer that is cut off, only what was shown is estimated.

mod content;
mod family;
mod field;
mod sample;
#[cfg(test)]
mod tests;
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
