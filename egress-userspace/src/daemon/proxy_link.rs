//! The proxy as a child of the controller: started, fed, listened to, replaced when it dies.
//!
//! What it asks is answered in [`conversation`](super::conversation).

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, warn};

use crate::broker::{Configuration, FromController, Listeners, send_listeners};
use crate::domain::{AuditKind, Ending, with_causes};
use crate::ledger::{Ledger, LedgerError, Settled};

use super::approvals::Approvals;
use super::authority::Authority;
use super::controller::ControllerHandle;
use super::conversation::{Conversation, NOTES_MAX};
use super::metrics::Metrics;
use super::traffic::News;

/// A proxy that lived shorter than this is replaced a little later, so that one that cannot start does not eat the machine.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// How much later.
const RESTART_PAUSE: Duration = Duration::from_millis(300);
/// Between two attempts to write what a full disk did not take.
pub(super) const SETTLE_RETRY_EVERY: Duration = Duration::from_millis(200);

/// Between two looks for requests that nobody has settled in time.
const STALE_EVERY: Duration = Duration::from_secs(60);

/// Everything the proxy is given and asks for.
pub(super) struct ProxyLink {
    pub(super) listeners: Listeners,
    pub(super) configuration: Configuration,
    pub(super) authority: Arc<Mutex<Authority>>,
    pub(super) ledger: Ledger,
    pub(super) controller: ControllerHandle,
    /// Who compares what bottles exchange with what their gates let through.
    pub(super) exchanged: mpsc::UnboundedSender<News>,
    /// Who asks operators.
    pub(super) approvals: Approvals,
    /// What is exported.
    pub(super) metrics: Metrics,
}

impl ProxyLink {
    /// Keeps a proxy running until the future is dropped (the child is killed then).
    pub(super) async fn supervise(self) {
        loop {
            let born = Instant::now();
            match self.start() {
                Ok((child, socket)) => self.serve(child, socket).await,
                Err(error) => error!(%error, "the proxy could not be started"),
            }
            self.metrics.proxy_restarted();
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
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("proxy").stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).kill_on_drop(true).env_clear();
        if let Some(filter) = std::env::var_os(crate::LOG_VARIABLE) {
            command.env(crate::LOG_VARIABLE, filter);
        }
        let child = command.spawn()?;
        send_listeners(&ours, &self.listeners).map_err(std::io::Error::other)?;
        Ok((child, ours))
    }

    /// Talks to one proxy until it has gone.
    async fn serve(&self, mut child: Child, socket: UnixStream) {
        let (ended, end) = oneshot::channel();
        let (outgoing, queue) = mpsc::unbounded_channel();
        let _ = outgoing.send(FromController::Configure(self.configuration.clone()));
        let _ = self.exchanged.send(News::Started);
        self.controller.proxy_up(outgoing.clone(), child.id()).await;
        let conversation = Conversation {
            socket: Arc::new(socket),
            outgoing,
            ledger: self.ledger.clone(),
            controller: self.controller.clone(),
            authority: Arc::clone(&self.authority),
            exchanged: self.exchanged.clone(),
            approvals: self.approvals.clone(),
            metrics: self.metrics.clone(),
            runtime: Handle::current(),
            unfinished: JoinSet::new(),
            notes: Arc::new(Semaphore::new(NOTES_MAX)),
        };
        // Kept for this process's lifetime at most: both threads end with the socket, and that with the child.
        if let Err(error) = conversation.start(queue, ended) {
            error!(%error, "no thread for the proxy is to be had");
        }
        let unfinished = end.await;
        self.controller.proxy_down().await;
        self.approvals.proxy_down().await;
        let _ = child.kill().await;
        // Settlements that were said are written before what was not said is estimated.
        if let Ok(mut unfinished) = unfinished {
            while unfinished.join_next().await.is_some() {}
        }
    }
}

/// Says a crossing to the controller, and returns once the proxy has been told what follows from it.
pub(super) async fn announce(controller: &ControllerHandle, settled: Settled) -> bool {
    let crosses_own = settled.crossing.is_some();
    if settled.crosses() {
        controller.crossed(settled).await;
    }
    crosses_own
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

/// Settles now and then what nobody will settle any more.
pub(super) async fn settle_stale(ledger: Ledger, controller: ControllerHandle) {
    loop {
        tokio::time::sleep(STALE_EVERY).await;
        match ledger.settle_stale().await {
            Ok(settled) if settled.is_empty() => {}
            Ok(settled) => {
                warn!(permits = settled.len(), "requests that nobody settled in time are settled conservatively");
                for one in settled {
                    announce(&controller, one).await;
                }
            }
            Err(error) => error!(error = with_causes(&error), "stale requests are not settled yet; trying again"),
        }
    }
}

async fn audit(ledger: &Ledger, kind: AuditKind) {
    if let Err(error) = ledger.audit(None, kind).await {
        error!(error = with_causes(&error), "an audit row could not be written");
    }
}
