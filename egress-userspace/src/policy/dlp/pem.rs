//! Private keys as RFC 7468 and OpenPGP write them: between two lines that say so. The first line alone is no key: sources speak of it.

use memchr::memmem;

use super::place::{Place, Verdict};

/// How the first line begins.
pub(super) const BEGINNING: &str = "-----BEGIN ";
/// Longest label, in bytes: `OPENSSH PRIVATE KEY`, `PGP PRIVATE KEY BLOCK` …
const LABEL_BYTES_MAX: usize = 40;
/// Longest key, in bytes: 16,384 bits of RSA take 13,000 where line breaks are written out.
pub(super) const KEY_BYTES_MAX: usize = 16 << 10;
/// Shortest, in bytes: Ed25519 takes 64 letters.
const KEY_BYTES_MIN: usize = 48;
/// Dashes around labels.
const DASHES: &[u8] = b"-----";

/// Does a private key begin here?
pub(super) fn check(place: Place<'_>) -> Verdict {
    if !place.rest().starts_with(BEGINNING.as_bytes()) {
        return Verdict::No;
    }
    let label = place.moved(place.at + BEGINNING.len());
    let run = label.run(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' ', LABEL_BYTES_MAX);
    let text = place.text.get(label.at..run.end).unwrap_or_default();
    let dashes = place.text.get(run.end..).unwrap_or_default();
    if run.is_open || (!place.is_end && dashes.len() < DASHES.len() && DASHES.starts_with(dashes)) {
        return Verdict::More;
    }
    if memmem::find(text, b"PRIVATE KEY").is_none() || !dashes.starts_with(DASHES) {
        return Verdict::No;
    }
    let body = place.moved(run.end + DASHES.len());
    let run = body.run(is_of_key, KEY_BYTES_MAX);
    if run.is_open {
        return Verdict::More;
    }
    let key = place.text.get(body.at..run.end).unwrap_or_default();
    if key.iter().filter(|byte| byte.is_ascii_alphanumeric()).count() < KEY_BYTES_MIN {
        return Verdict::No;
    }
    // The last line, of which the letters would tell nothing, is left where it is.
    Verdict::Found(place.at..run.end)
}

/// Base64, line breaks (also written out, and indented), and the headers of encrypted keys.
fn is_of_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=\r\n\t \\:,".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str, is_end: bool, expected: &Verdict) {
        assert_eq!(check(Place { text: text.as_bytes(), at: 0, is_end }), *expected, "{text}");
    }

    #[test]
    fn a_key_is_found_however_its_lines_are_broken_and_its_first_line_alone_is_none() {
        let body = "MC4CAQAwBQYDK2VwBCIEIHNlY3JldHNlY3JldHNlY3JldHNlY3JldHNlY3JldHM=";
        for line in ["\n", "\\n", "\r\n", "\n  "] {
            for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK"] {
                let front = format!("-----BEGIN {label}-----{line}{body}{line}");
                let text = format!("{front}-----END {label}-----");
                check_text(&text, true, &Verdict::Found(0..front.len()));
                check_text(&front, false, &Verdict::More);
                check_text(&front, true, &Verdict::Found(0..front.len()));
            }
        }
        check_text(&format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END"), true, &Verdict::No);
        check_text("-----BEGIN PRIVATE KEY-----\" in line", true, &Verdict::No);
        check_text("-----BEGIN PRIVATE KEY--", false, &Verdict::More);
        check_text("-----BEGIN PRIVATE KEY--", true, &Verdict::No);
        check_text("-----BEGIN PRI", false, &Verdict::More);
    }
}
