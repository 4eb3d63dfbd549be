//! The audit: what happened to gates, budgets and processes, append-only and chained.

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use super::chain;
use super::column::{word, word_or_null};
use super::error::{Fault, LedgerError};
use super::report::last;
use super::writer::Desk;
use super::{AuditFilter, AuditPage, AuditTail, BottleRow};
use crate::domain::{AuditKind, AuditRow, BottleId, UnixMillis};

const ROWS: &str = "SELECT audit.number, audit.at, bottle.name, audit.detail, audit.hash
    FROM audit LEFT JOIN bottle ON bottle.id = audit.bottle";

impl Desk {
    /// Adds a row. Nothing else does.
    pub(super) fn audit(&mut self, bottle: Option<BottleId>, kind: &AuditKind) -> Result<(), Fault> {
        let entry = match bottle {
            Some(id) => {
                let entry = self.book.bottle(&self.connection, &self.rules, id)?;
                Some((id, entry.ok_or_else(|| LedgerError::NoBottle(format!("number {}", id.0)))?))
            }
            None => None,
        };
        let detail =
            serde_json::to_string(kind).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        chain::append(&self.connection, self.now, entry.as_ref().map(|(id, entry)| (*id, &entry.name)), &detail)?;
        self.is_audited = true;
        Ok(())
    }
}

/// The newest rows, oldest first; only those of `bottle` when there is one.
pub(super) fn rows(
    connection: &Connection,
    bottle: Option<&BottleRow>,
    filter: &AuditFilter,
) -> rusqlite::Result<AuditPage> {
    let since = filter.since.map_or(i64::MIN, |since| since.0);
    let before = filter.before.unwrap_or(i64::MAX);
    let within = "audit.at >= ?1 AND audit.number < ?2";
    let order = "ORDER BY audit.number DESC LIMIT ?3";
    let mut rows: Vec<AuditRow> = match bottle {
        Some(bottle) => connection
            .prepare_cached(&format!("{ROWS} WHERE audit.bottle = ?4 AND {within} {order}"))?
            .query_map(params![since, before, last(filter.last), bottle.id.0], audit_row)?
            .collect::<Result<_, _>>()?,
        None => connection
            .prepare_cached(&format!("{ROWS} WHERE {within} {order}"))?
            .query_map(params![since, before, last(filter.last)], audit_row)?
            .collect::<Result<_, _>>()?,
    };
    rows.reverse();
    Ok(AuditPage { rows, newest: newest(connection)? })
}

/// The oldest rows after one, oldest first; only those of `bottle` when there is one.
pub(super) fn rows_after(
    connection: &Connection,
    bottle: Option<&BottleRow>,
    tail: &AuditTail,
    rows_max: u32,
) -> rusqlite::Result<AuditPage> {
    let order = "ORDER BY audit.number LIMIT ?2";
    let rows = match bottle {
        Some(bottle) => connection
            .prepare_cached(&format!("{ROWS} WHERE audit.bottle = ?3 AND audit.number > ?1 {order}"))?
            .query_map(params![tail.after, rows_max, bottle.id.0], audit_row)?
            .collect::<Result<_, _>>()?,
        None => connection
            .prepare_cached(&format!("{ROWS} WHERE audit.number > ?1 {order}"))?
            .query_map(params![tail.after, rows_max], audit_row)?
            .collect::<Result<_, _>>()?,
    };
    Ok(AuditPage { rows, newest: newest(connection)? })
}

fn newest(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("SELECT ifnull(max(number), 0) FROM audit")?.query_row([], |row| row.get(0))
}

fn audit_row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    let detail: String = row.get(3)?;
    let kind = serde_json::from_str(&detail)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(3, Type::Text, Box::new(error)))?;
    let (bottle, hash) = (word_or_null(row, 2)?, word(row, 4)?);
    Ok(AuditRow { number: row.get(0)?, at: UnixMillis(row.get(1)?), bottle, kind, hash })
}
