//! Server-sent events: bytes in any split → the data of each event (WHATWG HTML, "Parsing an event stream").
//!
//! Lines end in LF, CRLF or CR; comments and other fields are passed over. Only data is handed on: providers repeat the
//! event's name in it.

use memchr::{memchr, memchr2};

/// Longest event, in bytes of its lines that are held; a longer one is dropped. The event that tells of usage may repeat the
/// whole response.
pub(super) const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The framing of one stream.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The line of which the end has not been seen.
    line: Vec<u8>,
    /// The line is too long: what it began with is gone.
    is_line_dropped: bool,
    /// Data of the event of which the end has not been seen.
    data: Vec<u8>,
    has_data: bool,
    /// The event is too long: it will not be handed on.
    is_dropped: bool,
    dropped_bytes: u64,
    /// The last byte was a CR: an LF right after it belongs to it.
    is_after_cr: bool,
    is_past_first_line: bool,
}

impl Frames {
    /// Takes more of the stream; `on_event` gets the data of each event that is whole by it. Returns the bytes of what was
    /// dropped.
    pub(super) fn push(&mut self, bytes: &[u8], on_event: &mut dyn FnMut(&[u8])) -> u64 {
        let mut rest = bytes;
        if self.is_after_cr && !rest.is_empty() {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            self.is_after_cr = false;
        }
        while let Some(end) = memchr2(b'\n', b'\r', rest) {
            let (line, tail) = rest.split_at(end);
            if self.line.is_empty() && !self.is_line_dropped {
                self.end_line(line, on_event);
            } else {
                self.hold(line);
                let whole = std::mem::take(&mut self.line);
                if !std::mem::take(&mut self.is_line_dropped) {
                    self.end_line(&whole, on_event);
                }
                self.line = whole;
                self.line.clear();
            }
            rest = self.after_line_end(tail);
        }
        self.hold(rest);
        std::mem::take(&mut self.dropped_bytes)
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
            if std::mem::take(&mut self.has_data) && !self.is_dropped {
                on_event(&self.data);
            }
            self.data.clear();
            self.is_dropped = false;
            return;
        }
        if !self.has_room(line.len()) {
            return self.drop_event(line.len());
        }
        let (field, value) = match memchr(b':', line) {
            Some(colon) => (line.get(..colon).unwrap_or_default(), line.get(colon + 1..).unwrap_or_default()),
            None => (line, &[] as &[u8]),
        };
        if field != b"data" {
            return;
        }
        if self.is_dropped {
            return self.drop_event(line.len());
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        self.has_data = true;
    }

    /// Keeps the beginning of a line.
    fn hold(&mut self, bytes: &[u8]) {
        if self.is_line_dropped || !self.has_room(self.line.len() + bytes.len()) {
            self.is_line_dropped |= !bytes.is_empty();
            self.drop_event(bytes.len() + self.line.len());
            self.line = Vec::new();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    /// May the event have a line of so many bytes more?
    fn has_room(&self, line_bytes: usize) -> bool {
        line_bytes + self.data.len() <= EVENT_BYTES_MAX
    }

    fn drop_event(&mut self, line_bytes: usize) {
        self.dropped_bytes += (line_bytes + self.data.len()) as u64;
        self.data = Vec::new();
        self.is_dropped = true;
    }
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
    fn an_event_over_the_limit_is_dropped_and_the_next_is_whole() {
        let most = "x".repeat(EVENT_BYTES_MAX - "data: ".len());
        for (event, dropped_bytes) in [
            (format!("data: {most}\n"), 0),
            (format!("data: {most}x\n"), EVENT_BYTES_MAX + 1),
            (format!("data: {most}\ndata: c\n"), EVENT_BYTES_MAX - 6 + 7),
            (format!("data: a\ndata: {most}\ndata: c\n"), 1 + EVENT_BYTES_MAX + 7),
            (format!(":     {most}x\ndata: c\nid: 1\n"), EVENT_BYTES_MAX + 1 + 7),
        ] {
            let stream = format!("data: a\n\n{event}\ndata: b\n\n");
            for piece_bytes in [4096, 1 << 20, usize::MAX] {
                let mut frames = Frames::default();
                let (mut found, mut dropped) = (Vec::new(), 0);
                for piece in stream.as_bytes().chunks(piece_bytes) {
                    dropped += frames.push(piece, &mut |data| found.push(data.len()));
                }
                let expected = if dropped_bytes == 0 { vec![1, most.len(), 1] } else { vec![1, 1] };
                assert_eq!((found, dropped), (expected, dropped_bytes as u64), "{} {piece_bytes}", &event[..9]);
            }
        }
    }
}
