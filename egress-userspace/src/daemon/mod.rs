//! The controller: the only process with privilege, and the only module that sees everything. It wires and starts; what
//! decides is elsewhere.

mod api;
mod approvals;
mod audit;
mod authority;
mod clock;
mod containers;
mod controller;
mod conversation;
mod crossing;
mod cutting;
mod drops;
mod files;
mod gate_check;
mod gate_counts;
mod gating;
mod guard;
mod kernel_view;
mod launch;
mod leftover;
mod lifeline;
mod listeners;
mod live;
mod metrics;
mod notify;
mod proxy_link;
mod reconcile;
mod reload;
mod remedy;
mod review;
mod route_check;
mod routes;
mod secrets;
mod self_check;
mod stop_steps;
mod stopping;
mod traffic;
mod turns;
mod usage;
#[cfg(test)]
mod world;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thiserror::Error;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::bottle::{BottleError, Bottles, HostView, HostWiring};
use crate::broker::{Configuration, Snapshot};
use crate::control;
use crate::domain::{AuditKind, CrossingMode, EnforcerChoice, Network, with_causes};
use crate::fault;
use crate::kernel::{self, KernelError, Opened, TcAttachment};
use crate::ledger::{AddressPool, Ledger, LedgerError, Terms};
use crate::policy::dlp::DetectorError;
use crate::policy::{MeteredTable, RouteFiles};
use crate::settings::{Settings, SettingsError};

use api::Desk;
use authority::{Authority, AuthorityError};
use controller::ControllerHandle;
use cutting::Bounds;
use launch::Launcher;
use metrics::Metrics;
use notify::ServiceManager;
use proxy_link::ProxyLink;
use reload::{InForce, Reload};
use stop_steps::StopSteps;
use turns::Turns;

pub use route_check::check_routes;

/// The proxy's TCP ports on the gateway: explicit, TLS by SNI, plain by Host.
const PROXY_PORTS: [u16; 3] = [8080, 443, 80];
/// The resolver's port on the gateway, UDP and TCP.
const DNS_PORT: u16 = 53;

/// Where things are and what they are called.
#[derive(Clone, Debug)]
pub struct Options {
    /// Settings, ledger and CA.
    pub home: PathBuf,
    /// Sockets and what belongs to running bottles.
    pub run_directory: PathBuf,
    /// Where gates are pinned.
    pub pins: PathBuf,
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// Bits of the network that bottles get addresses of.
    pub prefix: u8,
    /// Bridge device that holds the gateway's address.
    pub bridge: String,
    /// How gates are attached.
    pub attachment: TcAttachment,
    /// The mount namespace that bottles are made from, if not the daemon's.
    pub bottles_see: Option<PathBuf>,
    /// The container engine's socket, if it is not where engines listen.
    pub docker_socket: Option<PathBuf>,
}

/// Why the daemon does not run.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// It was started by an ordinary user.
    #[error("the daemon makes network namespaces and gates, which needs root: run `sudo egress daemon`")]
    NotRoot,
    /// It lacks privilege.
    #[error("the daemon lacks {missing}: run it as root")]
    Privilege {
        /// What it lacks.
        missing: String,
    },
    /// A directory or file could not be prepared.
    #[error("{path} could not be {action}: {cause}{}", remedy::of(.cause))]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        cause: std::io::Error,
    },
    /// A file that was meant to be read has another name.
    #[error("{path} is not read: rename it {name}")]
    Misnamed {
        /// Which.
        path: PathBuf,
        /// What it is to be called.
        name: &'static str,
    },
    /// A file that was named is not there.
    #[error("there is no {path}: name a file that is there")]
    NoFile {
        /// Which.
        path: PathBuf,
    },
    /// An address of the gateway is taken.
    #[error("{address} cannot be listened on: `ss -lntup` shows who has it, --gateway chooses another address")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A routes file asks for something that cannot be looked for.
    #[error("{path}: {cause}")]
    Detector {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        cause: DetectorError,
    },
    /// See there.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// See there.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// See there.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// See there.
    #[error(transparent)]
    Bottle(#[from] BottleError),
    /// See there.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl DaemonError {
    /// Would root have been spared it?
    #[must_use]
    pub fn is_for_another_user(&self) -> bool {
        match self {
            Self::NotRoot => true,
            Self::File { cause, .. } => cause.kind() == std::io::ErrorKind::PermissionDenied,
            Self::Privilege { .. }
            | Self::Misnamed { .. }
            | Self::NoFile { .. }
            | Self::Listen { .. }
            | Self::Detector { .. }
            | Self::Settings(_)
            | Self::Ledger(_)
            | Self::Kernel(_)
            | Self::Bottle(_)
            | Self::Authority(_) => false,
        }
    }
}

/// Runs the controller until it is told to stop. Bottles and gates outlive it.
///
/// # Errors
/// When it cannot start; the error says what to do.
pub async fn run(options: Options) -> Result<(), DaemonError> {
    files::check_privilege()?;
    files::make_directories(&options)?;
    let seen = (reload::stamp(&options.home), routes::stamps(&options.home));
    let settings = files::read_settings(&options.home)?;
    let routes = routes::read(&options.home, &reload::providers(&settings))?;
    let ledger = open_ledger(&options, &settings)?;
    let authority = Authority::open(&options.home.join("ca"))?;
    let Opened { enforcer, earlier, place, not_ebpf } =
        kernel::open(settings.enforcer, &options.pins, options.attachment)?;
    let reason = not_ebpf.map(|error| with_causes(&error));
    info!(backend = enforcer.backend(), place, not_ebpf = reason, "gates");
    let docker = options.docker_socket.clone();
    let runtime = Arc::new(Bottles::new(wiring(&options, &authority), options.bridge.clone(), docker));
    runtime.prepare_host().await?;
    let not_enforcing = self_check::run(&options, settings.enforcer).await;
    fault::arm();
    let listeners = listeners::bind(options.gateway)?;
    let (socket_path, socket) = bind_socket(&options)?;

    let in_force = InForce::new(&settings);
    let networks = reload::own_public(runtime.own_networks().await?);
    let known = policy(&settings, &routes, &networks);
    let controller = controller::spawn(ledger.clone(), Arc::clone(&enforcer), known, bounds(&settings));
    let drops = drops::log_drops(Arc::clone(&enforcer));
    let launcher = Launcher {
        ledger: ledger.clone(),
        enforcer,
        runtime,
        controller: controller.clone(),
        pool: AddressPool { gateway: options.gateway, prefix: options.prefix },
        in_force: in_force.clone(),
        mending: Arc::default(),
        stop_steps: StopSteps::default(),
        turns: Turns::default(),
        not_enforcing,
    };
    ledger.audit(None, AuditKind::DaemonStarted { version: env!("CARGO_PKG_VERSION").to_owned() }).await?;
    reconcile::reconcile(&launcher, earlier.as_deref()).await?;
    drop(earlier);
    settle_what_is_open(&ledger, &controller).await?;
    let approvals = approvals::spawn(ledger.clone());

    let configuration = configuration(&options, &settings)?;
    let authority = Arc::new(Mutex::new(authority));
    let reload = Reload::begin(options.home.clone(), (settings, routes, networks), launcher.clone()).await;
    let (exchanged, news) = mpsc::unbounded_channel();
    let guard = guard::guard(launcher.clone(), news);
    let stale = proxy_link::settle_stale(ledger.clone(), controller.clone());
    let manager = ServiceManager::of_environment();
    let alive = launcher.clone();
    let metrics = Metrics::default();
    let started = u64::try_from(clock::now().0 / 1000).unwrap_or_default();
    let desk = Desk { launcher, pins: place, approvals: approvals.clone(), metrics: metrics.clone(), started };
    let link = ProxyLink { listeners, configuration, authority, ledger, controller, exchanged, approvals, metrics };
    let hang_up = stop_signal(SignalKind::hangup())?;
    let mut terminated = stop_signal(SignalKind::terminate())?;
    let mut interrupted = stop_signal(SignalKind::interrupt())?;
    info!(gateway = %options.gateway, socket = %socket_path.display(), "ready");
    tokio::select! {
        () = link.supervise() => {}
        () = drops => {}
        () = guard => {}
        () = reload.watch(hang_up, seen) => {}
        () = stale => {}
        () = manager.keep_told(&alive) => {}
        () = serve(socket, desk) => {}
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    leave(&manager, &socket_path);
    Ok(())
}

fn leave(manager: &ServiceManager, socket: &Path) {
    info!("stopping; bottles stay behind their gates without network until the next start");
    manager.tell_stopping();
    if let Err(error) = std::fs::remove_file(socket) {
        warn!(%error, "the control socket is left");
    }
}

fn bind_socket(options: &Options) -> Result<(PathBuf, UnixListener), DaemonError> {
    let path = options.run_directory.join(control::SOCKET_NAME);
    match control::bind(&path) {
        Ok(socket) => Ok((path, socket)),
        Err(cause) => Err(DaemonError::File { path, action: "bound", cause }),
    }
}

/// Answers front-ends, and whoever collects metrics, until the future is dropped.
async fn serve(socket: UnixListener, desk: Desk) {
    let scrapes = metrics::serve(desk.clone());
    tokio::select! {
        () = scrapes => {}
        () = control::serve(socket, move |peer, request| desk.clone().answer(peer, request)) => {}
    }
}

fn open_ledger(options: &Options, settings: &Settings) -> Result<Ledger, LedgerError> {
    let terms = Terms {
        rules: settings.rules.clone(),
        durability: settings.durability,
        clock: Arc::new(clock::now),
        boot: files::boot(),
    };
    Ledger::open(&options.home.join("bot-bottle.db"), terms)
}

fn wiring(options: &Options, authority: &Authority) -> HostWiring {
    HostWiring {
        bridge: options.bridge.clone(),
        gateway: options.gateway,
        run_directory: options.run_directory.join("bottles"),
        layers: options.home.join("bottles"),
        hidden: vec![options.home.clone(), options.run_directory.clone(), options.pins.clone()],
        ca_pem: authority.ca_pem().to_owned(),
        view: HostView(options.bottles_see.clone()),
    }
}

/// What a proxy is told first.
fn configuration(options: &Options, settings: &Settings) -> Result<Configuration, DaemonError> {
    Ok(Configuration {
        gateway: options.gateway,
        extra_roots_pem: files::read_roots(&options.home, settings)?,
        approval_key: approvals::read_or_make_key(&options.home)?,
    })
}

fn bounds(settings: &Settings) -> Bounds {
    // A response that ends with the budget is on its way no longer.
    let drain = match settings.rules.crossing {
        CrossingMode::Finish => settings.drain,
        CrossingMode::Sever => Duration::ZERO,
    };
    Bounds { drain, last_word: settings.last_word }
}

/// What makes gates according to the settings of `home`; the default where they cannot be read.
#[must_use]
pub fn chosen_enforcer(home: &Path) -> EnforcerChoice {
    files::read_settings(home).map_or_else(|_| EnforcerChoice::default(), |settings| settings.enforcer)
}

/// Reads a settings file, that of `home` if none is named, as a daemon that starts does. Returns its path; `None` where
/// `home` has none, and the defaults are in force.
///
/// # Errors
/// What is wrong with it, and where.
pub fn check_settings(home: &Path, file: Option<PathBuf>) -> Result<Option<PathBuf>, DaemonError> {
    let named = file.is_some();
    let path = file.unwrap_or_else(|| files::settings_path(home));
    let settings = match files::read_settings_file(&path)? {
        Some(settings) => settings,
        None if named => return Err(DaemonError::NoFile { path }),
        None => return files::read_settings(home).map(|_| None),
    };
    files::read_roots(home, &settings)?;
    Ok(Some(path))
}

/// What the proxy may know while no bottle runs.
fn policy(settings: &Settings, routes: &RouteFiles, networks: &BTreeSet<Network>) -> Snapshot {
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Snapshot {
        bottles: Vec::new(),
        metered: MeteredTable::new(&settings.providers, &settings.upstream_resolve),
        routes: routes.clone(),
        preflight: settings.rules.preflight.clone(),
        crossing: settings.rules.crossing,
        cache_reads: settings.rules.cache_reads,
        drain_ms: milliseconds(settings.drain),
        idle_ms: milliseconds(settings.upstream_idle),
        own_networks: networks.clone(),
    }
}

/// What an earlier controller left open is settled before anything new is admitted, and after its bottles are known: a
/// budget that is crossed by it is enforced on them.
async fn settle_what_is_open(ledger: &Ledger, controller: &ControllerHandle) -> Result<(), LedgerError> {
    // The requests that waited for an operator ended with the earlier proxy.
    let abandoned = ledger.abandon_approvals().await?;
    if abandoned > 0 {
        warn!(abandoned, "requests that waited for an approval when the daemon ended are gone");
    }
    let permits_settled = proxy_link::settle_open(ledger, controller).await;
    if permits_settled > 0 {
        ledger.audit(None, AuditKind::ProxyRestarted { permits_settled }).await?;
    }
    Ok(())
}

fn stop_signal(kind: SignalKind) -> Result<tokio::signal::unix::Signal, DaemonError> {
    signal(kind).map_err(|cause| DaemonError::File { path: "signals".into(), action: "listened to", cause })
}
