//! A provider on this machine: speaks the APIs of Anthropic, OpenAI and Gemini over TLS (h1, h2 and WebSocket), does what
//! requests ask of it (see [`script`]), and logs what it served, so that tests can hold the ledger against it.

mod anthropic;
mod authority;
mod delivery;
mod encode;
mod gemini;
mod log;
mod openai;
mod render;
mod responses;
pub mod script;
mod socket;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub use authority::Authority;
pub use encode::Encoding;
pub use log::{Counts, Served};

use delivery::Delivery;
use log::Log;
use render::{Form, Piece};
use script::{Fault, Script};
use socket::Socket;

/// Whom it is taken for unless told otherwise.
pub const HOST: &str = "api.anthropic.com";
/// OpenAI's.
pub const OPENAI_HOST: &str = "api.openai.com";
/// Where Codex looks for more, with an API key too.
pub const CHATGPT_HOST: &str = "chatgpt.com";
/// Gemini's.
pub const GEMINI_HOST: &str = "generativelanguage.googleapis.com";
/// Every name that it is known by.
pub const HOSTS: [&str; 4] = [HOST, OPENAI_HOST, CHATGPT_HOST, GEMINI_HOST];

/// How long a request waits for others.
const GATHERING_TIME_MAX: Duration = Duration::from_secs(30);

/// How to start a provider.
#[derive(Default)]
pub struct Options {
    /// Signs its certificate; a fresh one when absent.
    pub authority: Option<Arc<Authority>>,
    /// Names of its certificate; [`HOSTS`] when empty.
    pub names: Vec<String>,
    /// Where to write the log as JSON lines, too.
    pub log_file: Option<PathBuf>,
}

/// A provider that serves until it is stopped or dropped.
pub struct Provider {
    /// Where it listens.
    pub address: SocketAddr,
    /// The authority to trust.
    pub ca_pem: String,
    world: Arc<World>,
    accepting: JoinHandle<()>,
    /// Dropped, it stops the listener.
    running: oneshot::Sender<()>,
}

/// What every connection needs.
struct World {
    log: Arc<Log>,
    requests: AtomicU64,
    /// Requests that wait for others of their kind, or have.
    gathered: watch::Sender<u64>,
    /// Directives for any request.
    standing: Mutex<String>,
}

impl World {
    fn standing(&self) -> String {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Until so many have come.
    async fn gather(&self, count: u64) {
        if count > 0 {
            self.gathered.send_modify(|gathered| *gathered += 1);
            // Too few are the test's own to notice.
            let mut gathered = self.gathered.subscribe();
            let _ = tokio::time::timeout(GATHERING_TIME_MAX, gathered.wait_for(|gathered| *gathered >= count)).await;
        }
    }
}

impl Provider {
    /// Starts one at this address; port 0 picks a free one.
    pub async fn start(address: SocketAddr) -> Result<Self> {
        Self::start_with(address, Options::default()).await
    }

    /// Starts one.
    pub async fn start_with(address: SocketAddr, options: Options) -> Result<Self> {
        let authority = options.authority.map_or_else(|| Authority::generate().map(Arc::new), Ok)?;
        let names = if options.names.is_empty() { HOSTS.map(str::to_owned).to_vec() } else { options.names };
        let tls = TlsAcceptor::from(Arc::new(authority.server_config(&names)?));
        let log = Arc::new(Log::new(options.log_file.as_deref())?);
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let world = Arc::new(World {
            log,
            requests: AtomicU64::new(0),
            gathered: watch::Sender::new(0),
            standing: Mutex::default(),
        });
        let (running, stopped) = oneshot::channel();
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&world), stopped));
        Ok(Self { address, ca_pem: authority.pem(), world, accepting, running })
    }

    /// Exchanges that have ended.
    #[must_use]
    pub fn log(&self) -> Vec<Served> {
        self.world.log.served()
    }

    /// What it does with any request from here on that does not ask for something else: directives, joined by `+`.
    pub fn direct(&self, directives: &str) {
        directives.clone_into(&mut self.world.standing.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Stops listening and breaks every connection; what was under way is in the log afterwards.
    pub async fn stop(self) -> Vec<Served> {
        drop(self.running);
        // It fails only by panicking, which the log then shows.
        let _ = self.accepting.await;
        self.world.log.served()
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, world: Arc<World>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(serve(stream, tls.clone(), Arc::clone(&world)));
            }
            Some(_) = connections.join_next() => {}
            _ = &mut stopped => return connections.shutdown().await,
        }
    }
}

/// One connection; clients that break off are part of the tests.
async fn serve(stream: TcpStream, tls: TlsAcceptor, world: Arc<World>) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = tls.accept(stream).await else { return };
    let socket = Arc::new(Mutex::default());
    let becomes = Arc::clone(&socket);
    let service = service_fn(move |request| {
        let (world, becomes) = (Arc::clone(&world), Arc::clone(&becomes));
        async move { Ok::<_, Infallible>(answer(request, &world, &becomes).await) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
    let socket = socket.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(socket) = socket {
        Socket::serve(socket).await;
    }
}

/// Answers a request; one that asks for a WebSocket says what its connection `becomes`.
async fn answer(request: Request<Incoming>, world: &Arc<World>, becomes: &Mutex<Option<Socket>>) -> Response<Delivery> {
    let (mut head, body) = request.into_parts();
    let upgrade = head.extensions.remove();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let number = world.requests.fetch_add(1, Ordering::Relaxed);
    let mut script = Script::read(&head, &body, &world.standing());
    world.gather(script.together).await;
    let form = Form::of(&head);
    if form == Some(Form::Embeddings) {
        script.usage.output = 0;
    }
    let mut served = Served {
        id: format!("req_test_{number:08}"),
        bottle: text_header(&head.headers, "x-test-bottle"),
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        model: (!script.model.is_empty()).then(|| script.model.clone()),
        accepts: text_header(&head.headers, "accept-encoding"),
        presented: ["authorization", "x-api-key"].iter().filter_map(|name| text_header(&head.headers, name)).collect(),
        encoding: script.encoding.name().to_owned(),
        status: script.status,
        ..Served::default()
    };
    if let Some(accept) = socket::accepts(&head)
        && let Some(upgrade) = upgrade
        && script.status == 200
    {
        *becomes.lock().unwrap_or_else(PoisonError::into_inner) = Some(Socket::new(upgrade, head, Arc::clone(world)));
        served.status = 101;
        let delivery = Delivery::new(Vec::new(), Fault::None, true, served, Arc::clone(&world.log));
        return socket::switch(delivery, &accept, script.headers);
    }
    let id_header = if is_for_openai(&head) { "x-request-id" } else { "request-id" };
    if let Some(form) = form
        && let Ok(pieces) = render::response(form, &script, &served.id)
    {
        let is_success = script.status == 200;
        if is_success {
            served.usage = script.usage;
        }
        let is_event_stream = script.is_streaming && is_success;
        let fault = if is_success { script.fault } else { Fault::None };
        let is_sized = !is_event_stream && fault == Fault::None;
        let delivery = Delivery::new(pieces, fault, is_sized, served, Arc::clone(&world.log));
        return respond(delivery, is_event_stream, id_header, script.headers);
    }
    let (status, bytes) = other(&head.method, &served.path, &script);
    served.status = status;
    served.encoding = Encoding::Identity.name().to_owned();
    let delay = if counts(&served.path) { script.count.delay } else { Duration::ZERO };
    let pieces = vec![Piece { bytes, delay, ..Piece::default() }];
    respond(Delivery::new(pieces, Fault::None, true, served, Arc::clone(&world.log)), false, id_header, script.headers)
}

/// Which of its names the client called it by.
fn is_for_openai(head: &Parts) -> bool {
    let host = head.uri.host().map(str::to_owned).or_else(|| text_header(&head.headers, "host"));
    host.as_deref() == Some(OPENAI_HOST)
}

/// Everything that spends nothing.
fn other(method: &Method, path: &str, script: &Script) -> (u16, Bytes) {
    match (method.as_str(), path) {
        ("POST", _) if counts(path) => {
            let tokens = script.count.tokens.unwrap_or(script.usage.input_total());
            match script.count.status {
                200 if script.count.is_garbage => (200, Bytes::from_static(b"<html>busy</html>")),
                200 => (200, format!("{{\"input_tokens\":{tokens}}}").into()),
                status => (status, render::error(status)),
            }
        }
        ("GET", "/v1/models") => {
            let list = r#"{"data":[{"type":"model","id":"claude-test","display_name":"Test","created_at":"2026-01-01T00:00:00Z"}],"has_more":false,"first_id":"claude-test","last_id":"claude-test"}"#;
            (200, Bytes::from_static(list.as_bytes()))
        }
        ("GET", socket::PATH) if script.status != 200 => (script.status, render::error(script.status)),
        _ => (404, render::error(404)),
    }
}

/// A counting endpoint, Anthropic's or OpenAI's.
fn counts(path: &str) -> bool {
    matches!(path, "/v1/messages/count_tokens" | "/v1/responses/input_tokens")
}

fn respond(
    delivery: Delivery,
    is_event_stream: bool,
    id_header: &'static str,
    mut headers: HeaderMap,
) -> Response<Delivery> {
    let served = delivery.served();
    let content_type = if is_event_stream { "text/event-stream; charset=utf-8" } else { "application/json" };
    let status = StatusCode::from_u16(served.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let encoding = (served.encoding != Encoding::Identity.name()).then_some(served.encoding.as_str());
    let fields = [("content-type", Some(content_type)), ("content-encoding", encoding), (id_header, Some(&served.id))];
    for (name, value) in fields {
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            headers.insert(name, value);
        }
    }
    let mut response = Response::new(delivery);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn text_header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
