//! The writer's memory of what its database says: accounts and bottles, read once, written back before each commit.
//!
//! True only for the owner of the write connection. Follows its savepoints ([`Book::keep`], [`Book::take_back`]) and is
//! forgotten after a transaction that was not committed. Reports use a book of their own for one look.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::account::{Account, AccountKey, Holder, Moment, Posting, WindowSum};
use super::column::{amount, tokens, word, word_or_null};
use super::overrides::{self, Overrides};
use super::report;
use crate::budget::{self, Cycle};
use crate::domain::{
    AgentName, BottleId, BottleName, Budget, CutCause, Limit, LimitSource, ProviderName, Rules, Scope, ScopeState,
    Tokens, UnixMillis, Usage,
};

/// What decisions need to know of a bottle.
#[derive(Debug)]
pub(super) struct BottleEntry {
    pub(super) name: BottleName,
    pub(super) agent: Option<AgentName>,
    pub(super) cut: Option<CutCause>,
    pub(super) is_running: bool,
    /// The bottle and its ancestors.
    pub(super) lineage: Vec<BottleName>,
    /// What counts its spending.
    pub(super) chain: Arc<Chain>,
}

/// Scopes that count an exchange, nearest first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Its number in the ledger; none while it is only looked at.
    pub(super) id: Option<i64>,
    pub(super) scopes: Vec<Scope>,
}

/// Flags of a run that goes on.
#[derive(Clone, Debug, Default)]
struct Launch {
    extends: Option<BottleName>,
    budget: Budget,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Book {
    accounts: HashMap<AccountKey, Account>,
    unwritten: HashSet<AccountKey>,
    /// What the command at hand has changed, as it was before.
    undo: Vec<(AccountKey, Account)>,
    bottles: HashMap<BottleId, Arc<BottleEntry>>,
    launches: HashMap<BottleName, Arc<Launch>>,
    overrides: Option<Arc<Overrides>>,
    chains: HashMap<i64, Arc<Chain>>,
}

impl Book {
    /// What the ledger knows of a bottle; `None` when there is none of that number.
    pub(super) fn bottle(
        &mut self,
        connection: &Connection,
        rules: &Rules,
        id: BottleId,
    ) -> rusqlite::Result<Option<Arc<BottleEntry>>> {
        if let Some(entry) = self.bottles.get(&id) {
            return Ok(Some(Arc::clone(entry)));
        }
        let entry = self.read_bottle(connection, rules, id)?.map(Arc::new);
        if let Some(entry) = &entry {
            self.bottles.insert(id, Arc::clone(entry));
        }
        Ok(entry)
    }

    /// To be called by whoever changes a bottle's rows, or the rules: each bottle may be another's ancestor.
    pub(super) fn forget_bottles(&mut self) {
        self.bottles.clear();
        self.launches.clear();
    }

    /// To be called by whoever changes what operators have said.
    pub(super) fn forget_overrides(&mut self) {
        self.overrides = None;
    }

    /// What the scopes of a chain allow a provider and have used.
    pub(super) fn states(
        &mut self,
        connection: &Connection,
        rules: &Rules,
        now: UnixMillis,
        scopes: &[Scope],
        provider: &ProviderName,
    ) -> rusqlite::Result<Vec<ScopeState>> {
        let states = scopes.iter().map(|scope| self.state(connection, rules, now, scope, provider));
        let mut states = states.collect::<rusqlite::Result<Vec<_>>>()?;
        budget::bind(&mut states, rules.precedence);
        Ok(states)
    }

    /// What one scope allows a provider and has used.
    pub(super) fn state(
        &mut self,
        connection: &Connection,
        rules: &Rules,
        now: UnixMillis,
        scope: &Scope,
        provider: &ProviderName,
    ) -> rusqlite::Result<ScopeState> {
        let key = AccountKey::of(scope, provider);
        let overrides = self.overrides(connection)?;
        let said = overrides.get(&key);
        let limit = match said.and_then(|said| said.limit) {
            Some(limit) => Some((limit, LimitSource::Operator)),
            None => self.limit(connection, rules, scope, provider)?,
        };
        let account = self.account(connection, &key)?;
        let Some((limit, source)) = limit else {
            let used = account.used(None, rules.cache_reads, now);
            return Ok(ScopeState { used, held: account.held, ..ScopeState::of(scope.clone()) });
        };
        let granted = said.map_or(Tokens::ZERO, |said| said.granted(now));
        let moment = Moment { now, zone: &rules.zone };
        Ok(ScopeState {
            scope: scope.clone(),
            limit: Some(limit.tokens + granted),
            window: limit.window,
            turns: limit.window.map(|window| account.turns(window, &moment)),
            source: Some(source),
            granted,
            used: account.used(limit.window, rules.cache_reads, now),
            held: account.held,
            binds: false,
        })
    }

    /// Posts to every scope of a chain, and to what the bottle spent itself.
    pub(super) fn post(
        &mut self,
        connection: &Connection,
        moment: &Moment<'_>,
        scopes: &[Scope],
        who: (&BottleName, &ProviderName),
        posting: Posting,
    ) -> rusqlite::Result<()> {
        let (bottle, provider) = who;
        let own = AccountKey { holder: Holder::Own(bottle.clone()), provider: provider.clone() };
        let keys = scopes.iter().map(|scope| AccountKey::of(scope, provider)).chain([own]);
        for key in keys {
            let before = self.account(connection, &key)?;
            self.undo.push((key.clone(), before));
            self.accounts.insert(key.clone(), before.after(posting, moment));
            self.unwritten.insert(key);
        }
        Ok(())
    }

    /// The chain of that number; without one, of those before there were numbers: the bottle and the host.
    pub(super) fn chain(
        &mut self,
        connection: &Connection,
        id: Option<i64>,
        bottle: &BottleName,
    ) -> rusqlite::Result<Arc<Chain>> {
        let Some(id) = id else {
            return Ok(Arc::new(Chain { id, scopes: vec![Scope::Bottle(bottle.clone()), Scope::Host] }));
        };
        if let Some(chain) = self.chains.get(&id) {
            return Ok(Arc::clone(chain));
        }
        let scopes = connection
            .prepare_cached("SELECT scopes FROM chain WHERE id = ?1")?
            .query_row([id], |row| super::column::json(row, 0))?;
        let chain = Arc::new(Chain { id: Some(id), scopes });
        self.chains.insert(id, Arc::clone(&chain));
        Ok(chain)
    }

    /// A command succeeded: what it posted stands.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
    }

    /// A command failed: takes back what it posted, as its savepoint does with what it wrote.
    pub(super) fn take_back(&mut self) {
        self.accounts.extend(self.undo.drain(..).rev());
        self.forget_bottles();
        self.forget_overrides();
        self.chains.clear();
    }

    /// Writes back what the commands of this transaction posted.
    pub(super) fn write(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let mut statement = connection.prepare_cached(WRITE_ACCOUNT)?;
        for key in self.unwritten.drain() {
            let account = self.accounts.get(&key).copied().unwrap_or_default();
            let (scope, name) = key.columns();
            let (usage, [hour, day, week, month]) = (account.usage, account.windows);
            statement.execute(params![
                scope,
                name,
                key.provider.as_str(),
                amount(Tokens(account.requests)),
                amount(usage.input),
                amount(usage.cache_write),
                amount(usage.cache_read),
                amount(usage.output),
                amount(account.held),
                hour.end.0,
                amount(hour.used),
                amount(hour.cache_read),
                day.end.0,
                amount(day.used),
                amount(day.cache_read),
                week.end.0,
                amount(week.used),
                amount(week.cache_read),
                month.end.0,
                amount(month.used),
                amount(month.cache_read),
            ])?;
        }
        Ok(())
    }

    /// Forgets everything; the database is asked again.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// A bottle and its ancestors, by flags of those that run and by the rules.
    pub(super) fn lineage(
        &mut self,
        connection: &Connection,
        rules: &Rules,
        bottle: &BottleName,
    ) -> rusqlite::Result<Result<Vec<BottleName>, Cycle>> {
        let mut failure = None;
        let lineage = budget::lineage(bottle, |name| {
            let launched = self.launch(connection, name).map_err(|error| failure = Some(error)).ok()?;
            let by_rule = || rules.bottles.get(name).and_then(|rules| rules.extends.clone());
            launched.extends.clone().or_else(by_rule)
        });
        failure.map_or(Ok(lineage), Err)
    }

    /// Which providers a scope limits.
    pub(super) fn limited(
        &mut self,
        connection: &Connection,
        rules: &Rules,
        scope: &Scope,
    ) -> rusqlite::Result<Vec<ProviderName>> {
        let overridden = self.overridden(connection)?.into_iter().filter(|(known, _)| known == scope);
        let mut providers: Vec<ProviderName> = overridden.map(|(_, provider)| provider).collect();
        if let Scope::Bottle(name) = scope {
            providers.extend(self.launch(connection, name)?.budget.iter().map(|(provider, _)| provider.clone()));
        }
        providers.extend(in_settings(rules, scope).into_iter().flatten().map(|(provider, _)| provider.clone()));
        Ok(providers)
    }

    /// Limits that operators have set.
    pub(super) fn overridden(&mut self, connection: &Connection) -> rusqlite::Result<Vec<(Scope, ProviderName)>> {
        let overrides = self.overrides(connection)?;
        let limited = overrides.iter().filter(|(_, said)| said.limit.is_some());
        let scope = |(key, _): (&AccountKey, _)| match &key.holder {
            Holder::Scope(scope) => Some((scope.clone(), key.provider.clone())),
            Holder::Own(_) => None,
        };
        Ok(limited.filter_map(scope).collect())
    }

    /// What a bottle spent itself, and has set aside.
    pub(super) fn own(
        &mut self,
        connection: &Connection,
        bottle: &BottleName,
        provider: &ProviderName,
    ) -> rusqlite::Result<Tokens> {
        let key = AccountKey { holder: Holder::Own(bottle.clone()), provider: provider.clone() };
        let account = self.account(connection, &key)?;
        Ok(account.usage.total() + account.held)
    }

    /// What settings and launch flags say.
    fn limit(
        &mut self,
        connection: &Connection,
        rules: &Rules,
        scope: &Scope,
        provider: &ProviderName,
    ) -> rusqlite::Result<Option<(Limit, LimitSource)>> {
        let launched = match scope {
            Scope::Bottle(name) => limit_of(&self.launch(connection, name)?.budget, provider),
            Scope::Agent(_) | Scope::Host => None,
        };
        let by_settings = || in_settings(rules, scope).and_then(|budget| limit_of(budget, provider));
        let launched = launched.map(|limit| (limit, LimitSource::Launch));
        Ok(launched.or_else(|| by_settings().map(|limit| (limit, LimitSource::Settings))))
    }

    fn launch(&mut self, connection: &Connection, bottle: &BottleName) -> rusqlite::Result<Arc<Launch>> {
        if let Some(launch) = self.launches.get(bottle) {
            return Ok(Arc::clone(launch));
        }
        let row = report::bottle(connection, bottle)?.filter(|row| row.ended.is_none());
        let launch = row.map(|row| Launch { extends: row.extends, budget: row.budget }).unwrap_or_default();
        let launch = Arc::new(launch);
        self.launches.insert(bottle.clone(), Arc::clone(&launch));
        Ok(launch)
    }

    fn overrides(&mut self, connection: &Connection) -> rusqlite::Result<Arc<Overrides>> {
        if let Some(overrides) = &self.overrides {
            return Ok(Arc::clone(overrides));
        }
        let overrides = Arc::new(overrides::read(connection)?);
        self.overrides = Some(Arc::clone(&overrides));
        Ok(overrides)
    }

    fn account(&mut self, connection: &Connection, key: &AccountKey) -> rusqlite::Result<Account> {
        if let Some(account) = self.accounts.get(key) {
            return Ok(*account);
        }
        let account = read_account(connection, key)?;
        self.accounts.insert(key.clone(), account);
        Ok(account)
    }

    fn read_bottle(
        &mut self,
        connection: &Connection,
        rules: &Rules,
        id: BottleId,
    ) -> rusqlite::Result<Option<BottleEntry>> {
        let mut statement =
            connection.prepare_cached("SELECT name, agent, cut, ended IS NULL FROM bottle WHERE id = ?1")?;
        let found = statement
            .query_row([id.0], |row| Ok((word(row, 0)?, word_or_null(row, 1)?, word_or_null(row, 2)?, row.get(3)?)))
            .optional()?;
        let Some((name, agent, cut, is_running)) = found else { return Ok(None) };
        // Rules that lead in a circle are refused; should there be one all the same, everyone in it counts.
        let lineage = self.lineage(connection, rules, &name)?.unwrap_or_else(|Cycle(circle)| {
            let mut line = vec![name.clone()];
            line.extend(circle.into_iter().filter(|other| *other != name));
            line.dedup();
            line
        });
        let scopes = budget::scopes(agent.as_ref(), lineage.clone());
        let chain = Arc::new(Chain { id: chain_id(connection, &scopes)?, scopes });
        Ok(Some(BottleEntry { name, agent, cut, is_running, lineage, chain }))
    }
}

const WRITE_ACCOUNT: &str = "INSERT INTO spend
    (scope, name, provider, requests, input, cache_write, cache_read, output, held, hour_end, hour_used, hour_cache_read,
     day_end, day_used, day_cache_read, week_end, week_used, week_cache_read, month_end, month_used, month_cache_read)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)
    ON CONFLICT (scope, name, provider) DO UPDATE SET
        requests = excluded.requests, input = excluded.input, cache_write = excluded.cache_write,
        cache_read = excluded.cache_read, output = excluded.output, held = excluded.held,
        hour_end = excluded.hour_end, hour_used = excluded.hour_used, hour_cache_read = excluded.hour_cache_read,
        day_end = excluded.day_end, day_used = excluded.day_used, day_cache_read = excluded.day_cache_read,
        week_end = excluded.week_end, week_used = excluded.week_used, week_cache_read = excluded.week_cache_read,
        month_end = excluded.month_end, month_used = excluded.month_used, month_cache_read = excluded.month_cache_read";

fn in_settings<'a>(rules: &'a Rules, scope: &Scope) -> Option<&'a Budget> {
    match scope {
        Scope::Bottle(name) => rules.bottles.get(name).map(|rules| &rules.budget),
        Scope::Agent(name) => rules.agents.get(name),
        Scope::Host => Some(&rules.host),
    }
}

/// What a list of budgets says of a provider.
fn limit_of(budget: &Budget, provider: &ProviderName) -> Option<Limit> {
    budget.iter().find(|(name, _)| name == provider).map(|(_, limit)| *limit)
}

/// The number of a chain, given when it is first needed; `None` on a connection that only reads and has none.
fn chain_id(connection: &Connection, scopes: &[Scope]) -> rusqlite::Result<Option<i64>> {
    let text = serde_json::to_string(scopes).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let known = connection
        .prepare_cached("SELECT id FROM chain WHERE scopes = ?1")?
        .query_row([&text], |row| row.get(0))
        .optional()?;
    if known.is_some() || connection.is_readonly(rusqlite::MAIN_DB)? {
        return Ok(known);
    }
    let id = connection
        .prepare_cached("INSERT INTO chain (scopes) VALUES (?1) RETURNING id")?
        .query_row([&text], |row| row.get(0))?;
    Ok(Some(id))
}

/// One row of `spend`; nothing spent when there is none.
fn read_account(connection: &Connection, key: &AccountKey) -> rusqlite::Result<Account> {
    let mut statement = connection.prepare_cached(
        "SELECT requests, input, cache_write, cache_read, output, held, hour_end, hour_used, hour_cache_read,
            day_end, day_used, day_cache_read, week_end, week_used, week_cache_read, month_end, month_used, month_cache_read
         FROM spend WHERE scope = ?1 AND name = ?2 AND provider = ?3",
    )?;
    let (scope, name) = key.columns();
    let account = statement
        .query_row(params![scope, name, key.provider.as_str()], |row| {
            let window = |first: usize| {
                let end = UnixMillis(row.get(first)?);
                Ok::<_, rusqlite::Error>(WindowSum {
                    end,
                    used: tokens(row, first + 1)?,
                    cache_read: tokens(row, first + 2)?,
                })
            };
            Ok(Account {
                requests: tokens(row, 0)?.0,
                usage: Usage {
                    input: tokens(row, 1)?,
                    cache_write: tokens(row, 2)?,
                    cache_read: tokens(row, 3)?,
                    output: tokens(row, 4)?,
                },
                held: tokens(row, 5)?,
                windows: [window(6)?, window(9)?, window(12)?, window(15)?],
            })
        })
        .optional()?;
    Ok(account.unwrap_or_default())
}
