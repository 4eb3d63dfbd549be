//! The certificate authority that bottles trust. Its key never leaves this process.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use thiserror::Error;

use crate::broker::LeafReply;
use crate::domain::{Host, UnixMillis};

/// How long the CA is valid.
const CA_MS: i64 = 3650 * DAY_MS;
/// How long a leaf is valid.
const LEAF_MS: i64 = 30 * DAY_MS;
/// A leaf is not handed out any more when less than this is left of it.
const LEAF_RENEW_MS: i64 = 7 * DAY_MS;
/// Certificates begin a day in the past: clocks in bottles need not be right to the minute.
const BACKDATE_MS: i64 = DAY_MS;
/// A day in milliseconds.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Leaves kept; names are checked against the routes first, so the table is small in practice.
const LEAVES_MAX: usize = 4096;

/// Why there is no CA.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// A file could not be read or written.
    #[error("the CA file {path} could not be {action}")]
    File {
        /// Which.
        path: PathBuf,
        /// Read, written …
        action: &'static str,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The files are no CA.
    #[error("the CA in {path} is not usable: restore it from a backup, or remove the directory to make a new one")]
    Unusable {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rcgen::Error,
    },
}

/// Mints leaf certificates.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_der: Vec<u8>,
    ca_pem: String,
    leaves: HashMap<Host, Leaf>,
}

#[derive(Clone)]
struct Leaf {
    chain_der: Vec<Vec<u8>>,
    key_der: Vec<u8>,
    expires: UnixMillis,
}

impl Authority {
    /// Reads the CA of this directory, or makes one (directory 0700, key 0600).
    pub(super) fn open(directory: &Path) -> Result<Self, AuthorityError> {
        let key_path = directory.join("ca.key");
        let certificate_path = directory.join("ca.pem");
        if !key_path.exists() {
            create(directory, &key_path, &certificate_path)?;
        }
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| AuthorityError::File {
                path: path.into(),
                action: "read",
                source,
            })
        };
        let unusable = |source| AuthorityError::Unusable { path: directory.into(), source };
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(unusable)?;
        let ca_pem = read(&certificate_path)?;
        let ca_der = pem_to_der(&ca_pem).ok_or_else(|| unusable(rcgen::Error::CouldNotParseCertificate))?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).map_err(unusable)?;
        Ok(Self { issuer, ca_der, ca_pem, leaves: HashMap::new() })
    }

    /// What bottles are told to trust.
    pub(super) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A leaf for this name, cached while it is fresh.
    pub(super) fn mint(&mut self, host: &Host, now: UnixMillis) -> LeafReply {
        let renew_at = UnixMillis(now.0 + LEAF_RENEW_MS);
        if let Some(leaf) = self.leaves.get(host).filter(|leaf| leaf.expires > renew_at) {
            return leaf.reply();
        }
        match self.make_leaf(host, now) {
            Ok(leaf) => {
                if self.leaves.len() >= LEAVES_MAX {
                    self.leaves.clear();
                }
                let reply = leaf.reply();
                self.leaves.insert(host.clone(), leaf);
                reply
            }
            Err(error) => LeafReply::Refused(format!("no certificate for {host} could be made: {error}")),
        }
    }

    fn make_leaf(&self, host: &Host, now: UnixMillis) -> Result<Leaf, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(vec![host.to_string()])?;
        let mut name = DistinguishedName::new();
        // A common name holds at most 64 characters (RFC 5280, ub-common-name); clients read the alternative name.
        name.push(DnType::CommonName, host.as_str().get(..64).unwrap_or(host.as_str()));
        params.distinguished_name = name;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let expires = set_validity(&mut params, now, LEAF_MS);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain_der = vec![certificate.der().to_vec(), self.ca_der.clone()];
        Ok(Leaf { chain_der, key_der: key.serialize_der(), expires })
    }
}

impl Leaf {
    fn reply(&self) -> LeafReply {
        LeafReply::Leaf {
            chain_der: self.chain_der.clone(),
            key_der: self.key_der.clone(),
            expires_unix_ms: self.expires.0 - LEAF_RENEW_MS,
        }
    }
}

fn set_validity(params: &mut CertificateParams, now: UnixMillis, valid_ms: i64) -> UnixMillis {
    let date = |millis: i64| {
        let utc = Timestamp::from_millisecond(millis).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC);
        rcgen::date_time_ymd(i32::from(utc.year()), utc.month().unsigned_abs(), utc.day().unsigned_abs())
    };
    let expires = now.0 + valid_ms;
    params.not_before = date(now.0 - BACKDATE_MS);
    params.not_after = date(expires);
    UnixMillis(expires)
}

fn create(directory: &Path, key_path: &Path, certificate_path: &Path) -> Result<(), AuthorityError> {
    let failed = |path: &Path, source| AuthorityError::File { path: path.into(), action: "written", source };
    let unusable = |source| AuthorityError::Unusable { path: directory.into(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| failed(directory, source))?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(unusable)?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "egress");
    name.push(DnType::CommonName, "egress local CA");
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, UnixMillis(Timestamp::now().as_millisecond()), CA_MS);
    let certificate = params.self_signed(&key).map_err(unusable)?;
    // The key last: its presence says that the pair is whole.
    write(certificate_path, &certificate.pem(), 0o644).map_err(|source| failed(certificate_path, source))?;
    write(key_path, &key.serialize_pem(), 0o600).map_err(|source| failed(key_path, source))
}

fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

fn pem_to_der(pem: &str) -> Option<Vec<u8>> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).ok().map(|der| der.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf_der(reply: LeafReply) -> Vec<u8> {
        match reply {
            LeafReply::Leaf { chain_der, .. } => chain_der.first().cloned().unwrap_or_default(),
            LeafReply::Refused(why) => panic!("{why}"),
        }
    }

    #[test]
    fn the_same_ca_is_opened_again_and_leaves_are_cached() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("ca");
        let now = UnixMillis(Timestamp::now().as_millisecond());
        let host: Host = "api.anthropic.com".parse().unwrap();
        let mut authority = Authority::open(&directory).unwrap();
        let first = leaf_der(authority.mint(&host, now));
        assert_eq!(leaf_der(authority.mint(&host, now)), first);
        let later = UnixMillis(now.0 + LEAF_MS - LEAF_RENEW_MS);
        assert_ne!(leaf_der(authority.mint(&host, later)), first);
        assert_eq!(Authority::open(&directory).unwrap().ca_pem(), authority.ca_pem());
    }

    #[test]
    fn a_leaf_is_trusted_through_the_ca_and_for_its_name_only() {
        use rustls::client::danger::ServerCertVerifier;
        use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
        let home = tempfile::tempdir().unwrap();
        let mut authority = Authority::open(&home.path().join("ca")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(authority.ca_der.clone())).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let now = UnixMillis(Timestamp::now().as_millisecond());
        let der = CertificateDer::from(leaf_der(authority.mint(&"api.anthropic.com".parse().unwrap(), now)));
        let check = |name: &'static str| {
            verifier.verify_server_cert(&der, &[], &ServerName::try_from(name).unwrap(), &[], UnixTime::now()).is_ok()
        };
        assert!(check("api.anthropic.com"));
        assert!(!check("api.openai.com"));
    }
}
