//! A secret whose value is known, in each of the ways in which it may be written.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::found::Filler;
use super::place::{Place, Verdict};
use super::unescape::{Unescape, Writing};

/// Shortest secret that is looked for, in bytes: shorter ones occur by chance.
pub const SECRET_BYTES_MIN: usize = 8;

/// One way of writing a secret.
pub(super) struct Written {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    ignores_case: bool,
    /// What it is overwritten with.
    pub(super) filler: Filler,
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Written(…)")
    }
}

impl Written {
    fn plain(bytes: &[u8]) -> Self {
        Self { bytes: Zeroizing::new(bytes.to_vec()), ignores_case: false, filler: Filler::Stars }
    }

    /// Is it somewhere in a text, whatever the case of its letters?
    pub(super) fn is_in_any_case(&self, text: &[u8]) -> bool {
        text.windows(self.bytes.len()).any(|window| window.eq_ignore_ascii_case(&self.bytes))
    }

    /// Is it here?
    pub(super) fn check(&self, place: Place<'_>) -> Verdict {
        let text = place.rest();
        let text = text.get(..self.bytes.len()).unwrap_or(text);
        let begins = self.bytes.get(..text.len()).unwrap_or_default();
        let is_same = if self.ignores_case { text.eq_ignore_ascii_case(begins) } else { text == begins };
        if !is_same {
            return Verdict::No;
        }
        match (text.len() == self.bytes.len(), place.is_end) {
            (true, _) => Verdict::Found(place.at..place.at + self.bytes.len()),
            (false, true) => Verdict::No,
            (false, false) => Verdict::More,
        }
    }
}

/// Each way of writing a secret: as it is, escaped once more than what is looked at, and encoded.
pub(super) fn ways(secret: &str) -> Vec<Written> {
    let secret = secret.as_bytes();
    let mut ways = vec![Written::plain(secret)];
    let text = String::from_utf8_lossy(secret);
    let quoted = Zeroizing::new(serde_json::to_string(&text).unwrap_or_default());
    ways.push(Written::plain(quoted.as_bytes().get(1..quoted.len().saturating_sub(1)).unwrap_or_default()));
    // What looks like an escape in it is undone with the others: once in a string of JSON, twice where it stands as it is.
    let once = unescaped(secret);
    ways.extend([Written::plain(&unescaped(&once)), Written::plain(&once)]);
    // A backslash in front makes another character of the first.
    if matches!(secret, [b'b' | b'f' | b'n' | b'r' | b't', ..]) {
        ways.push(Written::plain(secret.get(1..).unwrap_or_default()));
    }
    for unreserved in [&b"-_.~"[..], b"-_.!~*'()"] {
        let encoded = percent(secret, unreserved);
        ways.push(Written { ignores_case: encoded.contains(&b'%'), ..Written::plain(&encoded) });
    }
    ways.extend(
        [STANDARD_NO_PAD, URL_SAFE_NO_PAD]
            .iter()
            .flat_map(|base64| (0..3).map(|before| in_base64(base64, before, secret))),
    );
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    ways.push(Written { ignores_case: true, ..Written::plain(hex.as_bytes()) });
    ways.retain(|way| way.bytes.len() >= SECRET_BYTES_MIN);
    ways.sort_by(|one, other| one.bytes.cmp(&other.bytes));
    ways.dedup_by(|one, other| one.bytes == other.bytes);
    ways
}

/// What a reader of JSON makes of it.
fn unescaped(secret: &[u8]) -> Zeroizing<Vec<u8>> {
    let (mut unescape, mut into) = (Unescape::new(Writing::Json), Zeroizing::new(Vec::new()));
    unescape.push(secret, &mut into);
    unescape.finish(&mut into);
    into
}

fn percent(secret: &[u8], unreserved: &[u8]) -> Vec<u8> {
    let mut into = Vec::new();
    for byte in secret {
        if byte.is_ascii_alphanumeric() || unreserved.contains(byte) {
            into.push(*byte);
        } else {
            into.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    into
}

/// The letters that all base64 has in common in which the secret begins so many bytes into a group of three.
fn in_base64(base64: &impl Engine, before: usize, secret: &[u8]) -> Written {
    let bytes = Zeroizing::new([vec![0; before].as_slice(), secret].concat());
    let text = Zeroizing::new(base64.encode(&*bytes));
    let (first, end) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
    let letters = text.as_bytes().get(first..end).unwrap_or_default();
    Written { filler: Filler::Quads(first % 4), ..Written::plain(letters) }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn a_secret_is_known_however_it_is_written() {
        let secret = "Pa\"ss/wörd?42\\n";
        let ways = ways(secret);
        let is_in = |text: &str| {
            (0..text.len()).any(|at| {
                let found = |way: &Written| {
                    matches!(way.check(Place { text: text.as_bytes(), at, is_end: true }), Verdict::Found(_))
                };
                ways.iter().any(found)
            })
        };
        assert!(is_in(&format!("x{secret}y")));
        assert!(is_in(&serde_json::to_string(&format!("k: {secret}")).unwrap()));
        assert!(is_in("a=Pa%22ss%2fw%C3%B6rd%3F42%5Cn"));
        for front in ["", "u", "us", "user:"] {
            assert!(is_in(&STANDARD.encode(format!("{front}{secret}"))), "{front}");
            assert!(is_in(&URL_SAFE_NO_PAD.encode(format!("{front}{secret} after"))), "{front}");
        }
        let hex: String = secret.bytes().map(|byte| format!("{byte:02X}")).collect();
        assert!(is_in(&hex));
        assert!(!is_in("Pa\"ss/word?42"));
    }

    #[test]
    fn no_way_of_writing_is_shown() {
        assert_eq!(format!("{:?}", ways("hunter2hunter2").first()), "Some(Written(…))");
    }
}
