//! The conversation between proxy and controller over one Unix socket pair: messages and framing, both ends.
//!
//! First the listeners go over as file descriptors ([`send_listeners`]), then frames: a little-endian `u32` length and that
//! many bytes of JSON. EOF means the other side is gone: the controller then settles every open permit conservatively, the
//! proxy refuses everything.

mod frame;
mod handoff;
mod measured;
mod message;
mod wiped;

pub use frame::{BrokerError, FRAME_BYTES_MAX, FrameReader, FrameWriter, read_frame_blocking, write_frames_blocking};
pub use handoff::{HandoffError, Listeners, receive_listeners, send_listeners};
pub use measured::{Measured, Operation, Stage, Work};
pub use message::{
    Admission, BottleView, Configuration, FromController, FromProxy, LeafReply, Permit, Phase, RequestNumber, Snapshot,
};
