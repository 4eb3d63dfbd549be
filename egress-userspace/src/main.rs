//! The `egress` binary.
#![forbid(unsafe_code)]

fn main() {}
