//! A JSON object read as it passes: the raw values of a few top-level keys, without storing the rest.
//!
//! Takes any split of the bytes and an end anywhere, so it serves request prefixes and response bodies of any size.
//! It trusts nothing: what is not JSON yields no fields.

use memchr::memchr;

use super::glimpse::plain_bytes;

/// Longest captured value, in bytes; a longer one is not reported. An envelope around a whole response is one value.
const VALUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest key that is compared, in bytes as written, quotes included.
const KEY_BYTES_MAX: usize = 64;

/// Where in the text the scanner stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Outside,
    InString,
    AfterBackslash,
}

/// The scanner.
#[derive(Debug, Default)]
pub(super) struct TopLevel {
    wanted: &'static [&'static str],
    place: Place,
    depth: u32,
    is_closed: bool,
    /// The next string at depth one is a key.
    is_key: bool,
    key: Vec<u8>,
    /// The value being captured.
    value: Option<Vec<u8>>,
}

/// What one byte or run of bytes completed.
enum Step {
    Nothing,
    Field,
}

impl TopLevel {
    /// A scanner that reports these keys.
    pub(super) fn new(wanted: &'static [&'static str]) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// The outermost object has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Takes more of the text; `on_field` gets each wanted key with its raw value once the value is whole.
    pub(super) fn push(&mut self, bytes: &[u8], on_field: &mut dyn FnMut(&str, &[u8])) {
        let mut rest = bytes;
        while !self.is_closed && !rest.is_empty() {
            match self.place {
                Place::Outside => {
                    let Some((byte, tail)) = rest.split_first() else { return };
                    if matches!(self.outside(*byte), Step::Field) {
                        self.report(on_field);
                    }
                    self.begin_field(*byte);
                    rest = tail;
                }
                Place::InString => rest = self.in_string(rest),
                Place::AfterBackslash => {
                    let (escaped, tail) = rest.split_at(1);
                    self.keep(escaped);
                    self.place = Place::InString;
                    rest = tail;
                }
            }
        }
    }

    /// One byte outside of strings.
    fn outside(&mut self, byte: u8) -> Step {
        let mut step = Step::Nothing;
        match byte {
            b'"' => {
                self.place = Place::InString;
                if self.is_key {
                    self.key.clear();
                }
            }
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.is_key = self.depth == 1 && byte == b'{';
                self.keep(&[byte]);
                return step;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.is_closed = true;
                    return Step::Field;
                }
            }
            b',' if self.depth == 1 => step = Step::Field,
            _ => {}
        }
        if matches!(step, Step::Nothing) && !(self.depth == 1 && byte == b':' && self.is_key) {
            self.keep(&[byte]);
        }
        step
    }

    /// After `:` and `,` at depth one: a value or a key begins.
    fn begin_field(&mut self, byte: u8) {
        if self.depth != 1 {
            return;
        }
        match byte {
            b':' if self.is_key => {
                self.is_key = false;
                self.value = self.wanted_key().map(|_| Vec::new());
            }
            b',' => self.is_key = true,
            _ => {}
        }
    }

    /// A run inside a string, up to its end or an escape.
    fn in_string<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let (run, tail) = rest.split_at(plain_bytes(rest));
        self.keep(run);
        let Some((stop, tail)) = tail.split_first() else { return tail };
        self.keep(&[*stop]);
        if *stop == b'"' {
            self.place = Place::Outside;
        } else {
            self.place = Place::AfterBackslash;
        }
        tail
    }

    /// Stores bytes of a key or of a wanted value, up to its limit.
    fn keep(&mut self, bytes: &[u8]) {
        if let Some(value) = &mut self.value {
            if value.len() + bytes.len() <= VALUE_BYTES_MAX {
                value.extend_from_slice(bytes);
            } else {
                self.value = None;
            }
        } else if self.is_key && self.depth == 1 && self.place != Place::Outside {
            let room = KEY_BYTES_MAX.saturating_sub(self.key.len());
            self.key.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        }
    }

    /// The key just read, if it is wanted, however it is escaped.
    fn wanted_key(&self) -> Option<&'static str> {
        let raw = self.key.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        let unescaped = memchr(b'\\', raw).and_then(|_| serde_json::from_slice::<String>(&self.key).ok());
        let key = unescaped.as_ref().map_or(raw, String::as_bytes);
        self.wanted.iter().copied().find(|wanted| wanted.as_bytes() == key)
    }

    fn report(&mut self, on_field: &mut dyn FnMut(&str, &[u8])) {
        let Some(value) = self.value.take() else { return };
        if let Some(key) = self.wanted_key() {
            on_field(key, value.trim_ascii());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: &[&str] = &["model", "max_tokens", "usage"];

    fn fields(chunks: &[&[u8]]) -> (Vec<(String, String)>, bool) {
        let mut scanner = TopLevel::new(WANTED);
        let mut found = Vec::new();
        for chunk in chunks {
            scanner.push(chunk, &mut |key, value| {
                found.push((key.to_owned(), String::from_utf8_lossy(value).into_owned()));
            });
        }
        (found, scanner.is_closed())
    }

    fn check(text: &str, expected: &[(&str, &str)], is_closed: bool) {
        let expected: Vec<_> = expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert_eq!(fields(&[text.as_bytes()]), (expected.clone(), is_closed), "{text}");
        let single: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(fields(&single), (expected, is_closed), "{text} byte by byte");
    }

    #[test]
    fn top_level_fields_are_found_and_nothing_else() {
        check(r#"{"model":"a","max_tokens": 12 }"#, &[("model", "\"a\""), ("max_tokens", "12")], true);
        check(
            r#" { "x" : {"model":"no"}, "usage":{"a":[1,{"b":"}"}]} , "y":"model" } "#,
            &[("usage", r#"{"a":[1,{"b":"}"}]}"#)],
            true,
        );
        check(r#"{"max_tokens":1,"max_tokens":2}"#, &[("max_tokens", "1"), ("max_tokens", "2")], true);
        check(r#"{"max\u005ftokens":7}"#, &[("max_tokens", "7")], true);
        check(r#"{"a":"\\","model":"q\"}","b":"\\\""}"#, &[("model", r#""q\"}""#)], true);
        check(r#"{"a":"model","model":[":",","]}"#, &[("model", r#"[":",","]"#)], true);
    }

    #[test]
    fn a_cut_value_is_not_a_value() {
        check(r#"{"model":"a","max_tokens":12"#, &[("model", "\"a\"")], false);
        check(r#"{"model":"a"#, &[], false);
        check("", &[], false);
    }

    #[test]
    fn what_is_not_json_yields_nothing() {
        for text in ["[[[", "}}}", ":::,,,", "\"", "\\", "{{{\"model\":1}", "model:1", "[\"model\",1]"] {
            let (found, _) = fields(&[text.as_bytes()]);
            assert_eq!(found, [], "{text}");
        }
    }

    #[test]
    fn a_value_over_the_limit_is_dropped() {
        let long = format!("{{\"model\":\"{}\",\"max_tokens\":3}}", "x".repeat(VALUE_BYTES_MAX));
        check(&long, &[("max_tokens", "3")], true);
    }
}
