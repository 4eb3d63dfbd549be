//! Native bottles on a real kernel: what the one inside can do, what it cannot, and what is left when it is gone.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test's world fails by panicking, and says what it skips"
)]

mod attacks;
mod command;
mod layer;
mod life;
mod world;
