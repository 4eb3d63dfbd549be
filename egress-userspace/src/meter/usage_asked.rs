//! A streamed chat completion that does not ask for its usage → the same request, asking.
//!
//! Without `stream_options.include_usage` most servers report none. The edit is the smallest there is: where the option is
//! not named, it is put first and every other byte stays; where the client names it, its object is replaced.

use std::borrow::Cow;
use std::fmt;
use std::io::{Error, ErrorKind, Result, Write};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::decode::Pipe;

/// Largest request that is decoded to be edited, in bytes; a larger one goes as it is.
const DECODED_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

const OPTION: &str = "stream_options";
const ASKING: &[u8] = b"\"stream_options\":{\"include_usage\":true}";

/// What a streamed request says of its usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsageAsked {
    /// It asks for it, or its dialect tells of it unasked.
    #[default]
    Yes,
    /// It does not speak of it.
    Unsaid,
    /// It speaks of it and does not want it.
    Declined,
}

/// A request's body that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// The first bytes of the body, or all of it: in place of those that were given.
    pub body: Vec<u8>,
    /// It was decoded: no content encoding any more.
    pub is_decoded: bool,
}

/// Makes a body ask for its usage. `body` is all of it if `is_whole`, else its first bytes; `None` when it cannot be edited:
/// compressed in a way that is not read, too long, or no object.
#[must_use]
pub fn ask_for_usage(asked: UsageAsked, content_encoding: Option<&str>, body: &[u8], is_whole: bool) -> Option<Asking> {
    if asked == UsageAsked::Yes {
        return None;
    }
    if body.trim_ascii_start().starts_with(b"{") {
        return Some(Asking { body: asking(asked, body, is_whole)?, is_decoded: false });
    }
    if !is_whole {
        return None;
    }
    Some(Asking { body: asking(asked, &decoded(content_encoding, body)?, true)?, is_decoded: true })
}

/// A whole body as it reads; `None` when it is compressed in a way that is not read, or too long.
pub(super) fn decoded<'a>(content_encoding: Option<&str>, body: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    if body.trim_ascii_start().starts_with(b"{") {
        return Some(body.into());
    }
    let mut pipe = Pipe::new(content_encoding, Decoded::default())?;
    pipe.write_all(body).and_then(|()| pipe.finish()).ok()?;
    Some(std::mem::take(&mut pipe.writer_mut().bytes).into())
}

fn asking(asked: UsageAsked, body: &[u8], is_whole: bool) -> Option<Vec<u8>> {
    match asked {
        UsageAsked::Yes => None,
        UsageAsked::Unsaid => put_first(body),
        UsageAsked::Declined if is_whole => replace(body),
        UsageAsked::Declined => None,
    }
}

/// The option, then all that was there.
fn put_first(body: &[u8]) -> Option<Vec<u8>> {
    let rest = body.trim_ascii_start().strip_prefix(b"{")?;
    let separator: &[u8] = if rest.trim_ascii_start().starts_with(b"}") { b"" } else { b"," };
    Some([b"{", ASKING, separator, rest].concat())
}

/// The same fields as written, but for the option, which keeps what else it says.
fn replace(body: &[u8]) -> Option<Vec<u8>> {
    let fields: Fields<'_> = serde_json::from_slice(body).ok()?;
    let said = fields.0.iter().rev().find(|(key, _)| key == OPTION);
    let mut options = said.and_then(|(_, value)| serde_json::from_str::<Map<String, Value>>(value.get()).ok());
    let options = options.get_or_insert_default();
    options.insert("include_usage".to_owned(), true.into());
    let mut edited = Vec::with_capacity(body.len() + ASKING.len());
    edited.push(b'{');
    for (key, value) in fields.0.iter().filter(|(key, _)| key != OPTION) {
        serde_json::to_writer(&mut edited, key).ok()?;
        edited.push(b':');
        edited.extend_from_slice(value.get().as_bytes());
        edited.push(b',');
    }
    serde_json::to_writer(&mut edited, OPTION).ok()?;
    edited.push(b':');
    serde_json::to_writer(&mut edited, options).ok()?;
    edited.push(b'}');
    Some(edited)
}

/// The fields of an object in their order, values as written, keys that stand there twice included.
pub(super) struct Fields<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(InOrder).map(Fields)
    }
}

/// A decoded body within its bound.
#[derive(Debug, Default)]
struct Decoded {
    bytes: Vec<u8>,
}

impl Write for Decoded {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.bytes.len() + bytes.len() > DECODED_BODY_BYTES_MAX {
            return Err(Error::from(ErrorKind::FileTooLarge));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(asked: UsageAsked, body: &[u8], is_whole: bool) -> Option<String> {
        let asking = ask_for_usage(asked, None, body, is_whole)?;
        Some(String::from_utf8(asking.body).unwrap())
    }

    fn check(how: UsageAsked, body: &str, expected: Option<&str>) {
        assert_eq!(asked(how, body.as_bytes(), true).as_deref(), expected, "{how:?} {body}");
    }

    #[test]
    fn what_is_unsaid_is_put_first_and_the_rest_stays_as_written() {
        use UsageAsked::{Unsaid, Yes};
        let body = " {\"stream\":true,\r\n \"temperature\":1.0E0, \"a\":\"\\u00e4\"}\n";
        let expected = "{\"stream_options\":{\"include_usage\":true},\"stream\":true,\r\n \"temperature\":1.0E0, \"a\":\"\\u00e4\"}\n";
        check(Unsaid, body, Some(expected));
        check(Unsaid, "{ }", Some("{\"stream_options\":{\"include_usage\":true} }"));
        check(Unsaid, "[1]", None);
        check(Unsaid, "", None);
        check(Yes, body, None);
        let cut = asked(Unsaid, b"{\"stream\":tr", false);
        assert_eq!(cut.as_deref(), Some("{\"stream_options\":{\"include_usage\":true},\"stream\":tr"));
    }

    #[test]
    fn what_is_declined_is_asked_for_and_keeps_its_other_options() {
        use UsageAsked::Declined;
        for said in ["{\"include_usage\":false,\"include_obfuscation\":false}", "{\"include_obfuscation\":false}"] {
            check(
                Declined,
                &format!("{{\"n\":1.50, \"stream_options\" : {said},\"x\":[1, 2]}}"),
                Some(
                    "{\"n\":1.50,\"x\":[1, 2],\"stream_options\":{\"include_obfuscation\":false,\"include_usage\":true}}",
                ),
            );
        }
        for said in ["null", "{}", "7", "\"no\""] {
            let expected = "{\"stream_options\":{\"include_usage\":true}}";
            check(Declined, &format!("{{\"stream_options\":{said}}}"), Some(expected));
        }
        check(Declined, "{\"stream_options\":{}", None);
        assert_eq!(asked(Declined, b"{\"stream_options\":{}, \"a\":1}", false), None, "the rest is not there");
    }

    #[test]
    fn a_compressed_body_is_decoded() {
        let body = zstd::bulk::compress(b"{\"stream\":true}", 3).unwrap();
        for encoding in [None, Some("zstd")] {
            let asking = ask_for_usage(UsageAsked::Unsaid, encoding, &body, true).unwrap();
            assert!(asking.is_decoded);
            assert_eq!(asking.body, b"{\"stream_options\":{\"include_usage\":true},\"stream\":true}");
        }
        assert_eq!(ask_for_usage(UsageAsked::Unsaid, Some("zstd"), &body, false), None, "more of it is to come");
        assert_eq!(ask_for_usage(UsageAsked::Unsaid, Some("secret"), &body, true), None);
        let bomb = zstd::bulk::compress(&vec![b' '; DECODED_BODY_BYTES_MAX + 1], 3).unwrap();
        assert_eq!(ask_for_usage(UsageAsked::Unsaid, Some("zstd"), &bomb, true), None);
    }
}
