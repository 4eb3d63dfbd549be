//! Percent-encoding, as AWS signs it and as servers read it.

/// Characters that are never encoded (RFC 3986 §2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Every byte encoded but the unreserved ones and those of `kept`.
pub(super) fn encode(bytes: &[u8], kept: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for byte in bytes {
        if is_unreserved(*byte) || kept.contains(byte) {
            encoded.push(char::from(*byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Decoded once; what is no encoding stays as it is, what is no text is replaced.
pub(super) fn decode(text: &str) -> String {
    String::from_utf8_lossy(&decoded(text)).into_owned()
}

/// The same as bytes.
pub(super) fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let encoded = after.first_chunk::<2>().filter(|_| *first == b'%');
        let value = encoded.and_then(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?));
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    bytes
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_decoded_is_what_was_encoded() {
        let check = |text: &str, encoded: &str| {
            assert_eq!(encode(text.as_bytes(), b"/"), encoded);
            assert_eq!(decode(encoded), text);
        };
        check("a-._~/Z9", "a-._~/Z9");
        check("model:0 ü", "model%3A0%20%C3%BC");
        check("100%", "100%25");
        assert_eq!(
            (decode("%"), decode("%4"), decode("%zz"), decode("%4a%")),
            ("%".into(), "%4".into(), "%zz".into(), "J%".into())
        );
    }
}
