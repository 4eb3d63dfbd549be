//! From a bottle's connection to requests: who is there, how it speaks, whom it has named so far. What a request may do is
//! decided in `exchange`, the same for all of them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::broker::Phase;
use crate::domain::{Host, RefusalReason, with_causes};

use super::exchange::{Exchange, Origin, Severed};
use super::limits::{
    ACCEPT_PAUSE, CLIENT_WINDOW_BYTES, CONNECTION_BUFFER_BYTES_MAX, HANDSHAKE_TIME_MAX, HEAD_BYTES_MAX, HEAD_TIME_MAX,
    NARROW_CLIENT_WINDOW_BYTES, NARROW_STREAM_WINDOW_BYTES, STRANGER_POLL, STRANGER_TIME_MAX, STREAM_SEND_BUFFER_BYTES,
    STREAM_WINDOW_BYTES, STREAMS_PER_CONNECTION_MAX, WIDE_CONNECTIONS_PER_BOTTLE_MAX,
};
use super::own;
use super::refusal::{self, Audience};
use super::request_body::discard;
use super::response_body::ResponseBody;
use super::room::{InTurn, Room};
use super::socket::{ClientSocket, ClientStream};
use super::splice::{SpliceError, Spliced};
use super::strict::StrictStream;
use super::target::{Leads, PLAIN_PORT, TLS_PORT, connect_target};
use super::tls::{ALPN_H2, Accepted, HandshakeError, TlsEnd, Wanted};
use super::view::Bottle;
use super::websocket::Broken;

/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 22;
/// What is read to tell TLS from HTTP, in bytes.
const FIRST_READ_BYTES: usize = 4 << 10;

/// How a listener's clients begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrance {
    /// They know that this is a proxy.
    Explicit,
    /// They believe to speak TLS with the host they name in SNI.
    Tls,
    /// They believe to speak plain HTTP with the host they name in `Host`.
    Plain,
}

/// What all connections share.
pub(super) struct Server {
    pub(super) exchange: Exchange,
    pub(super) tls: TlsEnd,
    /// Room for connections from addresses that no bottle is known at.
    pub(super) strangers: Arc<Semaphore>,
    /// Room for those of bottles.
    pub(super) room: Arc<Room>,
}

/// Why a connection ended other than by its end.
#[derive(Debug, Error)]
enum ConnectionError {
    #[error("the connection broke off")]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("the TLS handshake, or what had to follow, took too long")]
    TimedOut,
    #[error("the WebSocket ended")]
    WebSocket(#[from] Broken),
    #[error("what was passed on ended")]
    Splice(#[from] SpliceError),
    #[error("the client said nothing")]
    Silent(#[source] io::Error),
    /// Between accepting and serving.
    #[error("the bottle is cut")]
    Cut,
    /// What a tunnel was upgraded from is not what was served.
    #[error("the tunnel has no socket")]
    Tunnel,
}

/// A CONNECT that has been answered with 200.
struct Tunnel {
    upgrade: OnUpgrade,
    host: Host,
    port: u16,
}

/// Takes connections for as long as the process lives.
pub(super) async fn accept_all(server: Arc<Server>, listener: TcpListener, entrance: Entrance) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => server.take(stream, peer, entrance),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Server {
    /// A connection of a bottle that is let through is served; every other is closed. A bottle that has just been started
    /// may be faster than word of it.
    fn take(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, entrance: Entrance) {
        let IpAddr::V4(address) = peer.ip().to_canonical() else { return };
        if let Some(bottle) = self.exchange.link.policy().bottle(address) {
            return self.begin(stream, bottle, entrance);
        }
        let Ok(place) = Arc::clone(&self.strangers).try_acquire_owned() else { return };
        let server = Arc::clone(self);
        tokio::spawn(async move {
            let deadline = Instant::now() + STRANGER_TIME_MAX;
            while Instant::now() < deadline {
                sleep(STRANGER_POLL).await;
                if let Some(bottle) = server.exchange.link.policy().bottle(address) {
                    return server.begin(stream, bottle, entrance);
                }
            }
            tracing::debug!(%address, "closed: no bottle is let through from there");
            drop(place);
        });
    }

    fn begin(self: &Arc<Self>, stream: TcpStream, bottle: &Bottle, entrance: Entrance) {
        let address = bottle.view.address;
        let room = self.room.admit(bottle.passage.connections());
        let place = room.and_then(|room| Some((room, bottle.passage.admit_connection()?)));
        let Some(place) = place else {
            tracing::warn!(bottle = %bottle.view.name, "closed: too many connections");
            return;
        };
        let Ok(socket) = ClientSocket::new(stream, address, Arc::clone(&bottle.passage.traffic)) else { return };
        let leads = match entrance {
            Entrance::Explicit => None,
            Entrance::Tls => Some(Leads::TLS),
            Entrance::Plain => Some(Leads::PLAIN),
        };
        let origin = Origin::new(socket, Arc::clone(&bottle.passage), leads);
        let server = Arc::clone(self);
        tokio::spawn(async move {
            let (severed, socket) = (origin.passage.severed(), Arc::clone(&origin.socket));
            tokio::select! {
                biased;
                () = severed => socket.break_off(),
                served = server.serve(origin, entrance) => if let Err(error) = served {
                    tracing::debug!(%address, error = with_causes(&error), "a connection ended early");
                },
            }
            drop(place);
        });
    }

    async fn serve(self: Arc<Self>, origin: Origin, entrance: Entrance) -> Result<(), ConnectionError> {
        let stream = ClientStream::new(Arc::clone(&origin.socket), Bytes::new());
        match entrance {
            Entrance::Explicit => self.serve_explicit(stream, origin).await,
            Entrance::Tls => self.serve_tls(stream, origin).await,
            Entrance::Plain => self.serve_http1(stream, origin).await,
        }
    }

    /// Requests to a proxy: each a request, or a tunnel to a host that is then served like the host itself.
    async fn serve_explicit(self: Arc<Self>, stream: ClientStream, mut origin: Origin) -> Result<(), ConnectionError> {
        let tunnel: Mutex<Option<Tunnel>> = Mutex::default();
        let service = service_fn(|mut request: Request<Incoming>| {
            let (server, origin, tunnel) = (&self, &origin, &tunnel);
            origin.heads.spell(&mut request);
            async move {
                if request.method() != Method::CONNECT {
                    return server.exchange.handle(origin, request).await;
                }
                server.connect(origin, request, tunnel).await
            }
        });
        http1_builder().serve_connection(TokioIo::new(origin.strict(stream)), service).with_upgrades().await?;
        let tunnel = tunnel.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(Tunnel { upgrade, host, port }) = tunnel else { return relay(origin).await };
        let parts = upgrade.await?.downcast::<TokioIo<StrictStream<ClientStream>>>();
        let parts = parts.map_err(|_| ConnectionError::Tunnel)?;
        let early = [parts.read_buf, parts.io.into_inner().into_held()].concat();
        let stream = ClientStream::new(Arc::clone(&origin.socket), early.into());
        origin.expected = vec![host];
        let (stream, is_tls) = match port {
            TLS_PORT => (stream, true),
            PLAIN_PORT => (stream, false),
            _ => {
                let begun = timeout(HANDSHAKE_TIME_MAX, begins_tls(stream, &origin.socket));
                begun.await.map_err(|_| ConnectionError::TimedOut)?.map_err(ConnectionError::Silent)?
            }
        };
        origin.leads = Some(Leads { port, is_tls });
        if is_tls { self.serve_tls(stream, origin).await } else { self.serve_http1(stream, origin).await }
    }

    async fn serve_tls(self: Arc<Self>, stream: ClientStream, mut origin: Origin) -> Result<(), ConnectionError> {
        let port = origin.leads.unwrap_or(Leads::TLS).port;
        let wanted = |host: &Host| self.wanted(&origin, host, port);
        let handshake = timeout(HANDSHAKE_TIME_MAX, self.tls.accept(stream, origin.expected.first(), wanted));
        match handshake.await.map_err(|_| ConnectionError::TimedOut)?? {
            Accepted::Ended { stream, host } => {
                let is_h2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_H2);
                origin.expected.push(host);
                if is_h2 { self.serve_http2(stream, origin).await } else { self.serve_http1(stream, origin).await }
            }
            Accepted::Spliced { stream, hello, host, way } => {
                let policy = self.exchange.link.policy();
                let bottle = policy.bottle(origin.socket.peer()).ok_or(ConnectionError::Cut)?;
                let (private, rule, log) = (way.private, way.rule, way.log);
                let spliced = Spliced { stream, hello, host, port, private, rule, log };
                Ok(self.exchange.splice(&origin, bottle, spliced).await?)
            }
        }
    }

    /// Is TLS with this host ended here? A CONNECT to one name and a handshake with another is refused inside.
    fn wanted(&self, origin: &Origin, host: &Host, port: u16) -> Wanted {
        let policy = self.exchange.link.policy();
        let Some(bottle) = policy.bottle(origin.socket.peer()) else { return Wanted::Nothing };
        let is_one_name = origin.expected.iter().all(|expected| expected == host);
        if let Some(way) = policy.splice(bottle, host, port).filter(|_| is_one_name && bottle.view.phase == Phase::Open)
        {
            return match self.exchange.judge_spliced(&policy, bottle, &way, host) {
                true => Wanted::Spliced(Box::new(way)),
                false => Wanted::Nothing,
            };
        }
        let is_known = own::is_own(host) || policy.names(bottle, host);
        if is_known || bottle.passage.strange_names.take(Instant::now()).is_some() {
            return Wanted::Ended;
        }
        self.exchange.link.tell_refused(bottle, RefusalReason::HostNotAllowed, Some(host), "TLS", None);
        Wanted::Nothing
    }

    /// Answers a CONNECT. A host that is not allowed is refused inside, where clients show the reason instead of trying
    /// again; a port where nobody need speak HTTP, at once.
    async fn connect(
        &self,
        origin: &Origin,
        mut request: Request<Incoming>,
        tunnel: &Mutex<Option<Tunnel>>,
    ) -> Result<Response<ResponseBody>, Severed> {
        let refused = match connect_target(request.uri()) {
            Ok((host, port)) => match self.exchange.refuses_tunnel(origin, &host, port)? {
                None => {
                    let upgrade = hyper::upgrade::on(&mut request);
                    *tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(Tunnel { upgrade, host, port });
                    return Ok(Response::new(ResponseBody::Empty));
                }
                Some(refused) => refused,
            },
            Err(error) => refusal::plain(error.reason(), error.to_string()),
        };
        discard(request.into_body()).await;
        let refused = refusal::respond(&refused, Audience::default(), true);
        Ok(refused.map(|bytes| ResponseBody::Answer { bytes: Some(bytes), delivery: None }))
    }

    async fn serve_http1<S>(self: Arc<Self>, stream: S, origin: Origin) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|mut request| {
            origin.heads.spell(&mut request);
            self.exchange.handle(&origin, request)
        });
        http1_builder().serve_connection(TokioIo::new(origin.strict(stream)), service).with_upgrades().await?;
        relay(origin).await
    }

    async fn serve_http2<S>(self: Arc<Self>, stream: S, origin: Origin) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (origin, has_begun) = (Arc::new(origin), AtomicBool::new(false));
        let service = service_fn(|request| {
            has_begun.store(true, Ordering::Relaxed);
            let (server, origin) = (Arc::clone(&self), Arc::clone(&origin));
            async move {
                let turn = origin.passage.turn().await.ok_or(Severed)?;
                let response = server.exchange.handle(&origin, request).await?;
                Ok::<_, Severed>(response.map(|body| InTurn::new(body, turn)))
            }
        });
        let windows = Windows::of(origin.passage.connections());
        let serving = pin!(http2_builder(windows).serve_connection(TokioIo::new(stream), service));
        begins_in_time(serving, &has_begun).await?.map_err(ConnectionError::Http)
    }
}

/// Goes on with what a connection has become, if it has become anything.
async fn relay(origin: Origin) -> Result<(), ConnectionError> {
    match origin.into_relay() {
        Some(relay) => Ok(relay.run().await?),
        None => Ok(()),
    }
}

/// HTTP/2 asks its clients for a sign of life only once they have begun.
async fn begins_in_time<T>(
    mut serving: Pin<&mut impl Future<Output = T>>,
    has_begun: &AtomicBool,
) -> Result<T, ConnectionError> {
    match timeout(HEAD_TIME_MAX, serving.as_mut()).await {
        Ok(served) => Ok(served),
        Err(_) if has_begun.load(Ordering::Relaxed) => Ok(serving.await),
        Err(_) => Err(ConnectionError::TimedOut),
    }
}

/// Does the client begin with a TLS handshake (RFC 8446 §5.1)?
async fn begins_tls(mut stream: ClientStream, socket: &Arc<ClientSocket>) -> io::Result<(ClientStream, bool)> {
    let mut early = BytesMut::with_capacity(FIRST_READ_BYTES);
    if stream.read_buf(&mut early).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let is_tls = early.first() == Some(&TLS_HANDSHAKE);
    Ok((ClientStream::new(Arc::clone(socket), early.freeze()), is_tls))
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(CONNECTION_BUFFER_BYTES_MAX)
        .preserve_header_case(true)
        .auto_date_header(false);
    builder
}

/// What a client may send over HTTP/2 before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Windows {
    stream_bytes: u32,
    connection_bytes: u32,
}

impl Windows {
    /// For a connection of a bottle that holds so many.
    fn of(connections: usize) -> Self {
        if connections <= WIDE_CONNECTIONS_PER_BOTTLE_MAX {
            return Self { stream_bytes: STREAM_WINDOW_BYTES, connection_bytes: CLIENT_WINDOW_BYTES };
        }
        Self { stream_bytes: NARROW_STREAM_WINDOW_BYTES, connection_bytes: NARROW_CLIENT_WINDOW_BYTES }
    }
}

fn http2_builder(windows: Windows) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .initial_stream_window_size(windows.stream_bytes)
        .initial_connection_window_size(windows.connection_bytes)
        .max_send_buf_size(STREAM_SEND_BUFFER_BYTES)
        .keep_alive_interval(HEAD_TIME_MAX)
        .auto_date_header(false);
    builder
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::proxy::limits::{CONNECTIONS_PER_BOTTLE_MAX, HEAD_ARRIVAL_TIME_MAX};

    /// A request's head, a byte every ten seconds.
    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

    fn plain() -> DuplexStream {
        let (client, server) = duplex(1 << 10);
        let stream = StrictStream::new(server, Arc::default(), Arc::default());
        let service = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new(ResponseBody::Empty)));
        tokio::spawn(http1_builder().serve_connection(TokioIo::new(stream), service));
        client
    }

    /// All that is answered, and when the connection ended.
    async fn answer(mut client: DuplexStream, begun: Instant) -> (String, Duration) {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        (answer, begun.elapsed())
    }

    #[test]
    fn all_connections_of_a_bottle_together_have_windows_of_so_many_bytes() {
        let windows = |connections| u64::from(Windows::of(connections).connection_bytes);
        let sum: u64 = (1..=CONNECTIONS_PER_BOTTLE_MAX).map(windows).sum();
        assert_eq!(sum, 368 << 20);
        assert_eq!(windows(1), u64::from(CLIENT_WINDOW_BYTES));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_is_answered_and_over_in_time() {
        for before in [&b""[..], b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"] {
            let (mut client, begun) = (plain(), Instant::now());
            client.write_all(before).await.unwrap();
            let (reader, mut writer) = tokio::io::split(client);
            let trickling = tokio::spawn(async move {
                for byte in HEAD {
                    if writer.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_secs(10)).await;
                }
            });
            let mut answer = String::new();
            tokio::io::BufReader::new(reader).read_to_string(&mut answer).await.unwrap();
            trickling.abort();
            assert!(
                answer.ends_with("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
                "{answer}"
            );
            assert_eq!(answer.matches("200 OK").count(), usize::from(!before.is_empty()));
            assert_eq!(begun.elapsed().as_secs(), HEAD_ARRIVAL_TIME_MAX.as_secs());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_over_in_time() {
        let (said, after) = answer(plain(), Instant::now()).await;
        assert_eq!((said.as_str(), after.as_secs()), ("", HEAD_TIME_MAX.as_secs()));
        let (mut client, begun) = (plain(), Instant::now());
        client.write_all(HEAD).await.unwrap();
        let (said, after) = answer(client, begun).await;
        assert_eq!((said.matches("200 OK").count(), after.as_secs()), (1, HEAD_TIME_MAX.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn http2_that_is_not_begun_is_over_in_time() {
        for preface in [&b""[..], b"PRI * HTTP/2.0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
            let (mut client, server) = duplex(1 << 10);
            client.write_all(preface).await.unwrap();
            let service =
                service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new(ResponseBody::Empty)));
            let (serving, begun) =
                (pin!(http2_builder(Windows::of(1)).serve_connection(TokioIo::new(server), service)), Instant::now());
            let ended = begins_in_time(serving, &AtomicBool::new(false)).await;
            assert!(matches!(ended, Err(ConnectionError::TimedOut)), "{ended:?}");
            assert_eq!(begun.elapsed().as_secs(), HEAD_TIME_MAX.as_secs());
        }
    }
}
