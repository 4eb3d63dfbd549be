//! Isolated places to run a command.
//!
//! A runtime builds a bottle in steps (a plan with undo), starts the command once its gate is attached, and takes it down.
//! Knows nothing of gates, budgets or requests; the daemon joins the two.

mod docker;
mod native;
mod plan;
mod runtime;

use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::domain::BottleName;
pub use docker::{container_front_main, container_init_main};
pub use native::{HostView, NativeRuntime, NotShared, RunningCommand, Signaller, init_main, terminal_owner};
pub use runtime::{Bottles, Ready};

/// What is the same for all bottles of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostWiring {
    /// Bridge device that holds the gateway's address.
    pub bridge: String,
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// Where namespaces and generated files of running bottles are kept (`/run/egress/bottles`).
    pub run_directory: PathBuf,
    /// Where what bottles write is kept (`<home>/bottles`); hidden by what follows.
    pub layers: PathBuf,
    /// Paths that are hidden from every bottle (state directory, sockets, pins).
    pub hidden: Vec<PathBuf>,
    /// PEM of our CA, to be trusted inside.
    pub ca_pem: String,
    /// What bottles see of the host.
    pub view: HostView,
}

/// A bottle to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BottleSpec {
    /// Its name.
    pub name: BottleName,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// A built bottle, nothing running in it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltBottle {
    /// Host end of its veth, by the kernel's number.
    pub interface: u32,
    /// Host end of its veth, by name.
    pub interface_name: String,
}

/// Who runs the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A command to start in a built bottle.
#[derive(Debug)]
pub struct Launch {
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// The caller's environment; the runtime adds the CA variables and takes proxies away.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it starts. Writes there reach the host, unless it is `/`.
    pub directory: PathBuf,
    /// Further directories where they do, by their real paths.
    pub shared: Vec<PathBuf>,
    /// What is hidden from it beside what is hidden from every bottle.
    pub hidden: Vec<PathBuf>,
    /// As whom.
    pub caller: Caller,
    /// Its standard streams.
    pub stdio: [OwnedFd; 3],
    /// The standard input is a terminal of its own, to be given to the caller and made the controlling one.
    pub has_terminal: bool,
    /// What a container is made of; `None` for a native bottle.
    pub container: Option<ContainerLaunch>,
}

/// What a container is made of.
#[derive(Clone, PartialEq, Eq)]
pub enum ContainerLaunch {
    /// An image, and variables as `NAME=VALUE` beside its own.
    Image {
        /// As the engine knows it.
        image: String,
        /// May be secret.
        variables: Vec<String>,
    },
    /// What was written down of one that was frozen.
    Frozen(String),
}

impl std::fmt::Debug for ContainerLaunch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image { image, .. } => f.debug_struct("Image").field("image", image).finish_non_exhaustive(),
            Self::Frozen(_) => f.write_str("Frozen"),
        }
    }
}

/// How a command was started, without its streams. Holds secrets: it is shown nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLaunch {
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// As the command saw it.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it started.
    pub directory: OsString,
    /// What was shared, by real paths; the directory among it.
    pub shared: Vec<OsString>,
    /// As whom.
    pub caller: Caller,
    /// How its container was made, if it was one, as the container runtime writes it down.
    #[serde(default)]
    pub container: Option<String>,
}

impl SavedLaunch {
    /// The same command on other streams.
    #[must_use]
    pub fn on(self, stdio: [OwnedFd; 3], has_terminal: bool) -> Launch {
        let Self { command, environment, directory, shared, caller, container } = self;
        let shared = shared.into_iter().map(PathBuf::from).collect();
        let container = container.map(ContainerLaunch::Frozen);
        let (directory, hidden) = (directory.into(), Vec::new());
        Launch { command, environment, directory, shared, hidden, caller, stdio, has_terminal, container }
    }
}

/// Why a bottle was not built, started or taken down.
#[derive(Debug, Error)]
pub enum BottleError {
    /// A step of building or taking down failed; what was done before it has been undone.
    #[error("bottle {bottle}: {step} failed")]
    Step {
        /// The bottle, or the device all bottles share.
        bottle: String,
        /// The step.
        step: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A step could not be undone; something is left on the host and taking down again may help.
    #[error("bottle {bottle}: undoing {step} failed")]
    NotUndone {
        /// The bottle.
        bottle: String,
        /// The step whose undoing failed first.
        step: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// What an earlier command of the bottle wrote is another user's.
    #[error(
        "bottle {bottle} holds files of user {owner}: run it as that user or as root, or `egress kill {bottle}` to give \
         them up"
    )]
    Foreign {
        /// The bottle.
        bottle: String,
        /// Whose, by number.
        owner: u32,
    },
    /// What was to be shared with it may not be.
    #[error(transparent)]
    NotShared(#[from] NotShared),
    /// There is no engine to make containers.
    #[error(
        "no container engine listens{}: install and start one (Debian: `apt-get install docker.io`, or `podman` and \
         `podman system service`), or name its socket by `egress daemon --docker-socket`",
        said.as_ref().map(|path| format!(" on {}", path.display())).unwrap_or_default()
    )]
    NoEngine {
        /// The socket that was named, if one was.
        said: Option<PathBuf>,
    },
    /// It is there and does not answer.
    #[error("the container engine on {} does not answer", socket.display())]
    Engine {
        /// Where.
        socket: PathBuf,
        /// What it says.
        #[source]
        source: io::Error,
    },
    /// Who uses the engine is root by it.
    #[error("you may not use the container engine on {}: use root, or join the group that owns it", socket.display())]
    MayNotUseEngine {
        /// Where.
        socket: PathBuf,
    },
    /// Containers of a user's own engine are in network namespaces that a gate cannot be put before.
    #[error("the container engine on {} is rootless: name a socket of root's by --docker-socket", socket.display())]
    Rootless {
        /// Where.
        socket: PathBuf,
    },
    /// There is no such image here.
    #[error("the image {image} is not on this host: get it by `docker pull {image}`")]
    NoImage {
        /// Which.
        image: String,
    },
    /// Nothing says what to run.
    #[error("the image {image} names no command: give one after --")]
    NoCommand {
        /// Which.
        image: String,
    },
    /// A container cannot be put behind a gate.
    #[error("container {container} cannot be attached: {why}")]
    NotAttachable {
        /// Which.
        container: String,
        /// Why, and what to do instead.
        why: String,
    },
    /// A directory that would give a container the host.
    #[error(
        "{} cannot be shared with a container: it would have {} of the host, and with it a way around its gate; share \
         only what it works on",
        directory.display(),
        place.display()
    )]
    NotShareable {
        /// What was to be shared.
        directory: PathBuf,
        /// What is there, or there in it.
        place: PathBuf,
    },
    /// The command could not be started.
    #[error("{command:?} could not be started in the bottle")]
    Start {
        /// The program.
        command: OsString,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The directory of running bottles could not be read.
    #[error("the bottles in {} could not be listed", directory.display())]
    List {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}
