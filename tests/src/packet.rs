//! Frames as an attacker with root in a bottle makes them, and the raw sockets they go through: the doctor's.

pub use egress_userspace::doctor::frame::*;
pub use egress_userspace::doctor::raw_socket::{ALL, RawSocket, Wire, holds};
