//! The port for whoever collects metrics: `GET /metrics` on this host's loopback, and nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::message::ApiError;

/// Connections at once; further ones wait.
const CONNECTIONS_MAX: usize = 16;
/// A request's head, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// From connecting to the end of a request's head.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// From connecting to the end of the answer.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);

/// Binds the port.
///
/// # Errors
/// When it is taken.
pub async fn bind_scrapes(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers scrapes with what `text` says, of this content type, until the future is dropped.
pub async fn serve_scrapes<H, F>(listener: TcpListener, content_type: &'static str, text: H)
where
    H: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<String, ApiError>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let text = text.clone();
                tokio::spawn(async move {
                    let served = tokio::time::timeout(CONNECTION_TIME_MAX, connection(stream, content_type, text));
                    if served.await.is_err() {
                        debug!("a scrape took too long");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "accepting on the port for metrics failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection<H, F>(stream: TcpStream, content_type: &'static str, text: H)
where
    H: Fn() -> F + Clone,
    F: Future<Output = Result<String, ApiError>>,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let text = text.clone();
        async move { Ok::<_, Infallible>(answer(&request, content_type, text).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = serving.await {
        debug!(%error, "a scrape ended early");
    }
}

async fn answer<H, F>(request: &Request<Incoming>, content_type: &'static str, text: H) -> Response<Full<Bytes>>
where
    H: Fn() -> F,
    F: Future<Output = Result<String, ApiError>>,
{
    if request.uri().path() != "/metrics" {
        return said(StatusCode::NOT_FOUND, "there is /metrics here, and nothing else\n");
    }
    if request.method() != Method::GET {
        let mut refused = said(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    match text().await {
        Ok(text) => {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            response
        }
        Err(error) => {
            warn!(%error, "metrics could not be told");
            said(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be told: the daemon's log says why\n")
        }
    }
}

fn said(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
