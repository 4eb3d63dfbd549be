//! What is exported, as OpenMetrics text: names, types, units and help of every metric, and their encoding.
//!
//! Values come from the daemon; nothing is measured here. `docs/metrics.md` tells what each metric means, and a test holds it
//! and the dashboard against this list.

mod exposition;
mod family;

pub use exposition::{Exposition, Value};
pub use family::Family;

/// What the text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
