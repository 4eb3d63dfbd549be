//! What the gate decides, apart from how it reads packets: compiled into the program, and tested on the host.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod classify;
pub mod reset;
