//! The front-ends' end: one request a connection.

use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

use super::message::{ApiError, RunEvent};
use super::{PROTOCOL, SOCKET_NAME, handover};

/// Where the socket of a daemon is that was not told otherwise.
const USUAL_RUN_DIRECTORY: &str = "/run/egress";
/// Where the unit of systemd is, when it has been installed.
const UNITS: [&str; 3] = [
    "/etc/systemd/system/egress.service",
    "/usr/lib/systemd/system/egress.service",
    "/usr/local/lib/systemd/system/egress.service",
];

/// Why a call was not answered.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no egress daemon listens on {socket}: start one with `{start}`")]
    NoDaemon {
        /// Where.
        socket: PathBuf,
        /// What to type.
        start: String,
    },
    /// The socket may not be opened.
    #[error(
        "you may not control egress through {socket}: put `sudo` before the command, or join the group egress with \
         `sudo usermod --append --groups egress $USER` and log in again"
    )]
    NotPermitted {
        /// Where.
        socket: PathBuf,
    },
    /// The daemon said no.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The connection broke.
    #[error("the connection to the egress daemon broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Where the daemon is.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon with this run directory.
    #[must_use]
    pub fn new(run_directory: &Path) -> Self {
        Self { socket: run_directory.join(SOCKET_NAME) }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self.call(Method::GET, path, Bytes::new()).await?;
        read_json(response).await
    }

    /// Reads a text.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        let response = self.call(Method::GET, path, Bytes::new()).await?;
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        String::from_utf8(body.into()).map_err(broken)
    }

    /// Does something and reads its result.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(broken)?;
        let response = self.call(Method::POST, path, Bytes::from(body)).await?;
        read_json(response).await
    }

    /// Does something and follows what it says.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn follow(&self, path: &str, body: &impl Serialize) -> Result<RunEvents, ClientError> {
        let body = serde_json::to_vec(body).map_err(broken)?;
        let response = self.call(Method::POST, path, Bytes::from(body)).await?;
        Ok(Events::of(response))
    }

    /// The same for what runs a command, with the command's standard input, output and error.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn follow_with(
        &self,
        path: &str,
        body: &impl Serialize,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<RunEvents, ClientError> {
        let body = serde_json::to_vec(body).map_err(broken)?;
        let stream = self.connect().await?;
        handover::send(&stream, streams).await.map_err(broken)?;
        let response = ask(stream, Method::POST, path, Bytes::from(body)).await?;
        Ok(Events::of(response))
    }

    /// Follows what goes on.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn listen<T: DeserializeOwned>(&self, path: &str) -> Result<Events<T>, ClientError> {
        Ok(Events::of(self.call(Method::GET, path, Bytes::new()).await?))
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        ask(self.connect().await?, method, path, body).await
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        UnixStream::connect(&self.socket).await.map_err(|error| self.no_connection(error))
    }

    fn no_connection(&self, error: std::io::Error) -> ClientError {
        let socket = self.socket.clone();
        let kind = error.kind();
        if matches!(kind, std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) {
            return ClientError::NoDaemon { start: start_of(&socket), socket };
        }
        if kind == std::io::ErrorKind::PermissionDenied {
            return ClientError::NotPermitted { socket };
        }
        broken(error)
    }
}

async fn ask(stream: UnixStream, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(format!("/{PROTOCOL}/{path}"))
        .header("host", "egress")
        .body(Full::new(body))
        .map_err(broken)?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
    let unknown = |_| broken(format!("it answers {status} and does not say why: is it of another version?"));
    Err(ClientError::Refused(serde_json::from_slice(&body).map_err(unknown)?))
}

/// What starts the daemon that would listen there. A service listens where it usually is.
fn start_of(socket: &Path) -> String {
    let is_service = Path::new(USUAL_RUN_DIRECTORY).join(SOCKET_NAME) == socket;
    let is_installed = is_service && UNITS.iter().any(|unit| Path::new(unit).exists());
    let sudo = if nix::unistd::geteuid().is_root() { "" } else { "sudo " };
    let what = if is_installed { "systemctl start egress" } else { "egress daemon" };
    format!("{sudo}{what}")
}

/// The events of a run. Dropping it ends the run.
pub type RunEvents = Events<RunEvent>;

/// Events, as long as the daemon has any.
#[derive(Debug)]
pub struct Events<T> {
    body: Incoming,
    buffer: Vec<u8>,
    event: PhantomData<T>,
}

impl<T: DeserializeOwned> Events<T> {
    fn of(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), buffer: Vec::new(), event: PhantomData }
    }

    /// The next event; `None` when the daemon has closed the stream.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let json = event.strip_prefix(b"data: ").unwrap_or(&event);
                return serde_json::from_slice(json).map(Some).map_err(broken);
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

async fn read_json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
    serde_json::from_slice(&body).map_err(broken)
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Broken(error.into())
}
