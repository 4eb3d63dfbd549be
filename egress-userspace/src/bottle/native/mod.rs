//! Bottles made of the kernel's own parts: namespaces, a veth pair and a control group.
//!
//! A bottle is built with its host end *down*. The daemon attaches the gate, then calls [`NativeRuntime::bring_up`]: there is
//! no moment at which packets could pass ungated. Bottles outlive the daemon; [`NativeRuntime::leftovers`] finds them again.

mod calls;
pub(in crate::bottle) mod cgroup;
pub(in crate::bottle) mod command;
mod devices;
pub(in crate::bottle) mod environment;
pub(in crate::bottle) mod files;
pub(in crate::bottle) mod freeze;
mod init;
pub(in crate::bottle) mod keystore;
mod launch;
pub(in crate::bottle) mod layer;
pub(in crate::bottle) mod layout;
mod mount_table;
mod mounts;
pub(in crate::bottle) mod namespace;
mod networks;
mod privileges;
pub(in crate::bottle) mod raw;
pub(in crate::bottle) mod record;
mod removal;
mod root;
mod shares;
mod steps;
mod whiteout;
pub(in crate::bottle) mod wiring;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;

use nix::errno::Errno;
use tokio::sync::oneshot;

use super::plan::{self, Failure};
use super::{BottleError, BottleSpec, BuiltBottle, HostWiring, Launch};
use crate::domain::{BottleName, Network};
pub use command::{RunningCommand, Signaller};
pub use devices::terminal_owner;
pub use init::init_main;
use layer::Foreign;
use layout::Layout;
pub use namespace::HostView;
pub use shares::NotShared;
use wiring::Links;

/// Makes, starts and removes native bottles.
#[derive(Clone, Debug)]
pub struct NativeRuntime {
    pub(in crate::bottle) wiring: HostWiring,
    pub(in crate::bottle) executable: PathBuf,
    group: String,
}

impl NativeRuntime {
    /// A runtime whose commands are started through this very program (see [`init_main`]).
    #[must_use]
    pub fn new(wiring: HostWiring) -> Self {
        Self { wiring, executable: "/proc/self/exe".into(), group: "egress".to_owned() }
    }

    /// Starts commands through another program that answers to `bottle-init`.
    #[must_use]
    pub fn with_executable(self, executable: PathBuf) -> Self {
        Self { executable, ..self }
    }

    /// Keeps the bottles' control groups in one of this name, so that two daemons on a machine do not meet.
    #[must_use]
    pub fn with_group(self, group: String) -> Self {
        Self { group, ..self }
    }

    /// Makes sure the bridge exists and holds the gateway's address; takes it over if it is there.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn prepare_host(&self) -> Result<(), BottleError> {
        let wiring = self.wiring.clone();
        let step = "joining the gateway's address to its device";
        let prepare = move || {
            fs::create_dir_all(&wiring.run_directory)?;
            wiring::ensure_bridge(&wiring.bridge, wiring.gateway)
        };
        on_thread(prepare).await.map_err(|source| self.host_error(step, source))
    }

    /// The networks that this host is in: its own addresses, and those that it reaches without a gateway.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn own_networks(&self) -> Result<BTreeSet<Network>, BottleError> {
        on_thread(networks::own).await.map_err(|source| self.host_error("looking for the host's networks", source))
    }

    /// Makes the host's side of running bottles what it is to be where it is not; tells what was mended, in words. Each comes
    /// with the number of the interface that its gate is attached to: another of the same name is none of it.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn mend_wiring(&self, bottles: Vec<(BottleSpec, u32)>) -> Result<Vec<String>, BottleError> {
        let runtime = self.clone();
        let mend = move || {
            let HostWiring { bridge, gateway, .. } = &runtime.wiring;
            let mut mended = Vec::new();
            let mut links = Links::look(bridge, *gateway)?;
            if !links.hold_gateway() {
                wiring::ensure_bridge(bridge, *gateway)?;
                links = Links::look(bridge, *gateway)?;
                mended.push("the gateway's device".to_owned());
            }
            for (BottleSpec { name, address, mac }, number) in &bottles {
                let interface = runtime.layout(name).interface;
                if links.is_open(&interface, *address, *gateway)? {
                    continue;
                }
                match wiring::open_link(*number, *address, *mac, *gateway) {
                    Ok(()) => mended.push(format!("the host's side of {name}")),
                    // It has ended meanwhile.
                    Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(mended)
        };
        on_thread(mend).await.map_err(|source| self.host_error("mending the host's side of bottles", source))
    }

    /// Removes what [`Self::prepare_host`] made, if it exists. Bottles are taken down first.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn remove_host(&self) -> Result<(), BottleError> {
        let bridge = self.wiring.bridge.clone();
        let (own_tree, group) = (self.own_tree(), self.group.clone());
        let remove = move || {
            cgroup::forget(&own_tree, &group)?;
            wiring::delete_link(&bridge)
        };
        on_thread(remove).await.map_err(|source| self.host_error("removing the gateway's device", source))
    }

    /// Builds a bottle; its host end is down.
    ///
    /// # Errors
    /// When a bottle of that name exists or a step fails; the steps before it have been undone.
    pub async fn build(&self, spec: &BottleSpec) -> Result<BuiltBottle, BottleError> {
        let runtime = self.clone();
        let (address, mac, gateway) = (spec.address, spec.mac, self.wiring.gateway);
        let layout = self.layout(&spec.name);
        let interface = layout.interface.clone();
        let name = spec.name.clone();
        let carry_out = move || {
            let group = runtime.group_of(&name).map_err(no_tree)?;
            plan::carry_out(&steps::build(&layout, group, address, mac, gateway))
        };
        on_thread(carry_out).await.map_err(|failure| step_error(&spec.name, failure))?;
        let number = wiring::existing(&interface);
        let number =
            number.map_err(|source| step_error(&spec.name, Failure { step: "finding its interface", source }))?;
        Ok(BuiltBottle { interface: number, interface_name: interface })
    }

    /// Lets packets through the bottle's host end. Call it once the gate is attached.
    ///
    /// # Errors
    /// When the system refuses; the host end is down then.
    pub async fn bring_up(&self, spec: &BottleSpec, built: &BuiltBottle) -> Result<(), BottleError> {
        let (address, mac, gateway) = (spec.address, spec.mac, self.wiring.gateway);
        let interface = built.interface_name.clone();
        let open = move || {
            let opened = wiring::open(&interface, address, mac, gateway);
            if opened.is_err() {
                wiring::close(&interface)?;
            }
            opened
        };
        let step = "bringing its interface up";
        on_thread(open).await.map_err(|source| step_error(&spec.name, Failure { step, source }))
    }

    /// Starts a command in a built bottle. Needs a tokio runtime with I/O. That the bottle could not be furnished or the
    /// program not be found shows as exit code 125, 126 or 127 and a line on the command's standard error.
    ///
    /// # Errors
    /// When no process could be made.
    pub fn start(&self, spec: &BottleSpec, launch: Launch) -> Result<RunningCommand, BottleError> {
        let program = launch.command.first().cloned().unwrap_or_default();
        let layout = self.layout(&spec.name);
        let prepared = layout.layer.prepare(launch.caller.uid);
        let step = "making a place for what it writes";
        prepared
            .map_err(|source| step_error(&spec.name, Failure { step, source }))?
            .map_err(|Foreign { owner }| BottleError::Foreign { bottle: spec.name.to_string(), owner })?;
        let start = |launch| {
            let group = self.group_of(&spec.name)?;
            launch::start(&self.executable, &self.wiring, &spec.name, &layout, group, launch)
        };
        start(launch).map_err(|source| BottleError::Start { command: program, source })
    }

    /// A command that an earlier daemon started and that still runs; `None` when nothing of it does.
    ///
    /// # Errors
    /// When the system refuses to say.
    pub fn adopt(&self, bottle: &BottleName) -> Result<Option<(BuiltBottle, RunningCommand)>, BottleError> {
        let layout = self.layout(bottle);
        let adopt = || {
            let Some(command) = RunningCommand::adopt(&layout.record, &self.group_of(bottle)?)? else {
                return Ok(None);
            };
            let interface = wiring::existing(&layout.interface)?;
            Ok(Some((BuiltBottle { interface, interface_name: layout.interface.clone() }, command)))
        };
        adopt().map_err(|source| step_error(bottle, Failure { step: "finding what runs in it", source }))
    }

    /// How a command that nobody waited for has ended; its bottle is still to be taken down.
    #[must_use]
    pub fn exit_code(&self, bottle: &BottleName) -> Option<i32> {
        record::read(&self.layout(bottle).record).ok().flatten().and_then(|(_, exit_code)| exit_code)
    }

    /// Kills everything in a bottle and removes it, waiting until it is gone. Fine when there is no such bottle.
    ///
    /// # Errors
    /// When something could not be removed; the rest has been, and calling again may help.
    pub async fn take_down(&self, bottle: &BottleName) -> Result<(), BottleError> {
        let runtime = self.clone();
        let layout = self.layout(bottle);
        let name = bottle.clone();
        let take_back = move || {
            let group = runtime.group_of(&name).map_err(|error| {
                // What cannot be ended gets nowhere.
                let unwired = wiring::delete_link(&layout.interface);
                no_tree(unwired.err().unwrap_or(error))
            })?;
            // Addresses are of no matter to an undo.
            let unspecified = Ipv4Addr::UNSPECIFIED;
            plan::take_back(&steps::build(&layout, group, unspecified, [0; 6], unspecified))
        };
        on_thread(take_back).await.map_err(|Failure { step, source }| BottleError::NotUndone {
            bottle: bottle.to_string(),
            step,
            source,
        })
    }

    /// Every bottle there is on this host, whoever built it: at the daemon's start, those of a crashed run.
    ///
    /// # Errors
    /// When the run directory cannot be read.
    pub fn leftovers(&self) -> Result<Vec<BottleName>, BottleError> {
        let directory = &self.wiring.run_directory;
        let names = || {
            let entries = match fs::read_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let name = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse().ok());
            let named = entries.filter_map(|entry| entry.map(name).transpose());
            let mut names: Vec<BottleName> = named.collect::<io::Result<_>>()?;
            names.sort();
            Ok(names)
        };
        names().map_err(|source| BottleError::List { directory: directory.clone(), source })
    }

    /// Runs `work` in the network namespace of a built bottle.
    ///
    /// # Errors
    /// When there is no such bottle, and those of the work.
    pub fn inside<T: Send>(&self, bottle: &BottleName, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        self.layout(bottle).namespace.inside(work)
    }

    pub(in crate::bottle) fn layout(&self, bottle: &BottleName) -> Layout {
        Layout::new(&self.wiring, bottle)
    }

    pub(in crate::bottle) fn group_of(&self, bottle: &BottleName) -> io::Result<PathBuf> {
        let tree = cgroup::tree(&self.own_tree())?;
        Ok(tree.join(&self.group).join(bottle.as_str()))
    }

    /// Where cgroup v2 is mounted if the host has not. Begins with a dot: no bottle can be called so.
    fn own_tree(&self) -> PathBuf {
        self.wiring.run_directory.join(".cgroup")
    }

    fn host_error(&self, step: &'static str, source: io::Error) -> BottleError {
        BottleError::Step { bottle: self.wiring.bridge.clone(), step, source }
    }
}

fn no_tree(source: io::Error) -> Failure {
    Failure { step: "finding the control groups", source }
}

pub(in crate::bottle) fn step_error(bottle: &BottleName, Failure { step, source }: Failure) -> BottleError {
    BottleError::Step { bottle: bottle.to_string(), step, source }
}

impl From<io::Error> for Failure {
    fn from(source: io::Error) -> Self {
        Self { step: "starting a thread", source }
    }
}

/// Network namespaces and blocking waits belong to a thread, and tokio's are shared: each piece of work has its own.
pub(in crate::bottle) async fn on_thread<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<io::Error> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let body = move || {
        // The receiver is gone when the caller gave up; the work is done all the same.
        let _unwanted = sender.send(work());
    };
    thread::Builder::new().name("bottle".to_owned()).spawn(body)?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the thread panicked").into()))
}
