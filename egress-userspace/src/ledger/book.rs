//! The writer's memory of what its database says: accounts and bottles, read once, written back before each commit.
//!
//! True only for the owner of the write connection. Follows its savepoints ([`Book::keep`], [`Book::take_back`]) and is
//! forgotten after a transaction that was not committed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::account::{Account, AccountKey, Posting};
use super::column::{amount, tokens, word, word_or_null};
use super::{Limits, report};
use crate::domain::{AgentName, BottleId, BottleName, CutCause, ProviderName, Scope, ScopeState, Tokens, Usage};

/// What decisions need to know of a bottle.
#[derive(Debug)]
pub(super) struct BottleEntry {
    pub(super) name: BottleName,
    pub(super) agent: Option<AgentName>,
    pub(super) cut: Option<CutCause>,
    pub(super) is_running: bool,
    pub(super) budget: Vec<(ProviderName, Tokens)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Book {
    accounts: HashMap<AccountKey, Account>,
    unwritten: HashSet<AccountKey>,
    /// What the command at hand has changed, as it was before.
    undo: Vec<(AccountKey, Account)>,
    bottles: HashMap<BottleId, Arc<BottleEntry>>,
}

impl Book {
    /// What the ledger knows of a bottle; `None` when there is none of that number.
    pub(super) fn bottle(
        &mut self,
        connection: &Connection,
        id: BottleId,
    ) -> rusqlite::Result<Option<Arc<BottleEntry>>> {
        if let Some(entry) = self.bottles.get(&id) {
            return Ok(Some(Arc::clone(entry)));
        }
        let entry = read_bottle(connection, id)?.map(Arc::new);
        if let Some(entry) = &entry {
            self.bottles.insert(id, Arc::clone(entry));
        }
        Ok(entry)
    }

    /// To be called by whoever changes a bottle's rows.
    pub(super) fn forget_bottle(&mut self, id: BottleId) {
        self.bottles.remove(&id);
    }

    /// The scopes that count what a bottle spends, nearest first.
    pub(super) fn chain(
        &mut self,
        connection: &Connection,
        limits: &Limits,
        bottle: (&BottleName, &[(ProviderName, Tokens)]),
        provider: &ProviderName,
    ) -> rusqlite::Result<Vec<ScopeState>> {
        let (name, budget) = bottle;
        let scopes = [(Scope::Bottle(name.clone()), budget), (Scope::Host, limits.host.as_slice())];
        let mut chain = Vec::with_capacity(scopes.len());
        for (scope, budget) in scopes {
            let account = self.account(connection, &AccountKey { scope: scope.clone(), provider: provider.clone() })?;
            chain.push(account.state(scope, limit_of(budget, provider)));
        }
        Ok(chain)
    }

    /// Posts to every scope of a chain.
    pub(super) fn post(&mut self, chain: &mut [ScopeState], provider: &ProviderName, posting: Posting) {
        for state in chain {
            let key = AccountKey { scope: state.scope.clone(), provider: provider.clone() };
            let account = self.accounts.entry(key.clone()).or_default();
            self.undo.push((key.clone(), *account));
            *account = account.after(posting);
            *state = account.state(state.scope.clone(), state.limit);
            self.unwritten.insert(key);
        }
    }

    /// A command succeeded: what it posted stands.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
    }

    /// A command failed: takes back what it posted, as its savepoint does with what it wrote.
    pub(super) fn take_back(&mut self) {
        self.accounts.extend(self.undo.drain(..).rev());
        self.bottles.clear();
    }

    /// Writes back what the commands of this transaction posted.
    pub(super) fn write(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let mut statement = connection.prepare_cached(
            "INSERT INTO spend (scope, name, provider, requests, input, cache_write, cache_read, output, held)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (scope, name, provider) DO UPDATE SET
                requests = excluded.requests, input = excluded.input, cache_write = excluded.cache_write,
                cache_read = excluded.cache_read, output = excluded.output, held = excluded.held",
        )?;
        for key in self.unwritten.drain() {
            let account = self.accounts.get(&key).copied().unwrap_or_default();
            let (scope, name) = key.columns();
            let usage = account.usage;
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
            ])?;
        }
        Ok(())
    }

    /// Forgets everything; the database is asked again.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn account(&mut self, connection: &Connection, key: &AccountKey) -> rusqlite::Result<Account> {
        if let Some(account) = self.accounts.get(key) {
            return Ok(*account);
        }
        let account = read_account(connection, key)?;
        self.accounts.insert(key.clone(), account);
        Ok(account)
    }
}

impl Account {
    pub(super) fn state(&self, scope: Scope, limit: Option<Tokens>) -> ScopeState {
        ScopeState { scope, limit, used: self.usage.total(), held: self.held }
    }
}

/// What a list of budgets says of a provider.
pub(super) fn limit_of(budget: &[(ProviderName, Tokens)], provider: &ProviderName) -> Option<Tokens> {
    budget.iter().find(|(name, _)| name == provider).map(|(_, limit)| *limit)
}

/// One row of `spend`; nothing spent when there is none.
pub(super) fn read_account(connection: &Connection, key: &AccountKey) -> rusqlite::Result<Account> {
    let mut statement = connection.prepare_cached(
        "SELECT requests, input, cache_write, cache_read, output, held FROM spend
         WHERE scope = ?1 AND name = ?2 AND provider = ?3",
    )?;
    let (scope, name) = key.columns();
    let account = statement
        .query_row(params![scope, name, key.provider.as_str()], |row| {
            Ok(Account {
                requests: tokens(row, 0)?.0,
                usage: Usage {
                    input: tokens(row, 1)?,
                    cache_write: tokens(row, 2)?,
                    cache_read: tokens(row, 3)?,
                    output: tokens(row, 4)?,
                },
                held: tokens(row, 5)?,
            })
        })
        .optional()?;
    Ok(account.unwrap_or_default())
}

fn read_bottle(connection: &Connection, id: BottleId) -> rusqlite::Result<Option<BottleEntry>> {
    let mut statement =
        connection.prepare_cached("SELECT name, agent, cut, ended IS NULL FROM bottle WHERE id = ?1")?;
    let entry = statement
        .query_row([id.0], |row| {
            Ok(BottleEntry {
                name: word(row, 0)?,
                agent: word_or_null(row, 1)?,
                cut: word_or_null(row, 2)?,
                is_running: row.get(3)?,
                budget: Vec::new(),
            })
        })
        .optional()?;
    let Some(entry) = entry else { return Ok(None) };
    Ok(Some(BottleEntry { budget: report::budget_of(connection, id)?, ..entry }))
}
