//! JSON objects in a row: bytes in any split → each object. One a line (NDJSON), or the elements of an array delivered in
//! pieces; what stands between objects is passed over.

use memchr::memchr2;

use super::sse::EVENT_BYTES_MAX;

/// The framing of one stream.
#[derive(Debug, Default)]
pub(super) struct Values {
    object: Vec<u8>,
    depth: u32,
    is_in_string: bool,
    is_escaped: bool,
    /// The object is longer than what is kept: it is dropped.
    is_too_long: bool,
    lost_bytes: u64,
}

impl Values {
    /// Takes more of the stream; `on_object` gets each object that is whole. Returns the bytes that were dropped.
    pub(super) fn push(&mut self, bytes: &[u8], on_object: &mut dyn FnMut(&[u8])) -> u64 {
        let mut rest = bytes;
        while let Some((byte, tail)) = rest.split_first() {
            if self.is_in_string && !self.is_escaped {
                let end = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                let (run, tail) = rest.split_at(end);
                self.keep(run);
                let Some((stop, tail)) = tail.split_first() else { break };
                self.keep(&[*stop]);
                self.is_in_string = *stop != b'"';
                self.is_escaped = self.is_in_string;
                rest = tail;
                continue;
            }
            self.is_escaped = false;
            self.outside(*byte, on_object);
            rest = tail;
        }
        std::mem::take(&mut self.lost_bytes)
    }

    /// One byte outside of strings, or one that a backslash escapes.
    fn outside(&mut self, byte: u8, on_object: &mut dyn FnMut(&[u8])) {
        if self.depth == 0 && byte != b'{' {
            return;
        }
        self.keep(&[byte]);
        if self.is_in_string {
            return;
        }
        match byte {
            b'"' => self.is_in_string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    if !self.is_too_long {
                        on_object(&self.object);
                    }
                    self.object.clear();
                    self.is_too_long = false;
                }
            }
            _ => {}
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.object.len() + bytes.len() > EVENT_BYTES_MAX {
            self.is_too_long = true;
            self.lost_bytes += self.object.len() as u64;
            self.object = Vec::new();
        }
        if self.is_too_long {
            self.lost_bytes += bytes.len() as u64;
        } else {
            self.object.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        for at in 0..=text.len() {
            let mut values = Values::default();
            let mut found = Vec::new();
            let (head, tail) = text.as_bytes().split_at(at);
            for piece in [head, tail] {
                values.push(piece, &mut |object| found.push(String::from_utf8_lossy(object).into_owned()));
            }
            assert_eq!(found, expected, "{text} split at {at}");
        }
    }

    #[test]
    fn objects_are_found_in_lines_and_in_arrays() {
        check("{\"a\":1}\n{\"b\":[2,{}]}\r\n", &["{\"a\":1}", "{\"b\":[2,{}]}"]);
        check("[{\"a\":\"}\\\"{\"}\n,\r\n{\"b\":\"\\\\\"}]", &["{\"a\":\"}\\\"{\"}", "{\"b\":\"\\\\\"}"]);
        check("[]", &[]);
        check("{\"a\":", &[]);
        check("]}{}", &["{}"]);
        check("", &[]);
    }

    #[test]
    fn an_object_over_the_limit_is_dropped_and_the_next_is_whole() {
        let mut values = Values::default();
        let mut found = Vec::new();
        let text = format!("{{\"a\":\"{}\"}}\n{{}}", "x".repeat(EVENT_BYTES_MAX));
        let lost = values.push(text.as_bytes(), &mut |object| found.push(object.len()));
        assert_eq!((found, lost), (vec![2], text.len() as u64 - 3));
    }
}
