//! The test provider as a process of its own: for network namespaces, the demo and benchmarks.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use harness::provider::{Options, Provider};
use tokio::signal::unix::{SignalKind, signal};

/// A provider on this machine that speaks the Anthropic API over TLS.
#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:9443")]
    listen: SocketAddr,
    /// Where to write the certificate of its authority.
    #[arg(long, value_name = "FILE")]
    ca_out: Option<PathBuf>,
    /// Where to log each exchange, as JSON lines.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// A name its certificate is for; may be repeated.
    #[arg(long = "name", value_name = "HOST")]
    names: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let options = Options { names: arguments.names, log_file: arguments.log, ..Options::default() };
    let provider = Provider::start_with(arguments.listen, options).await?;
    if let Some(path) = &arguments.ca_out {
        std::fs::write(path, &provider.ca_pem).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // Whoever started it waits for this line.
    writeln!(std::io::stdout(), "listening on {}", provider.address)?;
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    provider.stop().await;
    Ok(())
}
