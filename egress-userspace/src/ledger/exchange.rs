//! Admission and settlement: the two commands of every request, and the conservative one for those nobody saw end.

use std::sync::Arc;

use rusqlite::{Row, params};

use super::account::{Moment, Posting};
use super::book::BottleEntry;
use super::column::{TOKENS_PER_EXCHANGE_MAX, amount, bounded, tokens, word};
use super::error::{Fault, LedgerError};
use super::writer::Desk;
use super::{Admitted, Passed, Settled};
use crate::budget::{self, Decision, Want};
use crate::domain::{
    AgentName, AuditKind, BottleId, Crossing, Ending, Known, PermitId, ProviderName, ProviderNotes, RateLimits,
    Refusal, RefusalReason, Rules, ScopeState, Settlement, SpendRequest, Tokens, Usage, UsageDetails,
};

/// How long a request may be in flight, in milliseconds: a day, more than any provider works on an answer. A reservation
/// that is older belongs to nobody and is settled as if all of it had been used.
const FLIGHT_MILLIS_MAX: i64 = 24 * 60 * 60 * 1000;

const RESERVE: &str = "INSERT INTO reservation
    (permit, bottle, agent, provider, host, target, model, is_metered, input_estimate, output_cap, admitted,
     chain, held, boot, expires)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";

/// Everything that admission wrote is kept; the response's model stands in for the request's when it names one.
const RECORD: &str = "INSERT INTO usage
    (permit, bottle, agent, provider, host, target, model, request_id, status,
     input, cache_write, cache_read, output, known, ending, admitted, settled,
     cache_write_1h, reasoning, service_tier, limits, chain)
    SELECT permit, bottle, agent, provider, host, target, ifnull(?2, model), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, admitted, ?11,
     ?12, ?13, ?14, ?15, chain
    FROM reservation WHERE permit = ?1";

const RELEASE: &str = "DELETE FROM reservation WHERE permit = ?1
    RETURNING bottle, provider, is_metered, input_estimate, output_cap, held, chain";

/// An open reservation.
#[derive(Debug)]
struct Held {
    bottle: BottleId,
    provider: ProviderName,
    is_metered: bool,
    input_estimate: Tokens,
    output_cap: Tokens,
    held: Tokens,
    chain: Option<i64>,
}

/// Which reservations nobody will settle any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abandoned {
    /// All.
    All,
    /// Those that have expired, or were made on another boot of the host.
    Stale,
}

impl Desk {
    /// Decides, and writes the reservation of what is admitted.
    pub(super) fn admit(&mut self, request: &SpendRequest) -> Result<Result<Admitted, Refusal>, Fault> {
        let entry = self.bottle(request.bottle)?;
        let (rules, provider) = (Arc::clone(&self.rules), &request.provider);
        let scopes = &entry.chain.scopes;
        let mut chain = self.book.states(&self.connection, &rules, self.now, scopes, provider)?;
        let (input_estimate, output_cap) = match request.is_metered {
            true => (capped(request.input_estimate), capped(request.output_cap)),
            false => (Tokens::ZERO, Tokens::ZERO),
        };
        let preflight = rules.preflight.of(rules.preflight_of(&entry.lineage), provider);
        let want = Want::of(preflight, input_estimate, output_cap);
        if let Decision::Refuse(refusal) = budget::decide(&chain, want) {
            return Ok(Err(refusal));
        }
        if let Some(refusal) = closed(&entry) {
            return Ok(Err(refusal));
        }
        let permit = self.take_permit();
        self.connection.prepare_cached(RESERVE)?.execute(params![
            permit.0,
            request.bottle.0,
            entry.agent.as_ref().map(AgentName::as_str),
            provider.as_str(),
            request.host.as_str(),
            bounded(&request.target),
            request.model.as_deref().map(bounded),
            request.is_metered,
            amount(input_estimate),
            amount(output_cap),
            self.now.0,
            entry.chain.id,
            amount(want.held),
            self.boot,
            self.now.0.saturating_add(FLIGHT_MILLIS_MAX),
        ])?;
        let moment = Moment { now: self.now, zone: &rules.zone };
        let who = (&entry.name, provider);
        self.book.post(&self.connection, &moment, scopes, who, Posting::Hold(want.held))?;
        for state in &mut chain {
            state.held = state.held + want.held;
        }
        if request.is_metered {
            self.tell_admitted(permit, &entry, request, want.held);
        }
        Ok(Ok(Admitted { permit, allowances: budget::allowances(&chain) }))
    }

    /// Replaces a reservation by what was used.
    pub(super) fn settle(&mut self, settlement: &Settlement) -> Result<Settled, Fault> {
        let usage = Usage {
            input: capped(settlement.usage.input),
            cache_write: capped(settlement.usage.cache_write),
            cache_read: capped(settlement.usage.cache_read),
            output: capped(settlement.usage.output),
        };
        let details = settlement.details.within(&usage);
        let notes = &settlement.notes;
        let recorded = self.connection.prepare_cached(RECORD)?.execute(params![
            settlement.permit.0,
            settlement.model.as_deref().map(bounded),
            settlement.provider_request_id.as_deref().map(bounded),
            settlement.status,
            amount(usage.input),
            amount(usage.cache_write),
            amount(usage.cache_read),
            amount(usage.output),
            settlement.known.as_str(),
            settlement.ending.as_str(),
            self.now.0,
            amount(details.cache_write_1h),
            amount(details.reasoning),
            notes.service_tier.as_deref().map(bounded),
            json_or_null(&notes.limits)?,
        ])?;
        if recorded == 0 {
            return Err(LedgerError::NoReservation(settlement.permit).into());
        }
        let held = self.connection.prepare_cached(RELEASE)?.query_row([settlement.permit.0], held)?;
        let entry = self.bottle(held.bottle)?;
        let rules = Arc::clone(&self.rules);
        // What was set aside is given back where it was set aside, whoever the bottle's parents are meanwhile.
        let scopes = &self.book.chain(&self.connection, held.chain, &entry.name)?.scopes;
        let before = self.book.states(&self.connection, &rules, self.now, scopes, &held.provider)?;
        let posting = Posting::Settle { held: held.held, usage, known: settlement.known };
        let moment = Moment { now: self.now, zone: &rules.zone };
        self.book.post(&self.connection, &moment, scopes, (&entry.name, &held.provider), posting)?;
        let after = self.book.states(&self.connection, &rules, self.now, scopes, &held.provider)?;
        let passed = passed(&rules, &before, &after);
        self.note(&passed, held.bottle, &held.provider)?;
        if held.is_metered {
            self.tell_settled(settlement.permit)?;
        }
        Ok(Settled {
            bottle: held.bottle,
            crossing: budget::crossed(&after),
            crossed_for_others: crossed_for_others(&before, &after),
            passed,
            allowances: budget::allowances(&after),
            provider: held.provider,
            provider_request_id: settlement.provider_request_id.clone(),
        })
    }

    fn note(&mut self, passed: &[Passed], bottle: BottleId, provider: &ProviderName) -> Result<(), Fault> {
        for Passed { scope, percent, budget, used } in passed.iter().cloned() {
            let kind = AuditKind::BudgetUsed { scope, provider: provider.clone(), percent, budget, used };
            self.audit(Some(bottle), &kind)?;
        }
        Ok(())
    }

    /// Settles what nobody will as if everything that was set aside had been used.
    pub(super) fn settle_abandoned(&mut self, which: Abandoned, ending: Ending) -> Result<Vec<Settled>, Fault> {
        let open = self.abandoned(which)?;
        let mut settled = Vec::with_capacity(open.len());
        for (permit, held) in open {
            let usage = Usage { input: held.input_estimate, output: held.output_cap, ..Usage::default() };
            let known = if held.is_metered { Known::Estimated } else { Known::Unmetered };
            settled.push(self.settle(&Settlement {
                permit,
                usage,
                known,
                ending,
                status: None,
                details: UsageDetails::default(),
                model: None,
                provider_request_id: None,
                notes: ProviderNotes::default(),
            })?);
        }
        Ok(settled)
    }

    fn abandoned(&self, which: Abandoned) -> rusqlite::Result<Vec<(PermitId, Held)>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT bottle, provider, is_metered, input_estimate, output_cap, held, chain, permit FROM reservation
             WHERE ?1 OR boot IS NOT ?2 OR expires <= ?3 ORDER BY permit",
        )?;
        statement
            .query_map(params![which == Abandoned::All, self.boot, self.now.0], |row| {
                Ok((PermitId(row.get(7)?), held(row)?))
            })?
            .collect()
    }

    /// What is known of a bottle that must exist.
    pub(super) fn bottle(&mut self, id: BottleId) -> Result<Arc<BottleEntry>, Fault> {
        let entry = self.book.bottle(&self.connection, &self.rules, id)?;
        entry.ok_or_else(|| LedgerError::NoBottle(format!("number {}", id.0)).into())
    }
}

/// Parts of budgets that are used since `before`.
fn passed(rules: &Rules, before: &[ScopeState], after: &[ScopeState]) -> Vec<Passed> {
    let passed = |(before, after): (&ScopeState, &ScopeState)| {
        let budget = after.limit.filter(|budget| *budget > Tokens::ZERO)?;
        let percent = budget::passed(&rules.thresholds, budget, before.used, after.used)?;
        Some(Passed { scope: after.scope.clone(), percent, budget, used: after.used })
    };
    before.iter().zip(after).filter_map(passed).collect()
}

/// Budgets that are used up since `before`, and do not bind the bottle that did it.
fn crossed_for_others(before: &[ScopeState], after: &[ScopeState]) -> Vec<Crossing> {
    let crossing = |(before, after): (&ScopeState, &ScopeState)| {
        let budget = after.limit.filter(|budget| !after.binds && before.used < *budget)?;
        budget::crossing(after, budget)
    };
    before.iter().zip(after).filter_map(crossing).collect()
}

/// One object, or NULL when nothing was told.
fn json_or_null(limits: &RateLimits) -> rusqlite::Result<Option<String>> {
    let json = (!limits.is_empty()).then(|| serde_json::to_string(limits)).transpose();
    json.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn capped(tokens: Tokens) -> Tokens {
    tokens.min(TOKENS_PER_EXCHANGE_MAX)
}

/// The proxy's view of bottles lags behind the ledger's: a bottle that was cut or has ended gets no permit.
fn closed(entry: &BottleEntry) -> Option<Refusal> {
    let name = &entry.name;
    let message = match entry.cut {
        Some(cause) => format!("bottle {name} is cut ({}): `egress restore {name}` opens it again", cause.as_str()),
        None if !entry.is_running => format!("bottle {name} is not running"),
        None => return None,
    };
    Some(Refusal { reason: RefusalReason::BottleCut, message, scope: None, budget: None, used: None, rule: None })
}

fn held(row: &Row<'_>) -> rusqlite::Result<Held> {
    Ok(Held {
        bottle: BottleId(row.get(0)?),
        provider: word(row, 1)?,
        is_metered: row.get(2)?,
        input_estimate: tokens(row, 3)?,
        output_cap: tokens(row, 4)?,
        held: tokens(row, 5)?,
        chain: row.get(6)?,
    })
}
