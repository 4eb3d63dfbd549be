//! A client that sends requests as fast as it is answered, and measures: for benches, never for assertions.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The host every request is for.
const HOST: &str = "api.anthropic.com";

/// What to send and where.
#[derive(Clone, Debug)]
pub struct Load {
    /// Who is connected to.
    pub connect: SocketAddr,
    /// It is an explicit proxy: CONNECT comes first.
    pub is_explicit: bool,
    /// PEM of the CA to trust.
    pub ca: PathBuf,
    /// Body of every request.
    pub body: String,
    /// Headers of every request, beside what each must have.
    pub headers: Vec<(String, String)>,
    /// Connections, each with one request at a time.
    pub streams: usize,
    /// When each connection stops to make requests.
    pub limit: Limit,
    /// Connections begin this long after one another, so that slow streams do not beat in step.
    pub spread: Duration,
    /// Each connection makes one request before the clock starts: what only a first request costs is not measured.
    pub has_warm_up: bool,
    /// Times in SSE data (`"sent_ns":…`) are compared with the clock as they arrive.
    pub has_event_times: bool,
}

/// The end of a measurement.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// After so many requests of all connections together.
    Requests(usize),
    /// No request begins after this.
    Time(Duration),
}

/// What was measured; times in microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Requests that were answered with 200.
    pub requests: usize,
    /// From the first request to the last byte.
    pub seconds: f64,
    /// Response bytes.
    pub bytes: u64,
    /// Half of the requests were answered, whole, within this.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// From an event's departure at the provider to its arrival: half within this.
    pub event_p50_us: f64,
    /// 99 of 100.
    pub event_p99_us: f64,
}

/// Sends everything and measures.
///
/// # Errors
/// When a connection or a request fails.
pub async fn run(load: Load) -> Result<Measured> {
    let tls = Arc::new(tls(&load.ca)?);
    let load = Arc::new(load);
    let mut connections = Vec::new();
    for _ in 0..load.streams {
        connections.push(connect(&load, Arc::clone(&tls)).await?);
    }
    if load.has_warm_up {
        let once = |sender| exchange_many(Arc::clone(&load), sender, Duration::ZERO, Limit::Requests(1));
        let warming: Vec<_> = connections.into_iter().map(|sender| tokio::spawn(once(sender))).collect();
        connections = Vec::new();
        for one in warming {
            connections.push(one.await??.1);
        }
    }
    let started = Instant::now();
    let limit = match load.limit {
        Limit::Requests(requests) => Limit::Requests(requests.div_ceil(load.streams)),
        Limit::Time(time) => Limit::Time(time),
    };
    let mut begin = Duration::ZERO;
    let mut running = Vec::new();
    for sender in connections {
        running.push(tokio::spawn(exchange_many(Arc::clone(&load), sender, begin, limit)));
        begin += load.spread;
    }
    let mut seen = Seen::default();
    for one in running {
        let (one, _) = one.await??;
        seen.times.extend(one.times);
        seen.delays.extend(one.delays);
        seen.bytes += one.bytes;
    }
    Ok(seen.measured(started.elapsed()))
}

/// A connection.
type Sender = SendRequest<Full<Bytes>>;

#[derive(Default)]
struct Seen {
    times: Vec<Duration>,
    delays: Vec<Duration>,
    bytes: u64,
}

impl Seen {
    fn measured(mut self, elapsed: Duration) -> Measured {
        self.times.sort_unstable();
        self.delays.sort_unstable();
        Measured {
            requests: self.times.len(),
            seconds: elapsed.as_secs_f64(),
            bytes: self.bytes,
            p50_us: quantile(&self.times, 50),
            p99_us: quantile(&self.times, 99),
            event_p50_us: quantile(&self.delays, 50),
            event_p99_us: quantile(&self.delays, 99),
        }
    }
}

/// Microseconds within which `percent` of the sorted times lie; 0 of none.
fn quantile(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

fn tls(ca: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).with_context(|| format!("{} is no PEM file", ca.display()))? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// A tunnel through an explicit proxy to the provider.
///
/// # Errors
/// When the proxy cannot be reached or refuses.
pub async fn tunnel(proxy: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(proxy).await.context("connecting to the explicit proxy")?;
    stream.set_nodelay(true)?;
    stream.write_all(format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        ensure!(answer.len() < 4096, "the proxy's answer to CONNECT has no end");
        answer.push(stream.read_u8().await?);
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "CONNECT was refused: {}", String::from_utf8_lossy(&answer));
    Ok(stream)
}

async fn connect(load: &Load, tls: Arc<ClientConfig>) -> Result<Sender> {
    let stream = if load.is_explicit {
        tunnel(load.connect).await?
    } else {
        let stream =
            TcpStream::connect(load.connect).await.with_context(|| format!("connecting to {}", load.connect))?;
        stream.set_nodelay(true)?;
        stream
    };
    let stream = TlsConnector::from(tls).connect(ServerName::try_from(HOST)?, stream).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Makes requests one after the other; returns the connection for more.
async fn exchange_many(load: Arc<Load>, mut sender: Sender, begin: Duration, limit: Limit) -> Result<(Seen, Sender)> {
    let mut seen = Seen::default();
    tokio::time::sleep(begin).await;
    let first = Instant::now();
    let goes_on = |done: usize| match limit {
        Limit::Requests(count) => done < count,
        Limit::Time(time) => first.elapsed() < time,
    };
    while goes_on(seen.times.len()) {
        let started = Instant::now();
        let request = request(&load)?;
        sender.ready().await?;
        let mut response = sender.send_request(request).await?;
        if !response.status().is_success() {
            bail!("answered with {}: {:?}", response.status(), response.body_mut().collect().await?.to_bytes());
        }
        while let Some(frame) = response.body_mut().frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            seen.bytes += data.len() as u64;
            if load.has_event_times {
                seen.delays.extend(event_delays(&data, monotonic_now()?));
            }
        }
        seen.times.push(started.elapsed());
    }
    Ok((seen, sender))
}

fn request(load: &Load) -> Result<Request<Full<Bytes>>> {
    let request = Request::builder().method(Method::POST).uri("/v1/messages");
    let request = request.header("host", HOST).header("content-type", "application/json");
    let request = load.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
    Ok(request.body(Full::new(Bytes::from(load.body.clone())))?)
}

/// Nanoseconds of the clock that all processes of this host share.
fn monotonic_now() -> Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(Duration::from(now).as_nanos())?)
}

fn event_delays(data: &[u8], now_ns: u64) -> Vec<Duration> {
    let text = String::from_utf8_lossy(data);
    let stamps = text.split("\"sent_ns\":").skip(1);
    let number =
        |rest: &str| rest.split(|letter: char| !letter.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
    stamps.filter_map(number).map(|sent: u64| Duration::from_nanos(now_ns.saturating_sub(sent))).collect()
}
