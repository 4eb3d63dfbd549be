//! JSON Web Tokens in compact form (RFC 7515 §7.1): three parts, the first of which is base64url of a JSON object that names `alg`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use memchr::memmem;

use super::place::{Letters, Place, Verdict};

/// How `{"` looks in base64.
pub(super) const BEGINNING: &str = "eyJ";
/// Longest header, in bytes.
const HEADER_BYTES_MAX: usize = 2 << 10;
/// Longest payload, and longest signature, in bytes.
const PART_BYTES_MAX: usize = 12 << 10;
/// Shortest payload, in bytes: `{}`.
const PAYLOAD_BYTES_MIN: usize = 3;

/// Does a token begin here?
pub(super) fn check(place: Place<'_>) -> Verdict {
    if !place.rest().starts_with(BEGINNING.as_bytes()) || !place.begins_word() {
        return Verdict::No;
    }
    let (header, payload) = match part(place, HEADER_BYTES_MAX) {
        Ok(next) => (place.text.get(place.at..next - 1).unwrap_or_default(), next),
        Err(verdict) => return verdict,
    };
    if !names_algorithm(header) {
        return Verdict::No;
    }
    let signature = match part(place.moved(payload), PART_BYTES_MAX) {
        Ok(next) if next > payload + PAYLOAD_BYTES_MIN => next,
        Ok(_) => return Verdict::No,
        Err(verdict) => return verdict,
    };
    let run = place.moved(signature).run(|byte| Letters::Word.hold(byte), PART_BYTES_MAX);
    if run.is_open { Verdict::More } else { Verdict::Found(place.at..run.end) }
}

/// Where the part after the dot begins.
fn part(place: Place<'_>, most: usize) -> Result<usize, Verdict> {
    let run = place.run(|byte| Letters::Word.hold(byte), most);
    match place.byte(run.end) {
        _ if run.is_open => Err(Verdict::More),
        Some(b'.') => Ok(run.end + 1),
        Some(_) | None => Err(Verdict::No),
    }
}

fn names_algorithm(header: &[u8]) -> bool {
    URL_SAFE_NO_PAD.decode(header).is_ok_and(|header| memmem::find(&header, br#""alg""#).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_whose_header_says_so() {
        let check = |text: &str, expected| {
            assert_eq!(check(Place { text: text.as_bytes(), at: 0, is_end: true }), expected, "{text}");
        };
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let token = format!("{header}.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U");
        check(&token, Verdict::Found(0..token.len()));
        check(&format!("{token} x"), Verdict::Found(0..token.len()));
        check(&format!("{header}.eyJzdWIiOiIxMjM0In0."), Verdict::Found(0..header.len() + 21));
        check(&header, Verdict::No);
        check(&format!("{header}.e"), Verdict::No);
        check(&format!("{}.eyJzdWIiOiIxMjM0In0.x", URL_SAFE_NO_PAD.encode(r#"{"typ":"x"}"#)), Verdict::No);
    }
}
