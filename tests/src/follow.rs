//! A front-end that follows one of the daemon's streams of events, and keeps what it hears.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use egress_userspace::control::Client;
use serde::de::DeserializeOwned;

use crate::world::{PATIENCE, World, until};

/// One that follows, on a thread of its own.
#[derive(Debug)]
pub struct Follower<T> {
    heard: Arc<Mutex<Vec<T>>>,
    next: usize,
    reader: JoinHandle<Result<()>>,
}

impl<T: DeserializeOwned + Clone + std::fmt::Debug + Send + 'static> Follower<T> {
    /// Follows this path.
    #[must_use]
    pub fn of(world: &World, path: &str) -> Self {
        let heard = Arc::<Mutex<Vec<T>>>::default();
        let (events, client, path) = (Arc::clone(&heard), Client::new(&world.names.run), path.to_owned());
        let reader = thread::spawn(move || {
            tokio::runtime::Runtime::new()?.block_on(async {
                let mut stream = client.listen(&path).await?;
                // A daemon that is killed breaks the stream.
                while let Ok(Some(event)) = stream.next().await {
                    events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                }
                Ok(())
            })
        });
        Self { heard, next: 0, reader }
    }

    /// Everything it has heard.
    #[must_use]
    pub fn heard(&self) -> Vec<T> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next event that is one of these; those before it are passed over.
    pub fn until<F>(&mut self, what: &str, is_it: impl Fn(&T) -> Option<F>) -> Result<F> {
        let mut found = None;
        let looked = until(what, PATIENCE, || {
            let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let mut rest = heard.iter().enumerate().skip(self.next);
            found = rest.find_map(|(place, event)| Some((place, is_it(event)?)));
            Ok(found.is_some())
        });
        looked.with_context(|| format!("heard since: {:#?}", self.heard().get(self.next..)))?;
        let (place, found) = found.context("nothing")?;
        self.next = place + 1;
        Ok(found)
    }

    /// Waits until the daemon has closed the stream.
    pub fn end(self) -> Result<()> {
        until("the stream ends", PATIENCE, || Ok(self.reader.is_finished()))?;
        self.reader.join().map_err(|_| anyhow::anyhow!("the follower panicked"))?
    }
}
