//! Lines of git's protocol: four hexadecimal digits that say how long a line is, themselves included, and the line.
//!
//! <https://git-scm.com/docs/protocol-common>

/// Digits of the length.
const LENGTH_BYTES: usize = 4;
/// Longest line, with its length: git reads no longer one.
pub(super) const LINE_BYTES_MAX: usize = 65_520;
/// Ends a list of lines.
pub(super) const FLUSH: &[u8] = b"0000";

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// With what it holds.
    Line(&'a [u8]),
    /// The end of a list.
    Flush,
}

/// Why there is no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPacket {
    /// More bytes are needed.
    Incomplete,
    /// No line begins so.
    Malformed,
}

/// The first line of `bytes`, and what follows it.
pub(super) fn packet(bytes: &[u8]) -> Result<(Packet<'_>, &[u8]), NoPacket> {
    let (digits, rest) = bytes.split_first_chunk::<LENGTH_BYTES>().ok_or(NoPacket::Incomplete)?;
    match length(*digits)? {
        0 => Ok((Packet::Flush, rest)),
        bytes @ LENGTH_BYTES..=LINE_BYTES_MAX => {
            let (line, rest) = rest.split_at_checked(bytes - LENGTH_BYTES).ok_or(NoPacket::Incomplete)?;
            Ok((Packet::Line(line), rest))
        }
        // Other separators have no place where these lines are read.
        _ => Err(NoPacket::Malformed),
    }
}

fn length(digits: [u8; LENGTH_BYTES]) -> Result<usize, NoPacket> {
    digits.into_iter().try_fold(0, |length, digit| {
        let digit = char::from(digit).to_digit(16).and_then(|digit| usize::try_from(digit).ok());
        Ok(length << 4 | digit.ok_or(NoPacket::Malformed)?)
    })
}

/// Writes a line; what is longer than a line may be is cut off.
pub(super) fn append(buffer: &mut Vec<u8>, line: &[u8]) {
    let line = line.get(..LINE_BYTES_MAX - LENGTH_BYTES).unwrap_or(line);
    buffer.extend_from_slice(format!("{:04x}", line.len() + LENGTH_BYTES).as_bytes());
    buffer.extend_from_slice(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Result<(Packet<'_>, &[u8]), NoPacket>) {
        assert_eq!(packet(bytes), expected, "{}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn a_line_is_as_long_as_it_says() {
        check(b"0006a\n0000", Ok((Packet::Line(b"a\n"), b"0000")));
        check(b"000Bfoobar\n", Ok((Packet::Line(b"foobar\n"), b"")));
        check(b"0004", Ok((Packet::Line(b""), b"")));
        check(b"0000PACK", Ok((Packet::Flush, b"PACK")));
        for incomplete in ["", "000", "0006a", "fff0"] {
            check(incomplete.as_bytes(), Err(NoPacket::Incomplete));
        }
        for malformed in ["0001", "0002", "0003", "fff1", "-006a\n", "0x06", "PACK", "+001"] {
            check(malformed.as_bytes(), Err(NoPacket::Malformed));
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for bytes in [0, 1, LINE_BYTES_MAX - LENGTH_BYTES, LINE_BYTES_MAX] {
            let (line, mut written) = (vec![b'x'; bytes], Vec::new());
            append(&mut written, &line);
            let kept = bytes.min(LINE_BYTES_MAX - LENGTH_BYTES);
            check(&written, Ok((Packet::Line(&line[..kept]), b"")));
        }
    }
}
