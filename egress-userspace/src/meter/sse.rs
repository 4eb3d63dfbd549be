//! Server-sent events: bytes in any split → the data of each event (WHATWG HTML, "Parsing an event stream").
//!
//! Lines end in LF, CRLF or CR; comments and other fields are passed over. Only data is handed on: providers repeat the
//! event's name in it.

use memchr::{memchr, memchr2};

/// Longest event, in bytes of data; what exceeds it is dropped and the event handed on cut. The event that tells of usage
/// may repeat the whole response.
pub(super) const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The framing of one stream.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The line of which the end has not been seen.
    line: Vec<u8>,
    /// Data of the event of which the end has not been seen.
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was a CR: an LF right after it belongs to it.
    is_after_cr: bool,
    is_past_first_line: bool,
}

impl Frames {
    /// Takes more of the stream; `on_event` gets the data of each event that is now whole.
    pub(super) fn push(&mut self, bytes: &[u8], on_event: &mut dyn FnMut(&[u8])) {
        let mut rest = bytes;
        if self.is_after_cr && !rest.is_empty() {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            self.is_after_cr = false;
        }
        while let Some(end) = memchr2(b'\n', b'\r', rest) {
            let (line, tail) = rest.split_at(end);
            if self.line.is_empty() {
                self.end_line(line, on_event);
            } else {
                extend_bounded(&mut self.line, line);
                let whole = std::mem::take(&mut self.line);
                self.end_line(&whole, on_event);
                self.line = whole;
                self.line.clear();
            }
            rest = self.after_line_end(tail);
        }
        extend_bounded(&mut self.line, rest);
    }

    /// The stream has ended: hands on an event that no blank line closed.
    pub(super) fn finish(&mut self, on_event: &mut dyn FnMut(&[u8])) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.end_line(&line, on_event);
        }
        self.end_line(b"", on_event);
    }

    /// Passes over the line end that `tail` begins with.
    fn after_line_end<'a>(&mut self, tail: &'a [u8]) -> &'a [u8] {
        match tail {
            [b'\r', b'\n', rest @ ..] => rest,
            [b'\r'] => {
                self.is_after_cr = true;
                &[]
            }
            [_, rest @ ..] => rest,
            [] => &[],
        }
    }

    fn end_line(&mut self, line: &[u8], on_event: &mut dyn FnMut(&[u8])) {
        let line = if self.is_past_first_line { line } else { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) };
        self.is_past_first_line = true;
        if line.is_empty() {
            if self.has_data {
                on_event(&self.data);
                self.data.clear();
                self.has_data = false;
            }
            return;
        }
        let (field, value) = match memchr(b':', line) {
            Some(colon) => (line.get(..colon).unwrap_or_default(), line.get(colon + 1..).unwrap_or_default()),
            None => (line, &[] as &[u8]),
        };
        if field == b"data" {
            if self.has_data {
                extend_bounded(&mut self.data, b"\n");
            }
            extend_bounded(&mut self.data, value.strip_prefix(b" ").unwrap_or(value));
            self.has_data = true;
        }
    }
}

fn extend_bounded(buffer: &mut Vec<u8>, bytes: &[u8]) {
    let room = EVENT_BYTES_MAX.saturating_sub(buffer.len());
    buffer.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(chunks: &[&[u8]]) -> Vec<String> {
        let mut frames = Frames::default();
        let mut found = Vec::new();
        let mut on_event = |data: &[u8]| found.push(String::from_utf8_lossy(data).into_owned());
        for chunk in chunks {
            frames.push(chunk, &mut on_event);
        }
        frames.finish(&mut on_event);
        found
    }

    fn check(text: &str, expected: &[&str]) {
        for stream in [text.to_owned(), text.replace('\n', "\r\n"), text.replace('\n', "\r")] {
            assert_eq!(events(&[stream.as_bytes()]), expected, "{stream:?}");
            for at in 0..=stream.len() {
                let (head, tail) = stream.as_bytes().split_at(at);
                assert_eq!(events(&[head, tail]), expected, "{stream:?} split at {at}");
            }
        }
    }

    #[test]
    fn events_are_framed_by_blank_lines() {
        check("data: a\n\ndata: b\n\n", &["a", "b"]);
        check("event: x\ndata: a\nid: 1\nretry: 5\n\n", &["a"]);
        check("data: a\nevent: x\n\n", &["a"]);
        check("data:a\n\ndata:  a\n\n", &["a", " a"]);
        check("data: a\ndata: b\ndata\n\n", &["a\nb\n"]);
        check(": comment\n\n:\ndata: a\n: more\n\n\n\n", &["a"]);
        check("\u{feff}data: a\n\n", &["a"]);
        check("event: ping\n\ndatax: no\n\n", &[]);
        check("data: last", &["last"]);
        check("data: last\n", &["last"]);
        check("", &[]);
    }

    #[test]
    fn an_event_over_the_limit_is_cut_and_the_next_is_whole() {
        let long = "x".repeat(EVENT_BYTES_MAX + 10);
        let found = events(&[format!("data: {long}\n").as_bytes(), format!("data: {long}\n\ndata: b\n\n").as_bytes()]);
        assert_eq!(found.iter().map(String::len).collect::<Vec<_>>(), [EVENT_BYTES_MAX, 1]);
    }
}
