//! What bottles of containers need besides: to be attached and detached, and a new interface after each start.

use std::net::Ipv4Addr;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::bottle::{Caller, RunningCommand};
use crate::control::{ApiError, AttachReply, AttachRequest, ErrorCode, Peer};
use crate::domain::{BottleId, BottleName, RuntimeKind, with_causes};
use crate::fault::{self, Point};
use crate::kernel::{Gate, IfIndex, KernelError};
use crate::ledger::{BottleRow, NewRun};

use super::api::{Desk, not_running};
use super::controller::{Controller, Running};
use super::gating::status;
use super::launch::{Launcher, failed, refused, running, spec};
use super::leftover;
use super::lifeline::{Lifeline, RunEnd};
use super::stopping::{Over, policy_of};

/// What a container that could not be attached is recorded to have ended with.
const NOT_ATTACHED: i32 = 125;
/// Between two tries to give a container its interface.
const WIRE_AGAIN: Duration = Duration::from_millis(500);

/// Who is in a bottle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// On the host.
    pub(super) pid: Option<u32>,
    /// At its engine.
    pub(super) container: Option<String>,
}

impl Process {
    /// The container's, if there is one; else the command's.
    pub(super) fn of(container: Option<(Option<u32>, String)>, command: &RunningCommand) -> Self {
        match container {
            Some((pid, container)) => Self { pid, container: Some(container) },
            None => Self { pid: Some(command.init_pid()), container: None },
        }
    }
}

/// A bottle with a new interface, which is down.
#[derive(Debug)]
pub(super) struct Rewired {
    pub(super) bottle: BottleId,
    /// As the ledger has it; whether it is cut, the controller knows.
    pub(super) gate: Gate,
    pub(super) interface_name: String,
    pub(super) init_pid: u32,
}

impl Controller {
    /// Gates the new interface as the old one was, and no cut comes between. `None`: the bottle has ended.
    pub(super) fn rewire(&mut self, rewired: Rewired) -> Option<Result<(), KernelError>> {
        let Rewired { bottle, mut gate, interface_name, init_pid } = rewired;
        let running = self.running.get_mut(&bottle)?;
        gate.status = status(&running.stage);
        if let Err(error) = self.enforcer.attach(&gate) {
            return Some(Err(error));
        }
        let old = std::mem::replace(&mut running.interface, gate.interface);
        (running.interface_name, running.init_pid) = (interface_name, Some(init_pid));
        if old != gate.interface {
            match leftover::remove_gate(self.enforcer.as_ref(), old) {
                Ok(true) => {}
                Ok(false) => warn!(bottle = %running.name, interface = old.0, "its old interface is left, cut"),
                Err(error) => warn!(bottle = %running.name, error = with_causes(&error), "its old gate is left"),
            }
        }
        self.tell_everybody();
        Some(Ok(()))
    }
}

impl Launcher {
    /// Puts a running container behind a gate.
    pub(super) async fn attach(
        &self,
        peer: Peer,
        name: BottleName,
        request: AttachRequest,
    ) -> Result<AttachReply, ApiError> {
        self.check_enforcing()?;
        let AttachRequest { container, agent, budget, extends, shutdown } = request;
        let caller = Caller { uid: peer.uid, gid: peer.gid, groups: peer.groups };
        let said = |error: crate::bottle::BottleError| failed(with_causes(&error));
        let id = self.runtime.attachable(&caller, &container).await.map_err(said)?;
        let policy = policy_of(shutdown, &self.ledger.rules(), &name, extends.as_ref());
        let (runtime, container) = (RuntimeKind::Docker, Some(id.clone()));
        let new = NewRun { name, agent, extends, budget, policy, runtime, container };
        let row = self.ledger.begin_run(new, self.pool).await.map_err(|error| refused(&error))?;
        fault::point(Point::AttachBegun);
        let (lifeline, exit) = Lifeline::new();
        let (command, address) = match self.attach_to(&row, &caller, &id, lifeline.clone()).await {
            Ok(attached) => attached,
            Err(error) => {
                error!(bottle = %row.name, error = error.message, "a container could not be attached");
                self.finish(&row, Over::Ended(NOT_ATTACHED)).await;
                if let Err(error) = self.runtime.give_back(&row.name).await {
                    error!(bottle = %row.name, error = with_causes(&error), "it is not on its networks again");
                }
                return Err(error);
            }
        };
        info!(bottle = %row.name, %address, container = id, "attached");
        let name = row.name.clone();
        let mut command = command;
        let launcher = self.clone();
        tokio::spawn(async move {
            let over = launcher.follow(&row, &mut command, &lifeline, std::future::pending()).await;
            // Nobody may be left to hear it.
            let _ = exit.send(Some(launcher.finish(&row, over).await));
        });
        Ok(AttachReply { name, container: Some(id), address: Some(address) })
    }

    async fn attach_to(
        &self,
        row: &BottleRow,
        caller: &Caller,
        container: &str,
        lifeline: Lifeline,
    ) -> Result<(RunningCommand, Ipv4Addr), ApiError> {
        let said = |error: &dyn std::error::Error| failed(with_causes(error));
        let spec = spec(row)?;
        let attached = self.runtime.attach(&spec, caller, container).await;
        let (built, command) = attached.map_err(|error| said(&error))?;
        let gate = self.gate(row, spec.address, IfIndex(built.interface));
        self.enforcer.attach(&gate).map_err(|error| said(&error))?;
        fault::point(Point::GateAttached);
        let lineage = self.ledger.lineage(row.id).await.map_err(|error| refused(&error))?;
        let introduced = self.controller.started(running(row, lineage, spec.address, &built, lifeline)).await;
        introduced.map_err(|error| said(&error))?;
        fault::point(Point::Introduced);
        let container = self.runtime.container(&row.name).await;
        self.runtime.bring_up(&spec, &built).await.map_err(|error| said(&error))?;
        fault::point(Point::BroughtUp);
        self.controller.runs(row.id, Process::of(container, &command), command.signaller());
        Ok((command, spec.address))
    }

    /// Gives a bottle's container a gated interface after each of its starts. Until then it has none that leads anywhere.
    /// Never returns.
    pub(super) async fn keep_wired(&self, row: &BottleRow) {
        loop {
            self.runtime.until_restarted(&row.name).await;
            if let Err(error) = self.wire_again(row).await {
                warn!(bottle = %row.name, error = error.message, "its container has no network; trying again");
                tokio::time::sleep(WIRE_AGAIN).await;
            }
        }
    }

    async fn wire_again(&self, row: &BottleRow) -> Result<(), ApiError> {
        let said = |error: &dyn std::error::Error| failed(with_causes(error));
        let spec = spec(row)?;
        let (built, init_pid) = self.runtime.rewire(&spec).await.map_err(|error| said(&error))?;
        let interface = IfIndex(built.interface);
        let gate = self.gate(row, spec.address, interface);
        let interface_name = built.interface_name.clone();
        let rewired = Rewired { bottle: row.id, gate, interface_name, init_pid };
        match self.controller.rewired(rewired).await {
            Some(gated) => gated.map_err(|error| said(&error))?,
            None => return Err(failed("the bottle has ended")),
        }
        self.runtime.bring_up(&spec, &built).await.map_err(|error| said(&error))?;
        info!(bottle = %row.name, interface = interface.0, pid = init_pid, "its container was started again and is gated");
        Ok(())
    }
}

impl Desk {
    /// Ends the bottle of an attached container and puts it back on its networks.
    pub(super) async fn detach(&self, peer: &Peer, name: BottleName) -> Result<AttachReply, ApiError> {
        let caller = Caller { uid: peer.uid, gid: peer.gid, groups: peer.groups.clone() };
        let admitted = self.launcher.runtime.may_use_engine(&caller).await;
        admitted.map_err(|error| failed(with_causes(&error)))?;
        let row = self.launcher.ledger.bottle(&name).await.map_err(|error| refused(&error))?;
        if row.runtime != RuntimeKind::Docker {
            let message = format!("{name} is no attached container: `egress kill {name}` ends it");
            return Err(ApiError { code: ErrorCode::Usage, message });
        }
        if row.ended.is_none() {
            let Running { lifeline, .. } = self.running(&name).await?;
            if row.container.is_none() {
                let message = format!("{name} was not attached but run: it ends with its command, or by `egress kill`");
                return Err(ApiError { code: ErrorCode::Usage, message });
            }
            let mut exit = lifeline.exit;
            lifeline.end.notify_one();
            let _: Option<RunEnd> = exit.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        }
        let given = self.launcher.runtime.give_back(&name).await.map_err(|error| failed(with_causes(&error)))?;
        if given { Ok(AttachReply { name, container: row.container, address: None }) } else { Err(not_running(&name)) }
    }
}
