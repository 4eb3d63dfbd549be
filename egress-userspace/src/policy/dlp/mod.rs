//! What must not leave, and how it is found: secrets by their shape, by the name they are given to, or by their value.
//!
//! Pure: bytes in, findings out. One pass of one automaton notices every place that looks like the beginning of something;
//! each is then looked at by itself. What is found depends on the bytes alone, not on the pieces in which they come; what
//! must be held for it is bounded by the longest thing that is found.

mod assignment;
mod card;
mod detectors;
mod exact;
mod found;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod jwt;
mod lane;
mod markers;
mod patterns;
mod pem;
mod place;
mod redactor;
mod runs;
mod scan;
mod shape;
#[cfg(test)]
mod tests;
mod unescape;
mod wanted;

pub use detectors::{DetectorError, Detectors, Sought, Wanted, built_in};
pub use exact::SECRET_BYTES_MIN;
pub use markers::markers;
pub use redactor::{Passing, Redactor};
pub use scan::{Finding, Layers, Scan};
pub use wanted::check;
