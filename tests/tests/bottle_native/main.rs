//! Native bottles on a real kernel: what the one inside can do, what it cannot, and what is left when it is gone.

mod attacks;
mod command;
mod life;
mod world;
