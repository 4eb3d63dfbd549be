//! One run of a bottle, from the caller's descriptors to its exit code.
//!
//! The order is the promise: address, namespace, gate, only then the command. Taking down goes the other way.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tracing::{error, info, warn};

use crate::bottle::{
    BottleSpec, Bottles, BuiltBottle, Caller, ContainerLaunch, Launch, RunningCommand, Signaller, terminal_owner,
};
use crate::control::{ApiError, ErrorCode, Peer, RunEvent, RunRequest};
use crate::domain::{BottleName, CutCause, GateView, RuntimeKind, Stop, with_causes};
use crate::fault::{self, Point};
use crate::kernel::{Enforcer, Gate, GateStatus, IfIndex};
use crate::ledger::{AddressPool, BottleRow, Ledger, LedgerError, NewRun};

use super::containers::Process;
use super::controller::{ControllerHandle, Running};
use super::cutting::Stage;
use super::leftover;
use super::lifeline::{Lifeline, RunEnd};
use super::reload::InForce;
use super::stop_steps::StopSteps;
use super::stopping::{ENDED, Over, policy_of};
use super::turns::Turns;
use super::{DNS_PORT, PROXY_PORTS};

/// What a bottle that could not be started is recorded to have ended with.
const NOT_STARTED: i32 = 125;
/// Between the hang-up of a command whose front-end has gone and its end.
const HANG_UP_GRACE: Duration = Duration::from_secs(2);
/// A run that an earlier controller started is followed again within this, or its front-end has died meanwhile. Front-ends
/// look for a new controller several times a second.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(10);
/// `SIGHUP`
const HANG_UP: i32 = 1;
/// Events a front-end may be behind; a run has three.
pub(super) const EVENTS_MAX: usize = 8;

/// Builds, starts and takes down bottles.
#[derive(Clone)]
pub(super) struct Launcher {
    pub(super) ledger: Ledger,
    pub(super) enforcer: Arc<dyn Enforcer>,
    pub(super) runtime: Arc<Bottles>,
    pub(super) controller: ControllerHandle,
    pub(super) pool: AddressPool,
    pub(super) in_force: InForce,
    /// Held by whoever compares gates, and by whoever changes what they are to be.
    pub(super) mending: Arc<tokio::sync::Mutex<()>>,
    /// How far freezes and kills are.
    pub(super) stop_steps: StopSteps,
    /// Who takes what down.
    pub(super) turns: Turns,
    /// Why gates are not to be relied on: nothing is started then.
    pub(super) not_enforcing: Option<String>,
}

impl Launcher {
    /// Starts a run for a front-end. The run ends when the receiver is dropped.
    pub(super) async fn run(
        &self,
        peer: Peer,
        name: BottleName,
        request: RunRequest,
    ) -> Result<mpsc::Receiver<RunEvent>, ApiError> {
        self.check_enforcing()?;
        let policy = policy_of(request.shutdown, &self.ledger.rules(), &name, request.extends.as_ref());
        let new = NewRun {
            name,
            agent: request.agent.clone(),
            budget: request.budget.clone(),
            extends: request.extends.clone(),
            policy,
            runtime: if request.image.is_some() { RuntimeKind::Docker } else { RuntimeKind::Native },
            container: None,
        };
        let launch = self.guarded(launch(peer, request)?).await?;
        let row = self.ledger.begin_run(new, self.pool).await.map_err(|error| refused(&error))?;
        fault::point(Point::RunBegun);
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(self.clone().live(row, launch, events, Over::Ended(NOT_STARTED)));
        Ok(receiver)
    }

    /// A bottle behind a gate that does not hold would be no bottle.
    pub(super) fn check_enforcing(&self) -> Result<(), ApiError> {
        let Some(problem) = &self.not_enforcing else { return Ok(()) };
        Err(failed(format!(
            "no bottle is started, as this host does not enforce ({problem}): `egress doctor` says more"
        )))
    }

    /// Hides what routes name, and looks at what is shared: front-ends do, too, and need not be ours.
    pub(super) async fn guarded(&self, launch: Launch) -> Result<Launch, ApiError> {
        let launch = Launch { hidden: self.in_force.secret_files(), ..launch };
        let told = |error| ApiError { code: ErrorCode::Usage, message: with_causes(&error) };
        self.runtime.check_shares(&launch).await.map_err(told)?;
        Ok(launch)
    }

    /// `otherwise` is how the run is over when it cannot be started.
    pub(super) async fn live(self, row: BottleRow, launch: Launch, events: mpsc::Sender<RunEvent>, otherwise: Over) {
        let (lifeline, exit) = Lifeline::new();
        let started = self.start(&row, launch, lifeline.clone()).await;
        let (mut command, interface, address) = match started {
            Ok(started) => started,
            Err(error) => {
                error!(bottle = %row.name, error = error.message, "a bottle could not be started");
                self.finish(&row, otherwise).await;
                let _ = events.send(RunEvent::Failed { error }).await;
                return;
            }
        };
        info!(bottle = %row.name, %address, interface = interface.0, "started");
        let _ = events.send(RunEvent::Started { address, run: row.started }).await;
        let end = match self.follow(&row, &mut command, &lifeline, events.closed()).await {
            // The bottle could not be furnished, which it has said itself.
            Over::Ended(exit_code) if matches!(otherwise, Over::Stopped(..)) && self.is_saved(&row) => {
                RunEnd { exit_code, ..self.finish(&row, otherwise).await }
            }
            over @ (Over::Ended(_) | Over::Stopped(..)) => self.finish(&row, over).await,
        };
        info!(bottle = %row.name, exit_code = end.exit_code, "ended");
        let _ = exit.send(Some(end.clone()));
        let _ = events.send(end.into()).await;
    }

    async fn start(
        &self,
        row: &BottleRow,
        launch: Launch,
        lifeline: Lifeline,
    ) -> Result<(RunningCommand, IfIndex, Ipv4Addr), ApiError> {
        let spec = spec(row)?;
        let address = spec.address;
        let (built, ready) = self.runtime.build(&spec, launch).await.map_err(|error| failed(with_causes(&error)))?;
        let interface = IfIndex(built.interface);
        self.enforcer.attach(&self.gate(row, address, interface)).map_err(|error| failed(with_causes(&error)))?;
        fault::point(Point::GateAttached);
        let lineage = self.ledger.lineage(row.id).await.map_err(|error| refused(&error))?;
        let introduced = self.controller.started(running(row, lineage, address, &built, lifeline)).await;
        introduced.map_err(|error| failed(with_causes(&error)))?;
        fault::point(Point::Introduced);
        let container = self.runtime.container(&row.name).await;
        // A container's command begins with this.
        self.runtime.bring_up(&spec, &built).await.map_err(|error| failed(with_causes(&error)))?;
        fault::point(Point::BroughtUp);
        let command = self.runtime.start(&spec, ready).map_err(|error| failed(with_causes(&error)))?;
        fault::point(Point::CommandStarted);
        self.controller.runs(row.id, Process::of(container, &command), command.signaller());
        Ok((command, interface, address))
    }

    /// The whole desired state of a bottle's gate.
    pub(super) fn gate(&self, row: &BottleRow, address: Ipv4Addr, interface: IfIndex) -> Gate {
        let status = match row.gate {
            GateView::Open => GateStatus::Open,
            GateView::Cut(CutCause::Budget) => GateStatus::Cut(egress_common::CutReason::Budget),
            GateView::Cut(CutCause::Operator) => GateStatus::Cut(egress_common::CutReason::Operator),
        };
        Gate {
            interface,
            bottle: row.id,
            mac: mac(address),
            address,
            gateway: self.pool.gateway,
            tcp_ports: PROXY_PORTS.into_iter().chain([DNS_PORT]).collect(),
            dns_port: DNS_PORT,
            status,
            cut_mode: self.in_force.cut_mode(),
        }
    }

    /// Takes down whatever there is of a run, in the order that keeps the gate longest. What is left keeps its gate.
    pub(super) async fn take_down(&self, row: &BottleRow) -> Result<(), String> {
        let interfaces = self.interfaces_of(row);
        self.controller.ended(row.id).await;
        if let Err(error) = self.runtime.take_down(&row.name).await {
            let left = with_causes(&error);
            error!(bottle = %row.name, error = left, "something of the bottle is left; the next start tries again");
            return Err(left);
        }
        let mut done = Ok(());
        for interface in interfaces {
            match leftover::remove_gate(self.enforcer.as_ref(), interface) {
                Ok(true) => {}
                // Somebody gave it another name.
                Ok(false) => {
                    let left = format!("its interface {} is left, behind its cut gate", interface.0);
                    error!(bottle = %row.name, left, "something of the bottle is left");
                    done = Err(left);
                }
                Err(error) => {
                    warn!(bottle = %row.name, error = with_causes(&error), "its gate is left; the next look tries again");
                }
            }
        }
        fault::point(Point::GateRemoved);
        done
    }

    /// Waits until the run is over. A bottle that was to be frozen and cannot be is waited for on.
    pub(super) async fn follow(
        &self,
        row: &BottleRow,
        command: &mut RunningCommand,
        lifeline: &Lifeline,
        gone: impl Future<Output = ()>,
    ) -> Over {
        let mut gone = std::pin::pin!(gone);
        loop {
            let over = tokio::select! {
                over = watch_over(command, lifeline, gone.as_mut()) => over,
                () = self.keep_wired(row) => Over::Ended(ENDED),
            };
            let Over::Stopped(Stop::Freeze, _) = over else { return over };
            let Err(what) = self.hold(row, command).await else { return over };
            lifeline.freeze_failed(what);
        }
    }

    fn interfaces_of(&self, row: &BottleRow) -> Vec<IfIndex> {
        let gates = self.enforcer.gates().unwrap_or_default();
        gates.into_iter().filter(|gate| gate.bottle == row.id).map(|gate| gate.interface).collect()
    }

    /// Waits for a run that an earlier controller started, and takes it down.
    pub(super) async fn live_on(
        self,
        row: BottleRow,
        mut command: RunningCommand,
        lifeline: Lifeline,
        exit: watch::Sender<Option<RunEnd>>,
    ) {
        let unfollowed = async {
            // Nobody ever did follow an attached container.
            if row.container.is_some() {
                std::future::pending::<()>().await;
            }
            if tokio::time::timeout(FOLLOWED_WITHIN, lifeline.followed.notified()).await.is_ok() {
                std::future::pending::<()>().await;
            }
            warn!(bottle = %row.name, "nobody follows this run any more; it is ended");
        };
        let over = self.follow(&row, &mut command, &lifeline, unfollowed).await;
        let end = self.finish(&row, over).await;
        let _ = exit.send(Some(end));
    }
}

/// Waits for the command's end or for what is to end it, and brings the end about when `gone` says that nobody wants it any
/// more.
async fn watch_over(command: &mut RunningCommand, lifeline: &Lifeline, gone: impl Future<Output = ()>) -> Over {
    let mut ordered = lifeline.stop.subscribe();
    let stop = async {
        // The lifeline holds the other end.
        let ordered = ordered.wait_for(Option::is_some).await.ok().and_then(|ordered| *ordered);
        ordered.unwrap_or((Stop::Kill, CutCause::Operator))
    };
    tokio::select! {
        exit_code = command.wait() => return Over::Ended(exit_code.unwrap_or(ENDED)),
        (stop, cause) = stop => return Over::Stopped(stop, cause),
        () = lifeline.end.notified() => return Over::Ended(ENDED),
        () = gone => {}
    }
    // It may just have ended.
    let _ = command.signaller().send(HANG_UP);
    let exit_code = tokio::time::timeout(HANG_UP_GRACE, command.wait()).await;
    Over::Ended(exit_code.unwrap_or(Ok(ENDED)).unwrap_or(ENDED))
}

/// Ends a run that nobody wants any more: politely, then for sure.
pub(super) async fn hang_up(signaller: Option<&Signaller>, end: &Notify) {
    // It may just have ended.
    let _ = signaller.map(|signaller| signaller.send(HANG_UP));
    tokio::time::sleep(HANG_UP_GRACE).await;
    end.notify_one();
}

/// What the controller keeps of a run.
pub(super) fn running(
    row: &BottleRow,
    lineage: Vec<BottleName>,
    address: Ipv4Addr,
    built: &BuiltBottle,
    lifeline: Lifeline,
) -> Running {
    let stage = match row.gate {
        GateView::Open => Stage::Open,
        GateView::Cut(cause) => Stage::Cut(cause),
    };
    Running {
        id: row.id,
        name: row.name.clone(),
        agent: row.agent.clone(),
        lineage,
        address,
        interface: IfIndex(built.interface),
        interface_name: built.interface_name.clone(),
        init_pid: None,
        container: None,
        signaller: None,
        stage,
        policy: row.policy,
        lifeline,
    }
}

/// What the command gets of the caller.
fn launch(peer: Peer, request: RunRequest) -> Result<Launch, ApiError> {
    let text = OsString::from_vec;
    let stdio = streams(peer.streams)?;
    let has_terminal = request.has_terminal && gets_terminal(peer.uid, &stdio)?;
    Ok(Launch {
        command: request.command.into_iter().map(text).collect(),
        environment: request.environment.into_iter().map(|(name, value)| (text(name), text(value))).collect(),
        directory: PathBuf::from(text(request.directory)),
        shared: request.shared.into_iter().map(|path| PathBuf::from(text(path))).collect(),
        hidden: Vec::new(),
        caller: Caller { uid: peer.uid, gid: peer.gid, groups: peer.groups },
        stdio,
        has_terminal,
        container: request.image.map(|image| ContainerLaunch::Image { image, variables: request.variables }),
    })
}

/// The streams that came before a request for a run.
pub(super) fn streams(sent: Option<[OwnedFd; 3]>) -> Result<[OwnedFd; 3], ApiError> {
    sent.ok_or_else(|| ApiError {
        code: ErrorCode::Usage,
        message:
            "no standard streams came with the request: this egress is older than the daemon, start the installed one"
                .to_owned(),
    })
}

/// Whether the command's standard input is a terminal to be given to whoever runs it. Only what is the asking user's own is
/// given away; a standard input that is none is the command's as it is.
pub(super) fn gets_terminal(asking: u32, [input, ..]: &[OwnedFd; 3]) -> Result<bool, ApiError> {
    match terminal_owner(input) {
        Ok(None) => Ok(false),
        Ok(Some(owner)) if owner == asking => Ok(true),
        Ok(Some(owner)) => Err(ApiError {
            code: ErrorCode::NotPermitted,
            message: format!("the terminal on standard input is user {owner}'s, and you are user {asking}"),
        }),
        Err(error) => Err(failed(format!("the standard input cannot be looked at: {error}"))),
    }
}

/// What a bottle is built from.
pub(super) fn spec(row: &BottleRow) -> Result<BottleSpec, ApiError> {
    let address = row.address.ok_or_else(|| failed("the ledger gave the bottle no address"))?;
    Ok(BottleSpec { name: row.name.clone(), address, mac: mac(address) })
}

/// Locally administered, and as unique on the host as the address.
pub(super) fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0xe9, a, b, c, d]
}

pub(super) fn failed(message: impl Into<String>) -> ApiError {
    ApiError { code: ErrorCode::Failed, message: message.into() }
}

/// A ledger error as the front-end hears it.
pub(super) fn refused(error: &LedgerError) -> ApiError {
    let code = match error {
        LedgerError::NoBottle(_) | LedgerError::NoParent(_) | LedgerError::NoApproval(_) => ErrorCode::NotFound,
        LedgerError::AlreadyRunning(_)
        | LedgerError::StillCut { .. }
        | LedgerError::Cycle(_)
        | LedgerError::NoBudget { .. }
        | LedgerError::NoOverride(_)
        | LedgerError::Frozen(_)
        | LedgerError::NotFrozen(_)
        | LedgerError::BeingKilled(_)
        | LedgerError::ApprovalSettled { .. }
        | LedgerError::NotRemembered(_)
        | LedgerError::NothingRemembered(_)
        | LedgerError::StillUsedUp { .. } => ErrorCode::Conflict,
        LedgerError::Open { .. }
        | LedgerError::FromTheFuture { .. }
        | LedgerError::InUse { .. }
        | LedgerError::File { .. }
        | LedgerError::Transaction { .. }
        | LedgerError::NoReservation(_)
        | LedgerError::NoAddress
        | LedgerError::Closed => ErrorCode::Failed,
    };
    ApiError { code, message: with_causes(error) }
}
