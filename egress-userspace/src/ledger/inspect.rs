//! A look at a ledger that nobody has open: nothing of it is changed.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::error::LedgerError;

/// Opens it for reading, and has SQLite check its pages. Says what was found.
///
/// # Errors
/// When it cannot be read or is damaged.
pub fn inspect(path: &Path) -> Result<String, LedgerError> {
    let failed = |source| LedgerError::Open { path: path.to_owned(), source };
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if verdict != "ok" {
        let damaged = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(failed(rusqlite::Error::SqliteFailure(damaged, Some(verdict))));
    }
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    Ok(format!("sound, schema version {version}"))
}
