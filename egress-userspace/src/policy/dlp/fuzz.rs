//! What must hold for any bytes, as functions of bytes: fuzzers look for some that break it (`cargo xtask fuzz dlp`), and a test
//! runs what they began with and found before (`tests/fuzz/corpus`).

use std::sync::{Arc, LazyLock};

use super::*;
use crate::domain::Secret;

/// A target's name, which is that of its corpus, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 2] = [("dlp_pieces", dlp_pieces), ("dlp_secret", dlp_secret)];

/// A secret whose value is known: not a word that an input holds by chance.
const SECRET: &str = "s3cr3t/Value+with=bits&42";

static DETECTORS: LazyLock<Arc<Detectors>> = LazyLock::new(|| {
    let sought = vec![
        ("ticket".to_owned(), Sought::Pattern("PROJ-[0-9]{4}-[A-Z]{2}".to_owned())),
        ("deploy-key".to_owned(), Sought::Secret(Secret::new(SECRET.to_owned()))),
    ];
    let wanted = Wanted { has_built_in: true, without: Vec::new(), sought };
    Arc::new(Detectors::new(&wanted).unwrap_or_else(|error| panic!("these detectors are right: {error}")))
});

/// However bytes come, as many leave, and the same are found; what is not found leaves as it came. The first byte says of which
/// kind they are, the second how long the pieces are.
pub fn dlp_pieces(data: &[u8]) {
    let [kind, length, rest @ ..] = data else { return };
    let layers = match kind % 3 {
        0 => Layers::Body,
        1 => Layers::Url,
        _ => Layers::Form,
    };
    let (whole, found) = redacted(layers, rest, rest.len().max(1));
    let (pieces, found_in_pieces) = redacted(layers, rest, usize::from(*length) % 37 + 1);
    assert_eq!((whole.len(), pieces.len()), (rest.len(), rest.len()));
    // What is found twice, as two things, may be overwritten in the manner of either.
    assert_eq!(found, found_in_pieces);
    for left in [whole, pieces] {
        assert!(left.iter().zip(rest).zip(&found).all(|((left, came), is_found)| *is_found || left == came));
    }
}

/// A known secret in plain text is found, whatever stands around it: `\` and `%` excepted, which may take its first letters.
pub fn dlp_secret(data: &[u8]) {
    let Some((at, around)) = data.split_first() else { return };
    let around: Vec<u8> = around.iter().copied().filter(|byte| !b"\\%".contains(byte)).collect();
    let (front, back) = around.split_at(usize::from(*at).min(around.len()));
    let text = [front, SECRET.as_bytes(), back].concat();
    let (left, found) = redacted(Layers::Body, &text, usize::from(*at) + 1);
    assert!(found.contains(&true) && memchr::memmem::find(&left, SECRET.as_bytes()).is_none());
}

/// What leaves of bytes that come in pieces, and which of them are within something that was found. What is found has not left
/// before.
fn redacted(layers: Layers, bytes: &[u8], piece_bytes: usize) -> (Vec<u8>, Vec<bool>) {
    let mut redactor = Redactor::new(&DETECTORS, layers);
    let (mut left, mut found) = (Vec::new(), vec![false; bytes.len()]);
    let mut take = |passing: Passing| {
        assert!(passing.found.iter().all(|finding| finding.range().start >= left.len()));
        for range in passing.found.iter().map(Finding::range) {
            found.get_mut(range).into_iter().for_each(|within| within.fill(true));
        }
        left.extend_from_slice(&passing.bytes);
    };
    for piece in bytes.chunks(piece_bytes) {
        take(redactor.push(piece));
    }
    take(redactor.finish());
    (left, found)
}
