//! What people read: bottles, usage, budgets. Queries only, on whichever connection the caller has.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use rusqlite::{Connection, Row, params};

use super::book::{Book, BottleEntry};
use super::column::{json_or_default, scope, tokens, word, word_or_null};
use super::{BottleRow, UsageFilter};
use crate::domain::{
    BottleId, BottleName, Budget, BudgetView, GateView, Limit, PermitId, ProviderName, ProviderNotes, Rules, Scope,
    ScopeView, UnixMillis, Usage, UsageDetails, UsageRow, UsageSum,
};

const BOTTLE: &str =
    "SELECT id, name, agent, address, cut, started, ended, policy, stopping, frozen, extends, runtime, container, exit_code
     FROM bottle";

const USAGE: &str = "SELECT bottle.name, usage.agent, provider, host, target, model, request_id, status, input,
        cache_write, cache_read, output, known, ending, admitted, settled, cache_write_1h, reasoning, service_tier,
        limits
    FROM usage JOIN bottle ON bottle.id = usage.bottle";

/// All bottles, by name.
pub(super) fn bottles(connection: &Connection) -> rusqlite::Result<Vec<BottleRow>> {
    bottles_where(connection, "1")
}

/// Bottles whose run has not ended, taken down entirely, frozen ones, and ended ones whose gate stays cut, by name.
pub(super) fn listed(connection: &Connection) -> rusqlite::Result<Vec<BottleRow>> {
    bottles_where(connection, "ended IS NULL OR frozen IS NOT NULL OR cut IS NOT NULL")
}

fn bottles_where(connection: &Connection, condition: &str) -> rusqlite::Result<Vec<BottleRow>> {
    let bottles: Vec<BottleRow> = connection
        .prepare_cached(&format!("{BOTTLE} WHERE {condition} ORDER BY name"))?
        .query_map([], bottle_row)?
        .collect::<Result<_, _>>()?;
    bottles.into_iter().map(|bottle| with_budget(connection, bottle)).collect()
}

/// The bottle of that name.
pub(super) fn bottle(connection: &Connection, name: &BottleName) -> rusqlite::Result<Option<BottleRow>> {
    let mut statement = connection.prepare_cached(&format!("{BOTTLE} WHERE name = ?1"))?;
    let bottle = statement.query_map([name.as_str()], bottle_row)?.next().transpose()?;
    bottle.map(|bottle| with_budget(connection, bottle)).transpose()
}

/// The bottle of that number.
pub(super) fn bottle_by_id(connection: &Connection, id: BottleId) -> rusqlite::Result<Option<BottleRow>> {
    let mut statement = connection.prepare_cached(&format!("{BOTTLE} WHERE id = ?1"))?;
    let bottle = statement.query_map([id.0], bottle_row)?.next().transpose()?;
    bottle.map(|bottle| with_budget(connection, bottle)).transpose()
}

/// `--budget` of a bottle's last run, by provider.
fn budget_of(connection: &Connection, id: BottleId) -> rusqlite::Result<Budget> {
    connection
        .prepare_cached("SELECT provider, tokens, window FROM bottle_budget WHERE bottle = ?1 ORDER BY provider")?
        .query_map([id.0], |row| Ok((word(row, 0)?, Limit { tokens: tokens(row, 1)?, window: word_or_null(row, 2)? })))?
        .collect()
}

/// Addresses of running bottles.
pub(super) fn addresses(connection: &Connection) -> rusqlite::Result<BTreeSet<Ipv4Addr>> {
    connection
        .prepare_cached("SELECT address FROM bottle WHERE address IS NOT NULL")?
        .query_map([], |row| row.get(0).map(Ipv4Addr::from_bits))?
        .collect()
}

/// The newest settled exchanges, oldest first; only those of `bottle` when there is one.
pub(super) fn usage_rows(
    connection: &Connection,
    bottle: Option<&BottleRow>,
    filter: &UsageFilter,
) -> rusqlite::Result<Vec<UsageRow>> {
    let mut rows: Vec<UsageRow> = match bottle {
        Some(bottle) => connection
            .prepare_cached(&format!("{USAGE} WHERE usage.bottle = ?1 ORDER BY settled DESC, permit DESC LIMIT ?2"))?
            .query_map(params![bottle.id.0, last(filter.last)], usage_row)?
            .collect::<Result<_, _>>()?,
        None => connection
            .prepare_cached(&format!("{USAGE} ORDER BY settled DESC, permit DESC LIMIT ?1"))?
            .query_map([last(filter.last)], usage_row)?
            .collect::<Result<_, _>>()?,
    };
    rows.reverse();
    Ok(rows)
}

/// What one exchange used.
pub(super) fn usage_of(connection: &Connection, permit: PermitId) -> rusqlite::Result<UsageRow> {
    connection.prepare_cached(&format!("{USAGE} WHERE permit = ?1"))?.query_row([permit.0], usage_row)
}

/// Totals per bottle and provider; only those of `bottle` when there is one.
pub(super) fn usage_sums(connection: &Connection, bottle: Option<&BottleName>) -> rusqlite::Result<Vec<UsageSum>> {
    connection
        .prepare_cached(
            "SELECT name, provider, requests, input, cache_write, cache_read, output, held FROM spend
             WHERE scope = 'own' AND (?1 IS NULL OR name = ?1) ORDER BY name, provider",
        )?
        .query_map([bottle.map(BottleName::as_str)], |row| {
            Ok(UsageSum {
                bottle: word(row, 0)?,
                provider: word(row, 1)?,
                requests: tokens(row, 2)?.0,
                usage: usage(row, 3)?,
                held: tokens(row, 7)?,
            })
        })?
        .collect()
}

/// Budgets of a bottle for each provider that has a limit on its chain, or that it has used.
pub(super) fn views(
    book: &mut Book,
    connection: &Connection,
    rules: &Rules,
    now: UnixMillis,
    entry: &BottleEntry,
) -> rusqlite::Result<Vec<BudgetView>> {
    let sums = usage_sums(connection, Some(&entry.name))?;
    let mut providers: BTreeSet<ProviderName> = sums.into_iter().map(|sum| sum.provider).collect();
    for scope in &entry.chain.scopes {
        providers.extend(book.limited(connection, rules, scope)?);
    }
    let view = |provider: ProviderName| {
        let chain = book.states(connection, rules, now, &entry.chain.scopes, &provider)?;
        let own = book.own(connection, &entry.name, &provider)?;
        Ok(BudgetView { provider, own, chain })
    };
    providers.into_iter().map(view).collect()
}

/// Every scope that has a limit or has used something, per provider.
pub(super) fn all_scopes(
    book: &mut Book,
    connection: &Connection,
    rules: &Rules,
    now: UnixMillis,
) -> rusqlite::Result<Vec<ScopeView>> {
    let spent: Vec<(Scope, ProviderName)> = connection
        .prepare_cached("SELECT scope, name, provider FROM spend WHERE scope <> 'own'")?
        .query_map([], |row| Ok((scope(row)?, word(row, 2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let in_settings = limited_by(rules);
    let running = bottles(connection)?.into_iter().filter(|bottle| bottle.ended.is_none());
    let launched = running.flat_map(|bottle| {
        let scope = Scope::Bottle(bottle.name);
        bottle.budget.into_iter().map(move |(provider, _)| (scope.clone(), provider))
    });
    let said = book.overridden(connection)?;
    let all: BTreeSet<(Scope, ProviderName)> =
        spent.into_iter().chain(in_settings).chain(launched).chain(said).collect();
    let view = |(scope, provider): (Scope, ProviderName)| {
        let state = book.state(connection, rules, now, &scope, &provider)?;
        Ok(ScopeView { provider, state })
    };
    all.into_iter().map(view).collect()
}

fn limited_by(rules: &Rules) -> impl Iterator<Item = (Scope, ProviderName)> {
    let agents = rules.agents.iter().map(|(name, budget)| (Scope::Agent(name.clone()), budget));
    let bottles = rules.bottles.iter().map(|(name, rules)| (Scope::Bottle(name.clone()), &rules.budget));
    let all = agents.chain(bottles).chain([(Scope::Host, &rules.host)]);
    all.flat_map(|(scope, budget)| budget.iter().map(move |(provider, _)| (scope.clone(), provider.clone())))
}

/// A LIMIT: all rows when nothing is said.
pub(super) fn last(rows: Option<u32>) -> i64 {
    rows.map_or(-1, i64::from)
}

fn with_budget(connection: &Connection, bottle: BottleRow) -> rusqlite::Result<BottleRow> {
    Ok(BottleRow { budget: budget_of(connection, bottle.id)?, ..bottle })
}

fn bottle_row(row: &Row<'_>) -> rusqlite::Result<BottleRow> {
    Ok(BottleRow {
        id: BottleId(row.get(0)?),
        name: word(row, 1)?,
        agent: word_or_null(row, 2)?,
        address: row.get::<_, Option<u32>>(3)?.map(Ipv4Addr::from_bits),
        gate: word_or_null(row, 4)?.map_or(GateView::Open, GateView::Cut),
        budget: Vec::new(),
        started: UnixMillis(row.get(5)?),
        ended: row.get::<_, Option<i64>>(6)?.map(UnixMillis),
        policy: word(row, 7)?,
        stopping: word_or_null(row, 8)?,
        frozen: word_or_null(row, 9)?,
        extends: word_or_null(row, 10)?,
        runtime: word(row, 11)?,
        container: row.get(12)?,
        exit_code: row.get(13)?,
    })
}

pub(super) fn usage_row(row: &Row<'_>) -> rusqlite::Result<UsageRow> {
    Ok(UsageRow {
        bottle: word(row, 0)?,
        agent: word_or_null(row, 1)?,
        provider: word(row, 2)?,
        host: word(row, 3)?,
        target: row.get(4)?,
        model: row.get(5)?,
        request_id: row.get(6)?,
        status: row.get(7)?,
        usage: usage(row, 8)?,
        details: UsageDetails { cache_write_1h: tokens(row, 16)?, reasoning: tokens(row, 17)? },
        known: word(row, 12)?,
        ending: word(row, 13)?,
        notes: ProviderNotes { service_tier: row.get(18)?, limits: json_or_default(row, 19)? },
        admitted: UnixMillis(row.get(14)?),
        settled: UnixMillis(row.get(15)?),
    })
}

/// Four columns from `first` on.
pub(super) fn usage(row: &Row<'_>, first: usize) -> rusqlite::Result<Usage> {
    Ok(Usage {
        input: tokens(row, first)?,
        cache_write: tokens(row, first + 1)?,
        cache_read: tokens(row, first + 2)?,
        output: tokens(row, first + 3)?,
    })
}
