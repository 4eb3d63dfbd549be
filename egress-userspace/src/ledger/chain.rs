//! The chain of the audit: each row's hash covers the row and the hash before it; one row beside them counts them and
//! repeats the last hash. `migrations/0006_audit_chain.sql` says what exactly is hashed.
//!
//! Holds nothing in memory: what a transaction takes back, it takes back from the chain too. A tip that somebody else has
//! changed or removed is gone on from as it is found, so that what was done to it stays to be seen.

use ring::digest::{Context, SHA256};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::column::word;
use crate::domain::{AuditHash, BottleId, BottleName, ChainFault, ChainReport, UnixMillis};

/// How many rows there are, and the hash of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tip {
    rows: i64,
    hash: AuditHash,
}

/// The columns that a hash covers, as text.
#[derive(Clone, Copy, Debug)]
struct Link<'a> {
    number: i64,
    at: &'a [u8],
    bottle: &'a [u8],
    detail: &'a [u8],
}

impl Link<'_> {
    fn hash(&self, previous: &AuditHash) -> AuditHash {
        let mut context = Context::new(&SHA256);
        let (previous, number) = (previous.to_string(), self.number.to_string());
        for line in [previous.as_bytes(), number.as_bytes(), self.at, self.bottle] {
            context.update(line);
            context.update(b"\n");
        }
        context.update(self.detail);
        let mut hash = AuditHash::NONE;
        for (byte, digest) in hash.0.iter_mut().zip(context.finish().as_ref()) {
            *byte = *digest;
        }
        hash
    }
}

/// Adds a row at the end of the chain, inside the caller's transaction.
pub(super) fn append(
    connection: &Connection,
    at: UnixMillis,
    bottle: Option<(BottleId, &BottleName)>,
    detail: &str,
) -> rusqlite::Result<()> {
    let tip = tip(connection)?.unwrap_or(Tip { rows: 0, hash: AuditHash::NONE });
    // Not a number that a row had which somebody has removed.
    let number: i64 = connection
        .prepare_cached("SELECT 1 + max(?1, ifnull((SELECT max(number) FROM audit), 0))")?
        .query_row([tip.rows], |row| row.get(0))?;
    let at_text = at.0.to_string();
    let link = Link {
        number,
        at: at_text.as_bytes(),
        bottle: bottle.map_or("", |(_, name)| name.as_str()).as_bytes(),
        detail: detail.as_bytes(),
    };
    let hash = link.hash(&tip.hash);
    connection
        .prepare_cached("INSERT INTO audit (number, at, bottle, detail, hash) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![number, at.0, bottle.map(|(id, _)| id.0), detail, hash.to_string()])?;
    set_tip(connection, Tip { rows: tip.rows.saturating_add(1), hash })
}

/// Chains the rows that were written before there was a chain.
pub(super) fn adopt(connection: &Connection) -> rusqlite::Result<()> {
    let mut old = connection.prepare(
        "SELECT number, CAST(at AS TEXT), ifnull(name, ''), detail, at, bottle
         FROM audit_unchained LEFT JOIN bottle ON bottle.id = audit_unchained.bottle ORDER BY number",
    )?;
    let mut chained =
        connection.prepare("INSERT INTO audit (number, at, bottle, detail, hash) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut tip = Tip { rows: 0, hash: AuditHash::NONE };
    let mut rows = old.query([])?;
    while let Some(row) = rows.next()? {
        let link = link(row)?;
        tip = Tip { rows: tip.rows + 1, hash: link.hash(&tip.hash) };
        let (detail, at, bottle): (String, i64, Option<u32>) = (row.get(3)?, row.get(4)?, row.get(5)?);
        chained.execute(params![link.number, at, bottle, detail, tip.hash.to_string()])?;
    }
    set_tip(connection, tip)?;
    drop(rows);
    drop(old);
    connection.execute_batch("DROP TABLE audit_unchained")
}

fn tip(connection: &Connection) -> rusqlite::Result<Option<Tip>> {
    connection
        .prepare_cached("SELECT rows, hash FROM audit_tip")?
        // What is no hash is nobody's: the next row shows that.
        .query_row([], |row| Ok(Tip { rows: row.get(0)?, hash: word(row, 1).unwrap_or(AuditHash::NONE) }))
        .optional()
}

fn set_tip(connection: &Connection, tip: Tip) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO audit_tip (only, rows, hash) VALUES (1, ?1, ?2)
             ON CONFLICT (only) DO UPDATE SET rows = excluded.rows, hash = excluded.hash",
        )?
        .execute(params![tip.rows, tip.hash.to_string()])?;
    Ok(())
}

/// The first four columns.
fn link<'a>(row: &'a Row<'_>) -> rusqlite::Result<Link<'a>> {
    let bytes = |index| Ok::<_, rusqlite::Error>(row.get_ref(index)?.as_bytes()?);
    Ok(Link { number: row.get(0)?, at: bytes(1)?, bottle: bytes(2)?, detail: bytes(3)? })
}

/// A walk along the chain, so many rows at a time that nobody waits for the connection.
#[derive(Debug)]
pub(super) struct Walk {
    /// The lowest number that has not been looked at.
    next: Option<i64>,
    last: Option<i64>,
    wanted: Option<AuditHash>,
    report: ChainReport,
}

impl Walk {
    /// From the beginning, on the look-out for a hash that was noted.
    pub(super) fn new(wanted: Option<AuditHash>) -> Self {
        let noted = (wanted == Some(AuditHash::NONE)).then_some(0);
        let report = ChainReport { rows: 0, tip: AuditHash::NONE, noted, fault: None };
        Self { next: Some(i64::MIN), last: None, wanted, report }
    }

    /// Goes on for at most so many rows; tells whether it has come to its end.
    pub(super) fn go_on(&mut self, connection: &Connection, rows_max: u32) -> rusqlite::Result<bool> {
        let mut statement = connection.prepare_cached(
            "SELECT number, CAST(at AS TEXT), CASE WHEN audit.bottle IS NULL THEN '' ELSE name END, detail, hash
             FROM audit LEFT JOIN bottle ON bottle.id = audit.bottle
             WHERE number >= ?1 ORDER BY number LIMIT ?2",
        )?;
        let mut rows = statement.query(params![self.next, rows_max])?;
        for _ in 0..rows_max {
            let Some(row) = rows.next()? else {
                self.report.fault = self.end(connection)?;
                return Ok(true);
            };
            if let Err(fault) = self.step(row) {
                self.report.fault = Some(fault);
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn report(self) -> ChainReport {
        self.report
    }

    fn step(&mut self, row: &Row<'_>) -> Result<(), ChainFault> {
        let number = row.get(0).unwrap_or(self.next.unwrap_or(i64::MAX));
        let unreadable = ChainFault::Unreadable { number };
        let link = link(row).map_err(|_| unreadable)?;
        let kept: AuditHash = word(row, 4).map_err(|_| unreadable)?;
        let hash = link.hash(&self.report.tip);
        if hash != kept {
            let is_after_gap = number > self.last.unwrap_or(0).saturating_add(1);
            return Err(ChainFault::Row { number, is_after_gap });
        }
        (self.report.rows, self.report.tip) = (self.report.rows + 1, hash);
        (self.last, self.next) = (Some(number), number.checked_add(1));
        if self.wanted == Some(hash) {
            self.report.noted = Some(number);
        }
        Ok(())
    }

    /// All rows follow from one another; are they all?
    fn end(&self, connection: &Connection) -> rusqlite::Result<Option<ChainFault>> {
        let Some(tip) = tip(connection)? else { return Ok(Some(ChainFault::NoTip)) };
        let (found, on_record) = (self.report.rows, u64::try_from(tip.rows).unwrap_or(0));
        if found < on_record {
            return Ok(Some(ChainFault::Removed { rows: on_record - found }));
        }
        if found > on_record {
            let number = connection
                .prepare_cached("SELECT number FROM audit ORDER BY number LIMIT 1 OFFSET ?1")?
                .query_row([tip.rows.max(0)], |row| row.get(0))?;
            return Ok(Some(ChainFault::Added { number }));
        }
        Ok((tip.hash != self.report.tip).then_some(ChainFault::Tip { number: self.last.unwrap_or(0) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `printf '%s\n%s\n%s\n%s\n%s' … | sha256sum` says.
    fn check(previous: &str, (number, at, bottle, detail): (i64, &str, &str, &str), hash: &str) {
        let link = Link { number, at: at.as_bytes(), bottle: bottle.as_bytes(), detail: detail.as_bytes() };
        assert_eq!(link.hash(&previous.parse().unwrap()).to_string(), hash, "{link:?}");
    }

    #[test]
    fn the_canonical_form_is_what_the_migration_says() {
        const FIRST: &str = "8c1714bd8935f05e539c46045d9d3d9078ea603921f03b0cbf2c76eafebc041c";
        const SECOND: &str = "c383789509153506f12203465d62dad9094d2aa4817f07867004f76835f31fae";
        const THIRD: &str = "38df412e951118b7b8fd405ff737eb78cc33820034944c0621cebd301bb95c66";
        let started = r#"{"event":"daemon_started","version":"0.1.0"}"#;
        check(&"0".repeat(64), (1, "1700000000000", "", started), FIRST);
        check(FIRST, (2, "1700000000001", "web", r#"{"event":"gate_cut","cause":"operator"}"#), SECOND);
        check(SECOND, (-3, "-1", "web", "\u{e4}\n\""), THIRD);
    }
}
