//! Usage on its way out. Page by page, so that an export of any length keeps nobody waiting: between two pages other
//! reports are read, and the writer is never waited for. Queries only.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::column::{tokens, word, word_or_null};
use super::report::{usage, usage_row};
use super::{BottleRow, UsagePage, UsageSlice, UsageSums};
use crate::domain::{
    AgentName, GroupBy, PermitId, UnixMillis, UsageCursor, UsageGroup, UsageKey, UsageRow, UsageTally,
};

/// The finest time that sums tell apart: every zone's midnight is at one of these.
const QUARTER_MILLIS: i64 = 15 * 60 * 1000;

/// A stretch of requests in the order in which they were settled: after `from`, up to `to`. Those of other bottles in it are
/// passed over, so that a page takes no longer where they are many.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    from: UsageCursor,
    to: Option<UsageCursor>,
    bottle: Option<u32>,
}

/// The condition of a stretch. An index gives its requests in order.
const WITHIN: &str = "(settled, permit) > (?1, ?2) AND (settled, permit) <= (?3, ?4)";
/// And of its bottle.
const OF_BOTTLE: &str = "(?5 IS NULL OR usage.bottle = ?5)";

/// Every total there is.
pub(super) fn tallies(connection: &Connection) -> rusqlite::Result<Vec<UsageTally>> {
    connection
        .prepare_cached(
            "SELECT name, tally.agent, provider, known, ending, requests, input, cache_write, cache_read, output
             FROM tally JOIN bottle ON bottle.id = tally.bottle ORDER BY name, tally.agent, provider, known, ending",
        )?
        .query_map([], |row| {
            let agent: String = row.get(1)?;
            Ok(UsageTally {
                bottle: word(row, 0)?,
                agent: if agent.is_empty() { None } else { word::<AgentName>(row, 1).map(Some)? },
                provider: word(row, 2)?,
                known: word(row, 3)?,
                ending: word(row, 4)?,
                requests: tokens(row, 5)?.0,
                usage: usage(row, 6)?,
            })
        })?
        .collect()
}

/// The next rows of a slice.
pub(super) fn rows(
    connection: &Connection,
    bottle: Option<&BottleRow>,
    slice: &UsageSlice,
    rows_max: u32,
) -> rusqlite::Result<UsagePage> {
    let stretch = stretch(connection, bottle, slice, rows_max)?;
    let total = total(connection, slice, stretch)?;
    let sql = format!(
        "SELECT bottle.name, usage.agent, provider, host, target, model, request_id, status, input,
            cache_write, cache_read, output, known, ending, admitted, settled, cache_write_1h, reasoning, service_tier,
            limits
         FROM usage JOIN bottle ON bottle.id = usage.bottle WHERE {WITHIN} AND {OF_BOTTLE} ORDER BY settled, permit"
    );
    let rows: Vec<UsageRow> =
        connection.prepare_cached(&sql)?.query_map(parameters(stretch), usage_row)?.collect::<Result<_, _>>()?;
    Ok(UsagePage { rows, next: stretch.to, total })
}

/// The next requests of a slice, added up.
pub(super) fn sums(
    connection: &Connection,
    bottle: Option<&BottleRow>,
    slice: &UsageSlice,
    by: &[GroupBy],
    rows_max: u32,
) -> rusqlite::Result<UsageSums> {
    let stretch = stretch(connection, bottle, slice, rows_max)?;
    let total = total(connection, slice, stretch)?;
    let column = |wanted: GroupBy, column: &'static str| if by.contains(&wanted) { column } else { "NULL" };
    let sql = format!(
        "SELECT {}, {}, {}, {}, {}, count(*), sum(input), sum(cache_write), sum(cache_read), sum(output)
         FROM usage JOIN bottle ON bottle.id = usage.bottle WHERE {WITHIN} AND {OF_BOTTLE} AND known <> 'unmetered'
         GROUP BY 1, 2, 3, 4, 5",
        column(GroupBy::Bottle, "bottle.name"),
        column(GroupBy::Agent, "usage.agent"),
        column(GroupBy::Provider, "provider"),
        column(GroupBy::Model, "model"),
        if by.contains(&GroupBy::Day) { format!("settled / {QUARTER_MILLIS}") } else { "NULL".to_owned() },
    );
    let groups = connection.prepare_cached(&sql)?.query_map(parameters(stretch), group)?.collect::<Result<_, _>>()?;
    Ok(UsageSums { groups, next: stretch.to, total })
}

fn group(row: &Row<'_>) -> rusqlite::Result<(Option<UnixMillis>, UsageGroup)> {
    let key = UsageKey {
        day: None,
        bottle: word_or_null(row, 0)?,
        agent: word_or_null(row, 1)?,
        provider: word_or_null(row, 2)?,
        model: row.get(3)?,
    };
    let quarter: Option<i64> = row.get(4)?;
    let begins = quarter.map(|quarter| UnixMillis(quarter.saturating_mul(QUARTER_MILLIS)));
    Ok((begins, UsageGroup { key, requests: tokens(row, 5)?.0, usage: usage(row, 6)? }))
}

/// Where the next page of a slice begins and ends; it is the last one when it has no end.
fn stretch(
    connection: &Connection,
    bottle: Option<&BottleRow>,
    slice: &UsageSlice,
    rows_max: u32,
) -> rusqlite::Result<Stretch> {
    let bottle = bottle.map(|bottle| bottle.id.0);
    let since = slice.since.map_or(i64::MIN, |since| since.0);
    let beginning = UsageCursor { settled: UnixMillis(since), permit: PermitId(i64::MIN) };
    let newest = match (slice.after, slice.last) {
        (None, Some(last)) => nth_newest(connection, bottle, last)?,
        (Some(_), _) | (None, None) => None,
    };
    let from = slice.after.max(newest).unwrap_or(beginning).max(beginning);
    let mut stretch = Stretch { from, to: None, bottle };
    let sql = format!(
        "SELECT settled, permit FROM usage WHERE {WITHIN} ORDER BY settled, permit LIMIT 1 OFFSET {}",
        rows_max.saturating_sub(1)
    );
    let end = connection.prepare_cached(&sql)?.query_row(places(stretch), cursor).optional()?;
    // A page that is just full has a next one, which may be empty.
    stretch.to = end;
    Ok(stretch)
}

/// The request before the newest so many.
fn nth_newest(connection: &Connection, bottle: Option<u32>, last: u32) -> rusqlite::Result<Option<UsageCursor>> {
    let of = if bottle.is_some() { "bottle = ?1" } else { "?1 IS NULL" };
    connection
        .prepare_cached(&format!(
            "SELECT settled, permit FROM usage WHERE {of} ORDER BY settled DESC, permit DESC LIMIT 1 OFFSET ?2"
        ))?
        .query_row(params![bottle, last], cursor)
        .optional()
}

/// How many there are from here to the end, of all bottles; counted with the first page only.
fn total(connection: &Connection, slice: &UsageSlice, stretch: Stretch) -> rusqlite::Result<Option<u64>> {
    if slice.after.is_some() {
        return Ok(None);
    }
    let whole = Stretch { to: None, ..stretch };
    let sql = format!("SELECT count(*) FROM usage WHERE {WITHIN}");
    connection.prepare_cached(&sql)?.query_row(places(whole), |row| Ok(tokens(row, 0)?.0)).map(Some)
}

/// Both ends.
fn places(stretch: Stretch) -> (i64, i64, i64, i64) {
    let Stretch { from, to, .. } = stretch;
    let to = to.unwrap_or(UsageCursor { settled: UnixMillis(i64::MAX), permit: PermitId(i64::MAX) });
    (from.settled.0, from.permit.0, to.settled.0, to.permit.0)
}

/// Both ends, and whose.
fn parameters(stretch: Stretch) -> (i64, i64, i64, i64, Option<u32>) {
    let (from, from_permit, to, to_permit) = places(stretch);
    (from, from_permit, to, to_permit, stretch.bottle)
}

fn cursor(row: &Row<'_>) -> rusqlite::Result<UsageCursor> {
    Ok(UsageCursor { settled: UnixMillis(row.get(0)?), permit: PermitId(row.get(1)?) })
}
