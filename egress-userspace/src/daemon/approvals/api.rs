//! What front-ends ask of the operator's queue, and hear of it.

use std::collections::BTreeSet;

use tokio::sync::mpsc;
use tracing::warn;

use crate::control::{
    APPROVAL_ROWS_MAX, ApiError, ApiReply, ApprovalAction, ApprovalEvent, ApprovalQuery, ApprovalsReply, DecideReply,
    DecideRequest, ErrorCode, ForgetReply, Peer,
};
use crate::domain::{ApprovalId, ApprovalRow, BottleName, Verdict, with_causes};
use crate::ledger::{ApprovalFilter, Decided, Decision, Forgotten, Ledger, LedgerError};

use crate::daemon::api::Desk;
use crate::daemon::clock::now;
use crate::daemon::launch::refused;

/// Events that a follower may be behind before the ledger is no longer read for it.
const FOLLOWED_EVENTS_MAX: usize = 64;

impl Desk {
    pub(in crate::daemon) async fn approvals(&self, query: ApprovalQuery) -> Result<ApprovalsReply, ApiError> {
        let ApprovalQuery { bottle, last } = query;
        let last = last.map(|last| last.min(APPROVAL_ROWS_MAX));
        let approvals = self.launcher.ledger.approvals(ApprovalFilter { bottle, last }).await;
        Ok(ApprovalsReply { approvals: approvals.map_err(|error| refused(&error))?, now: now() })
    }

    /// How many requests wait for an operator.
    pub(in crate::daemon) async fn open_approvals(&self) -> Result<u64, ApiError> {
        let open = self.launcher.ledger.approvals(ApprovalFilter::default()).await;
        Ok(open.map_err(|error| refused(&error))?.len() as u64)
    }

    pub(in crate::daemon) async fn decide(
        &self,
        peer: &Peer,
        id: ApprovalId,
        action: ApprovalAction,
        request: DecideRequest,
    ) -> Result<ApiReply, ApiError> {
        let is_approved = match action {
            ApprovalAction::Approve => true,
            ApprovalAction::Deny => false,
            ApprovalAction::Forget => return ApiReply::json(&self.forget(peer, Forgotten::One(id)).await?),
        };
        let decision = Decision { is_approved, is_always: request.always, by: peer.uid };
        let decided = self.approvals.decide(id, decision).await.map_err(|error| refused(&error))?;
        let Decided { row: approval, settled } = decided;
        if approval.verdict == Some(Verdict::Expired) {
            let message = format!("approval {id} came too late: the request has been refused");
            return Err(ApiError { code: ErrorCode::Conflict, message });
        }
        let also = settled.into_iter().filter(|one| *one != id).collect();
        ApiReply::json(&DecideReply { approval, also })
    }

    pub(in crate::daemon) async fn forget(&self, peer: &Peer, which: Forgotten) -> Result<ForgetReply, ApiError> {
        let forgotten = self.launcher.ledger.forget_approvals(which, peer.uid).await;
        Ok(ForgetReply { forgotten: forgotten.map_err(|error| refused(&error))? })
    }

    /// What waits, and then every change of it, until the receiver is dropped.
    pub(in crate::daemon) async fn follow_approvals(
        &self,
        bottle: Option<BottleName>,
    ) -> Result<mpsc::Receiver<ApprovalEvent>, ApiError> {
        let ledger = self.launcher.ledger.clone();
        if let Some(bottle) = &bottle {
            ledger.bottle(bottle).await.map_err(|error| refused(&error))?;
        }
        let (events, receiver) = mpsc::channel(FOLLOWED_EVENTS_MAX);
        tokio::spawn(async move {
            if let Err(error) = follow(&ledger, bottle, &events).await {
                // Its stream ends; a front-end comes back, and hears first what waits.
                warn!(error = with_causes(&error), "approvals cannot be followed");
            }
        });
        Ok(receiver)
    }
}

async fn follow(
    ledger: &Ledger,
    bottle: Option<BottleName>,
    events: &mpsc::Sender<ApprovalEvent>,
) -> Result<(), LedgerError> {
    // Every change has an audit row; what is committed from here on rings.
    let mut audited = ledger.audited();
    audited.mark_unchanged();
    let newest = ledger.approvals(ApprovalFilter { bottle: None, last: Some(1) }).await?;
    let waiting = ledger.approvals(ApprovalFilter { bottle: bottle.clone(), last: None }).await?;
    let mut seen = Seen::new(newest.last().map_or(ApprovalId(0), |row| row.id), &waiting);
    let mut news = vec![ApprovalEvent::Waiting { approvals: waiting }];
    loop {
        for event in news.drain(..) {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            rung = audited.changed() => if rung.is_err() { return Ok(()) },
            () = events.closed() => return Ok(()),
        }
        let rows = ledger.approvals_from(seen.first()).await?;
        let changed = rows.into_iter().filter(|row| seen.is_news(row));
        let of_bottle = |row: &ApprovalRow| bottle.as_ref().is_none_or(|bottle| row.bottle == *bottle);
        news.extend(changed.filter(of_bottle).map(|approval| ApprovalEvent::Changed { approval }));
    }
}

/// What a follower has been told of.
#[derive(Debug)]
pub(in crate::daemon) struct Seen {
    waiting: BTreeSet<ApprovalId>,
    next: ApprovalId,
}

impl Seen {
    /// Those that wait, and no question has a higher number than `newest` or one of them.
    pub(in crate::daemon) fn new(newest: ApprovalId, waiting: &[ApprovalRow]) -> Self {
        let newest = waiting.iter().map(|row| row.id).fold(newest, ApprovalId::max);
        Self { waiting: waiting.iter().map(|row| row.id).collect(), next: ApprovalId(newest.0 + 1) }
    }

    /// How many of them wait.
    pub(in crate::daemon) fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// The first that may have news.
    pub(in crate::daemon) fn first(&self) -> ApprovalId {
        self.waiting.first().copied().unwrap_or(self.next)
    }

    /// Is this row not as it was last seen?
    pub(in crate::daemon) fn is_news(&mut self, row: &ApprovalRow) -> bool {
        let (was_waiting, waits) = (self.waiting.contains(&row.id), row.decided.is_none());
        let is_new = row.id >= self.next;
        if is_new {
            self.next = ApprovalId(row.id.0 + 1);
        }
        if waits {
            self.waiting.insert(row.id);
        } else {
            self.waiting.remove(&row.id);
        }
        is_new || (was_waiting && !waits)
    }
}
