//! The audit: what happened to gates, budgets and processes, append-only.

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use super::column::word_or_null;
use super::error::{Fault, LedgerError};
use super::report::last;
use super::writer::Desk;
use super::{AuditFilter, BottleRow};
use crate::domain::{AuditKind, AuditRow, BottleId, UnixMillis};

impl Desk {
    /// Adds a row.
    pub(super) fn audit(&mut self, bottle: Option<BottleId>, kind: &AuditKind) -> Result<(), Fault> {
        if let Some(id) = bottle
            && self.book.bottle(&self.connection, &self.rules, id)?.is_none()
        {
            return Err(LedgerError::NoBottle(format!("number {}", id.0)).into());
        }
        let detail =
            serde_json::to_string(kind).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        self.connection
            .prepare_cached("INSERT INTO audit (at, bottle, detail) VALUES (?1, ?2, ?3)")?
            .execute(params![self.now.0, bottle.map(|id| id.0), detail])?;
        Ok(())
    }
}

/// Rows, oldest first; only those of `bottle` when there is one.
pub(super) fn rows(
    connection: &Connection,
    bottle: Option<&BottleRow>,
    filter: &AuditFilter,
) -> rusqlite::Result<Vec<AuditRow>> {
    const COLUMNS: &str = "SELECT audit.number, audit.at, bottle.name, audit.detail
        FROM audit LEFT JOIN bottle ON bottle.id = audit.bottle";
    let mut rows: Vec<AuditRow> = match bottle {
        Some(bottle) => connection
            .prepare_cached(&format!("{COLUMNS} WHERE audit.bottle = ?1 ORDER BY audit.number DESC LIMIT ?2"))?
            .query_map(params![bottle.id.0, last(filter.last)], audit_row)?
            .collect::<Result<_, _>>()?,
        None => connection
            .prepare_cached(&format!("{COLUMNS} ORDER BY audit.number DESC LIMIT ?1"))?
            .query_map([last(filter.last)], audit_row)?
            .collect::<Result<_, _>>()?,
    };
    rows.reverse();
    Ok(rows)
}

fn audit_row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    let detail: String = row.get(3)?;
    let kind = serde_json::from_str(&detail)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(3, Type::Text, Box::new(error)))?;
    Ok(AuditRow { number: row.get(0)?, at: UnixMillis(row.get(1)?), bottle: word_or_null(row, 2)?, kind })
}
