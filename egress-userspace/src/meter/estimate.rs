//! How many tokens bytes stand for where the provider has not said. Constants carry their unit and their source.

use crate::domain::Tokens;

/// Request bytes per input token. Measured on current Claude tokenizers: prose 3.2, Markdown 2.9, Python 2.9, TypeScript
/// 2.6, Rust 2.3; older ones about 4. JSON syntax around the text is bytes without tokens, which evens out the low ones.
const INPUT_BYTES_PER_TOKEN: u64 = 3;

/// Bytes of base64 per input token of an image or document: a 100 kB picture (133 kB of base64) is billed about 1,600 to
/// 2,000 tokens, by its pixels.
const MEDIA_BYTES_PER_TOKEN: u64 = 64;

/// Most input the part of a body that was never looked at may add, in tokens: the usual context window. Without it a
/// few attached pictures, read as text, would refuse a request that costs little.
const UNSEEN_INPUT_TOKENS_MAX: u64 = 200_000;

/// Most input one request can be billed, in tokens: the largest context window on offer. More is refused by the provider.
const INPUT_TOKENS_MAX: u64 = 1_000_000;

/// Bytes of visible output per token, conservative: code and JSON run at 2 and prose at 3 or more.
const OUTPUT_BYTES_PER_TOKEN: u64 = 2;

/// Output assumed possible when the request's cap was not seen, in tokens: the largest `max_tokens` models accept.
pub(super) const OUTPUT_TOKENS_ASSUMED: Tokens = Tokens(128_000);

/// What is known of a request's body.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BodySize {
    /// Bytes looked at.
    pub(super) seen: u64,
    /// Of those, bytes in strings that read like base64.
    pub(super) media: u64,
    /// Bytes that were not looked at.
    pub(super) unseen: u64,
    /// The part not looked at begins inside such a string.
    pub(super) is_cut_in_media: bool,
}

/// Input a request will be billed, from the size of its body.
pub(super) fn input(body: BodySize) -> Tokens {
    let text = body.seen.saturating_sub(body.media).div_ceil(INPUT_BYTES_PER_TOKEN);
    let media = body.media.div_ceil(MEDIA_BYTES_PER_TOKEN);
    let unseen_rate = if body.is_cut_in_media { MEDIA_BYTES_PER_TOKEN } else { INPUT_BYTES_PER_TOKEN };
    let unseen = body.unseen.div_ceil(unseen_rate).min(UNSEEN_INPUT_TOKENS_MAX);
    Tokens(text.saturating_add(media).saturating_add(unseen).min(INPUT_TOKENS_MAX))
}

/// Output that visible bytes stand for.
pub(super) fn output(visible_bytes: u64) -> Tokens {
    Tokens(visible_bytes.div_ceil(OUTPUT_BYTES_PER_TOKEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: BodySize, expected: u64) {
        assert_eq!(input(body), Tokens(expected), "{body:?}");
    }

    #[test]
    fn input_is_neither_missed_nor_absurd() {
        check(BodySize::default(), 0);
        check(BodySize { seen: 1, ..BodySize::default() }, 1);
        check(BodySize { seen: 48_000, ..BodySize::default() }, 16_000);
        check(BodySize { seen: 134_000, media: 128_000, ..BodySize::default() }, 4_000);
        check(BodySize { seen: 3_000, unseen: 60_000_000, ..BodySize::default() }, 201_000);
        check(BodySize { seen: 3_000, unseen: 6_400_000, is_cut_in_media: true, ..BodySize::default() }, 101_000);
        check(BodySize { seen: u64::MAX, ..BodySize::default() }, INPUT_TOKENS_MAX);
    }

    #[test]
    fn output_is_rounded_up() {
        assert_eq!([0, 1, 2, 3].map(output), [0, 1, 1, 2].map(Tokens));
    }
}
