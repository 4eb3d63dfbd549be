//! How the requests of an HTTP/1 connection are framed, followed byte by byte and taken at its strictest: a head that two
//! servers could read in two ways is none, whichever of the two hyper would take it for.
//!
//! Pure. What is let pass here is parsed by hyper; where this gives up, hyper refuses.

use thiserror::Error;

use super::limits::{CHUNK_LINE_BYTES_MAX, HEAD_BYTES_MAX};

/// Bytes that no two servers need read alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum FramingError {
    /// Of a head: hyper is to answer with 400.
    #[error("the head is ambiguous")]
    Head,
    /// Of a body in chunks.
    #[error("the chunks are malformed")]
    Chunks,
}

/// Where on the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before or in a head.
    Head,
    /// So many bytes of a body are left.
    Body(u64),
    /// Before or in the line that says how long a chunk is.
    ChunkSize,
    /// So many bytes of a chunk are left.
    Chunk(u64),
    /// At the end of a chunk.
    ChunkEnd,
    /// After the last chunk.
    Trailers,
    /// What follows is no HTTP/1, or a head that hyper refuses for its length.
    Opaque,
}

/// Follows one connection.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    /// The names of headers in each head that has passed and not been asked for, with a line feed behind each.
    names: Vec<Vec<u8>>,
}

impl Framing {
    /// At the beginning of a connection.
    pub(super) fn new() -> Self {
        Self { state: State::Head, names: Vec::new() }
    }

    /// The connection is HTTP/1 no longer.
    pub(super) fn ends(&mut self) {
        self.state = State::Opaque;
    }

    /// Before or in a head?
    pub(super) fn is_in_head(&self) -> bool {
        self.state == State::Head
    }

    /// So many bytes that come next may pass unseen; they are to be given to [`Self::follow`] all the same.
    pub(super) fn unseen(&self) -> u64 {
        match self.state {
            State::Body(left) | State::Chunk(left) => left,
            State::Opaque => u64::MAX,
            State::Head | State::ChunkSize | State::ChunkEnd | State::Trailers => 0,
        }
    }

    /// The names of headers, with a line feed behind each, in the heads that have passed since this was asked.
    pub(super) fn take_names(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.names)
    }

    /// How many of these bytes may pass: heads and lines only when they are whole. The rest is to be given again, with more.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<usize, FramingError> {
        let mut passed = 0;
        loop {
            let rest = bytes.get(passed..).unwrap_or_default();
            match self.step(rest) {
                Ok(Some(length)) => passed += length,
                // What came before an error passes first.
                Ok(None) => return Ok(passed),
                Err(_) if passed > 0 => return Ok(passed),
                Err(error) => return Err(error),
            }
        }
    }

    /// Goes one part on; `None` when there is not enough of it.
    fn step(&mut self, rest: &[u8]) -> Result<Option<usize>, FramingError> {
        if rest.is_empty() {
            return Ok(None);
        }
        let (length, next) = match self.state {
            State::Opaque => (rest.len(), State::Opaque),
            // Empty lines before a request are to be ignored (RFC 9112 §2.2).
            State::Head if rest.starts_with(b"\r\n") => (2, State::Head),
            State::Head => match head_end(rest)? {
                Some(end) => {
                    let (next, names) = after_head(rest.get(..end).unwrap_or_default())?;
                    self.names.push(names);
                    (end, next)
                }
                None if rest.len() > HEAD_BYTES_MAX => (rest.len(), State::Opaque),
                None => return Ok(None),
            },
            State::Body(left) => {
                let (length, left) = take(rest, left);
                (length, if left == 0 { State::Head } else { State::Body(left) })
            }
            State::Chunk(left) => {
                let (length, left) = take(rest, left);
                (length, if left == 0 { State::ChunkEnd } else { State::Chunk(left) })
            }
            State::ChunkSize => match line(rest, CHUNK_LINE_BYTES_MAX)? {
                Some(line) => match chunk_size(line).ok_or(FramingError::Chunks)? {
                    0 => (line.len() + 2, State::Trailers),
                    size => (line.len() + 2, State::Chunk(size)),
                },
                None => return Ok(None),
            },
            State::ChunkEnd => match line(rest, 0)? {
                Some(_) => (2, State::ChunkSize),
                None => return Ok(None),
            },
            State::Trailers => match line(rest, HEAD_BYTES_MAX)? {
                Some([]) => (2, State::Head),
                Some(line) => (line.len() + 2, State::Trailers),
                None => return Ok(None),
            },
        };
        self.state = next;
        Ok(Some(length))
    }
}

fn take(rest: &[u8], left: u64) -> (usize, u64) {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
    (length, left.saturating_sub(length as u64))
}

/// Where a head ends. Each of its lines ends with CR LF, and neither stands anywhere else.
fn head_end(bytes: &[u8]) -> Result<Option<usize>, FramingError> {
    let mut begin = 0;
    for end in memchr::memchr_iter(b'\n', bytes) {
        let line = bytes.get(begin..end).unwrap_or_default();
        let Some((b'\r', line)) = line.split_last() else { return Err(FramingError::Head) };
        if line.is_empty() {
            return Ok(Some(end + 1));
        }
        if memchr::memchr2(b'\r', 0, line).is_some() {
            return Err(FramingError::Head);
        }
        begin = end + 1;
    }
    Ok(None)
}

/// What follows a whole head, and the names of its headers.
fn after_head(head: &[u8]) -> Result<(State, Vec<u8>), FramingError> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request_line = lines.next().unwrap_or_default();
    if request_line.contains(&b'#') {
        // A fragment is no part of a request, and would be dropped.
        return Err(FramingError::Head);
    }
    let (mut length, mut is_chunked, mut is_expected, mut names) = (None, false, false, Vec::new());
    for line in lines.take_while(|line| !line.is_empty()) {
        let colon = memchr::memchr(b':', line).ok_or(FramingError::Head)?;
        let (name, value) = (line.get(..colon).unwrap_or_default(), line.get(colon + 1..).unwrap_or_default());
        // Also a line that goes on from the one before, and a name with a blank at its end.
        if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) {
            return Err(FramingError::Head);
        }
        names.extend_from_slice(name);
        names.push(b'\n');
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let said = content_length(value).filter(|_| length.is_none()).ok_or(FramingError::Head)?;
            length = Some(said);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(FramingError::Head);
            }
            is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"expect") {
            if is_expected || !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(FramingError::Head);
            }
            is_expected = true;
        }
    }
    let next = match (length, is_chunked) {
        (Some(_), true) => return Err(FramingError::Head),
        // Nothing is defined of a body here, and what follows may be another protocol.
        (Some(1..), false) | (None, true) if request_line.starts_with(b"CONNECT ") => return Err(FramingError::Head),
        _ if request_line.starts_with(b"CONNECT ") => State::Opaque,
        (None, true) => State::ChunkSize,
        (None | Some(0), false) => State::Head,
        (Some(length), false) => State::Body(length),
    };
    Ok((next, names))
}

fn content_length(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

/// A line of a body without its CR LF, once that is there.
fn line(rest: &[u8], bytes_max: usize) -> Result<Option<&[u8]>, FramingError> {
    match memchr::memchr(b'\n', rest) {
        Some(end) => match rest.get(..end).and_then(<[u8]>::split_last) {
            Some((b'\r', line)) if line.len() <= bytes_max && memchr::memchr2(b'\r', 0, line).is_none() => {
                Ok(Some(line))
            }
            Some(_) | None => Err(FramingError::Chunks),
        },
        None if rest.len() > bytes_max + 1 => Err(FramingError::Chunks),
        None => Ok(None),
    }
}

/// Hexadecimal digits, and extensions behind a semicolon, which mean nothing to anybody.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?;
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    u64::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| is_number)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// However the bytes are split, the outcome is the same: all pass, or what is in error.
    fn check(text: &str, expected: Result<usize, FramingError>) {
        for size in [1, 2, 7, text.len().max(1)] {
            let (mut framing, mut held, mut passed) = (Framing::new(), Vec::new(), 0);
            let outcome = text.as_bytes().chunks(size).try_for_each(|piece| {
                held.extend_from_slice(piece);
                while let length @ 1.. = framing.follow(&held)? {
                    held.drain(..length);
                    passed += length;
                }
                Ok(())
            });
            assert_eq!(outcome.map(|()| passed), expected, "{text:?} in pieces of {size}");
        }
    }

    fn passes(text: &str) {
        check(text, Ok(text.len()));
    }

    #[test]
    fn what_is_framed_in_one_way_passes() {
        passes(OK);
        passes(&format!("\r\n\r\n{OK}{OK}"));
        passes(&format!("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhe\nlo{OK}"));
        passes(&format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding:Chunked \r\n\r\n5;a=b\r\nhe\nlo\r\n0A\r\n0123456789\r\n0\r\nx: y\r\n\r\n{OK}"
        ));
        passes("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n\x16\x03\nanything");
        check("GET / HTTP/1.1\r\nHost", Ok(0));
        check(&format!("{OK}GET"), Ok(OK.len()));
    }

    #[test]
    fn names_of_headers_are_kept_as_they_are_spelled() {
        let text = format!("POST / HTTP/1.1\r\nHOST: a\r\nX-Note: b: c\r\ncontent-Length:5\r\n\r\nx: y\n{OK}GET / HTT");
        let mut framing = Framing::new();
        while framing.follow(text.as_bytes()).is_ok_and(|passed| passed == 0) {}
        assert_eq!(framing.take_names(), [&b"HOST\nX-Note\ncontent-Length\n"[..], b"Host\n"]);
        assert!(framing.take_names().is_empty());
    }

    #[test]
    fn a_head_that_can_be_read_in_two_ways_does_not_pass() {
        for lines in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: -1",
            "Content-Length: 0x5",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding\r\n : chunked",
            "X: a\r\n b",
            "X: a\r\n\tb",
            "X: a\nY: b",
            "X: a\rY: b",
            "X: a\0b",
            "Expect: 200-ok",
            "no colon",
            ": no name",
        ] {
            check(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"), Err(FramingError::Head));
        }
        check("GET / HTTP/1.1\n\n", Err(FramingError::Head));
        check(&format!("{OK}GET / HTTP/1.1\nHost: a\r\n\r\n"), Err(FramingError::Head));
        check("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Err(FramingError::Head));
        check("CONNECT a:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\n", Err(FramingError::Head));
    }

    #[test]
    fn chunks_are_what_they_say_they_are() {
        for body in [
            "g\r\n",
            "\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x5\r\n",
            " 5\r\n",
            "5 \r\n",
            "5\n",
            "5\rx\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "11111111111111111\r\n",
            "5;a\0\r\n",
            "0\r\nx\n",
        ] {
            check(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}"), Err(FramingError::Chunks));
        }
        let long =
            |bytes: usize| format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0;{}", "x".repeat(bytes));
        passes(&format!("{}\r\n\r\n", long(CHUNK_LINE_BYTES_MAX - 2)));
        check(&long(CHUNK_LINE_BYTES_MAX), Err(FramingError::Chunks));
    }

    #[test]
    fn a_head_that_is_too_long_is_left_to_hyper() {
        let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(HEAD_BYTES_MAX));
        let mut framing = Framing::new();
        assert_eq!(framing.follow(long.as_bytes()), Ok(long.len()));
        assert_eq!(framing.follow(b"\n\n\n"), Ok(3));
    }
}
