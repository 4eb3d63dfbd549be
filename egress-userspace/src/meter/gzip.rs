//! Gzip in front of a writer: members one after the other, and the zeros that archives are filled up with between and behind
//! them. Gzip's own reader ignores those; another reads the member that follows them.

use std::io::{Result, Write};

use flate2::write::GzDecoder;

/// A decoder and what it feeds.
pub(super) struct GzipDecoder<W: Write + Default> {
    member: GzDecoder<W>,
    /// Its member is over.
    is_between: bool,
}

impl<W: Write + Default> GzipDecoder<W> {
    /// Decodes for `writer`.
    pub(super) fn new(writer: W) -> Self {
        Self { member: GzDecoder::new(writer), is_between: false }
    }

    /// What it feeds.
    pub(super) fn get_ref(&self) -> &W {
        self.member.get_ref()
    }

    /// What it feeds, to go on.
    pub(super) fn get_mut(&mut self) -> &mut W {
        self.member.get_mut()
    }
}

impl<W: Write + Default> Write for GzipDecoder<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if !self.is_between {
            let taken = self.member.write(bytes)?;
            if taken > 0 || bytes.is_empty() {
                return Ok(taken);
            }
            self.member.try_finish()?;
            self.is_between = true;
        }
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        if zeros > 0 || bytes.is_empty() {
            return Ok(zeros);
        }
        let writer = std::mem::take(self.member.get_mut());
        *self = Self::new(writer);
        self.member.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        if self.is_between { self.member.get_mut().flush() } else { self.member.flush() }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn check(body: &[u8], expected: &str, is_sound: bool) {
        for size in [1, 7, 64, body.len()] {
            let mut decoder = GzipDecoder::new(Vec::new());
            let read = body.chunks(size).try_for_each(|piece| decoder.write_all(piece).and_then(|()| decoder.flush()));
            assert_eq!(
                (String::from_utf8_lossy(decoder.get_ref()), read.is_ok()),
                (expected.into(), is_sound),
                "{size}"
            );
        }
    }

    #[test]
    fn members_and_the_zeros_around_them_are_read() {
        let (one, two) = (gzip("one"), gzip("two"));
        check(&one, "one", true);
        check(&[one.as_slice(), &two].concat(), "onetwo", true);
        for zeros in [1, 12, 100_000] {
            check(&[one.as_slice(), &vec![0; zeros]].concat(), "one", true);
            check(&[one.as_slice(), &vec![0; zeros], &two, &[0; 9]].concat(), "onetwo", true);
        }
    }

    #[test]
    fn what_else_follows_a_member_is_an_error_after_it() {
        let one = gzip("one");
        check(&[one.as_slice(), b"another text"].concat(), "one", false);
        check(&[one.as_slice(), &[0; 12], b"another text"].concat(), "one", false);
        let (mut broken, end) = (one.clone(), one.len() - 1);
        broken[end] ^= 1;
        check(&[broken.as_slice(), &[0; 12]].concat(), "one", false);
    }
}
