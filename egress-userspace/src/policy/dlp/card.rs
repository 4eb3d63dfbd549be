//! Numbers of payment cards (ISO/IEC 7812): an issuer's first digits, the length that goes with them, and the check digit of
//! Luhn's. Digits may stand in groups, as on cards.

use std::collections::VecDeque;

use super::place::{Place, Verdict};

/// Fewest digits.
pub(super) const DIGITS_MIN: usize = 13;
/// Most.
const DIGITS_MAX: usize = 19;
/// Most bytes: digits, and one between each two groups of four.
const BYTES_MAX: usize = DIGITS_MAX + 4;

/// Digits as they come by.
#[derive(Debug, Default)]
pub(super) struct Digits {
    count: usize,
    bytes: usize,
    is_after_digit: bool,
    /// Digits and bytes that came before each group of which a number may yet become long enough.
    groups: VecDeque<(usize, usize)>,
}

impl Digits {
    /// Takes a byte. Returns how many bytes back a number began, once it may be one: each group may be its first.
    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> Option<usize> {
        if byte.is_ascii_digit() {
            return self.take_digit();
        }
        if self.bytes > 0 {
            self.interrupt(byte);
        }
        None
    }

    /// Bytes of what may become a number.
    pub(super) fn bytes(&self) -> usize {
        self.groups.front().map_or(0, |(_, bytes)| self.bytes - bytes)
    }

    fn take_digit(&mut self) -> Option<usize> {
        if !self.is_after_digit {
            self.groups.push_back((self.count, self.bytes));
        }
        self.count += 1;
        self.bytes += 1;
        self.is_after_digit = true;
        let (_, bytes) = self.groups.front().copied().filter(|(digits, _)| self.count - digits == DIGITS_MIN)?;
        self.groups.pop_front();
        Some(self.bytes - bytes)
    }

    fn interrupt(&mut self, byte: u8) {
        if self.is_after_digit && matches!(byte, b' ' | b'-') {
            self.bytes += 1;
        } else {
            (self.count, self.bytes) = (0, 0);
            self.groups.clear();
        }
        self.is_after_digit = false;
    }
}

/// Is the number here that of a card?
pub(super) fn check(place: Place<'_>) -> Verdict {
    if !place.begins_word() || place.at.checked_sub(1).and_then(|before| place.byte(before)) == Some(b'.') {
        return Verdict::No;
    }
    let run = place.run(|byte| byte.is_ascii_digit() || matches!(byte, b' ' | b'-'), BYTES_MAX);
    if run.is_open {
        return Verdict::More;
    }
    let text = place.text.get(place.at..run.end).unwrap_or_default();
    let end = text.iter().rposition(u8::is_ascii_digit).map_or(0, |last| last + 1);
    let text = text.get(..end).unwrap_or_default();
    // Two numbers, of which the first is one, are told apart by where groups end.
    let ends = [16, 15, 14, 13, 19, 18, 17].into_iter().filter_map(|digits| end_of(text, digits));
    let next = |end: usize| place.byte(place.at + end);
    let is_over = |end: &usize| match next(*end) {
        Some(byte) if *end == text.len() => !byte.is_ascii_alphanumeric() && byte != b'_',
        Some(byte) => matches!(byte, b' ' | b'-'),
        None => true,
    };
    let card = ends.filter(is_over).find(|end| text.get(..*end).is_some_and(is_card));
    card.map_or(Verdict::No, |end| Verdict::Found(place.at..place.at + end))
}

/// Where so many digits end.
fn end_of(text: &[u8], digits: usize) -> Option<usize> {
    let mut left = digits;
    text.iter()
        .position(|byte| {
            left -= usize::from(byte.is_ascii_digit());
            left == 0
        })
        .map(|last| last + 1)
}

fn is_card(text: &[u8]) -> bool {
    let groups: Vec<usize> = text.split(|byte| !byte.is_ascii_digit()).map(<[u8]>::len).collect();
    let is_grouped = match groups.as_slice() {
        [_] | [4, 6, 5] | [4, 6, 4] => true,
        [firsts @ .., last] => firsts.iter().all(|group| *group == 4) && (1..=4).contains(last),
        [] => false,
    };
    let digits: Vec<u8> = text.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| byte - b'0').collect();
    is_grouped && has_issuer(&digits) && passes_luhn(&digits)
}

/// First digits and lengths of the schemes: Visa, Mastercard, American Express, Discover, JCB, Diners Club, UnionPay.
fn has_issuer(digits: &[u8]) -> bool {
    let number = digits.iter().take(4).fold(0, |number, digit| number * 10 + u32::from(*digit));
    match digits.len() {
        13 => (4000..5000).contains(&number),
        14 => matches!(number, 3000..=3059 | 3600..=3699 | 3800..=3999),
        15 => matches!(number, 3400..=3499 | 3700..=3799),
        16 => {
            matches!(number, 2221..=2720 | 3528..=3589 | 4000..=4999 | 5100..=5599 | 6011 | 6200..=6299 | 6440..=6599)
        }
        17 | 18 => matches!(number, 6200..=6299),
        19 => matches!(number, 4000..=4999 | 6200..=6299),
        _ => false,
    }
}

fn passes_luhn(digits: &[u8]) -> bool {
    let doubled = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| if place % 2 == 1 { doubled(u32::from(*digit)) } else { u32::from(*digit) })
        .sum();
    let is_zeros = digits.iter().all(|digit| Some(digit) == digits.first());
    sum.is_multiple_of(10) && !is_zeros
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str, expected: Option<&str>) {
        let verdict = check(Place { text: text.as_bytes(), at: 0, is_end: true });
        let expected = expected.map_or(Verdict::No, |card| Verdict::Found(0..card.len()));
        assert_eq!(verdict, expected, "{text}");
    }

    #[test]
    fn a_card_has_an_issuer_a_length_and_a_check_digit() {
        // Numbers that schemes and processors publish for tests.
        for card in [
            "4111111111111111",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "5555555555554444",
            "2223003122003222",
            "378282246310005",
            "3782 822463 10005",
            "6011111111111117",
            "3530111333300000",
            "30569309025904",
            "4222222222222",
            "6200000000000005",
        ] {
            check_text(card, Some(card));
            check_text(&format!("{card}, 12/34"), Some(card));
        }
        check_text("4111 1111 1111 1111 123", Some("4111 1111 1111 1111"));
        for other in [
            "4111111111111112",
            "1111111111111117",
            "41111111111111111111111",
            "4111 111111111111",
            "4111111111111111a",
            "1700000000000000000",
            "0000000000000000",
        ] {
            check_text(other, None);
        }
        let inside = |text: &str| check(Place { text: text.as_bytes(), at: 2, is_end: true });
        assert_eq!(inside("0.4111111111111111"), Verdict::No);
        assert_eq!(inside("xa4111111111111111"), Verdict::No);
    }

    #[test]
    fn a_number_is_looked_at_once_it_has_as_many_digits_as_the_shortest() {
        let mut digits = Digits::default();
        let begun =
            |digits: &mut Digits, text: &str| text.bytes().filter_map(|byte| digits.take(byte)).collect::<Vec<_>>();
        assert_eq!(begun(&mut digits, "x4111 1111 1111"), [0; 0]);
        assert_eq!(digits.bytes(), 14);
        assert_eq!(begun(&mut digits, " 1111 1"), [16, 16]);
        assert_eq!(begun(&mut digits, "x4111 1111 1111"), [0; 0]);
        assert_eq!(begun(&mut digits, " 1111"), [16]);
        assert_eq!(begun(&mut digits, "y1--23456789012"), [0; 0]);
    }
}
