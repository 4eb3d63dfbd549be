//! `egress container-front`: the process on the host that stands for a container.
//!
//! It carries the streams of the caller of `egress run`, passes signals on and ends when the container is over, with its exit
//! code. It outlives the daemon, as the supervisor of a native bottle does, and is found again in the same way.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::setsid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::engine::{AttachContainerResults, Engine, LogOutput, Seen};
use crate::bottle::native::{cgroup, raw, record::Record};
use crate::signals;

/// The hidden subcommand.
pub(super) const SUBCOMMAND: &str = "container-front";
/// The container could not be started.
const NOT_STARTED: i32 = 125;
/// What a container that was removed is taken to have ended with: 128 + SIGKILL.
const REMOVED: i32 = 137;
/// How long a container that somebody stopped may take to be started again: `docker restart` does both.
const RESTART_MAX: Duration = Duration::from_secs(3);
/// How long the engine may be away before a command is given up.
const ENGINE_AWAY_MAX: Duration = Duration::from_secs(120);
/// Attached containers are asked for this often.
const ATTACHED_EVERY: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long the last output may take to be written.
const DRAIN_MAX: Duration = Duration::from_secs(5);
const COPY_BYTES: usize = 16 * 1024;

/// What it is told. Nothing of it is secret.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) socket: PathBuf,
    pub(super) container: String,
    pub(super) group: PathBuf,
    pub(super) record: PathBuf,
    pub(super) has_terminal: bool,
    /// It ran before we came: it is followed until it is removed, over any number of starts.
    pub(super) is_attached: bool,
}

/// Runs what follows `container-front` on the command line.
#[must_use]
pub fn container_front_main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let task = arguments.next().and_then(|text| serde_json::from_str(text.to_str()?).ok());
    let task: io::Result<Task> = task.ok_or_else(|| io::ErrorKind::InvalidInput.into());
    let code = task.and_then(|task| stand_for(&task)).unwrap_or_else(|error| {
        // Without a standard error there is nobody to tell.
        let _unheard = writeln!(io::stderr(), "egress: the container could not be followed: {error}");
        NOT_STARTED
    });
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn stand_for(task: &Task) -> io::Result<i32> {
    cgroup::join(&task.group)?;
    let mut record = Record::begin(&task.record)?;
    if task.has_terminal {
        // The container's own terminal does what a terminal does; this one carries bytes.
        setsid()?;
        raw::take_terminal(io::stdin().as_fd())?;
        let mut plain = tcgetattr(io::stdin())?;
        cfmakeraw(&mut plain);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &plain)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(attend(task));
    // A read of the standard input cannot be cancelled; it must not keep the process.
    runtime.shutdown_background();
    record.end(*code.as_ref().unwrap_or(&NOT_STARTED))?;
    code
}

async fn attend(task: &Task) -> io::Result<i32> {
    // Before there is a container, so that no signal comes too early to be passed on.
    let mut signals = signals::forwarded()?;
    let engine = Engine::connect(&task.socket).await?;
    let is_ours = Arc::new(AtomicBool::new(false));
    let mut end: JoinHandle<io::Result<i32>> = if task.is_attached {
        tokio::spawn(until_removed(task.socket.clone(), task.container.clone()))
    } else {
        let streams = engine.streams(&task.container, true).await?;
        let output = carry(streams, true);
        engine.start(&task.container).await?;
        let followed = Followed {
            socket: task.socket.clone(),
            container: task.container.clone(),
            has_terminal: task.has_terminal,
            is_ours: Arc::clone(&is_ours),
        };
        tokio::spawn(followed.until_over(output))
    };
    loop {
        tokio::select! {
            ended = &mut end => return ended.map_err(io::Error::other)?,
            Some(number) = signals.recv() => {
                if number == signals::WINDOW_CHANGED {
                    resize(&engine, &task.container).await;
                    continue;
                }
                is_ours.store(true, Ordering::Relaxed);
                // It may just have ended.
                let _gone = engine.signal(&task.container, number).await;
            }
        }
    }
}

async fn until_removed(socket: PathBuf, container: String) -> io::Result<i32> {
    let mut code = REMOVED;
    loop {
        let found = match Engine::connect(&socket).await {
            Ok(engine) => engine.find(&container).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(None) => return Ok(code),
            Ok(Some(seen)) => {
                code = if seen.pid.is_none() { seen.exit_code } else { REMOVED };
                sleep(ATTACHED_EVERY).await;
            }
            // The engine is away; its containers are not gone by that.
            Err(_) => sleep(LOOK_AGAIN).await,
        }
    }
}

/// A container that was started for somebody.
struct Followed {
    socket: PathBuf,
    container: String,
    has_terminal: bool,
    /// A signal that may end it was passed on from here.
    is_ours: Arc<AtomicBool>,
}

impl Followed {
    /// Waits for its end, and for the end of its output. One that is started again goes on.
    async fn until_over(self, mut output: JoinHandle<()>) -> io::Result<i32> {
        let engine = Engine::connect(&self.socket).await?;
        if self.has_terminal {
            resize(&engine, &self.container).await;
        }
        let is_stopped = Arc::new(AtomicBool::new(false));
        let mut started = engine.look(&self.container).await?.started;
        loop {
            let watch = watch_for_stop(&engine, &self.container, Arc::clone(&is_stopped));
            let seen = tokio::select! {
                seen = self.until_ended(&engine) => seen?,
                () = watch => continue,
            };
            if seen.as_ref().is_some_and(|seen| seen.pid.is_some() && seen.started == started) {
                continue;
            }
            let may_start_again = is_stopped.swap(false, Ordering::Relaxed) && !self.is_ours.load(Ordering::Relaxed);
            let Some(again) = self.started_again(&engine, seen.as_ref(), &started, may_start_again).await else {
                // What it wrote last is still on its way.
                let _late = timeout(DRAIN_MAX, &mut output).await;
                return Ok(seen.map_or(REMOVED, |seen| seen.exit_code));
            };
            started = again;
            output = carry(engine.streams(&self.container, false).await?, false);
        }
    }

    /// What it is when it does not run, or runs after another start; `None` when it is gone.
    async fn until_ended(&self, engine: &Engine) -> io::Result<Option<Seen>> {
        let mut deadline = None;
        loop {
            if engine.wait(&self.container, "not-running").await.is_ok()
                && let Ok(found) = engine.find(&self.container).await
            {
                return Ok(found);
            }
            // The engine is away. A container may live on without it.
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + ENGINE_AWAY_MAX);
            if Instant::now() > deadline {
                return Err(io::Error::other("the container engine has not come back"));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// When it was started after `before`, if it was or is just about to be.
    async fn started_again(&self, engine: &Engine, seen: Option<&Seen>, before: &str, may: bool) -> Option<String> {
        let mut seen = seen?.clone();
        let deadline = Instant::now() + if may { RESTART_MAX } else { Duration::ZERO };
        loop {
            if seen.pid.is_some() && seen.started != before {
                return Some(seen.started);
            }
            if Instant::now() >= deadline {
                return None;
            }
            sleep(LOOK_AGAIN / 10).await;
            seen = engine.find(&self.container).await.ok()??;
        }
    }
}

/// Notes that somebody has the engine stop the container. Returns when the engine says no more.
async fn watch_for_stop(engine: &Engine, container: &str, is_stopped: Arc<AtomicBool>) {
    let mut events = std::pin::pin!(engine.events(container));
    while let Some(Ok(event)) = events.next().await {
        if event.action.as_deref() == Some("kill") {
            is_stopped.store(true, Ordering::Relaxed);
        }
    }
    std::future::pending::<()>().await;
}

/// Carries bytes until the container's output ends.
fn carry(streams: AttachContainerResults, with_input: bool) -> JoinHandle<()> {
    let AttachContainerResults { mut output, mut input } = streams;
    if with_input {
        tokio::spawn(async move {
            let mut from = tokio::io::stdin();
            let mut buffer = vec![0; COPY_BYTES];
            while let Ok(count) = from.read(&mut buffer).await
                && count > 0
            {
                let bytes = buffer.get(..count).unwrap_or_default();
                if input.write_all(bytes).await.is_err() || input.flush().await.is_err() {
                    return;
                }
            }
            // It has ended meanwhile, or reads the end of its input.
            let _ = input.shutdown().await;
        });
    }
    tokio::spawn(async move {
        let (mut out, mut errors) = (tokio::io::stdout(), tokio::io::stderr());
        while let Some(Ok(piece)) = output.next().await {
            let written = match piece {
                LogOutput::StdErr { message } => write(&mut errors, &message).await,
                LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message } => {
                    write(&mut out, &message).await
                }
            };
            // Nobody reads any more: what follows is thrown away, so that the container is not held up.
            let _ = written;
        }
    })
}

async fn write(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// Tells the container's terminal how large the caller's is.
async fn resize(engine: &Engine, container: &str) {
    if let Ok(size) = rustix::termios::tcgetwinsize(io::stdin()) {
        // A size that cannot be set is no reason to end the command.
        let _ = engine.resize(container, (size.ws_col, size.ws_row)).await;
    }
}
