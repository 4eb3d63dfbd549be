//! TLS towards bottles: the name is read first, the certificate for it comes from the controller, who holds the CA key.
//!
//! A name that no route allows gets no certificate, and its handshake ends with the alert `access_denied`: without a
//! certificate there is no TLS to say more in.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{Acceptor, NoServerSessionStorage, ResolvesServerCertUsingSni};
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier, server::WantsServerCert};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OnceCell;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::broker::LeafReply;
use crate::domain::Host;

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

    /// Ends TLS on `stream` with a certificate for the SNI, or for `connect` when there is none. Returns that name.
    pub(super) async fn accept<S>(
        &self,
        stream: S,
        connect: Option<&Host>,
    ) -> Result<(TlsStream<S>, Host), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let named = match start.client_hello().server_name() {
            Some(name) => name.parse().ok(),
            None => connect.cloned(),
        };
        let leaf = match named {
            Some(host) => self.leaf(&host).await.map(|config| (config, host)),
            None => Err(HandshakeError::NoName),
        };
        match leaf {
            Ok((config, host)) => Ok((start.into_stream(config).await?, host)),
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

fn builder(crypto: &Arc<CryptoProvider>) -> Result<ConfigBuilder<ServerConfig, WantsServerCert>, rustls::Error> {
    let builder: ConfigBuilder<ServerConfig, WantsVerifier> =
        ServerConfig::builder_with_provider(Arc::clone(crypto)).with_safe_default_protocol_versions()?;
    Ok(builder.with_no_client_auth())
}
