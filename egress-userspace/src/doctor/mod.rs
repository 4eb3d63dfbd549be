//! Does the promise hold on this host? Looks, and attacks a bottle of its own.

pub mod attacks;
pub mod frame;
pub mod raw_socket;
