//! What gates dropped, in the log: the kernel reports some of it (rate-limited per gate) and counts all of it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use egress_common::DropEvent;
use tracing::{info, warn};

use crate::domain::with_causes;
use crate::kernel::Enforcer;

/// How often the kernel is asked. The ring buffer holds what a thousand gates may report meanwhile.
const POLL_EVERY: Duration = Duration::from_millis(250);
/// Events taken at once.
const EVENTS_MAX: usize = 1024;

/// Writes them down until the future is dropped.
pub(super) async fn log_drops(enforcer: Arc<dyn Enforcer>) {
    let mut tick = tokio::time::interval(POLL_EVERY);
    let mut is_failing = false;
    loop {
        tick.tick().await;
        match enforcer.drop_events(EVENTS_MAX) {
            Ok(events) => {
                is_failing = false;
                events.iter().for_each(log);
            }
            Err(error) if !is_failing => {
                is_failing = true;
                warn!(error = with_causes(&error), "drops are counted but cannot be reported");
            }
            Err(_) => {}
        }
    }
}

fn log(event: &DropEvent) {
    let (source, destination) = (Ipv4Addr::from(event.source), Ipv4Addr::from(event.destination));
    info!(
        bottle = event.bottle_id,
        interface = event.ifindex,
        direction = ?event.direction,
        reason = ?event.outcome,
        %source,
        %destination,
        port = event.destination_port,
        protocol = event.protocol,
        ether_type = format_args!("{:#06x}", event.ether_type),
        bytes = event.length,
        "dropped"
    );
}
