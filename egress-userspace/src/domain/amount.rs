//! Amounts of tokens.

use std::iter::Sum;
use std::ops::Add;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A number of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tokens(pub u64);

/// Why an amount was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AmountError {
    /// Neither digits nor digits with a suffix.
    #[error("{0:?} is not an amount of tokens: write 5000, 5_000, 5k or 5M")]
    Shape(String),
    /// More than the ledger's 63 bits.
    #[error("{0:?} is more tokens than can be counted")]
    TooMany(String),
}

impl Tokens {
    /// No tokens.
    pub const ZERO: Self = Self(0);

    /// What is left after taking `used` away; never below zero.
    #[must_use]
    pub fn saturating_sub(self, used: Self) -> Self {
        Self(self.0.saturating_sub(used.0))
    }
}

impl Add for Tokens {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Tokens {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl std::str::FromStr for Tokens {
    type Err = AmountError;

    /// Reads `5000`, `5_000`, `5k` (thousand) or `5M` (million).
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let shape = || AmountError::Shape(text.to_owned());
        let (digits, factor) = match text.as_bytes().last() {
            Some(b'k' | b'K') => (text.get(..text.len() - 1).unwrap_or(""), 1_000),
            Some(b'm' | b'M') => (text.get(..text.len() - 1).unwrap_or(""), 1_000_000),
            _ => (text, 1),
        };
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
        let fenced = digits.starts_with('_') || digits.ends_with('_') || digits.is_empty();
        if !plain || fenced {
            return Err(shape());
        }
        let too_many = || AmountError::TooMany(text.to_owned());
        let number: u64 = digits.replace('_', "").parse().map_err(|_| too_many())?;
        let tokens = number.checked_mul(factor).filter(|tokens| i64::try_from(*tokens).is_ok()).ok_or_else(too_many)?;
        Ok(Self(tokens))
    }
}

impl std::fmt::Display for Tokens {
    /// Digits in groups of three: `5,012`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(digits.len() + digits.len() / 3);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(text.parse::<Tokens>().ok(), expected.map(Tokens), "{text}");
    }

    #[test]
    fn amounts_are_read_as_people_write_them() {
        check("0", Some(0));
        check("5_000_000", Some(5_000_000));
        check("5k", Some(5_000));
        check("2M", Some(2_000_000));
        check("9223372036854775807", Some(i64::MAX.unsigned_abs()));
        for bad in [
            "",
            "k",
            "_5",
            "5_",
            "-5",
            "5.5k",
            "5kk",
            "5 k",
            "9223372036854775808",
            "99999999999999999999M",
            "9223372036854776k",
            "+5",
            "٥",
            "5µ",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn amounts_neither_overflow_nor_go_below_nothing() {
        assert_eq!(Tokens(u64::MAX) + Tokens(1), Tokens(u64::MAX));
        assert_eq!([Tokens(u64::MAX), Tokens(7)].into_iter().sum::<Tokens>(), Tokens(u64::MAX));
        assert_eq!(Tokens(3).saturating_sub(Tokens(5)), Tokens::ZERO);
    }

    #[test]
    fn amounts_are_shown_in_groups() {
        assert_eq!(Tokens(0).to_string(), "0");
        assert_eq!(Tokens(999).to_string(), "999");
        assert_eq!(Tokens(1_000).to_string(), "1,000");
        assert_eq!(Tokens(12_345_678).to_string(), "12,345,678");
    }
}
