//! A name that speaks of a secret, and what is assigned to it: `api_key = "…"`, `"password": "…"`, `TOKEN=…`, `Bearer …`.
//!
//! The value must look drawn by lot. Names of variables, calls, placeholders, versions and counts are what sources are full of.

use super::place::{Letters, Place, Verdict};

/// Words that names of secrets hold.
pub(super) const KEY_WORDS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "api-key",
    "apikey",
    "access_key",
    "access-key",
    "accesskey",
    "auth_key",
    "authkey",
    "private_key",
    "privatekey",
    "signing_key",
    "encryption_key",
    "bearer ",
];
/// Words that names of AWS's secret keys hold.
pub(super) const AWS_WORDS: &[&str] = &["secret_access_key", "secretaccesskey", "secret-access-key", "aws_secret_key"];

/// Most bytes of a name after its key word.
const NAME_BYTES_MAX: usize = 32;
/// Most bytes between a name and its value.
const BETWEEN_BYTES_MAX: usize = 16;
/// Shortest value, in bytes.
const VALUE_BYTES_MIN: usize = 16;
/// Longest.
const VALUE_BYTES_MAX: usize = 512;
/// Least entropy of a value, in bits for each of its letters (Shannon's, of the letters as they occur in it).
const BITS_MIN: f64 = 3.3;
/// The same of hexadecimal digits, which have four at most.
const HEX_BITS_MIN: f64 = 2.8;
/// How often letters and digits must take turns in what is not hexadecimal.
const TURNS_MIN: usize = 3;
/// Letters of a secret key of AWS's (docs.aws.amazon.com/IAM).
const AWS_SECRET_BYTES: usize = 40;

/// Is something assigned here, to a name with a key word of so many bytes, that looks like a secret?
pub(super) fn check(place: Place<'_>, word: usize) -> Verdict {
    let (start, quote) = match value(place, word) {
        Ok(value) => value,
        Err(verdict) => return verdict,
    };
    let value = place.moved(start);
    let run = value.run(|byte| is_of_value(byte, quote), VALUE_BYTES_MAX);
    if run.is_open {
        return Verdict::More;
    }
    let text = place.text.get(start..run.end).unwrap_or_default();
    let is_call = place.byte(run.end).is_some_and(|next| b"([{<$".contains(&next));
    let is_long_enough = (VALUE_BYTES_MIN..=VALUE_BYTES_MAX).contains(&text.len());
    if is_long_enough && !is_call && is_random(text) { Verdict::Found(start..run.end) } else { Verdict::No }
}

/// Is a secret key of AWS's assigned here?
pub(super) fn check_aws(place: Place<'_>, word: usize) -> Verdict {
    let start = match value(place, word) {
        Ok((start, _)) => start,
        Err(verdict) => return verdict,
    };
    let run = place.moved(start).run(|byte| Letters::Base64.hold(byte), AWS_SECRET_BYTES);
    match run.end - start {
        _ if run.is_open => Verdict::More,
        AWS_SECRET_BYTES => Verdict::Found(start..run.end),
        _ => Verdict::No,
    }
}

/// Where the value begins, and the quote that ends it.
fn value(place: Place<'_>, word: usize) -> Result<(usize, Option<u8>), Verdict> {
    let name = place.moved(place.at + word);
    let is_said = place.byte(name.at - 1) == Some(b' ');
    let name = if is_said { name.at } else { end_of_run(name, |byte| Letters::Word.hold(byte), NAME_BYTES_MAX)? };
    let value = end_of_run(place.moved(name), |byte| b"\"'`\\ \t:=>".contains(&byte), BETWEEN_BYTES_MAX)?;
    let between = place.text.get(name..value).unwrap_or_default();
    if !is_said && !between.iter().any(|byte| b":=".contains(byte)) {
        return Err(Verdict::No);
    }
    let quote = between.last().copied().filter(|last| b"\"'`".contains(last));
    Ok((value, quote))
}

fn end_of_run(place: Place<'_>, is_one: impl Fn(u8) -> bool, most: usize) -> Result<usize, Verdict> {
    let run = place.run(is_one, most);
    match run.end - place.at {
        _ if run.is_open => Err(Verdict::More),
        length if length > most => Err(Verdict::No),
        _ => Ok(run.end),
    }
}

/// In quotes, all that is no space; elsewhere what ends no value.
fn is_of_value(byte: u8, quote: Option<u8>) -> bool {
    byte.is_ascii_graphic() && !b"\"'`\\<>".contains(&byte) && (quote.is_some() || !b",;()[]{}&|$".contains(&byte))
}

/// Does it look drawn by lot?
fn is_random(text: &[u8]) -> bool {
    if text.iter().all(u8::is_ascii_hexdigit) {
        let has_both = text.iter().any(u8::is_ascii_digit) && text.iter().any(u8::is_ascii_alphabetic);
        return has_both && bits(text) >= HEX_BITS_MIN;
    }
    let is_place = text.windows(3).any(|window| window == b"://") || matches!(text, [b'/' | b'.' | b'$' | b'%', ..]);
    !is_place && turns(text) >= TURNS_MIN && bits(text) >= BITS_MIN
}

/// How often a letter follows a digit or a digit a letter, whatever stands between.
fn turns(text: &[u8]) -> usize {
    let kinds: Vec<bool> = text.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::is_ascii_digit).collect();
    kinds.windows(2).filter(|pair| matches!(pair, [one, other] if one != other)).count()
}

/// Shannon's entropy, in bits for each byte.
fn bits(text: &[u8]) -> f64 {
    let mut counts = [0_u32; 128];
    for byte in text {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let total = f64::from(u32::try_from(text.len()).unwrap_or(u32::MAX));
    let shares = counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / total);
    shares.map(|share| -share * share.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, word: &str) -> Option<String> {
        let at = text.to_ascii_lowercase().find(word).unwrap();
        let check = if AWS_WORDS.contains(&word) { check_aws } else { check };
        match check(Place { text: text.as_bytes(), at, is_end: true }, word.len()) {
            Verdict::Found(range) => Some(text[range].to_owned()),
            Verdict::No => None,
            Verdict::More => panic!("{text} has an end"),
        }
    }

    #[test]
    fn what_is_drawn_by_lot_is_found_beside_a_key_word() {
        for (text, word, value) in [
            (r#"API_KEY = "q7Rt2mZx9LpV4sKd8WnB""#, "api_key", "q7Rt2mZx9LpV4sKd8WnB"),
            (r#"{"password": "xK9#mP2$vL5nQ8wR"}"#, "password", "xK9#mP2$vL5nQ8wR"),
            (
                r#"{\"client_secret\":\"8f14e45fceea167a5a36dedd4bea2543\"}"#,
                "secret",
                "8f14e45fceea167a5a36dedd4bea2543",
            ),
            ("export DB_PASSWORD=aB3dE6gH9jK2mN5p\n", "password", "aB3dE6gH9jK2mN5p"),
            ("authorization: Bearer h4Jk7Lm2Qp9Rs5Tv8Xz1", "bearer ", "h4Jk7Lm2Qp9Rs5Tv8Xz1"),
            ("accessToken: 'dGhpcyBpcyBhIHRlc3Q1'", "token", "dGhpcyBpcyBhIHRlc3Q1"),
            (
                "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                "secret_access_key",
                "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            ),
        ] {
            assert_eq!(found(text, word).as_deref(), Some(value), "{text}");
        }
    }

    #[test]
    fn what_sources_are_full_of_is_not() {
        for (text, word) in [
            ("let token = self.next_token_or_end(input)?;", "token"),
            ("password = os.environ['DATABASE_PASSWORD']", "password"),
            ("token: ${{ secrets.GITHUB_TOKEN }}", "token"),
            (r#""max_tokens": 1234567890123456"#, "token"),
            (r#"api_key="your-api-key-goes-here""#, "api_key"),
            ("secret: /run/secrets/database_password_2024", "secret"),
            ("token_endpoint: https://login.example.com/oauth2/v2.0/token", "token"),
            ("const tokenizer = createTokenizerForLanguage(", "token"),
            ("password: correct-horse-battery-staple", "password"),
            ("the token was 8f14e45fceea167a5a36dedd4bea2543", "token"),
            ("secret_access_key = too-short", "secret_access_key"),
        ] {
            assert_eq!(found(text, word), None, "{text}");
        }
    }

    #[test]
    fn more_is_waited_for_where_it_matters() {
        for text in ["token", "token_x", "token = ", "token = q7Rt2mZx9L"] {
            let place = Place { text: text.as_bytes(), at: 0, is_end: false };
            assert_eq!(check(place, 5), Verdict::More, "{text}");
        }
    }
}
