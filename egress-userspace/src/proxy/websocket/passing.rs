//! A WebSocket with a host that spends no tokens: messages pass both ways, each whole as long as it is not larger than what
//! is held at once.

use std::pin::pin;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::meter::websocket::{Frame, Opcode, Side};

use super::super::limits::{CLIENT_MESSAGE_BYTES_MAX, PROVIDER_MESSAGE_BYTES_MAX, WEBSOCKET_CLOSE_TIME_MAX};
use super::super::scan::FrameScreens;
use super::super::view::Passage;
use super::wire::{FrameSource, WireError, send_to_client, send_to_provider};
use super::{Broken, MAY_NOT_PASS, NO_ROOM, POLICY_VIOLATION, Reader, TRY_AGAIN_LATER, Writer, pass};

/// A side breaks the protocol (RFC 6455 §7.4.1).
const PROTOCOL_ERROR: u16 = 1002;

/// Passes messages until both have said their last word, or one breaks off.
pub(super) async fn run(
    (from_client, mut to_client): (Reader, Writer),
    (from_provider, mut to_provider): (Reader, Writer),
    screens: FrameScreens,
    passage: Arc<Passage>,
) -> Result<(), Broken> {
    let (room, FrameScreens { outbound, inbound }) = (|| passage.memory.nothing(), screens);
    let client = FrameSource::new(from_client, Side::Client, CLIENT_MESSAGE_BYTES_MAX, outbound, room());
    let provider = FrameSource::new(from_provider, Side::Server, PROVIDER_MESSAGE_BYTES_MAX, inbound, room());
    let ended = {
        let uplink = pin!(pass_up(client, &mut to_provider));
        let downlink = pin!(pass_down(provider, &mut to_client));
        tokio::select! {
            biased;
            () = passage.severed() => Err(Broken::Severed),
            ended = pass(uplink, downlink) => ended,
        }
    };
    let farewell = match &ended {
        Err(Broken::Client(_) | Broken::Provider(_)) => Some(Frame::close(PROTOCOL_ERROR, "these are no frames")),
        Err(Broken::Screened(_)) => Some(Frame::close(POLICY_VIOLATION, MAY_NOT_PASS)),
        Err(Broken::TooMuch(_)) => Some(Frame::close(TRY_AGAIN_LATER, NO_ROOM)),
        Ok(()) | Err(_) => None,
    };
    if let Some(farewell) = farewell {
        // How the farewells end changes nothing.
        let saying = async {
            tokio::join!(send_to_client(&mut to_client, &farewell), send_to_provider(&mut to_provider, &farewell))
        };
        let _ = timeout(WEBSOCKET_CLOSE_TIME_MAX, saying).await;
    }
    let closing = async { tokio::join!(to_client.shutdown(), to_provider.shutdown()) };
    let _ = timeout(WEBSOCKET_CLOSE_TIME_MAX, closing).await;
    ended
}

async fn pass_up(mut client: FrameSource<Reader>, provider: &mut Writer) -> Result<(), Broken> {
    loop {
        let frame = client.next().await.map_err(|error| match error {
            WireError::Gone => Broken::ClientLeft,
            WireError::Malformed(error) => Broken::Client(error),
            WireError::Screened(found) => Broken::Screened(found),
            WireError::TooMuch(too_much) => Broken::TooMuch(too_much),
        })?;
        send_to_provider(provider, &frame).await.map_err(|_| Broken::ProviderLeft)?;
        if frame.opcode == Opcode::Close {
            return Ok(());
        }
    }
}

async fn pass_down(mut provider: FrameSource<Reader>, client: &mut Writer) -> Result<(), Broken> {
    loop {
        let frame = provider.next().await.map_err(|error| match error {
            WireError::Gone => Broken::ProviderLeft,
            WireError::Malformed(error) => Broken::Provider(error),
            WireError::Screened(found) => Broken::Screened(found),
            WireError::TooMuch(too_much) => Broken::TooMuch(too_much),
        })?;
        send_to_client(client, &frame).await.map_err(|_| Broken::ClientLeft)?;
        if frame.opcode == Opcode::Close {
            return Ok(());
        }
    }
}
