//! Worlds to test egress in.

pub mod gate;
pub mod netns;
pub mod packet;
pub mod privilege;
