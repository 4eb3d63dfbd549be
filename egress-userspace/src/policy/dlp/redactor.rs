//! Bytes as they come by, without what is found in them: as many bytes as there were, each held until nothing that is found can
//! begin before it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::detectors::Detectors;
use super::scan::{Finding, Layers, Scan};

/// A stream of bytes on its way through the detectors.
#[derive(Debug)]
pub struct Redactor {
    scan: Scan,
    /// Bytes that may not pass yet, from `start`.
    held: BytesMut,
    start: usize,
    overwrites: bool,
}

/// What may pass, and what was found.
#[derive(Debug, Default)]
pub struct Passing {
    /// The next bytes, without what was found.
    pub bytes: Bytes,
    /// What was found, in these bytes or in those that are held.
    pub found: Vec<Finding>,
}

impl Redactor {
    /// For bytes of this kind, in which what is found is overwritten.
    #[must_use]
    pub fn new(detectors: &Arc<Detectors>, layers: Layers) -> Self {
        Self { overwrites: true, ..Self::watching(detectors, layers) }
    }

    /// The same for bytes that stay as they are: what is found is told before any of it passes.
    #[must_use]
    pub fn watching(detectors: &Arc<Detectors>, layers: Layers) -> Self {
        Self { scan: Scan::new(detectors, layers), held: BytesMut::new(), start: 0, overwrites: false }
    }

    /// Bytes that have not passed.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Reads on.
    pub fn push(&mut self, bytes: &[u8]) -> Passing {
        self.held.extend_from_slice(bytes);
        let found = self.scan.push(bytes);
        self.pass(found)
    }

    /// Nothing follows: everything passes.
    pub fn finish(&mut self) -> Passing {
        let found = self.scan.finish();
        self.pass(found)
    }

    fn pass(&mut self, found: Vec<Finding>) -> Passing {
        for finding in found.iter().filter(|_| self.overwrites) {
            finding.overwrite(&mut self.held, self.start);
        }
        let safe = self.scan.safe_until().saturating_sub(self.start).min(self.held.len());
        self.start += safe;
        Passing { bytes: self.held.split_to(safe).freeze(), found }
    }
}
