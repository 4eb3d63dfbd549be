//! One face for both kinds of bottles. Which kind one is, is told by what there is of it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::docker::DockerRuntime;
use super::{
    BottleError, BottleSpec, BuiltBottle, Caller, HostWiring, Launch, NativeRuntime, RunningCommand, SavedLaunch,
};
use crate::domain::{BottleName, Network, RuntimeKind};

/// Makes, starts and removes bottles.
#[derive(Clone, Debug)]
pub struct Bottles {
    native: NativeRuntime,
    docker: DockerRuntime,
}

/// What is left to be done for a built bottle's command.
#[derive(Debug)]
pub enum Ready {
    /// It is started.
    Native(Launch),
    /// It runs and waits for its network.
    Container(RunningCommand),
}

impl Bottles {
    /// Bottles of this host; their control groups are in one of the name `group`, so that two daemons on a machine do not
    /// meet. `docker_socket` is the engine's, if it is not found by itself.
    #[must_use]
    pub fn new(wiring: HostWiring, group: String, docker_socket: Option<PathBuf>) -> Self {
        let native = NativeRuntime::new(wiring).with_group(group);
        Self { docker: DockerRuntime::new(native.clone(), docker_socket), native }
    }

    /// See [`NativeRuntime::prepare_host`].
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn prepare_host(&self) -> Result<(), BottleError> {
        self.native.prepare_host().await
    }

    /// See [`NativeRuntime::own_networks`].
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn own_networks(&self) -> Result<BTreeSet<Network>, BottleError> {
        self.native.own_networks().await
    }

    /// See [`NativeRuntime::mend_wiring`]: both kinds of bottles are wired alike.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn mend_wiring(&self, bottles: Vec<(BottleSpec, u32)>) -> Result<Vec<String>, BottleError> {
        self.native.mend_wiring(bottles).await
    }

    /// Whether what a launch shares with the host may be shared.
    ///
    /// # Errors
    /// When not, and when the system refuses to say.
    pub async fn check_shares(&self, launch: &Launch) -> Result<(), BottleError> {
        self.native.check_shares(launch).await
    }

    /// Builds a bottle; its host end is down.
    ///
    /// # Errors
    /// When a bottle of that name exists or a step fails. What of a container has been made is left to [`Self::take_down`].
    pub async fn build(&self, spec: &BottleSpec, mut launch: Launch) -> Result<(BuiltBottle, Ready), BottleError> {
        match launch.container.take() {
            Some(container) => {
                let (built, command) = self.docker.build(spec, launch, container).await?;
                Ok((built, Ready::Container(command)))
            }
            None => Ok((self.native.build(spec).await?, Ready::Native(launch))),
        }
    }

    /// Lets packets through the bottle's host end. Call it once the gate is attached.
    ///
    /// # Errors
    /// When the system refuses; the host end is down then.
    pub async fn bring_up(&self, spec: &BottleSpec, built: &BuiltBottle) -> Result<(), BottleError> {
        self.native.bring_up(spec, built).await
    }

    /// Starts the command of a bottle that is up, if it has not been.
    ///
    /// # Errors
    /// When no process could be made.
    pub fn start(&self, spec: &BottleSpec, ready: Ready) -> Result<RunningCommand, BottleError> {
        match ready {
            Ready::Native(launch) => self.native.start(spec, launch),
            Ready::Container(command) => {
                self.docker.forget_launch(&spec.name)?;
                Ok(command)
            }
        }
    }

    /// Whether this caller may have containers made, attached and detached.
    ///
    /// # Errors
    /// When not, or there is no engine.
    pub async fn may_use_engine(&self, caller: &Caller) -> Result<(), BottleError> {
        self.docker.may_use_engine(caller).await
    }

    /// The engine's number of a container that may be attached.
    ///
    /// # Errors
    /// When it may not: the error says why.
    pub async fn attachable(&self, caller: &Caller, container: &str) -> Result<String, BottleError> {
        self.docker.attachable(caller, container).await
    }

    /// Takes a running container off its networks and makes it a bottle whose host end is down.
    ///
    /// # Errors
    /// When it may not be, or a step fails: [`Self::take_down`] and [`Self::give_back`] undo what was done.
    pub async fn attach(
        &self,
        spec: &BottleSpec,
        caller: &Caller,
        container: &str,
    ) -> Result<(BuiltBottle, RunningCommand), BottleError> {
        self.docker.attach(spec, caller, container).await
    }

    /// Takes a container off networks of its engine's that somebody has put it on since; tells whether there was need. Never
    /// for a native bottle.
    ///
    /// # Errors
    /// When the engine refuses; calling again may help.
    pub async fn keep_off_networks(&self, bottle: &BottleName) -> Result<bool, BottleError> {
        if self.docker.has(bottle) { self.docker.keep_off_networks(bottle).await } else { Ok(false) }
    }

    /// Puts the attached container of a bottle that has ended back on its networks; tells whether there was one.
    ///
    /// # Errors
    /// When the engine refuses; calling again may help.
    pub async fn give_back(&self, bottle: &BottleName) -> Result<bool, BottleError> {
        self.docker.give_back(bottle).await
    }

    /// Returns when a bottle's container was started again and has no interface. Never for a native bottle.
    pub async fn until_restarted(&self, bottle: &BottleName) {
        if !self.docker.has(bottle) {
            std::future::pending::<()>().await;
        }
        self.docker.until_restarted(bottle).await;
    }

    /// Gives it one, with the host end down, and tells its first process.
    ///
    /// # Errors
    /// When a step fails; it has no network then.
    pub async fn rewire(&self, spec: &BottleSpec) -> Result<(BuiltBottle, u32), BottleError> {
        self.docker.rewire(spec).await
    }

    /// A container's first process on this host, while it runs, and the engine's number of it. `None` for a native bottle.
    pub async fn container(&self, bottle: &BottleName) -> Option<(Option<u32>, String)> {
        if self.docker.has(bottle) { self.docker.identity(bottle).await } else { None }
    }

    /// What an earlier daemon started and still runs; `None` when nothing of it does.
    ///
    /// # Errors
    /// When the system refuses to say.
    pub async fn adopt(
        &self,
        spec: &BottleSpec,
        kind: RuntimeKind,
    ) -> Result<Option<(BuiltBottle, RunningCommand)>, BottleError> {
        match kind {
            RuntimeKind::Native => self.native.adopt(&spec.name),
            RuntimeKind::Docker => self.docker.adopt(spec).await,
        }
    }

    /// See [`NativeRuntime::exit_code`]. Containers are followed by such a process as well.
    #[must_use]
    pub fn exit_code(&self, bottle: &BottleName) -> Option<i32> {
        self.native.exit_code(bottle)
    }

    /// Ends everything in a bottle and removes it, waiting until it is gone. Fine when there is no such bottle. An attached
    /// container is left, without network.
    ///
    /// # Errors
    /// When something could not be removed; the rest has been, and calling again may help.
    pub async fn take_down(&self, bottle: &BottleName) -> Result<(), BottleError> {
        if self.docker.has(bottle) { self.docker.take_down(bottle).await } else { self.native.take_down(bottle).await }
    }

    /// See [`NativeRuntime::leftovers`].
    ///
    /// # Errors
    /// When the run directory cannot be read.
    pub fn leftovers(&self) -> Result<Vec<BottleName>, BottleError> {
        self.native.leftovers()
    }

    /// Tells the processes of a bottle to stand still, where nobody has to be waited for: not those of a container, whose
    /// engine may hang.
    ///
    /// # Errors
    /// When there is no such bottle or the system refuses.
    pub fn hold_at_once(&self, bottle: &BottleName) -> Result<(), BottleError> {
        if self.docker.has(bottle) { Ok(()) } else { self.native.hold(bottle) }
    }

    /// Tells the processes of a bottle to stand still. Waits for a container's engine, else for nothing.
    ///
    /// # Errors
    /// When there is no such bottle or the system refuses.
    pub async fn hold(&self, bottle: &BottleName) -> Result<(), BottleError> {
        if self.docker.has(bottle) { self.docker.hold(bottle).await } else { self.native.hold(bottle) }
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// When there is no such bottle or the system refuses.
    pub async fn release(&self, bottle: &BottleName) -> Result<(), BottleError> {
        if self.docker.has(bottle) { self.docker.release(bottle).await } else { self.native.release(bottle) }
    }

    /// Waits until they stand still. A container does when it has been told.
    ///
    /// # Errors
    /// When they do not, or there is no such bottle.
    pub async fn until_held(&self, bottle: &BottleName) -> Result<(), BottleError> {
        if self.docker.has(bottle) { Ok(()) } else { self.native.until_held(bottle).await }
    }

    /// Whether its processes have been told to stand still.
    #[must_use]
    pub fn is_held(&self, bottle: &BottleName) -> bool {
        if self.docker.has(bottle) { self.docker.is_held(bottle) } else { self.native.is_held(bottle) }
    }

    /// Writes down how the command was started, for root alone; a container's files become an image.
    ///
    /// # Errors
    /// When the command has ended or the system refuses.
    pub async fn save_launch(&self, bottle: &BottleName, command: &RunningCommand) -> Result<(), BottleError> {
        if self.docker.has(bottle) {
            self.docker.save_launch(bottle).await
        } else {
            self.native.save_launch(bottle, command)
        }
    }

    /// See [`NativeRuntime::saved_launch`].
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn saved_launch(&self, bottle: &BottleName) -> Result<Option<SavedLaunch>, BottleError> {
        self.native.saved_launch(bottle)
    }

    /// Whether a bottle keeps anything, or something was left when it was taken down.
    #[must_use]
    pub fn has_anything(&self, bottle: &BottleName) -> bool {
        self.native.has_files(bottle) || self.native.layout(bottle).directory.exists()
    }

    /// Removes what a bottle keeps. Nothing may run in it. Fine when there is nothing.
    ///
    /// # Errors
    /// When something could not be removed; calling again may help.
    pub async fn remove_files(&self, bottle: &BottleName) -> Result<(), BottleError> {
        self.docker.remove_kept(bottle).await?;
        self.native.remove_files(bottle).await
    }
}
