//! A chat stream whose usage was asked for in the client's place → the stream that the client asked for.
//!
//! Every byte stays but those of the events that tell usage and nothing else: clients that did not ask fail on a chunk
//! without choices.

use std::io::{Result, Write};

use memchr::{memchr2, memmem};
use serde_json::Value;

use super::decode::Pipe;
use super::reader::is_present;
use super::sse::Frames;

/// Longest event that is looked at, in bytes; usage alone is far shorter. A longer one passes.
const EVENT_BYTES_MAX: usize = 64 * 1024;

/// Takes the usage out of one response.
pub struct UsageWithheld {
    pipe: Pipe<Events>,
}

impl UsageWithheld {
    /// For a response with this content encoding, which the outcome has no more; `None` when it cannot be decoded.
    #[must_use]
    pub fn new(content_encoding: Option<&str>) -> Option<Self> {
        Pipe::new(content_encoding, Events::default()).map(|pipe| Self { pipe })
    }

    /// Takes more of the response; what may pass.
    ///
    /// # Errors
    /// The response is not encoded as it says: nothing more of it can be passed on.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.pipe.write_all(bytes)?;
        self.pipe.flush()?;
        Ok(std::mem::take(&mut self.pipe.writer_mut().passed))
    }

    /// The response has ended; what is left of it.
    pub fn finish(&mut self) -> Vec<u8> {
        // A stream cut inside its encoding passes what it had.
        let _ = self.pipe.finish();
        let events = self.pipe.writer_mut();
        events.end_event();
        std::mem::take(&mut events.passed)
    }
}

impl std::fmt::Debug for UsageWithheld {
    /// Never shows bytes of the exchange.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UsageWithheld").finish_non_exhaustive()
    }
}

/// Events as written, each judged when it is whole.
#[derive(Debug, Default)]
struct Events {
    /// The event of which the end has not been seen.
    event: Vec<u8>,
    /// It is too long to be usage alone, and its beginning has passed.
    is_passing: bool,
    /// The line of which the end has not been seen is not blank.
    is_in_line: bool,
    /// The last byte was a CR: an LF right after it belongs to it.
    is_after_cr: bool,
    /// The event before was withheld.
    has_withheld: bool,
    passed: Vec<u8>,
}

impl Events {
    fn take(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if std::mem::take(&mut self.is_after_cr) && rest.first() == Some(&b'\n') {
            self.complete_line_end();
            rest = rest.get(1..).unwrap_or_default();
        }
        while let Some(end) = memchr2(b'\n', b'\r', rest) {
            let is_crlf = rest.get(end..).is_some_and(|at| at.starts_with(b"\r\n"));
            let (line, tail) = rest.split_at(end + if is_crlf { 2 } else { 1 });
            self.is_after_cr = tail.is_empty() && line.ends_with(b"\r");
            self.keep(line);
            let is_blank = end == 0 && !self.is_in_line;
            self.is_in_line = false;
            if is_blank {
                self.end_event();
            }
            rest = tail;
        }
        self.is_in_line |= !rest.is_empty();
        self.keep(rest);
        self.is_after_cr &= rest.is_empty();
    }

    /// The LF of a CRLF that was split.
    fn complete_line_end(&mut self) {
        if !self.event.is_empty() || self.is_passing {
            self.keep(b"\n");
        } else if !self.has_withheld {
            self.passed.push(b'\n');
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.is_passing {
            self.passed.extend_from_slice(bytes);
        } else {
            self.event.extend_from_slice(bytes);
            if self.event.len() > EVENT_BYTES_MAX {
                self.passed.append(&mut self.event);
                self.is_passing = true;
            }
        }
    }

    fn end_event(&mut self) {
        self.has_withheld = !self.is_passing && tells_usage_only(&self.event);
        if !self.has_withheld {
            self.passed.append(&mut self.event);
        }
        self.event.clear();
        self.is_passing = false;
    }
}

impl Write for Events {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.take(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A chunk without choices but with usage. Without usage it says something else (Azure's first one), and an error is news.
fn tells_usage_only(event: &[u8]) -> bool {
    if memmem::find(event, b"usage").is_none() {
        return false;
    }
    let mut is_only = false;
    let mut frames = Frames::default();
    let mut judge = |data: &[u8]| {
        let Ok(chunk) = serde_json::from_slice::<Value>(data) else { return };
        let has_no_choice = chunk.get("choices").and_then(Value::as_array).is_some_and(Vec::is_empty);
        is_only = has_no_choice && is_present(chunk.get("usage")) && !is_present(chunk.get("error"));
    };
    frames.push(event, &mut judge);
    frames.finish(&mut judge);
    is_only
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"usage\"}}],\"usage\":null}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn passed(encoding: Option<&str>, chunks: &[&[u8]]) -> String {
        let mut withheld = UsageWithheld::new(encoding).unwrap();
        let mut passed = Vec::new();
        for chunk in chunks {
            passed.extend(withheld.push(chunk).unwrap());
        }
        passed.extend(withheld.finish());
        String::from_utf8(passed).unwrap()
    }

    /// With every kind of line end and at every split.
    fn check(stream: &[&str], expected: &[&str]) {
        for line_end in ["\n", "\r\n", "\r"] {
            let stream = stream.concat().replace('\n', line_end);
            let expected = expected.concat().replace('\n', line_end);
            for at in 0..=stream.len() {
                let (head, tail) = stream.as_bytes().split_at(at);
                assert_eq!(passed(None, &[head, tail]), expected, "{stream:?} split at {at}");
            }
            let single: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
            assert_eq!(passed(None, &single), expected, "{stream:?} byte by byte");
        }
    }

    #[test]
    fn usage_alone_is_withheld_and_every_other_byte_passes() {
        check(&[DELTA, USAGE, DONE], &[DELTA, DONE]);
        check(&[DELTA, USAGE], &[DELTA]);
        check(&[USAGE, ": note\n\n\n", DELTA], &[": note\n\n\n", DELTA]);
        check(&[DELTA, USAGE.trim_end()], &[DELTA]);
        check(&[DELTA, "data: {\"choi"], &[DELTA, "data: {\"choi"]);
        check(&["event: x\nid: 1\n", USAGE, DONE], &[DONE]);
        check(&["data: {\"choices\":[],\ndata: \"usage\":{}}\n\n", DONE], &[DONE]);
    }

    #[test]
    fn what_says_more_than_usage_passes() {
        for event in [
            "data: {\"choices\":[],\"usage\":null,\"prompt_filter_results\":[]}\n\n",
            "data: {\"choices\":[],\"prompt_filter_results\":[\"usage\"]}\n\n",
            "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":1}}\n\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1},\"error\":{\"message\":\"x\"}}\n\n",
            "data: {\"usage\":{\"prompt_tokens\":1}}\n\n",
            "data: usage\n\n",
        ] {
            check(&[event, DONE], &[event, DONE]);
        }
    }

    #[test]
    fn an_event_over_the_limit_passes_as_it_comes() {
        let long = USAGE.replace("1}", &format!("1,\"x\":\"{}\"}}", "y".repeat(EVENT_BYTES_MAX)));
        let stream = [long.as_str(), USAGE, DONE].concat();
        assert_eq!(passed(None, &[stream.as_bytes()]), [&long, DONE].concat());
        let mut withheld = UsageWithheld::new(None).unwrap();
        let (head, _) = long.split_at(EVENT_BYTES_MAX + 10);
        assert_eq!(withheld.push(head.as_bytes()).unwrap().len(), head.len());
    }

    #[test]
    fn an_encoded_stream_comes_out_decoded() {
        let stream = [DELTA, USAGE, DONE].concat();
        let encoded = zstd::bulk::compress(stream.as_bytes(), 3).unwrap();
        let (head, tail) = encoded.split_at(encoded.len() / 2);
        assert_eq!(passed(Some("zstd"), &[head, tail]), [DELTA, DONE].concat());
        assert!(UsageWithheld::new(Some("secret")).is_none());
        let mut broken = UsageWithheld::new(Some("gzip")).unwrap();
        assert!(broken.push(b"\x1f\x8b\x08\x00rubbish that is no deflate at all").is_err());
    }
}
