//! The provider of a world: in this process, on a thread that is in the world's namespace.

use std::fs::File;
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use crate::netns::NetNs;
use crate::provider::{HOSTS, Options, Provider};

/// Servers that only settings can name.
const OWN_HOSTS: &str = "*.corp.example";

/// Serves until it is dropped.
pub(super) struct Background {
    pub(super) provider: Provider,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Background {
    pub(super) fn start(host: &NetNs) -> Result<Self> {
        let namespace = File::open(host.path())?;
        let (stop, stopped) = oneshot::channel();
        let (sender, started) = mpsc::channel();
        let serve = move || -> Result<()> {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let names = HOSTS.into_iter().chain([OWN_HOSTS]).map(str::to_owned).collect();
                let options = Options { names, ..Options::default() };
                let _unwanted = sender.send(Provider::start_with(([127, 0, 0, 1], 9443).into(), options).await);
                // Ends with an error when the world is dropped: that is what it waits for.
                let _ = stopped.await;
            });
            Ok(())
        };
        let thread = std::thread::Builder::new().name("provider".to_owned()).spawn(serve)?;
        let provider = started.recv().context("the provider's thread ended")??;
        Ok(Self { provider, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It fails only by panicking, which has been printed.
            let _ = thread.join();
        }
    }
}
