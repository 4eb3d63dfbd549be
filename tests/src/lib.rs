//! Worlds to test egress in.

pub mod agents;
pub mod clients;
pub mod console;
pub mod docker;
pub mod follow;
pub mod gate;
pub mod heap;
pub mod load;
pub mod netns;
pub mod packet;
pub mod privilege;
pub mod provider;
pub mod socket;
pub mod terminal;
pub mod tmux;
pub mod world;
