//! What operators change of budgets at run time: limits that stand in for others, and what is granted on top.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::BudgetChange;
use super::account::{AccountKey, scope_columns};
use super::column::{amount, scope, tokens, word, word_or_null};
use super::error::{Fault, LedgerError};
use super::writer::Desk;
use crate::domain::{AuditKind, Limit, ProviderName, Scope, Tokens, UnixMillis, Window};

/// What operators have said of one scope and provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Override {
    /// In place of other limits.
    pub(super) limit: Option<Limit>,
    /// On top, each until then.
    grants: Vec<(Tokens, Option<UnixMillis>)>,
}

impl Override {
    /// What is granted at a time.
    pub(super) fn granted(&self, now: UnixMillis) -> Tokens {
        let is_good = |until: Option<UnixMillis>| until.is_none_or(|until| now < until);
        self.grants.iter().filter(|(_, until)| is_good(*until)).map(|(tokens, _)| *tokens).sum()
    }
}

/// Everything operators have said.
pub(super) type Overrides = HashMap<AccountKey, Override>;

/// Reads all of it.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Overrides> {
    let mut overrides = Overrides::new();
    let mut limits = connection.prepare_cached("SELECT scope, name, provider, tokens, window FROM budget_override")?;
    let mut rows = limits.query([])?;
    while let Some(row) = rows.next()? {
        let limit = Limit { tokens: tokens(row, 3)?, window: word_or_null(row, 4)? };
        overrides.entry(key(row)?).or_default().limit = Some(limit);
    }
    let mut grants = connection.prepare_cached("SELECT scope, name, provider, tokens, until FROM budget_grant")?;
    let mut rows = grants.query([])?;
    while let Some(row) = rows.next()? {
        let until = row.get::<_, Option<i64>>(4)?.map(UnixMillis);
        overrides.entry(key(row)?).or_default().grants.push((tokens(row, 3)?, until));
    }
    Ok(overrides)
}

fn key(row: &rusqlite::Row<'_>) -> rusqlite::Result<AccountKey> {
    Ok(AccountKey::of(&scope(row)?, &word(row, 2)?))
}

impl Desk {
    /// Makes a change, with its audit row.
    pub(super) fn change_budget(&mut self, change: &BudgetChange, by: u32) -> Result<(), Fault> {
        match change {
            BudgetChange::Set { scope, provider, limit } => self.set_limit(scope, provider, *limit, by)?,
            BudgetChange::Grant { scope, provider, tokens, until } => {
                self.grant(scope, provider, *tokens, *until, by)?;
            }
            BudgetChange::Clear { scope, provider } => self.clear(scope, provider.as_ref(), by)?,
        }
        self.book.forget_overrides();
        Ok(())
    }

    fn set_limit(&mut self, scope: &Scope, provider: &ProviderName, limit: Limit, by: u32) -> Result<(), Fault> {
        let (kind, name) = scope_columns(scope);
        self.connection
            .prepare_cached(
                "INSERT INTO budget_override (scope, name, provider, tokens, window) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (scope, name, provider) DO UPDATE SET tokens = excluded.tokens, window = excluded.window",
            )?
            .execute(params![kind, name, provider.as_str(), amount(limit.tokens), limit.window.map(Window::as_str)])?;
        self.audit(None, &AuditKind::BudgetSet { scope: scope.clone(), provider: provider.clone(), limit, by })
    }

    fn grant(
        &mut self,
        scope: &Scope,
        provider: &ProviderName,
        granted: Tokens,
        until: Option<UnixMillis>,
        by: u32,
    ) -> Result<(), Fault> {
        let state = self.book.state(&self.connection, &self.rules, self.now, scope, provider)?;
        if state.limit.is_none() {
            return Err(LedgerError::NoBudget { scope: scope.clone(), provider: provider.clone() }.into());
        }
        let (kind, name) = scope_columns(scope);
        self.connection
            .prepare_cached(
                "INSERT INTO budget_grant (scope, name, provider, tokens, until) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![kind, name, provider.as_str(), amount(granted), until.map(|until| until.0)])?;
        let (scope, provider) = (scope.clone(), provider.clone());
        self.audit(None, &AuditKind::BudgetGranted { scope, provider, tokens: granted, until, by })
    }

    fn clear(&mut self, scope: &Scope, provider: Option<&ProviderName>, by: u32) -> Result<(), Fault> {
        let (kind, name) = scope_columns(scope);
        let provider_name = provider.map(ProviderName::as_str);
        let mut cleared = 0;
        for table in ["budget_override", "budget_grant"] {
            cleared += self
                .connection
                .prepare_cached(&format!(
                    "DELETE FROM {table} WHERE scope = ?1 AND name = ?2 AND (?3 IS NULL OR provider = ?3)"
                ))?
                .execute(params![kind, name, provider_name])?;
        }
        if cleared == 0 {
            return Err(LedgerError::NoOverride(scope.clone()).into());
        }
        self.audit(None, &AuditKind::BudgetCleared { scope: scope.clone(), provider: provider.cloned(), by })
    }

    /// Takes grants away whose time is over, each with its audit row; tells how many there were.
    pub(super) fn end_grants(&mut self) -> Result<usize, Fault> {
        let mut statement = self
            .connection
            .prepare_cached("DELETE FROM budget_grant WHERE until <= ?1 RETURNING scope, name, provider, tokens")?;
        let over: Vec<(Scope, ProviderName, Tokens)> = statement
            .query_map([self.now.0], |row| Ok((scope(row)?, word(row, 2)?, tokens(row, 3)?)))?
            .collect::<rusqlite::Result<_>>()?;
        drop(statement);
        let count = over.len();
        for (scope, provider, tokens) in over {
            self.audit(None, &AuditKind::GrantEnded { scope, provider, tokens })?;
        }
        if count > 0 {
            self.book.forget_overrides();
        }
        Ok(count)
    }
}
