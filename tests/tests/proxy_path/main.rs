//! The proxy between a client and a provider over real TLS, its controller played by the test.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "the world of a test fails by panicking"
)]

mod client;
mod counting;
mod credentials;
mod dlp;
mod ending;
mod frames;
mod git;
mod memory;
mod names;
mod own;
mod passing;
mod provider;
mod raw;
mod refusing;
mod room;
mod routes;
mod sandbox;
mod sever;
mod unasked;
mod websocket;
mod world;
