//! The proxy as a child of the controller: started, fed, listened to, replaced when it dies.
//!
//! What it asks of the ledger is answered here; what concerns gates goes to the [`Controller`](super::controller).

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::broker::{
    Admission, BrokerError, Configuration, FrameReader, FrameWriter, FromController, FromProxy, LeafReply, Listeners,
    Permit, RequestNumber, send_listeners,
};
use crate::domain::{AuditKind, Ending, Host, Refusal, RefusalReason, Settlement, SpendRequest, with_causes};
use crate::ledger::{Ledger, LedgerError, Settled};
use crate::policy::Routes;

use super::authority::Authority;
use super::clock::now;
use super::controller::ControllerHandle;

/// A proxy that lived shorter than this is replaced a little later, so that one that cannot start does not eat the machine.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// How much later.
const RESTART_PAUSE: Duration = Duration::from_millis(300);
/// Between two attempts to write what a full disk did not take.
const SETTLE_RETRY_EVERY: Duration = Duration::from_millis(200);

/// Everything the proxy is given and asks for.
pub(super) struct ProxyLink {
    pub(super) listeners: Listeners,
    pub(super) configuration: Configuration,
    pub(super) routes: Routes,
    pub(super) authority: Authority,
    pub(super) ledger: Ledger,
    pub(super) controller: ControllerHandle,
}

impl ProxyLink {
    /// Keeps a proxy running until the future is dropped (the child is killed then).
    pub(super) async fn supervise(mut self) {
        loop {
            let born = Instant::now();
            match self.start() {
                Ok((child, socket)) => self.serve(child, socket).await,
                Err(error) => error!(%error, "the proxy could not be started"),
            }
            // The next proxy starts when the account of the last one is closed: open permits are its own then.
            let settled = settle_open(&self.ledger, &self.controller).await;
            warn!(
                permits = settled,
                "the proxy ended; its open permits are settled conservatively, a new one is started"
            );
            audit(&self.ledger, AuditKind::ProxyRestarted { permits_settled: settled }).await;
            if born.elapsed() < SHORT_LIFE {
                tokio::time::sleep(RESTART_PAUSE).await;
            }
        }
    }

    fn start(&self) -> std::io::Result<(Child, UnixStream)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("proxy").stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).kill_on_drop(true).env_clear();
        if let Some(filter) = std::env::var_os(crate::LOG_VARIABLE) {
            command.env(crate::LOG_VARIABLE, filter);
        }
        let child = command.spawn()?;
        send_listeners(&ours, &self.listeners).map_err(std::io::Error::other)?;
        ours.set_nonblocking(true)?;
        Ok((child, UnixStream::from_std(ours)?))
    }

    /// Talks to one proxy until it has gone.
    async fn serve(&mut self, mut child: Child, socket: UnixStream) {
        let (from_proxy, to_proxy) = socket.into_split();
        let (outgoing, mut queue) = mpsc::unbounded_channel();
        let writer = tokio::spawn(async move { FrameWriter::new(to_proxy).write_from(&mut queue).await });
        let _ = outgoing.send(FromController::Configure(self.configuration.clone()));
        self.controller.proxy_up(outgoing.clone(), child.id()).await;
        let mut asked = JoinSet::new();
        if let Err(error) = self.listen(FrameReader::new(from_proxy), &outgoing, &mut asked).await {
            warn!(%error, "the conversation with the proxy broke");
        }
        self.controller.proxy_down().await;
        writer.abort();
        let _ = child.kill().await;
        // Settlements that were said are written before what was not said is estimated.
        while asked.join_next().await.is_some() {}
    }

    async fn listen(
        &mut self,
        mut reader: FrameReader<tokio::net::unix::OwnedReadHalf>,
        outgoing: &UnboundedSender<FromController>,
        asked: &mut JoinSet<()>,
    ) -> Result<(), BrokerError> {
        while let Some(message) = reader.read().await? {
            while asked.try_join_next().is_some() {}
            let (ledger, controller, outgoing) = (self.ledger.clone(), self.controller.clone(), outgoing.clone());
            match message {
                FromProxy::Ready => info!("the proxy serves"),
                FromProxy::Admit { number, request } => {
                    asked.spawn(admit(ledger, controller, outgoing, number, request));
                }
                FromProxy::Settle { number, settlement } => {
                    asked.spawn(settle(ledger, controller, outgoing, number, settlement));
                }
                FromProxy::Delivered { bottle } => controller.delivered(bottle),
                FromProxy::RefusalDelivered { bottle } => controller.refusal_delivered(bottle),
                FromProxy::MintLeaf { number, host } => {
                    let _ = outgoing.send(FromController::Leaf { number, leaf: self.mint(&host) });
                }
            }
        }
        Ok(())
    }

    fn mint(&mut self, host: &Host) -> LeafReply {
        match self.routes.find(host) {
            Some(_) => self.authority.mint(host, now()),
            None => LeafReply::Refused(format!("no route allows {host}")),
        }
    }
}

async fn admit(
    ledger: Ledger,
    controller: ControllerHandle,
    outgoing: UnboundedSender<FromController>,
    number: RequestNumber,
    request: SpendRequest,
) {
    let bottle = request.bottle;
    let admission = match ledger.admit(request).await {
        Ok(Ok(id)) => Admission::Permit(Permit { id }),
        Ok(Err(refusal)) => {
            if refusal.is_exhausted() {
                controller.exhausted(bottle, refusal.clone()).await;
            }
            Admission::Refused(refusal)
        }
        Err(error) => {
            error!(error = with_causes(&error), "a request could not be admitted");
            Admission::Refused(Refusal::of(
                RefusalReason::LedgerUnavailable,
                "the ledger cannot record what this request would use, so it is not sent; ask the operator of this host",
            ))
        }
    };
    let _ = outgoing.send(FromController::Admitted { number, admission });
}

async fn settle(
    ledger: Ledger,
    controller: ControllerHandle,
    outgoing: UnboundedSender<FromController>,
    number: RequestNumber,
    settlement: Settlement,
) {
    let crossed = match settle_for_sure(&ledger, settlement).await {
        Some(settled) => announce(&controller, settled).await,
        None => false,
    };
    let _ = outgoing.send(FromController::Settled { number, crossed });
}

/// Says a crossing to the controller, and returns once the proxy has been told what follows from it.
async fn announce(controller: &ControllerHandle, settled: Settled) -> bool {
    let crossed = settled.crossing.is_some();
    if crossed {
        controller.crossed(settled).await;
    }
    crossed
}

/// Writes a settlement, however long the disk refuses; the agent waits for its last byte as long.
async fn settle_for_sure(ledger: &Ledger, settlement: Settlement) -> Option<Settled> {
    loop {
        match ledger.settle(settlement.clone()).await {
            Ok(settled) => return Some(settled),
            Err(error @ (LedgerError::NoReservation(_) | LedgerError::Closed)) => {
                warn!(error = with_causes(&error), "a settlement had nothing to settle");
                return None;
            }
            Err(error) => {
                error!(
                    error = with_causes(&error),
                    permit = settlement.permit.0,
                    "a settlement is not written yet; trying again"
                );
                tokio::time::sleep(SETTLE_RETRY_EVERY).await;
            }
        }
    }
}

/// Settles every open permit conservatively: nobody else knows how their exchanges ended.
pub(super) async fn settle_open(ledger: &Ledger, controller: &ControllerHandle) -> u64 {
    let settled = loop {
        match ledger.settle_open(Ending::ProxyLost).await {
            Ok(settled) => break settled,
            Err(LedgerError::Closed) => return 0,
            Err(error) => {
                error!(error = with_causes(&error), "open permits are not settled yet; trying again");
                tokio::time::sleep(SETTLE_RETRY_EVERY).await;
            }
        }
    };
    let count = settled.len() as u64;
    for one in settled {
        announce(controller, one).await;
    }
    count
}

async fn audit(ledger: &Ledger, kind: AuditKind) {
    if let Err(error) = ledger.audit(None, kind).await {
        error!(error = with_causes(&error), "an audit row could not be written");
    }
}
