//! The dashboard fed by hand: what keys and events do, and how every screen looks.

mod feed;
mod keys;
pub(in crate::tui) mod sample;
mod screens;
