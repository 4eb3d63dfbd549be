//! What front-ends hear of the audit: rows, rows to come, and whether it can be believed.

use std::time::Duration;

use tokio::sync::mpsc;
use tracing::warn;

use crate::control::{AUDIT_ROWS_MAX, ApiError, AuditQuery, AuditReply, GateDifference, VerifyReply};
use crate::domain::{AuditHash, AuditRow, BottleName, with_causes};
use crate::ledger::{AuditFilter, AuditTail, Ledger, LedgerError};

use super::api::Desk;
use super::gate_check::{Gates, differences};
use super::launch::{failed, refused};

/// Rows that a follower may be behind before the ledger is no longer read for it.
const FOLLOWED_ROWS_MAX: usize = 64;
/// Rows that are read for a follower in one go.
const READ_ROWS_MAX: u32 = 256;
/// A gate is cut in the kernel first and then in the ledger, and made before it is looked at: they differ for a moment. Only
/// what differs in so many looks is a difference.
const LOOKS: usize = 3;
/// Between two of them.
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl Desk {
    pub(super) async fn audit(&self, query: AuditQuery) -> Result<AuditReply, ApiError> {
        let AuditQuery { bottle, since, before, last } = query;
        let last = Some(last.unwrap_or(AUDIT_ROWS_MAX).min(AUDIT_ROWS_MAX));
        let page = self.launcher.ledger.audit_rows(AuditFilter { bottle, since, before, last }).await;
        let page = page.map_err(|error| refused(&error))?;
        Ok(AuditReply { rows: page.rows, newest: page.newest })
    }

    /// Every row after that one, as it is committed, until the receiver is dropped.
    pub(super) async fn follow_audit(
        &self,
        bottle: Option<BottleName>,
        after: i64,
    ) -> Result<mpsc::Receiver<AuditRow>, ApiError> {
        let ledger = self.launcher.ledger.clone();
        if let Some(bottle) = &bottle {
            ledger.bottle(bottle).await.map_err(|error| refused(&error))?;
        }
        let (rows, receiver) = mpsc::channel(FOLLOWED_ROWS_MAX);
        tokio::spawn(async move {
            if let Err(error) = follow(&ledger, AuditTail { bottle, after }, &rows).await {
                // Its stream ends; a front-end comes back, and goes on from where it was.
                warn!(error = with_causes(&error), "the audit cannot be followed");
            }
        });
        Ok(receiver)
    }

    pub(super) async fn verify_audit(&self, tip: Option<AuditHash>) -> Result<VerifyReply, ApiError> {
        let chain = self.launcher.ledger.verify_audit(tip).await.map_err(|error| refused(&error))?;
        let (gates, differences) = self.compare_gates().await?;
        Ok(VerifyReply { chain, gates, differences })
    }

    /// How many gates there are to be, and how the kernel's differ.
    async fn compare_gates(&self) -> Result<(usize, Vec<GateDifference>), ApiError> {
        let gates = self.gates().await?;
        let mut found = differences(&gates);
        for _ in 1..LOOKS {
            if found.is_empty() {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
            let again = differences(&self.gates().await?);
            found.retain(|difference| again.contains(difference));
        }
        Ok((gates.wanted.len(), found))
    }

    async fn gates(&self) -> Result<Gates, ApiError> {
        let unreadable = |error: crate::kernel::KernelError| failed(with_causes(&error));
        let running = self.look().await?.running;
        let bottles = self.launcher.ledger.bottles().await.map_err(|error| refused(&error))?;
        let held = self.launcher.enforcer.gates().map_err(unreadable)?;
        let mut gates = Gates { held, ..Gates::default() };
        for row in bottles {
            let interface = running.iter().find(|running| running.id == row.id).map(|running| running.interface);
            if let (Some(interface), Some(address), None) = (interface, row.address, row.ended) {
                gates.wanted.push((row.gate, self.launcher.gate(&row, address, interface)));
                if self.launcher.enforcer.is_attached(interface).map_err(unreadable)? {
                    gates.attached.insert(interface);
                }
            }
            if row.ended.is_none() {
                gates.running.insert(row.id);
            }
            gates.names.insert(row.id, row.name);
        }
        Ok(gates)
    }
}

async fn follow(ledger: &Ledger, mut tail: AuditTail, rows: &mpsc::Sender<AuditRow>) -> Result<(), LedgerError> {
    let mut audited = ledger.audited();
    loop {
        // What is committed from here on rings again.
        audited.mark_unchanged();
        loop {
            let page = ledger.audit_rows_after(tail.clone(), READ_ROWS_MAX).await?;
            let last = page.rows.last().map(|row| row.number);
            let is_all = page.rows.len() < READ_ROWS_MAX as usize;
            tail.after = if is_all { tail.after.max(page.newest) } else { last.unwrap_or(page.newest) };
            for row in page.rows {
                if rows.send(row).await.is_err() {
                    return Ok(());
                }
            }
            if is_all {
                break;
            }
        }
        tokio::select! {
            rung = audited.changed() => if rung.is_err() { return Ok(()) },
            () = rows.closed() => return Ok(()),
        }
    }
}
