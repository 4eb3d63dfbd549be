//! An agent that never means well: many requests of every kind, by every way, at once. Runs inside a bottle.
//!
//! What it asks for follows from its seed alone. It prints one JSON document: how many of its exchanges ended how.
#![expect(clippy::print_stdout, reason = "the counts are this program's output")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Parser;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const HOST: &str = "api.anthropic.com";
/// Frames that are read of a response before it is given up.
const FRAMES_BEFORE_ABORT: usize = 4;

/// Requests of every kind.
#[derive(Parser)]
struct Arguments {
    /// Its name in the provider's log.
    #[arg(long)]
    name: String,
    /// Where the sequence of kinds begins.
    #[arg(long)]
    seed: usize,
    /// How many requests.
    #[arg(long)]
    requests: usize,
    /// How many at once.
    #[arg(long, default_value_t = 8)]
    at_once: usize,
    /// The explicit proxy; connections are made to the host's own address otherwise.
    #[arg(long, env = "EGRESS_GATEWAY")]
    gateway: Ipv4Addr,
    /// PEM of what is trusted.
    #[arg(long, env = "SSL_CERT_FILE")]
    ca: PathBuf,
}

/// A kind of exchange: what the provider does, whether it streams, whether the client gives up.
struct Kind(&'static str, bool, bool);

const KINDS: &[Kind] = &[
    Kind("plain", false, false),
    Kind("stream+deltas-40", true, false),
    Kind("gzip+encoding-gzip+deltas-20", true, false),
    Kind("gzip-json+encoding-gzip", false, false),
    Kind("brotli+encoding-br+deltas-20", true, false),
    Kind("brotli-json+encoding-br", false, false),
    Kind("zstd+encoding-zstd+deltas-20", true, false),
    Kind("zstd-json+encoding-zstd", false, false),
    Kind("cache+cache-read-900+cache-write-40+deltas-4", true, false),
    Kind("slow+deltas-6+delay-10", true, false),
    Kind("client-aborts+deltas-400+delay-25", true, true),
    Kind("client-aborts+encoding-gzip+deltas-400+delay-25", true, true),
    Kind("provider-aborts+deltas-30+abort-after-9", true, false),
    Kind("provider-aborts+encoding-gzip+deltas-30+abort-after-9", true, false),
    Kind("provider-aborts-json+abort-after-2", false, false),
    Kind("error-status+overloaded", true, false),
    Kind("error-status+status-400", false, false),
    Kind("error-event+deltas-30+error-after-7", true, false),
    Kind("large+deltas-4000+delta-bytes-60", true, false),
];

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Whole,
    Broken,
    GivenUp,
    Refused,
}

enum Speaker {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arc::new(Arguments::parse());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&arguments.ca)? {
        roots.add(certificate?)?;
    }
    let roots = Arc::new(roots);
    let ends: Vec<Result<End>> = stream::iter(0..arguments.requests)
        .map(|number| exchange(Arc::clone(&arguments), Arc::clone(&roots), arguments.seed + number))
        .buffer_unordered(arguments.at_once)
        .collect()
        .await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for end in ends {
        *counts.entry(format!("{:?}", end?).to_lowercase()).or_default() += 1;
    }
    println!("{}", serde_json::to_string(&counts)?);
    Ok(())
}

/// The kinds have an odd number of members, so each meets each way.
async fn exchange(arguments: Arc<Arguments>, roots: Arc<RootCertStore>, number: usize) -> Result<End> {
    let Kind(model, is_streaming, gives_up) = KINDS.get(number % KINDS.len()).context("no kinds")?;
    let (is_explicit, is_h2) = (number % 2 == 1, number / 2 % 2 == 1);
    let mut speaker = connect(&arguments, roots, is_explicit, is_h2).await?;
    let tokens = 20 + number % 700;
    let body = format!(
        r#"{{"model":"{model}+input-{tokens}","max_tokens":9000,"stream":{is_streaming},"messages":[{{"role":"user","content":"{number}"}}]}}"#
    );
    let uri = if is_h2 { format!("https://{HOST}/v1/messages") } else { "/v1/messages".to_owned() };
    let mut request =
        Request::post(uri).header("content-type", "application/json").header("x-test-bottle", &arguments.name);
    if !is_h2 {
        request = request.header("host", HOST);
    }
    let request = request.body(Full::new(Bytes::from(body)))?;
    let response = match &mut speaker {
        Speaker::H1(sender) => sender.send_request(request).await,
        Speaker::H2(sender) => sender.send_request(request).await,
    };
    let response = response.with_context(|| format!("{model}: no response (h2: {is_h2}, explicit: {is_explicit})"))?;
    read(response, *gives_up).await
}

async fn read(mut response: Response<Incoming>, gives_up: bool) -> Result<End> {
    if response.status() == StatusCode::PAYMENT_REQUIRED {
        return Ok(End::Refused);
    }
    if response.status() == StatusCode::BAD_GATEWAY {
        bail!("the proxy could not reach the provider");
    }
    let mut frames = 0;
    while let Some(frame) = response.body_mut().frame().await {
        if frame.is_err() {
            return Ok(End::Broken);
        }
        frames += 1;
        if gives_up && frames >= FRAMES_BEFORE_ABORT {
            return Ok(End::GivenUp);
        }
    }
    Ok(End::Whole)
}

async fn connect(arguments: &Arguments, roots: Arc<RootCertStore>, is_explicit: bool, is_h2: bool) -> Result<Speaker> {
    let stream = if is_explicit {
        harness::load::tunnel((arguments.gateway, 8080).into()).await?
    } else {
        TcpStream::connect((HOST, 443)).await.context("connecting to the name's own address")?
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![if is_h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(HOST)?, stream).await?;
    if is_h2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        return Ok(Speaker::H2(sender));
    }
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(Speaker::H1(sender))
}
