//! A buffer whose bytes are overwritten once they have been used, and before its memory goes elsewhere: secrets pass through it.

use std::io::{self, Write};

use zeroize::Zeroize;

/// Bytes that came and have not been taken, in one piece.
#[derive(Default)]
pub(super) struct WipedBuffer {
    /// Before `start` and from `end` on there is nothing that anyone wants to know.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl WipedBuffer {
    /// What came and has not been taken.
    pub(super) fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// The same, to be put right.
    pub(super) fn filled_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// Room for so many bytes at least; [`Self::came`] says how many came.
    pub(super) fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.bytes.len() - self.end < bytes {
            let filled = self.end - self.start;
            let length = (filled + bytes).max(filled * 2);
            if length <= self.bytes.len() {
                self.bytes.copy_within(self.start..self.end, 0);
                self.bytes.get_mut(filled..self.end).unwrap_or_default().zeroize();
            } else {
                let mut longer = vec![0; length];
                longer.get_mut(..filled).unwrap_or_default().copy_from_slice(self.filled());
                self.bytes.zeroize();
                self.bytes = longer;
            }
            (self.start, self.end) = (0, filled);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes have been put where there was room.
    pub(super) fn came(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.bytes.len());
    }

    /// The first bytes have been used.
    pub(super) fn take(&mut self, bytes: usize) {
        let taken = (self.start + bytes).min(self.end);
        self.bytes.get_mut(self.start..taken).unwrap_or_default().zeroize();
        self.start = taken;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// The last bytes are not wanted: so many stay.
    pub(super) fn keep(&mut self, bytes: usize) {
        let kept = (self.start + bytes).min(self.end);
        self.bytes.get_mut(kept..self.end).unwrap_or_default().zeroize();
        self.end = kept;
    }
}

impl Write for WipedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room(bytes.len()).get_mut(..bytes.len()).unwrap_or_default().copy_from_slice(bytes);
        self.came(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for WipedBuffer {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl std::fmt::Debug for WipedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WipedBuffer").field("filled", &self.filled().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(buffer: &WipedBuffer, expected: &[u8]) {
        assert_eq!(buffer.filled(), expected);
        let left = buffer.bytes.iter().filter(|byte| **byte != 0).count();
        assert_eq!(left, expected.len(), "{:?}", buffer.bytes);
    }

    #[test]
    fn nothing_is_left_of_what_has_been_taken() {
        let mut buffer = WipedBuffer::default();
        buffer.write_all(b"secretkey").unwrap();
        check(&buffer, b"secretkey");
        buffer.take(6);
        check(&buffer, b"key");
        let room = buffer.bytes.len() - 3;
        assert!(buffer.room(room).len() >= room);
        check(&buffer, b"key");
        buffer.room(1000).fill(0);
        check(&buffer, b"key");
        buffer.write_all(b"more").unwrap();
        buffer.keep(4);
        check(&buffer, b"keym");
        buffer.take(100);
        check(&buffer, b"");
        assert_eq!(format!("{buffer:?}"), "WipedBuffer { filled: 0, .. }");
    }
}
