//! Between columns and the words of the domain.

use rusqlite::Row;
use rusqlite::types::{FromSqlError, Type};
use serde::de::DeserializeOwned;
use serde::de::value::{Error as WordError, StrDeserializer};

use crate::domain::{Scope, Tokens};

/// Most tokens of one kind that one exchange can be charged, so that no provider's answer can overflow a total.
pub(super) const TOKENS_PER_EXCHANGE_MAX: Tokens = Tokens(1 << 40);
/// Longest text that is kept of what a client or provider says (target, model, request id).
pub(super) const TEXT_BYTES_MAX: usize = 1024;

/// An amount as a column.
pub(super) fn amount(tokens: Tokens) -> i64 {
    i64::try_from(tokens.0).unwrap_or(i64::MAX)
}

/// A column as an amount.
pub(super) fn tokens(row: &Row<'_>, index: usize) -> rusqlite::Result<Tokens> {
    let number: i64 = row.get(index)?;
    u64::try_from(number).map(Tokens).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, number))
}

/// A text column as one of the domain's words.
pub(super) fn word<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    word_from(row.get_ref(index)?.as_str().map_err(|error| unreadable(index, error))?, index)
}

/// A text column that may be NULL as one of the domain's words.
pub(super) fn word_or_null<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<T>> {
    let text = row.get_ref(index)?.as_str_or_null().map_err(|error| unreadable(index, error))?;
    text.map(|text| word_from(text, index)).transpose()
}

/// The first two columns as a scope: its kind and its name.
pub(super) fn scope(row: &Row<'_>) -> rusqlite::Result<Scope> {
    Ok(match row.get_ref(0)?.as_str()? {
        "agent" => Scope::Agent(word(row, 1)?),
        "bottle" => Scope::Bottle(word(row, 1)?),
        _ => Scope::Host,
    })
}

/// A column of JSON.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(index)?.as_str().map_err(|error| unreadable(index, error))?;
    serde_json::from_str(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error)))
}

/// A column of JSON that may be NULL.
pub(super) fn json_or_default<T: DeserializeOwned + Default>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(index)?.as_str_or_null().map_err(|error| unreadable(index, error))?;
    let value = text.map(serde_json::from_str).transpose();
    let unreadable = |error| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error));
    Ok(value.map_err(unreadable)?.unwrap_or_default())
}

/// The beginning of a text that came from outside.
pub(super) fn bounded(text: &str) -> &str {
    let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or("")
}

fn word_from<T: DeserializeOwned>(text: &str, index: usize) -> rusqlite::Result<T> {
    T::deserialize(StrDeserializer::<WordError>::new(text))
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error)))
}

fn unreadable(index: usize, error: FromSqlError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_cut_between_characters() {
        assert_eq!(bounded("GET /"), "GET /");
        assert_eq!(bounded(&"x".repeat(TEXT_BYTES_MAX)).len(), TEXT_BYTES_MAX);
        assert_eq!(bounded(&"x".repeat(TEXT_BYTES_MAX + 1)).len(), TEXT_BYTES_MAX);
        assert_eq!(bounded(&"ä€".repeat(TEXT_BYTES_MAX)).len(), TEXT_BYTES_MAX - 2);
    }
}
