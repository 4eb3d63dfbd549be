//! The way to providers: names are resolved, addresses checked at the moment they are dialled, TLS verified, connections
//! kept for the next request.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use hickory_resolver::TokioResolver;
use hyper::http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Uri, Version};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Builder, Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::domain::{Host, HostError};
use crate::policy::may_be_dialled;

use super::limits::{
    ADDRESSES_TRIED_MAX, CONNECT_TIME_MAX, CONNECTION_BUFFER_BYTES_MAX, HEAD_BYTES_MAX, OWN_POOL_IDLE_CONNECTIONS_MAX,
    POOL_IDLE_CONNECTIONS_MAX, POOL_IDLE_TIME_MAX, RESOLVE_TIME_MAX, STREAM_SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES,
    UPSTREAM_HANDSHAKE_TIME_MAX, UPSTREAM_WINDOW_BYTES,
};
use super::link::Link;
use super::request_body::RequestBody;
use super::target::{PLAIN_PORT, TLS_PORT};
use super::tls::{ALPN_H2, ALPN_HTTP1};

/// Sends requests to providers: over HTTP/2 what came over HTTP/2, over HTTP/1 the rest.
///
/// Not all over HTTP/2, because that is one connection: it carries as many streams as the provider allows (100 or so, further
/// requests wait for one to end), and each frame of each stream passes one task. So that no bottle waits for another's
/// streams, each has its own.
pub(super) struct Upstream {
    /// For metered hosts over HTTP/1: a provider knows each request by the key in it.
    shared: Client<Connector, RequestBody>,
    /// Makes connectors.
    tls: ClientConfig,
    link: Arc<Link>,
    resolver: Option<TokioResolver>,
}

/// Connections of one bottle, to hosts of routes all of them: some servers know who asks by the connection (NTLM), so that none is used by
/// two bottles.
#[derive(Debug, Default)]
pub(super) struct OwnPools {
    public: OnceLock<Pools>,
    /// One that leads into this network is used by no request that may not go there.
    private: OnceLock<Pools>,
}

/// Whose connections a request takes.
#[derive(Clone, Copy)]
pub(super) enum Lane<'a> {
    /// Those of all bottles to metered hosts; over HTTP/2 the bottle's own.
    Metered(&'a OwnPools),
    /// The bottle's own.
    Own(&'a OwnPools, Reach),
}

#[derive(Debug)]
struct Pools {
    http1: Client<Connector, RequestBody>,
    /// Falls back to HTTP/1 where the provider does not speak it.
    http2: Client<Connector, RequestBody>,
}

/// Which addresses a name may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Those of the public internet.
    Public,
    /// Any.
    Private,
}

/// Why a provider was not reached.
#[derive(Debug, Error)]
pub(super) enum DialError {
    /// TLS knows no such name.
    #[error("no certificate can be for this name")]
    NoServerName,
    /// The name is none.
    #[error(transparent)]
    Name(#[from] HostError),
    /// There is no resolver, or it knows nothing.
    #[error("the name could not be resolved")]
    Resolve(#[source] Option<hickory_resolver::net::NetError>),
    /// Every address the name has leads into this host or its network.
    #[error(
        "the name leads to no public address outside this host and its network: a server of your own needs `private: true` \
         on its route, or its address under upstream.resolve in settings.yml"
    )]
    NotPublic,
    /// Nothing listens there.
    #[error("no address could be reached")]
    Connect(#[source] io::Error),
    /// The peer is not who it should be, or does not speak TLS.
    #[error("TLS with the provider failed")]
    Tls(#[source] io::Error),
    /// It took longer than its limit.
    #[error("the provider did not answer in time")]
    TimedOut,
}

impl DialError {
    /// Why a request came to nothing, if it was that no connection could be opened.
    pub(super) fn of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut error = Some(error);
        while let Some(one) = error {
            if let Some(dialled) = one.downcast_ref() {
                return Some(dialled);
            }
            error = one.source();
        }
        None
    }
}

/// Opens connections to providers.
#[derive(Clone)]
pub(super) struct Connector {
    link: Arc<Link>,
    resolver: Option<TokioResolver>,
    tls: TlsConnector,
    reach: Reach,
}

impl Upstream {
    /// Pools of connections to providers; `resolver` is absent on hosts that have none.
    pub(super) fn new(link: &Arc<Link>, resolver: Option<&TokioResolver>, tls: &ClientConfig) -> Self {
        let connector = |alpn: &[&[u8]]| connector(link, resolver, tls, (alpn, Reach::Public));
        let shared = builder(POOL_IDLE_CONNECTIONS_MAX).build(connector(&[ALPN_HTTP1]));
        Self { shared, tls: tls.clone(), link: Arc::clone(link), resolver: resolver.cloned() }
    }

    /// Sends a request whose client speaks `version`.
    pub(super) fn request(&self, request: Request<RequestBody>, version: Version, lane: Lane<'_>) -> ResponseFuture {
        let own = |reach| {
            let connector = |alpn: &[&[u8]]| self.connector(alpn, reach);
            Pools::new(connector, OWN_POOL_IDLE_CONNECTIONS_MAX)
        };
        let pools = match lane {
            Lane::Metered(_) if version != Version::HTTP_2 => return self.shared.request(request),
            Lane::Metered(pools) | Lane::Own(pools, Reach::Public) => pools.public.get_or_init(|| own(Reach::Public)),
            Lane::Own(pools, reach @ Reach::Private) => pools.private.get_or_init(|| own(reach)),
        };
        if version == Version::HTTP_2 { pools.http2.request(request) } else { pools.http1.request(request) }
    }

    /// Opens a connection for what is passed on as it is.
    pub(super) async fn connect(&self, host: &Host, port: u16, reach: Reach) -> Result<TcpStream, DialError> {
        self.connector(&[], reach).connect(host, port).await
    }

    fn connector(&self, alpn: &[&[u8]], reach: Reach) -> Connector {
        connector(&self.link, self.resolver.as_ref(), &self.tls, (alpn, reach))
    }
}

impl Pools {
    fn new(connector: impl Fn(&[&[u8]]) -> Connector, idle_max: usize) -> Self {
        Self {
            http1: builder(idle_max).build(connector(&[ALPN_HTTP1])),
            http2: builder(idle_max).build(connector(&[ALPN_H2, ALPN_HTTP1])),
        }
    }
}

fn connector(
    link: &Arc<Link>,
    resolver: Option<&TokioResolver>,
    tls: &ClientConfig,
    (alpn, reach): (&[&[u8]], Reach),
) -> Connector {
    let mut tls = tls.clone();
    tls.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Connector { link: Arc::clone(link), resolver: resolver.cloned(), tls: TlsConnector::from(Arc::new(tls)), reach }
}

fn builder(idle_max: usize) -> Builder {
    let mut builder: Builder = Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_TIME_MAX)
        .pool_max_idle_per_host(idle_max)
        .http1_preserve_header_case(true)
        .http1_max_buf_size(CONNECTION_BUFFER_BYTES_MAX)
        .http2_max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(UPSTREAM_WINDOW_BYTES)
        .http2_max_send_buf_size(STREAM_SEND_BUFFER_BYTES);
    builder
}

impl Service<Uri> for Connector {
    type Response = UpstreamStream;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<UpstreamStream, DialError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let is_tls = uri.scheme() != Some(&Scheme::HTTP);
            let port = uri.port_u16().unwrap_or(if is_tls { TLS_PORT } else { PLAIN_PORT });
            connector.dial(uri.host().unwrap_or_default().parse()?, port, is_tls).await
        })
    }
}

impl Connector {
    async fn dial(&self, host: Host, port: u16, is_tls: bool) -> Result<UpstreamStream, DialError> {
        let tcp = self.connect(&host, port).await?;
        if !is_tls {
            return Ok(UpstreamStream { io: TokioIo::new(Box::new(tcp)), is_h2: false });
        }
        let name = ServerName::try_from(host.as_str().to_owned()).map_err(|_| DialError::NoServerName)?;
        let tls = timeout(UPSTREAM_HANDSHAKE_TIME_MAX, self.tls.connect(name, tcp));
        let tls = tls.await.map_err(|_| DialError::TimedOut)?.map_err(DialError::Tls)?;
        let is_h2 = tls.get_ref().1.alpn_protocol() == Some(ALPN_H2);
        Ok(UpstreamStream { io: TokioIo::new(Box::new(tls)), is_h2 })
    }

    async fn connect(&self, host: &Host, port: u16) -> Result<TcpStream, DialError> {
        let addresses = match self.link.policy().metered.address(host) {
            Some(fixed) => vec![fixed],
            None => self.addresses(host, port).await?,
        };
        let tcp = connect_first(&addresses).await?;
        tcp.set_nodelay(true).map_err(DialError::Connect)?;
        Ok(tcp)
    }

    /// The addresses that may be dialled. What is checked here is what is connected to: the name is not asked for again.
    async fn addresses(&self, host: &Host, port: u16) -> Result<Vec<SocketAddr>, DialError> {
        let resolver = self.resolver.as_ref().ok_or(DialError::Resolve(None))?;
        // With its final dot, so that no search domain is tried.
        let lookup = timeout(RESOLVE_TIME_MAX, resolver.lookup_ip(format!("{host}.")));
        let found = lookup.await.map_err(|_| DialError::TimedOut)?.map_err(|error| DialError::Resolve(Some(error)))?;
        let policy = self.link.policy();
        let allowed: Vec<_> = found
            .iter()
            .filter(|address| self.reach == Reach::Private || may_be_dialled(*address, &policy.own_networks))
            .map(|address| SocketAddr::new(address, port))
            .take(ADDRESSES_TRIED_MAX)
            .collect();
        if allowed.is_empty() { Err(DialError::NotPublic) } else { Ok(allowed) }
    }
}

/// The first address that answers.
async fn connect_first(addresses: &[SocketAddr]) -> Result<TcpStream, DialError> {
    let mut failure = DialError::NotPublic;
    for address in addresses {
        failure = match timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => DialError::Connect(error),
            Err(_) => DialError::TimedOut,
        };
    }
    Err(failure)
}

/// A connection to a provider.
pub(super) struct UpstreamStream {
    io: TokioIo<Box<dyn Duplex>>,
    is_h2: bool,
}

/// TLS or plain TCP.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl Duplex for TcpStream {}

impl Duplex for TlsStream<TcpStream> {}

impl Connection for UpstreamStream {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.is_h2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for UpstreamStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl Write for UpstreamStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }
}
