//! Opening the ledger: its files, who may use them, its schema.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};

use super::chain;
use super::error::LedgerError;
use crate::domain::{Durability, UnixMillis};

/// Every schema there has been, in order; the first is version 1.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/0001_first.sql"),
    include_str!("../../../migrations/0002_endings.sql"),
    include_str!("../../../migrations/0003_notes.sql"),
    include_str!("../../../migrations/0004_freeze.sql"),
    include_str!("../../../migrations/0005_budgets.sql"),
    AUDIT_CHAIN,
    include_str!("../../../migrations/0007_runtime.sql"),
    include_str!("../../../migrations/0008_exit_code.sql"),
    include_str!("../../../migrations/0009_approvals.sql"),
    include_str!("../../../migrations/0010_tally.sql"),
    include_str!("../../../migrations/0011_usage_of_a_bottle.sql"),
];
/// Wants its rows chained once it has run.
const AUDIT_CHAIN: &str = include_str!("../../../migrations/0006_audit_chain.sql");
/// How long to wait for another process that reads or copies the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Distinct statements there are, with room.
const STATEMENTS_CACHED: usize = 64;
/// Pages of write-ahead log between two checkpoints: fewer of them cost more `fsync`s, more of them a larger file.
const CHECKPOINT_PAGES: u32 = 4_000;
/// What the write-ahead log keeps of the disk after a burst, in bytes.
const LOG_BYTES_KEPT_MAX: u32 = 64 << 20;
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// A program that a dead ledger's process was just starting holds a copy of its lock until it runs; no longer than this.
const LOCK_TIME_MAX: Duration = Duration::from_millis(500);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// An open ledger.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) reader: Connection,
    /// For what may read many rows.
    pub(super) reports: Connection,
    /// Held as long as this ledger is open; the kernel lets go of it when the process dies.
    pub(super) lock: File,
}

/// Opens the ledger for this process alone and brings its schema up to date.
pub(super) fn open(path: &Path, now: UnixMillis, durability: Durability) -> Result<Opened, LedgerError> {
    let lock = take(path)?;
    let failed = |source| LedgerError::Open { path: path.to_owned(), source };
    let mut writer = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    writer.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    // Before anything is written: a later version's file must stay as it is.
    let version = version(&writer).map_err(failed)?;
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    if version > known {
        return Err(LedgerError::FromTheFuture { path: path.to_owned(), found: version, known });
    }
    configure(&writer, durability).map_err(failed)?;
    migrate(&mut writer, now).map_err(failed)?;
    let read_only = || -> rusqlite::Result<Connection> {
        let reader = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        reader.busy_timeout(BUSY_TIMEOUT)?;
        reader.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
        Ok(reader)
    };
    let (reader, reports) = (read_only().map_err(failed)?, read_only().map_err(failed)?);
    Ok(Opened { writer, reader, reports, lock })
}

/// Makes directory, database and lock file where they are missing, and takes the lock.
fn take(path: &Path) -> Result<File, LedgerError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| LedgerError::File { path, source }
    };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory).map_err(at(directory))?;
    }
    let lock_path = lock_path(path);
    let lock = private_file(&lock_path).map_err(at(&lock_path))?;
    let deadline = Instant::now() + LOCK_TIME_MAX;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => return Err(LedgerError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(at(&lock_path)(source)),
        }
    }
    private_file(path).map_err(at(path))?;
    Ok(lock)
}

/// Beside the database, because SQLite's own locks on that file are given up when any descriptor of it is closed.
fn lock_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".lock");
    name.into()
}

/// A file only its owner reads and writes, whatever mode it had. SQLite gives its log files the same mode.
fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// In a write-ahead log, NORMAL leaves it to the kernel when a commit reaches the disk; FULL waits for it.
pub(super) fn set_durability(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    let synchronous = match durability {
        Durability::Process => "NORMAL",
        Durability::Power => "FULL",
    };
    connection.pragma_update(None, "synchronous", synchronous)
}

fn configure(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    set_durability(connection, durability)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT_MAX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    Ok(())
}

/// Zero for a file without a schema.
fn version(connection: &Connection) -> rusqlite::Result<u32> {
    if !connection.table_exists(None, "schema_version")? {
        return Ok(0);
    }
    connection.query_row("SELECT ifnull(max(version), 0) FROM schema_version", [], |row| row.get(0))
}

/// Applies what is missing, all of it or nothing.
fn migrate(connection: &mut Connection, now: UnixMillis) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, applied INTEGER NOT NULL) STRICT",
    )?;
    let applied = version(&transaction)?;
    for (number, migration) in (1_u32..).zip(MIGRATIONS).filter(|(number, _)| *number > applied) {
        transaction.execute_batch(migration)?;
        if *migration == AUDIT_CHAIN {
            chain::adopt(&transaction)?;
        }
        transaction.execute("INSERT INTO schema_version (version, applied) VALUES (?1, ?2)", params![number, now.0])?;
    }
    transaction.commit()
}
