//! A client of OpenAI's Responses over a WebSocket.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderName;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// What Codex and OpenAI's SDK offer.
const EXTENSIONS: &str = "permessage-deflate; client_max_window_bits";
/// Events that end a response, or a request that leads to none.
const LAST: [&str; 4] = ["response.completed", "response.incomplete", "response.failed", "error"];

/// An open socket.
pub struct Socket(WebSocketStream<TlsStream<TcpStream>>);

/// What came of asking for one.
pub enum Opened {
    /// It is there.
    Socket(Box<Socket>),
    /// Status and body of another answer.
    Refused(u16, String),
}

impl Socket {
    /// Asks `host` at `address` for a socket, trusting the certificates in a file.
    pub async fn open(address: SocketAddr, host: &str, ca: &Path, headers: &[(&str, &str)]) -> Result<Opened> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let crypto = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(crypto).with_safe_default_protocol_versions()?;
        // Like Codex it names no protocol in TLS.
        let tls = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        let stream = tls.connect(ServerName::try_from(host.to_owned())?, stream).await?;
        let mut request = format!("wss://{host}/v1/responses").into_client_request()?;
        for (name, value) in headers.iter().chain(&[("sec-websocket-extensions", EXTENSIONS)]) {
            request.headers_mut().insert(name.parse::<HeaderName>()?, value.parse()?);
        }
        match client_async(request, stream).await {
            Ok((socket, answer)) if answer.headers().contains_key("sec-websocket-extensions") => {
                drop(socket);
                bail!("an extension was agreed on")
            }
            Ok((socket, _)) => Ok(Opened::Socket(Box::new(Self(socket)))),
            Err(Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                Ok(Opened::Refused(answer.status().as_u16(), String::from_utf8_lossy(body).into_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for a response.
    pub async fn create(&mut self, model: &str, lane: Option<&str>) -> Result<()> {
        let mut request = json!({"type": "response.create", "model": model, "input": "Say something."});
        if let (Some(lane), Some(fields)) = (lane, request.as_object_mut()) {
            fields.insert("stream_id".to_owned(), lane.into());
        }
        Ok(self.0.send(Message::text(request.to_string())).await?)
    }

    /// The next event; `None` when the connection has ended, however it did.
    pub async fn event(&mut self) -> Option<Value> {
        loop {
            match self.0.next().await? {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).ok(),
                Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Ok(Message::Close(_)) | Err(_) => return None,
            }
        }
    }

    /// Says farewell.
    pub async fn close(mut self) {
        // Whoever has left already need not be told.
        let _ = self.0.close(None).await;
    }
}

/// Does a response end with this event?
#[must_use]
pub fn is_last(event: &Value) -> bool {
    event.get("type").and_then(Value::as_str).is_some_and(|kind| LAST.contains(&kind))
}
