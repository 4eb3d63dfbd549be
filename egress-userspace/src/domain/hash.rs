//! A SHA-256 as text: 64 lower-case hexadecimal digits.

use std::fmt::Write;

/// Length of a SHA-256, in bytes.
pub(super) const HASH_BYTES: usize = 32;

/// Writes it.
pub(super) fn write(bytes: &[u8; HASH_BYTES], f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    // A long audit is verified by writing two of these for each row: the formatter takes most of that time.
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]).try_for_each(|nibble| f.write_char(digit(nibble)))
}

/// Reads what [`write`] wrote, and nothing else.
pub(super) fn read(text: &str) -> Option<[u8; HASH_BYTES]> {
    if text.len() != 2 * HASH_BYTES {
        return None;
    }
    let mut hash = [0; HASH_BYTES];
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = pair.iter().try_fold(0, |byte, digit| Some(byte << 4 | nibble(*digit)?))?;
    }
    Some(hash)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}
