//! The daemon's feed.

use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

use crate::control::{Client, ClientError, LIVE_SILENCE_MAX, LiveEvent};
use crate::domain::with_causes;

use super::update::Event;

/// A daemon that says nothing for so long hangs.
const SILENCE_MAX: Duration = LIVE_SILENCE_MAX.saturating_mul(3);

/// How a feed ends.
enum End {
    Closed,
    Silent,
}

/// Tells what the daemon tells, after a while, until it tells nothing any more; then why.
pub(super) async fn follow(client: Client, wait: Duration, events: Sender<Event>) {
    tokio::time::sleep(wait).await;
    let why = match listen(&client, &events).await {
        Ok(End::Closed) => "it closed the connection".to_owned(),
        Ok(End::Silent) => format!("it has said nothing for {} seconds", SILENCE_MAX.as_secs()),
        Err(error) => with_causes(&error),
    };
    // Nobody hears it when the dashboard has ended.
    let _ = events.send(Event::Lost(why)).await;
}

async fn listen(client: &Client, events: &Sender<Event>) -> Result<End, ClientError> {
    let Ok(feed) = timeout(SILENCE_MAX, client.listen::<LiveEvent>("live")).await else { return Ok(End::Silent) };
    let mut feed = feed?;
    loop {
        let Ok(event) = timeout(SILENCE_MAX, feed.next()).await else { return Ok(End::Silent) };
        let Some(event) = event? else { return Ok(End::Closed) };
        if events.send(Event::Live(Box::new(event))).await.is_err() {
            return Ok(End::Closed);
        }
    }
}
