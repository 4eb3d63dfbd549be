//! A client in the bottle, by every way there is through the proxy.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::world::{PATIENCE, PROVIDER, World};

/// A way through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// TLS to the gateway, named in SNI.
    Transparent,
    /// TLS in a tunnel.
    Connect,
    /// Plain, the whole URI in the request line.
    Absolute,
    /// Plain to the gateway, named in Host.
    Plain,
}

enum Speaker {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

/// An open connection.
pub(crate) struct Client {
    way: Way,
    speaker: Speaker,
}

/// The names a connection gives.
#[derive(Clone, Copy)]
pub(crate) struct Names<'a> {
    pub(crate) connect: &'a str,
    pub(crate) sni: &'a str,
}

pub(crate) const SAME: Names<'static> = Names { connect: PROVIDER, sni: PROVIDER };

impl Client {
    pub(crate) async fn open(world: &World, way: Way, version: Version) -> Self {
        Self::open_as(world, way, version, SAME).await.unwrap()
    }

    /// Opens a connection that gives these names.
    pub(crate) async fn open_as(world: &World, way: Way, version: Version, names: Names<'_>) -> std::io::Result<Self> {
        match way {
            Way::Absolute => Ok(Self::speak(way, version, tcp(world.doors.explicit).await?).await),
            Way::Plain => Ok(Self::speak(way, version, tcp(world.doors.plain).await?).await),
            Way::Transparent => {
                let stream = tcp(world.doors.tls).await?;
                Ok(Self::speak(way, version, tls(world, stream, version, names.sni).await?).await)
            }
            Way::Connect => {
                let stream = tunnel(world.doors.explicit, names.connect).await?;
                Ok(Self::speak(way, version, tls(world, stream, version, names.sni).await?).await)
            }
        }
    }

    pub(crate) async fn speak<S>(way: Way, version: Version, stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if version == Version::HTTP_2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            return Self { way, speaker: Speaker::H2(sender) };
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { way, speaker: Speaker::H1(sender) }
    }

    /// Sends a request to `host`.
    pub(crate) async fn send_to(
        &mut self,
        host: &str,
        request: hyper::http::request::Builder,
        path: &str,
        body: impl Into<Bytes>,
    ) -> hyper::Result<Response<Incoming>> {
        let is_h2 = matches!(self.speaker, Speaker::H2(_));
        let uri = match self.way {
            Way::Absolute => format!("http://{host}{path}"),
            _ if is_h2 => format!("https://{host}{path}"),
            Way::Transparent | Way::Connect | Way::Plain => path.to_owned(),
        };
        let request = if is_h2 { request } else { request.header("host", host) };
        let request = request.uri(uri).body(Full::new(body.into())).unwrap();
        let sending = async {
            match &mut self.speaker {
                Speaker::H1(sender) => sender.send_request(request).await,
                Speaker::H2(sender) => sender.send_request(request).await,
            }
        };
        timeout(PATIENCE, sending).await.expect("no answer in time")
    }

    /// Requests that are sent at once, over HTTP/2; each resolves when it has been answered.
    pub(crate) fn many(&mut self, count: usize) -> Vec<impl Future<Output = ()> + Send + 'static> {
        let Speaker::H2(sender) = &self.speaker else { panic!("not HTTP/2") };
        let request = |sender: &http2::SendRequest<Full<Bytes>>| {
            let mut sender = sender.clone();
            let request = Request::get(format!("https://{PROVIDER}/v1/models")).body(Full::new(Bytes::new())).unwrap();
            async move { drop(whole(sender.send_request(request).await.unwrap()).await) }
        };
        (0..count).map(|_| request(sender)).collect()
    }

    /// Asks the provider's metered path.
    pub(crate) async fn message(&mut self) -> hyper::Result<Response<Incoming>> {
        let body = r#"{"model":"claude-x","max_tokens":100,"stream":true}"#;
        self.send_to(PROVIDER, Request::post("/"), "/v1/messages?beta=true", body).await
    }
}

/// A connection from the bottle.
pub(crate) async fn tcp(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(crate) async fn tunnel(proxy: SocketAddr, host: &str) -> std::io::Result<TcpStream> {
    let mut stream = tcp(proxy).await?;
    stream.write_all(format!("CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    Ok(stream)
}

pub(crate) async fn tls(
    world: &World,
    stream: TcpStream,
    version: Version,
    sni: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    tls_trusting(&world.bottle_roots, stream, version, sni).await
}

/// The same for a client that trusts one authority of its own.
pub(crate) async fn tls_trusting(
    root: &CertificateDer<'static>,
    stream: TcpStream,
    version: Version,
    sni: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(crypto).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![if version == Version::HTTP_2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    TlsConnector::from(Arc::new(config)).connect(sni.to_owned().try_into().unwrap(), stream).await
}

/// The next bytes of a body; `None` at its end.
pub(crate) async fn next(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    loop {
        match timeout(PATIENCE, body.frame()).await.expect("no frame in time")? {
            // HTTP/2 may end with an empty frame.
            Ok(frame) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
            frame => return Some(frame.map(|frame| frame.into_data().unwrap_or_default())),
        }
    }
}

/// All of a body.
pub(crate) async fn whole(response: Response<Incoming>) -> Bytes {
    timeout(PATIENCE, response.into_body().collect()).await.expect("no end in time").unwrap().to_bytes()
}

/// A refusal's body.
pub(crate) async fn refusal(response: Response<Incoming>) -> serde_json::Value {
    serde_json::from_slice(&whole(response).await).unwrap()
}
