//! Worlds to test egress in.

pub mod provider;
