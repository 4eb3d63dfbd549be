//! When a certificate is valid: as much of X.509 as that takes. Pure.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const EXPLICIT_VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// From when to when a certificate (DER) is valid; `None` when it is none.
pub(super) fn validity(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (SEQUENCE, certificate, _) = element(certificate)? else { return None };
    let (SEQUENCE, mut fields, _) = element(certificate)? else { return None };
    if let (EXPLICIT_VERSION, _, rest) = element(fields)? {
        fields = rest;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        (_, _, fields) = element(fields)?;
    }
    let (SEQUENCE, validity, _) = element(fields)? else { return None };
    let (kind, begin, rest) = element(validity)?;
    let (end_kind, end, _) = element(rest)?;
    Some((time(kind, begin)?, time(end_kind, end)?))
}

/// Tag, content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let ([tag, first], rest) = bytes.split_first_chunk()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) =
            rest.split_at_checked(usize::from(*first & 0x7f)).filter(|(digits, _)| digits.len() <= 4)?;
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

fn time(kind: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let text = match kind {
        // Two digits of a year between 1950 and 2049 (RFC 5280).
        UTC_TIME => format!("{}{text}", if text.get(..2)? < "50" { "20" } else { "19" }),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let at = DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(begin: &[u8], end: &[u8], expected: Option<(&str, &str)>) {
        let wrap = |tag: u8, parts: &[&[u8]]| {
            let content = parts.concat();
            [&[tag, 0x81, u8::try_from(content.len()).unwrap()][..], &content].concat()
        };
        let validity_field = wrap(SEQUENCE, &[begin, end]);
        let fields =
            wrap(SEQUENCE, &[&[EXPLICIT_VERSION, 0], &[2, 1, 7], &[SEQUENCE, 0], &[SEQUENCE, 0], &validity_field]);
        let whole = wrap(SEQUENCE, &[&fields]);
        let expected = expected.map(|(begin, end)| (begin.parse().unwrap(), end.parse().unwrap()));
        assert_eq!(validity(&whole), expected);
        for length in 0..whole.len() {
            assert_eq!(validity(&whole[..length]), None);
        }
    }

    #[test]
    fn both_ways_of_writing_a_time_are_read() {
        let late = [&[GENERALIZED_TIME, 15][..], b"20501231235959Z"].concat();
        check(b"\x17\x0d250102030405Z", &late, Some(("2025-01-02T03:04:05Z", "2050-12-31T23:59:59Z")));
        check(b"\x17\x0d250102030405Z", b"\x17\x0d991302030405Z", None);
        check(
            b"\x17\x0d500102030405Z",
            b"\x17\x0d490102030405Z",
            Some(("1950-01-02T03:04:05Z", "2049-01-02T03:04:05Z")),
        );
    }
}
