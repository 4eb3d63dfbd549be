//! Detectors, compiled once for everybody who looks for the same.

use std::sync::{Arc, Mutex, PoisonError};

use crate::policy::dlp::{DetectorError, Detectors, Wanted};

/// Sets of detectors that are kept: bottles have few different ones, and each snapshot may change them.
const SETS_MAX: usize = 64;

/// What has been compiled.
#[derive(Debug, Default)]
pub(in super::super) struct Sets {
    made: Mutex<Vec<(Wanted, Arc<Detectors>)>>,
}

impl Sets {
    /// The detectors for what is wanted.
    pub(in super::super) fn of(&self, wanted: Wanted) -> Result<Arc<Detectors>, DetectorError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, detectors)) = made.iter().find(|(known, _)| *known == wanted) {
            return Ok(Arc::clone(detectors));
        }
        let detectors = Arc::new(Detectors::new(&wanted)?);
        if made.len() >= SETS_MAX {
            made.clear();
        }
        made.push((wanted, Arc::clone(&detectors)));
        Ok(detectors)
    }
}
