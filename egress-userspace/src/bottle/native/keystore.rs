//! Roots in the form Java reads: the "JKS" key store. Pure.
//!
//! Java trusts neither the system's PEM bundle nor any variable, only such a file. The format is that of OpenJDK's
//! `sun.security.provider.JavaKeyStore`, all numbers big-endian: magic, version, number of entries; per certificate its tag,
//! alias, date and type; then a digest.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;
/// Every Java's own store has this password; it protects nothing.
const PASSWORD: &str = "changeit";
/// Stirred into the digest by the format's authors.
const SALT: &[u8] = b"Mighty Aphrodite";

/// The certificates of a PEM bundle as a key store. What is not a certificate is left out.
pub(in crate::bottle) fn from_pem(bundle: &str) -> Vec<u8> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(bundle.as_bytes()).flatten().collect();
    let mut store = Vec::new();
    for number in [MAGIC, VERSION, length(certificates.len())] {
        store.extend(number.to_be_bytes());
    }
    for (position, certificate) in certificates.iter().enumerate() {
        store.extend(TRUSTED_CERTIFICATE.to_be_bytes());
        text(&mut store, &format!("root-{position}"));
        // When it was added: of no matter.
        store.extend(0_u64.to_be_bytes());
        text(&mut store, "X.509");
        store.extend(length(certificate.len()).to_be_bytes());
        store.extend_from_slice(certificate);
    }
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    PASSWORD.encode_utf16().for_each(|unit| digest.update(&unit.to_be_bytes()));
    digest.update(SALT);
    digest.update(&store);
    store.extend_from_slice(digest.finish().as_ref());
    store
}

fn text(store: &mut Vec<u8>, text: &str) {
    store.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    store.extend_from_slice(text.as_bytes());
}

fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-1 over the password in UTF-16, the salt and the twelve bytes before it, computed with another program.
    const EMPTY_DIGEST: [u8; 20] = [
        0xe2, 0x68, 0x6e, 0x45, 0xfb, 0x43, 0xdf, 0xa4, 0xd9, 0x92, 0xdd, 0x41, 0xce, 0xb6, 0xb2, 0x1c, 0x63, 0x30,
        0xd7, 0x92,
    ];

    #[test]
    fn a_store_without_certificates_has_the_digest_java_expects() {
        let store = from_pem("not a certificate");
        assert_eq!(store[..12], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(store[12..], EMPTY_DIGEST);
    }

    #[test]
    fn certificates_stand_in_order_with_their_lengths() {
        let pem = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
        let store = from_pem(&pem.repeat(2));
        assert_eq!(store[8..12], [0, 0, 0, 2]);
        let first = [&[0, 0, 0, 2, 0, 6][..], b"root-0", &[0; 8], &[0, 5], b"X.509", &[0, 0, 0, 3, 1, 2, 3]].concat();
        assert_eq!(store[12..12 + first.len()], first);
        assert_eq!(store.len(), 12 + 2 * first.len() + 20);
    }
}
