//! The proxy as a process: what is done before the sandbox closes, and after.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::broker::{
    BrokerError, Configuration, FromController, HandoffError, Listeners, read_frame_blocking, receive_listeners,
};
use crate::domain::{Secret, with_causes};
use crate::meter;

use super::dns::Resolver;
use super::exchange::Exchange;
use super::limits::STRANGERS_MAX;
use super::link::Link;
use super::listen::{Entrance, Server, accept_all};
use super::room::{Room, raise_files_max};
use super::sandbox::{self, SandboxError};
use super::scan::Sets;
use super::tls::TlsEnd;
use super::traffic::tell_all;
use super::trust::{self, TrustError};
use super::unknown_paths::UnknownPaths;
use super::upstream::Upstream;

/// Why the proxy did not start, or ended.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// The controller did not hand over its listeners.
    #[error(transparent)]
    Handoff(#[from] HandoffError),
    /// The conversation with the controller broke.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The controller began with something else than the configuration.
    #[error("the controller's first word is not the configuration")]
    NotConfigured,
    /// Nobody to trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The sandbox did not close.
    #[error("the sandbox cannot be closed")]
    Sandbox(#[from] SandboxError),
    /// The TLS library has nothing to work with.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// Sockets or threads.
    #[error("the proxy's sockets or threads failed")]
    Runtime(#[from] io::Error),
}

/// `egress proxy`: serves bottles until the controller leaves. Its standard input is the broker's socket.
#[must_use]
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = with_causes(&error), "the proxy ended");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), ProxyError> {
    let broker = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let prepared = Prepared::receive(broker)?;
    // Asked now: inside the sandbox the files that say it cannot be read.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    sandbox::enter()?;
    // Beside everything else, so that no request waits for it.
    std::thread::Builder::new().name("vocabulary".to_owned()).spawn(meter::prepare_estimates)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    // As a task: the thread that blocks here is no worker, and every answer of the controller would pass through it.
    let ended = runtime.block_on(runtime.spawn(prepared.serve())).map_err(io::Error::other)?;
    runtime.shutdown_background();
    ended
}

/// Everything that is read from the controller and from files, before anything is served.
pub struct Prepared {
    broker: UnixStream,
    listeners: Listeners,
    gateway: Ipv4Addr,
    crypto: Arc<CryptoProvider>,
    tls: ClientConfig,
    resolver: Option<TokioResolver>,
    approval_key: Secret,
    room: Arc<Room>,
}

impl Prepared {
    /// Waits for the controller's listeners and configuration, then reads trust roots and resolver of this host. Blocks.
    ///
    /// # Errors
    ///
    /// The controller says something else, or the roots cannot be used.
    pub fn receive(mut broker: UnixStream) -> Result<Self, ProxyError> {
        let listeners = receive_listeners(&broker)?;
        let FromController::Configure(configuration) = read_frame_blocking(&mut broker)? else {
            return Err(ProxyError::NotConfigured);
        };
        let crypto = Arc::new(rustls::crypto::ring::default_provider());
        let tls = trust::client_config(&configuration.extra_roots_pem, &crypto)?;
        let resolver = trust::system_resolver();
        let room = Room::new(raise_files_max().map_err(io::Error::from)?);
        let Configuration { gateway, approval_key, .. } = configuration;
        Ok(Self { broker, listeners, gateway, crypto, tls, resolver, approval_key, room })
    }

    /// Serves bottles until the controller leaves; then everything that was served ends as well.
    ///
    /// # Errors
    ///
    /// A socket failed, or the controller broke off.
    pub async fn serve(self) -> Result<(), ProxyError> {
        self.broker.set_nonblocking(true)?;
        let (reader, writer) = tokio::net::UnixStream::from_std(self.broker)?.into_split();
        let (link, outgoing) = Link::new(&self.approval_key);
        let upstream = Upstream::new(&link, self.resolver.as_ref(), &self.tls);
        let exchange = Exchange {
            upstream,
            link: Arc::clone(&link),
            unknown_paths: UnknownPaths::default(),
            sets: Sets::default(),
        };
        let tls = TlsEnd::new(Arc::clone(&link), self.crypto)?;
        let server =
            Arc::new(Server { exchange, tls, strangers: Arc::new(Semaphore::new(STRANGERS_MAX)), room: self.room });
        let resolver = Arc::new(Resolver { link: Arc::clone(&link), gateway: self.gateway });
        // Dropped when this function ends, and with it every listener.
        let mut serving = JoinSet::new();
        for (listener, entrance) in [
            (self.listeners.explicit, Entrance::Explicit),
            (self.listeners.tls, Entrance::Tls),
            (self.listeners.plain, Entrance::Plain),
        ] {
            serving.spawn(accept_all(Arc::clone(&server), tcp(listener)?, entrance));
        }
        self.listeners.dns_udp.set_nonblocking(true)?;
        serving.spawn(Arc::clone(&resolver).serve_udp(UdpSocket::from_std(self.listeners.dns_udp)?));
        serving.spawn(resolver.serve_tcp(tcp(self.listeners.dns_tcp)?));
        serving.spawn(tell_all(Arc::clone(&link)));
        Ok(link.converse(reader, writer, outgoing).await?)
    }
}

fn tcp(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
