//! The controller's end: accepts, checks who it is, parses, and hands the request to the daemon's handler.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::{Gid, Group};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::domain::AuditRow;

use super::REQUEST_BODY_BYTES_MAX;
use super::approvals::ApprovalEvent;
use super::handover;
use super::live::LiveEvent;
use super::message::{ApiError, ErrorCode, RunEvent};
use super::peer::Peer;
use super::request::ApiRequest;
use super::stopping::StopEvent;

/// How long each part of a request may take to arrive: what comes before it, its head, its body.
const PART_TIME_MAX: Duration = Duration::from_secs(30);

/// What documents are.
const JSON: &str = "application/json";

/// What the handler answers with.
#[derive(Debug)]
pub enum ApiReply {
    /// One JSON document.
    Json(serde_json::Value),
    /// A text of this content type.
    Text(&'static str, String),
    /// Events until the sender is dropped. The receiver is dropped when the front-end has gone.
    Events(mpsc::Receiver<RunEvent>),
    /// Rows of the audit, in the same way.
    Audit(mpsc::Receiver<AuditRow>),
    /// Questions to operators, in the same way.
    Approvals(mpsc::Receiver<ApprovalEvent>),
    /// How far a freeze or a kill is, in the same way.
    Stopping(mpsc::Receiver<StopEvent>),
    /// Everything, in the same way.
    Live(mpsc::Receiver<LiveEvent>),
}

impl ApiReply {
    /// A document.
    ///
    /// # Errors
    /// When the value has no JSON form.
    pub fn json(value: &impl serde::Serialize) -> Result<Self, ApiError> {
        let failed = |error: serde_json::Error| ApiError { code: ErrorCode::Failed, message: error.to_string() };
        serde_json::to_value(value).map(Self::Json).map_err(failed)
    }

    /// A large document, written at once.
    ///
    /// # Errors
    /// When the value has no JSON form.
    pub fn long_json(value: &impl serde::Serialize) -> Result<Self, ApiError> {
        let failed = |error: serde_json::Error| ApiError { code: ErrorCode::Failed, message: error.to_string() };
        serde_json::to_string(value).map(|text| Self::Text(JSON, text)).map_err(failed)
    }
}

/// Binds the socket for root and the `egress` group, replacing the one a dead controller left.
///
/// # Errors
/// When another controller listens on it, or the path cannot be bound.
pub fn bind(path: &Path) -> std::io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another egress daemon listens on it"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    let group: Option<Gid> = Group::from_name("egress").ok().flatten().map(|group| group.gid);
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    nix::unistd::chown(path, None, group)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Serves until the future is dropped. What a handler has begun it ends, also when the front-end has gone meanwhile.
pub async fn serve<H, F>(listener: UnixListener, handler: H)
where
    H: Fn(Peer, ApiRequest) -> F + Send + Sync + 'static,
    F: Future<Output = Result<ApiReply, ApiError>> + Send + 'static,
{
    let handler = Arc::new(handler);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve_connection(stream, Arc::clone(&handler)));
            }
            Err(error) => {
                warn!(%error, "accepting on the control socket failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_connection<H, F>(stream: UnixStream, handler: Arc<H>)
where
    H: Fn(Peer, ApiRequest) -> F + Send + Sync + 'static,
    F: Future<Output = Result<ApiReply, ApiError>> + Send + 'static,
{
    // One request a connection: streams that came before it are its own.
    let streams = match timeout(PART_TIME_MAX, handover::receive(&stream)).await {
        Ok(Ok(streams)) => streams,
        Ok(Err(error)) => return debug!(%error, "what came before a request is not taken"),
        Err(_) => return debug!("nothing came on a control connection"),
    };
    let peer = Peer::of(&stream).map(|peer| Peer { streams, ..peer });
    let peer = Arc::new(std::sync::Mutex::new(Some(peer)));
    let service = service_fn(move |request: Request<Incoming>| {
        let peer = peer.lock().map(|mut peer| peer.take()).unwrap_or(None);
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(answer(peer, request, &*handler).await.unwrap_or_else(|error| refuse(&error))) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PART_TIME_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "a control connection ended early");
    }
}

async fn answer<H, F>(
    peer: Option<std::io::Result<Peer>>,
    request: Request<Incoming>,
    handler: &H,
) -> Result<Response<BoxBody<Bytes, Infallible>>, ApiError>
where
    H: Fn(Peer, ApiRequest) -> F,
    F: Future<Output = Result<ApiReply, ApiError>> + Send + 'static,
{
    let not_permitted = |message: String| ApiError { code: ErrorCode::NotPermitted, message };
    let peer = peer.ok_or_else(|| not_permitted("one request a connection".to_owned()))?;
    let peer = peer.map_err(|error| not_permitted(format!("the caller's credentials could not be read: {error}")))?;
    if !peer.may_control() {
        return Err(not_permitted("only root and members of the group egress may control egress".to_owned()));
    }
    let (head, body) = request.into_parts();
    let unread = |why: String| ApiError {
        code: ErrorCode::Usage,
        message: format!("the request body could not be read: {why}"),
    };
    let body = timeout(PART_TIME_MAX, Limited::new(body, REQUEST_BODY_BYTES_MAX).collect()).await;
    let body = body.map_err(|error| unread(error.to_string()))?.map_err(|error| unread(error.to_string()))?;
    let query = head.uri.query().unwrap_or("");
    let request = ApiRequest::parse(&head.method, head.uri.path(), query, &body.to_bytes())?;
    Ok(match to_its_end(handler(peer, request)).await? {
        ApiReply::Json(value) => document(StatusCode::OK, &value),
        ApiReply::Text(content_type, text) => {
            with_body(StatusCode::OK, content_type, Full::new(Bytes::from(text)).boxed())
        }
        ApiReply::Events(events) => event_stream(events),
        ApiReply::Audit(rows) => event_stream(rows),
        ApiReply::Approvals(events) => event_stream(events),
        ApiReply::Stopping(events) => event_stream(events),
        ApiReply::Live(events) => event_stream(events),
    })
}

/// A connection's future is dropped when the front-end goes. What is done in several steps must not stop between two of them.
async fn to_its_end<F>(handling: F) -> Result<ApiReply, ApiError>
where
    F: Future<Output = Result<ApiReply, ApiError>> + Send + 'static,
{
    let handled = tokio::spawn(handling).await;
    handled.unwrap_or_else(|error| Err(ApiError { code: ErrorCode::Failed, message: error.to_string() }))
}

fn document(status: StatusCode, value: &impl serde::Serialize) -> Response<BoxBody<Bytes, Infallible>> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    with_body(status, JSON, Full::new(Bytes::from(body)).boxed())
}

fn event_stream<T>(events: mpsc::Receiver<T>) -> Response<BoxBody<Bytes, Infallible>>
where
    T: serde::Serialize + Send + Sync + 'static,
{
    let frames = stream::unfold(events, |mut events| async move { events.recv().await.map(|event| (event, events)) })
        .map(|event| {
            let json = serde_json::to_string(&event).unwrap_or_default();
            Ok(Frame::data(Bytes::from(format!("data: {json}\n\n"))))
        });
    with_body(StatusCode::OK, "text/event-stream", BodyExt::boxed(StreamBody::new(frames)))
}

fn with_body(
    status: StatusCode,
    content_type: &'static str,
    body: BoxBody<Bytes, Infallible>,
) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

fn refuse(error: &ApiError) -> Response<BoxBody<Bytes, Infallible>> {
    let status = match error.code {
        ErrorCode::Usage => StatusCode::BAD_REQUEST,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::NotPermitted => StatusCode::FORBIDDEN,
        ErrorCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    };
    document(status, error)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn what_has_begun_is_ended_although_nobody_waits() {
        let (end, ended) = oneshot::channel();
        let handling = async move {
            sleep(Duration::from_millis(50)).await;
            end.send(()).unwrap();
            ApiReply::json(&())
        };
        assert!(timeout(Duration::from_millis(1), to_its_end(handling)).await.is_err(), "it was not waited for");
        assert_eq!(ended.await, Ok(()));
    }

    #[tokio::test]
    async fn what_panics_is_answered() {
        let answered = to_its_end(async { panic!("in the handler") }).await;
        assert!(answered.is_err_and(|error| error.code == ErrorCode::Failed && error.message.contains("panicked")));
    }
}
