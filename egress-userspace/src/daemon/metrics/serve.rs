//! The port for metrics: open where settings name one, moved or closed when they do so no longer.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::net::TcpListener;
use tracing::{error, info};

use crate::control::{bind_scrapes, serve_scrapes};
use crate::metrics::CONTENT_TYPE;

use super::super::api::Desk;

/// Between two attempts to have a port that is taken.
const BIND_RETRY_EVERY: Duration = Duration::from_secs(5);

/// Serves until the future is dropped, on whatever settings say.
pub(in crate::daemon) async fn serve(desk: Desk) {
    let in_force = &desk.launcher.in_force;
    let mut changed = in_force.changed();
    loop {
        let address = in_force.metrics();
        let mut serving = pin!(serve_on(&desk, address));
        while in_force.metrics() == address {
            tokio::select! {
                () = &mut serving => {}
                // Never without a sender, which the desk holds.
                _ = changed.changed() => {}
            }
        }
    }
}

async fn serve_on(desk: &Desk, address: Option<SocketAddr>) {
    let Some(address) = address else { return std::future::pending().await };
    let listener = bind(address).await;
    info!(%address, "metrics are served");
    let desk = desk.clone();
    let text = move || {
        let desk = desk.clone();
        async move { desk.metrics().await }
    };
    serve_scrapes(listener, CONTENT_TYPE, text).await;
}

/// However long it takes: metrics are no reason to stop.
async fn bind(address: SocketAddr) -> TcpListener {
    let mut is_told = false;
    loop {
        match bind_scrapes(address).await {
            Ok(listener) => return listener,
            Err(error) if !is_told => {
                is_told = true;
                error!(%address, %error, "the port for metrics cannot be listened on: it is tried again until it can");
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_RETRY_EVERY).await;
    }
}
