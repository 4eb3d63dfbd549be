//! TLS towards bottles: the name is read first, the certificate for it comes from the controller, who holds the CA key.
//!
//! A name that no route allows gets one, too, to hear inside why it is refused. Where a bottle asks for too many such names
//! the handshake ends with the alert `access_denied`: without a certificate there is no TLS to say more in.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{Acceptor, NoServerSessionStorage, ResolvesServerCertUsingSni};
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier, server::WantsServerCert};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OnceCell;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::broker::LeafReply;
use crate::domain::Host;
use crate::policy::Way;

use super::limits::LEAVES_MAX;
use super::link::{Link, NoAnswer};

/// HTTP/2 in ALPN.
pub(super) const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1 in ALPN.
pub(super) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why a handshake came to nothing.
#[derive(Debug, Error)]
pub(super) enum HandshakeError {
    /// The client left or does not speak TLS as we do.
    #[error("the client's TLS handshake failed")]
    Client(#[from] io::Error),
    /// The bottle has asked for too many names that no route allows.
    #[error("no certificate for {0}: too many names that no route allows")]
    TooStrange(Host),
    /// Neither SNI nor CONNECT names a host.
    #[error("the client names no host")]
    NoName,
    /// The controller mints nothing for this name.
    #[error("no certificate for {host}: {reason}")]
    Refused {
        /// The name.
        host: Host,
        /// Of the controller.
        reason: String,
    },
    /// The controller is gone.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// What the controller sent does not work.
    #[error("the certificate of {host} is unusable")]
    Leaf {
        /// The name.
        host: Host,
        /// What TLS says.
        #[source]
        source: rustls::Error,
    },
}

/// Ends TLS; certificates are kept until they expire.
#[derive(Debug)]
pub(super) struct TlsEnd {
    link: Arc<Link>,
    crypto: Arc<CryptoProvider>,
    refusing: Arc<ServerConfig>,
    leaves: Mutex<HashMap<Host, Slot>>,
}

/// One name's certificate; whoever comes first asks for it, the others wait.
type Slot = Arc<OnceCell<Leaf>>;

#[derive(Clone, Debug)]
struct Leaf {
    config: Arc<ServerConfig>,
    expires: SystemTime,
}

impl TlsEnd {
    /// Certificates come through `link`.
    pub(super) fn new(link: Arc<Link>, crypto: Arc<CryptoProvider>) -> Result<Self, rustls::Error> {
        let nothing = Arc::new(ResolvesServerCertUsingSni::new());
        let refusing = Arc::new(builder(&crypto)?.with_cert_resolver(nothing));
        Ok(Self { link, crypto, refusing, leaves: Mutex::default() })
    }

    /// Ends TLS on `stream` with a certificate for the SNI, or for `connect` when there is none, if `wanted` says so of that
    /// name.
    pub(super) async fn accept<S>(
        &self,
        stream: S,
        connect: Option<&Host>,
        wanted: impl FnOnce(&Host) -> Wanted,
    ) -> Result<Accepted<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(Acceptor::default(), Recorder::new(stream)).await?;
        let named = match start.client_hello().server_name() {
            Some(name) => name.parse().ok(),
            None => connect.cloned(),
        };
        let leaf = match named.map(|host: Host| (wanted(&host), host)) {
            Some((Wanted::Ended, host)) => self.leaf(&host).await.map(|config| (config, host)),
            Some((Wanted::Spliced(way), host)) => {
                let Recorder { stream, hello } = start.io;
                return Ok(Accepted::Spliced { stream, hello: hello.unwrap_or_default(), host, way });
            }
            Some((Wanted::Nothing, host)) => Err(HandshakeError::TooStrange(host)),
            None => Err(HandshakeError::NoName),
        };
        match leaf {
            Ok((config, host)) => {
                let mut start = start;
                start.io.hello = None;
                Ok(Accepted::Ended { stream: Box::new(start.into_stream(config).await?), host })
            }
            Err(error) => {
                // Sends the alert; how that ends changes nothing.
                let _ = start.into_stream(Arc::clone(&self.refusing)).await;
                Err(error)
            }
        }
    }

    async fn leaf(&self, host: &Host) -> Result<Arc<ServerConfig>, HandshakeError> {
        let slot = self.slot(host);
        let leaf = slot.get_or_try_init(|| self.mint(host)).await?;
        Ok(Arc::clone(&leaf.config))
    }

    /// The slot of a name, a new one when its certificate has expired.
    fn slot(&self, host: &Host) -> Slot {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        let is_live = |slot: &Slot| slot.get().is_none_or(|leaf| leaf.expires > SystemTime::now());
        if let Some(slot) = leaves.get(host).filter(|slot| is_live(slot)) {
            return Arc::clone(slot);
        }
        if leaves.len() >= LEAVES_MAX {
            leaves.retain(|_, slot| slot.initialized() && is_live(slot));
        }
        if leaves.len() >= LEAVES_MAX {
            leaves.clear();
        }
        Arc::clone(leaves.entry(host.clone()).insert_entry(Slot::default()).get())
    }

    async fn mint(&self, host: &Host) -> Result<Leaf, HandshakeError> {
        let (chain_der, key_der, expires_unix_ms) = match self.link.mint(host.clone()).await? {
            LeafReply::Leaf { chain_der, key_der, expires_unix_ms } => (chain_der, key_der, expires_unix_ms),
            LeafReply::Refused(reason) => return Err(HandshakeError::Refused { host: host.clone(), reason }),
        };
        let unusable = |source| HandshakeError::Leaf { host: host.clone(), source };
        let chain = chain_der.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key_der));
        let mut config = builder(&self.crypto).and_then(|to| to.with_single_cert(chain, key)).map_err(unusable)?;
        config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
        // One SDK dead-locks on tickets that come after the handshake.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let expires = Duration::from_millis(u64::try_from(expires_unix_ms).unwrap_or(0));
        Ok(Leaf { config: Arc::new(config), expires: SystemTime::UNIX_EPOCH + expires })
    }
}

/// What becomes of a handshake.
pub(super) enum Wanted {
    /// TLS is ended here.
    Ended,
    /// It goes on with somebody else.
    Spliced(Box<Way>),
    /// Nothing.
    Nothing,
}

/// A client that has named its host.
pub(super) enum Accepted<S> {
    /// Inside TLS.
    Ended { stream: Box<TlsStream<Recorder<S>>>, host: Host },
    /// All that it has said is still to be passed on.
    Spliced { stream: S, hello: Vec<u8>, host: Host, way: Box<Way> },
}

/// A stream, and what has been read from it as long as somebody may want to pass that on.
pub(super) struct Recorder<S> {
    stream: S,
    hello: Option<Vec<u8>>,
}

impl<S> Recorder<S> {
    fn new(stream: S) -> Self {
        Self { stream, hello: Some(Vec::new()) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Recorder<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, hello } = &mut *self;
        let before = into.filled().len();
        let read = Pin::new(stream).poll_read(cx, into);
        if let Some(hello) = hello {
            hello.extend_from_slice(into.filled().get(before..).unwrap_or_default());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recorder<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }
}

fn builder(crypto: &Arc<CryptoProvider>) -> Result<ConfigBuilder<ServerConfig, WantsServerCert>, rustls::Error> {
    let builder: ConfigBuilder<ServerConfig, WantsVerifier> =
        ServerConfig::builder_with_provider(Arc::clone(crypto)).with_safe_default_protocol_versions()?;
    Ok(builder.with_no_client_auth())
}
