//! Chunks of a chat completion that are like the one before but for the words they bring: known by comparison, without a look at
//! each key. Nearly every chunk of a stream is one.

use memchr::memmem;

use super::glimpse::string_bytes;

/// What a chunk's words stand in.
const DELTA: &[u8] = b"\"delta\":{";
/// Filling of a random length against eavesdroppers; what stands before its text.
const FILLING: &[u8] = b"\"obfuscation\":\"";
/// Longest chunk that is kept for comparison, in bytes.
const CHUNK_BYTES_MAX: usize = 4096;
/// Fields of a delta that say what it is, not what is written.
const LABELS: [&[u8]; 3] = [b"role", b"type", b"id"];

/// What all those chunks have in common. The default one is like no chunk.
#[derive(Debug, Default)]
pub(super) struct UsualChunk {
    /// Up to the fields of the delta.
    head: Vec<u8>,
    /// After the delta, up to the text of the filling where there is some.
    tail: Vec<u8>,
}

impl UsualChunk {
    /// What chunks like this one, which brings nothing but words, have in common.
    pub(super) fn like(chunk: &[u8]) -> Self {
        let parts = || {
            let at = memmem::find(chunk, DELTA).filter(|_| chunk.len() <= CHUNK_BYTES_MAX)? + DELTA.len();
            let (head, rest) = chunk.split_at(at);
            let (_, tail) = fields(rest)?;
            if memmem::find(tail, DELTA).is_some() {
                return None;
            }
            let end = memmem::find(tail, FILLING).map_or(tail.len(), |at| at + FILLING.len());
            Some(Self { head: head.to_vec(), tail: tail.get(..end)?.to_vec() })
        };
        parts().unwrap_or_default()
    }

    /// Bytes that a chunk writes, as written; `None` when it is not like the others.
    pub(super) fn written(&self, chunk: &[u8]) -> Option<usize> {
        let rest = chunk.strip_prefix(self.head.as_slice()).filter(|_| !self.head.is_empty())?;
        let (bytes, tail) = fields(rest)?;
        let rest = tail.strip_prefix(self.tail.as_slice())?;
        let is_like = if self.tail.ends_with(FILLING) {
            rest.get(string_bytes(rest)..).is_some_and(|end| end == b"\"}")
        } else {
            rest.is_empty()
        };
        is_like.then_some(bytes)
    }
}

/// Bytes of the strings in an object of strings and nulls alone, and what follows it. Begins after its brace.
fn fields(mut text: &[u8]) -> Option<(usize, &[u8])> {
    let mut bytes = 0;
    if let Some(rest) = text.strip_prefix(b"}") {
        return Some((0, rest));
    }
    loop {
        let key = text.strip_prefix(b"\"")?;
        let (key, rest) = key.split_at(string_bytes(key));
        let value = rest.strip_prefix(b"\":")?;
        let rest = match value.strip_prefix(b"\"") {
            Some(string) => {
                let (string, rest) = string.split_at(string_bytes(string));
                bytes += if LABELS.contains(&key) { 0 } else { string.len() };
                rest.strip_prefix(b"\"")?
            }
            None => value.strip_prefix(b"null")?,
        };
        match rest.split_first()? {
            (b',', rest) => text = rest,
            (b'}', rest) => return Some((bytes, rest)),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: &str = r#"{"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}],"obfuscation":"x"}"#;

    fn check(chunk: &str, expected: Option<usize>) {
        assert_eq!(UsualChunk::like(CHUNK.as_bytes()).written(chunk.as_bytes()), expected, "{chunk}");
    }

    #[test]
    fn a_chunk_differs_in_its_words_only() {
        check(CHUNK, Some(2));
        let with = |delta: &str| CHUNK.replace(r#""role":"assistant","content":"Hi""#, delta);
        check(&with(r#""content":"Hello \"you\"""#), Some(13));
        check(&with(r#""content":null,"reasoning":"abc","refusal":"de""#), Some(5));
        check(&with(""), Some(0));
        check(&CHUNK.replace("\"x\"", "\"another filling\""), Some(2));
        for other in [
            with(r#""usage":{"prompt_tokens":1}"#),
            with(r#""content":"Hi","#),
            with(r#""content":"Hi"#),
            with(r#""tool_calls":[]"#),
            CHUNK.replace("null}]", "\"stop\"}]"),
            CHUNK.replace("\"x\"", "\"x\",\"usage\":{}"),
            CHUNK.replace("\"1\"", "\"2\""),
            CHUNK[..CHUNK.len() - 1].to_owned(),
            CHUNK[..50].to_owned(),
            String::new(),
        ] {
            check(&other, None);
        }
        let two = CHUNK.replace("null}]", r#"null},{"index":1,"delta":{"content":"a"},"finish_reason":null}]"#);
        assert_eq!(UsualChunk::like(two.as_bytes()).written(two.as_bytes()), None);
        assert_eq!(UsualChunk::default().written(b""), None);
        assert_eq!(UsualChunk::like(b"{}").written(b"{}"), None);
    }
}
