//! A client of OpenAI's Responses over one WebSocket, as Codex is. Runs inside a bottle.
//!
//! Prints what it hears: each event as a line of JSON, or `{"refused":STATUS,"body":…}` when there is no socket, and at the
//! end `{"closed":true}` when the other side has ended it.
#![expect(clippy::print_stdout, reason = "the events are this program's output")]

use std::net::ToSocketAddrs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use harness::socket::{Opened, Socket, is_last};
use serde_json::json;

const HOST: &str = "api.openai.com";

/// Responses over one socket.
#[derive(Parser)]
struct Arguments {
    /// The models, each asked once when the one before has answered.
    models: Vec<String>,
    /// All are asked at once, each on a lane of its own.
    #[arg(long)]
    lanes: bool,
    /// Leaves without a word after so many events.
    #[arg(long)]
    leave_after: Option<usize>,
    /// Its name in the provider's log.
    #[arg(long, default_value = "web")]
    name: String,
    /// PEM of what is trusted.
    #[arg(long, env = "SSL_CERT_FILE")]
    ca: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let address = (HOST, 443).to_socket_addrs()?.next().context("the name has no address")?;
    let headers = [("authorization", "Bearer sk-test"), ("x-test-bottle", arguments.name.as_str())];
    let mut socket = match Socket::open(address, HOST, &arguments.ca, &headers).await? {
        Opened::Socket(socket) => socket,
        Opened::Refused(status, body) => {
            println!("{}", json!({"refused": status, "body": body}));
            return Ok(());
        }
    };
    let mut heard = 0;
    let at_once = if arguments.lanes { arguments.models.len().max(1) } else { 1 };
    for models in arguments.models.chunks(at_once) {
        for (number, model) in models.iter().enumerate() {
            let lane = format!("lane-{number}");
            socket.create(model, arguments.lanes.then_some(lane.as_str())).await?;
        }
        // What the provider is asked to send without being asked.
        let successors = models.iter().filter(|model| model.contains("successor")).count();
        let mut unanswered = models.len() + successors;
        while unanswered > 0 {
            let Some(event) = socket.event().await else {
                println!("{}", json!({"closed": true}));
                return Ok(());
            };
            println!("{event}");
            heard += 1;
            if arguments.leave_after == Some(heard) {
                return Ok(());
            }
            unanswered -= usize::from(is_last(&event));
        }
    }
    socket.close().await;
    Ok(())
}
