//! The daemon's feed.

use std::time::Duration;

use tokio::sync::mpsc::Sender;

use crate::control::{Client, ClientError, LiveEvent};
use crate::domain::with_causes;

use super::update::Event;

/// Tells what the daemon tells, after a while, until it tells nothing any more; then why.
pub(super) async fn follow(client: Client, wait: Duration, events: Sender<Event>) {
    tokio::time::sleep(wait).await;
    let why = match listen(&client, &events).await {
        Ok(()) => "it closed the connection".to_owned(),
        Err(error) => with_causes(&error),
    };
    // Nobody hears it when the dashboard has ended.
    let _ = events.send(Event::Lost(why)).await;
}

async fn listen(client: &Client, events: &Sender<Event>) -> Result<(), ClientError> {
    let mut feed = client.listen::<LiveEvent>("live").await?;
    while let Some(event) = feed.next().await? {
        if events.send(Event::Live(Box::new(event))).await.is_err() {
            break;
        }
    }
    Ok(())
}
