//! `egress freeze` and `egress kill`: what is being done is shown until it is done.

use std::convert::Infallible;
use std::future::pending;

use anyhow::Result;

use crate::control::{Client, ClientError, Events, StopEvent, StopReply};
use crate::domain::{BottleName, Stop};

use super::progress::Progress;
use super::show;

pub(super) async fn run(client: &Client, bottle: &BottleName, stop: Stop, as_json: bool) -> Result<()> {
    let (action, doing) = match stop {
        Stop::Freeze => ("freeze", "freezing"),
        Stop::Kill => ("kill", "killing"),
    };
    let progress = Progress::of(format!("{doing} {bottle}"));
    // A bottle that there is not is complained of below.
    let steps = client.listen::<StopEvent>(&format!("bottles/{bottle}/stopping")).await.ok();
    let (path, told) = (format!("bottles/{bottle}/{action}"), tell(steps, &progress));
    let reply: Result<StopReply, ClientError> = tokio::select! {
        reply = client.post(&path, &()) => reply,
        never = told => match never {},
    };
    drop(progress);
    show::stop(&reply?, as_json)
}

/// Says each step as it begins; what comes after the last one is waited for.
async fn tell(steps: Option<Events<StopEvent>>, progress: &Progress) -> Infallible {
    let Some(mut steps) = steps else { return pending().await };
    while let Ok(Some(event)) = steps.next().await {
        if let Some(step) = event.step {
            progress.step(step.as_str());
        }
    }
    pending().await
}
