//! Admission and settlement: the two commands of every request, and the conservative one for those nobody saw end.

use std::sync::Arc;

use rusqlite::{Row, params};

use super::Settled;
use super::account::Posting;
use super::book::BottleEntry;
use super::column::{TOKENS_PER_EXCHANGE_MAX, amount, bounded, tokens, word};
use super::error::{Fault, LedgerError};
use super::writer::Desk;
use crate::budget::{self, Decision, Want};
use crate::domain::{
    AgentName, BottleId, Ending, Known, PermitId, Preflight, ProviderName, ProviderNotes, RateLimits, Refusal,
    RefusalReason, Settlement, SpendRequest, Tokens, Usage, UsageDetails,
};

const RESERVE: &str = "INSERT INTO reservation
    (permit, bottle, agent, provider, host, target, model, is_metered, input_estimate, output_cap, admitted)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

/// Everything that admission wrote is kept; the response's model stands in for the request's when it names one.
const RECORD: &str = "INSERT INTO usage
    (permit, bottle, agent, provider, host, target, model, request_id, status,
     input, cache_write, cache_read, output, known, ending, admitted, settled,
     cache_write_1h, reasoning, service_tier, limits)
    SELECT permit, bottle, agent, provider, host, target, ifnull(?2, model), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, admitted, ?11,
     ?12, ?13, ?14, ?15
    FROM reservation WHERE permit = ?1";

const RELEASE: &str =
    "DELETE FROM reservation WHERE permit = ?1 RETURNING bottle, provider, is_metered, input_estimate, output_cap";

/// An open reservation.
#[derive(Debug)]
struct Held {
    bottle: BottleId,
    provider: ProviderName,
    is_metered: bool,
    input_estimate: Tokens,
    output_cap: Tokens,
}

impl Desk {
    /// Decides, and writes the reservation of what is admitted.
    pub(super) fn admit(&mut self, request: &SpendRequest) -> Result<Result<PermitId, Refusal>, Fault> {
        let entry = self.bottle(request.bottle)?;
        let mut chain =
            self.book.chain(&self.connection, &self.limits, (&entry.name, &entry.budget), &request.provider)?;
        let (input_estimate, output_cap) = match request.is_metered {
            true => (capped(request.input_estimate), capped(request.output_cap)),
            false => (Tokens::ZERO, Tokens::ZERO),
        };
        let input_wanted = match self.limits.preflight {
            Preflight::Estimate | Preflight::Exact => input_estimate,
            Preflight::Off => Tokens::ZERO,
        };
        if let Decision::Refuse(refusal) = budget::decide(&chain, Want { input_estimate: input_wanted }) {
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
            request.provider.as_str(),
            request.host.as_str(),
            bounded(&request.target),
            request.model.as_deref().map(bounded),
            request.is_metered,
            amount(input_estimate),
            amount(output_cap),
            self.now.0,
        ])?;
        self.book.post(&mut chain, &request.provider, Posting::Hold(input_estimate));
        Ok(Ok(permit))
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
        let mut chain =
            self.book.chain(&self.connection, &self.limits, (&entry.name, &entry.budget), &held.provider)?;
        let posting = Posting::Settle { held: held.input_estimate, usage, known: settlement.known };
        self.book.post(&mut chain, &held.provider, posting);
        Ok(Settled {
            bottle: held.bottle,
            crossing: budget::crossed(&chain),
            provider: held.provider,
            provider_request_id: settlement.provider_request_id.clone(),
        })
    }

    /// Settles whatever is open as if everything that was set aside had been used.
    pub(super) fn settle_open(&mut self, ending: Ending) -> Result<Vec<Settled>, Fault> {
        let open = self.open_reservations()?;
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

    fn open_reservations(&self) -> rusqlite::Result<Vec<(PermitId, Held)>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT bottle, provider, is_metered, input_estimate, output_cap, permit FROM reservation ORDER BY permit",
        )?;
        statement.query_map([], |row| Ok((PermitId(row.get(5)?), held(row)?)))?.collect()
    }

    /// What is known of a bottle that must exist.
    pub(super) fn bottle(&mut self, id: BottleId) -> Result<Arc<BottleEntry>, Fault> {
        let entry = self.book.bottle(&self.connection, id)?;
        entry.ok_or_else(|| LedgerError::NoBottle(format!("number {}", id.0)).into())
    }
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
    Some(Refusal { reason: RefusalReason::BottleCut, message, scope: None, budget: None, used: None })
}

fn held(row: &Row<'_>) -> rusqlite::Result<Held> {
    Ok(Held {
        bottle: BottleId(row.get(0)?),
        provider: word(row, 1)?,
        is_metered: row.get(2)?,
        input_estimate: tokens(row, 3)?,
        output_cap: tokens(row, 4)?,
    })
}
