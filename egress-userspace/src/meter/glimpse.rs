//! A look at a JSON text without parsing it: nearly every event is a small delta, and none of those carries usage.

use memchr::{memchr2, memmem};

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
