//! A look at a JSON text without parsing it: nearly every event is a small delta, and none of those carries usage.

use memchr::{memchr2, memmem};

/// Bytes looked at one by one before a search that is fast over long distances only: some texts are mostly escapes.
const NEAR_BYTES: usize = 16;

/// Bytes up to the next quote or backslash, or to the end.
pub(super) fn plain_bytes(text: &[u8]) -> usize {
    let (near, far) = text.split_at(text.len().min(NEAR_BYTES));
    let stop = near.iter().position(|byte| matches!(byte, b'"' | b'\\'));
    stop.unwrap_or_else(|| near.len() + memchr2(b'"', b'\\', far).unwrap_or(far.len()))
}

/// Bytes up to the quote that ends the string, as written.
pub(super) fn string_bytes(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        let stop = at + found;
        if text.get(stop) == Some(&b'"') {
            return stop;
        }
        at = stop + 2;
    }
    text.len()
}

/// Bytes, as written, of all strings that follow `key`, which is spelt `"name":"`.
pub(super) fn strings_after(text: &[u8], key: &[u8]) -> usize {
    let starts = memmem::find_iter(text, key).filter_map(|at| text.get(at + key.len()..));
    starts.map(string_bytes).sum()
}
