//! The signals of this process that are meant for the command it stands for, as numbers in the order in which they come.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// `SIGHUP`, `SIGINT`, `SIGQUIT`, `SIGUSR1`, `SIGUSR2` and `SIGTERM`.
const FORWARDED: [i32; 6] = [1, 2, 3, 10, 12, 15];
/// `SIGWINCH`
pub(crate) const WINDOW_CHANGED: i32 = 28;
/// Signals that may wait to be passed on.
const WAITING_MAX: usize = 16;

/// From here on they do what whoever receives them makes of them.
///
/// # Errors
/// When the system refuses.
pub(crate) fn forwarded() -> io::Result<mpsc::Receiver<i32>> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    for number in FORWARDED.into_iter().chain([WINDOW_CHANGED]) {
        let mut stream = signal(SignalKind::from_raw(number))?;
        let sender = sender.clone();
        tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(number).await.is_ok() {} });
    }
    Ok(receiver)
}
