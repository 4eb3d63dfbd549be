//! Whom the proxy trusts upstream, and whom it asks for addresses: read from files while it still may.

use std::sync::Arc;

use hickory_resolver::TokioResolver;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

/// Why there is nobody to trust.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The operator's extra roots.
    #[error("the extra roots are not PEM certificates")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// A root or the TLS versions.
    #[error("the trust roots cannot be used")]
    Tls(#[from] rustls::Error),
}

/// TLS towards providers: the built-in roots, the system's and the operator's.
pub(super) fn client_config(extra_roots_pem: &str, crypto: &Arc<CryptoProvider>) -> Result<ClientConfig, TrustError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "some of the system's trust roots could not be read");
    }
    roots.add_parsable_certificates(system.certs);
    for certificate in CertificateDer::pem_slice_iter(extra_roots_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::clone(crypto)).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The system's resolver; a host without one reaches only what settings give an address.
pub(super) fn system_resolver() -> Option<TokioResolver> {
    match TokioResolver::builder_tokio().and_then(hickory_resolver::ResolverBuilder::build) {
        Ok(resolver) => Some(resolver),
        Err(error) => {
            tracing::warn!(%error, "this host has no resolver: only hosts with a fixed address are reachable");
            None
        }
    }
}
