//! What front-ends hear of the audit: rows, rows to come, and whether it can be believed.

use tokio::sync::mpsc;
use tracing::warn;

use crate::control::{AUDIT_ROWS_MAX, ApiError, AuditQuery, AuditReply, VerifyReply};
use crate::domain::{AuditHash, AuditRow, BottleName, with_causes};
use crate::ledger::{AuditFilter, AuditTail, Ledger, LedgerError};

use super::api::Desk;
use super::launch::{failed, refused};

/// Rows that a follower may be behind before the ledger is no longer read for it.
const FOLLOWED_ROWS_MAX: usize = 64;
/// Rows that are read for a follower in one go.
const READ_ROWS_MAX: u32 = 256;

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
        // What is wrong is to be told of before it is put right.
        let _turn = self.launcher.mending.lock().await;
        let (gates, found) = self.launcher.compare_gates().await.map_err(|error| failed(with_causes(&error)))?;
        let differences = found.iter().map(|difference| gates.named(difference)).collect();
        Ok(VerifyReply { chain, gates: gates.wanted.len(), differences })
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
