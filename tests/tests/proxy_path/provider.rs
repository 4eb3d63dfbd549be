//! A provider on loopback that lets the test answer each request.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::world::{Authority, HOSTS, PATIENCE, ROUTED};

type Frames = mpsc::UnboundedReceiver<Result<Bytes, std::io::Error>>;
pub(crate) type Sender = mpsc::UnboundedSender<Result<Bytes, std::io::Error>>;

/// The provider's end of a WebSocket.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A response's body as the test sends it.
pub(crate) struct ProviderBody(Option<Frames>);

impl Body for ProviderBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(frames) = &mut self.0 else { return Poll::Ready(None) };
        frames.poll_recv(cx).map(|frame| frame.map(|frame| frame.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// A request that waits for its answer.
pub(crate) struct Asked {
    pub(crate) head: Parts,
    pub(crate) body: Bytes,
    upgrade: Option<OnUpgrade>,
    answer: oneshot::Sender<Response<ProviderBody>>,
}

impl Asked {
    /// Answers with a head; the body is sent through the returned sender and ends when that is dropped.
    pub(crate) fn stream(self, head: hyper::http::response::Builder) -> Sender {
        let (sender, frames) = mpsc::unbounded_channel();
        self.answer.send(head.body(ProviderBody(Some(frames))).unwrap()).ok();
        sender
    }

    /// Answers with a head and no body.
    pub(crate) fn empty(self, head: hyper::http::response::Builder) {
        self.answer.send(head.body(ProviderBody(None)).unwrap()).ok();
    }

    /// Turns the connection into a WebSocket, with a head that says so and what `head` says.
    pub(crate) async fn switch(mut self, head: hyper::http::response::Builder) -> Socket {
        let accept = derive_accept_key(self.head.headers["sec-websocket-key"].as_bytes());
        let head = head.status(101).header("connection", "upgrade").header("upgrade", "websocket");
        let upgrade = self.upgrade.take().unwrap();
        self.empty(head.header("sec-websocket-accept", accept));
        let stream = timeout(PATIENCE, upgrade).await.expect("no upgrade in time").unwrap();
        WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await
    }

    /// Answers with a whole body.
    pub(crate) fn whole(self, head: hyper::http::response::Builder, body: impl Into<Bytes>) {
        let body = body.into();
        self.stream(head.header("content-length", body.len())).send(Ok(body)).unwrap();
    }
}

pub(crate) struct Provider {
    pub(crate) address: SocketAddr,
    asked: Mutex<mpsc::UnboundedReceiver<Asked>>,
}

impl Provider {
    pub(crate) async fn start(authority: &Authority, speaks_h2: bool) -> Self {
        let names: Vec<&str> = HOSTS.into_iter().chain([ROUTED]).collect();
        let (chain, key) = authority.leaf(&names);
        let crypto = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(crypto).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if speaks_h2 {
            config.alpn_protocols.insert(0, b"h2".to_vec());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = mpsc::unbounded_channel();
        tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), sender));
        Self { address, asked: Mutex::new(asked) }
    }

    /// The next request.
    pub(crate) async fn asked(&self) -> Asked {
        let mut asked = self.asked.lock().await;
        timeout(PATIENCE, asked.recv()).await.expect("no request reached the provider").unwrap()
    }

    /// The next request, whenever it comes.
    pub(crate) async fn next(&self) -> Asked {
        self.asked.lock().await.recv().await.unwrap()
    }

    /// Has nothing been asked?
    pub(crate) async fn is_untouched(&self) -> bool {
        self.asked.lock().await.is_empty()
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, asked: mpsc::UnboundedSender<Asked>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, asked) = (tls.clone(), asked.clone());
        tokio::spawn(async move {
            stream.set_nodelay(true).unwrap();
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| answer(request, asked.clone()));
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    mut request: Request<Incoming>,
    asked: mpsc::UnboundedSender<Asked>,
) -> Result<Response<ProviderBody>, std::io::Error> {
    let upgrade = request.extensions_mut().remove();
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let (answer, answered) = oneshot::channel();
    asked.send(Asked { head, body, upgrade, answer }).map_err(std::io::Error::other)?;
    answered.await.map_err(std::io::Error::other)
}
