//! The conversation between proxy and controller over one Unix socket pair: messages and framing, both ends.
//!
//! A frame is a little-endian `u32` length and that many bytes of JSON. EOF means the other side is gone: the controller
//! then settles every open permit conservatively, the proxy refuses everything.

mod message;

pub use message::{
    Admission, AdmitRequest, BottleView, FromController, FromProxy, LeafReply, Permit, Phase, RequestNumber,
    Settlement, Snapshot,
};
