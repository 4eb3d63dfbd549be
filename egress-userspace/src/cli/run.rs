//! `egress run`: the caller's terminal, signals and exit code around a command in a bottle.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::control::{
    Client, ClientError, ErrorCode, ResumeRequest, RunEvent, RunEvents, RunRequest, SignalRequest, WaitRequest,
};
use crate::domain::{RuntimeKind, UnixMillis};
use crate::signals;

use super::arguments::{ResumeArguments, RunArguments};
use super::terminal::Streams;
use super::{learn, show};

/// How often a daemon that went away is looked for.
const RECONNECT_EVERY: Duration = Duration::from_millis(300);
/// How long; after that the command is given up. A daemon that restarts takes a second, a ledger that is put back some minutes.
const RECONNECT_FOR: Duration = Duration::from_secs(15 * 60);

/// What every bottle has of its own.
const OWN_TREES: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];

pub(super) async fn run(client: &Client, arguments: RunArguments) -> Result<ExitCode> {
    let mut streams = Streams::open()?;
    let (bottle, learns) = (arguments.bottle.clone(), arguments.learn);
    let path = format!("bottles/{bottle}");
    let request = request(arguments, &streams)?;
    let events = client.follow_with(&format!("{path}/run"), &request, streams.descriptors()).await?;
    let (ended, run) = attend(client, &path, &mut streams, events).await?;
    if let Some(run) = run.filter(|_| learns) {
        learn::print(client, &bottle, run).await?;
    }
    Ok(ended)
}

/// The same for a command that was frozen.
pub(super) async fn resume(client: &Client, arguments: ResumeArguments) -> Result<ExitCode> {
    let mut streams = Streams::open()?;
    let path = format!("bottles/{}", arguments.bottle);
    let budget = arguments.budget.into_iter().map(|amount| (amount.provider, amount.limit)).collect();
    let request = ResumeRequest { budget, has_terminal: streams.has_terminal() };
    let events = client.follow_with(&format!("{path}/resume"), &request, streams.descriptors()).await?;
    attend(client, &path, &mut streams, events).await.map(|(ended, _)| ended)
}

/// Carries streams and signals until the run is over. Also says when it started, if it did.
async fn attend(
    client: &Client,
    path: &str,
    streams: &mut Streams,
    mut events: RunEvents,
) -> Result<(ExitCode, Option<UnixMillis>)> {
    let mut signals = signals::forwarded()?;
    let mut wanted = WaitRequest { run: None };
    loop {
        tokio::select! {
            event = events.next() => match event {
                Ok(Some(RunEvent::Started { run, .. })) => {
                    wanted.run = Some(run);
                    streams.start()?;
                }
                Ok(Some(RunEvent::Exited { exit_code })) => {
                    // The last output is still being carried; the terminal ends when the bottle is taken down.
                    streams.finish();
                    return Ok((exit(exit_code), wanted.run));
                }
                Ok(Some(RunEvent::Stopped { exit_code, message, .. })) => {
                    streams.finish();
                    show::note(&message);
                    return Ok((exit(exit_code), wanted.run));
                }
                Ok(Some(RunEvent::Failed { error })) => return Err(ClientError::Refused(error).into()),
                Ok(None) | Err(_) => events = reconnect(client, path, wanted).await?,
            },
            Some(number) = signals.recv() => match number {
                signals::WINDOW_CHANGED => streams.resize(),
                signal => {
                    let _: Result<(), ClientError> = client.post(&format!("{path}/signal"), &SignalRequest { signal }).await;
                }
            },
        }
    }
}

fn request(arguments: RunArguments, streams: &Streams) -> Result<RunRequest> {
    let directory = std::env::current_dir().context("the current directory is gone: change to one that exists")?;
    let bytes = OsString::into_vec;
    let shared = arguments.share.iter().map(|directory| shared(directory).map(|path| bytes(path.into())));
    match (arguments.runtime, &arguments.image) {
        (Some(RuntimeKind::Docker), None) => bail!("--runtime docker needs an image: give --image"),
        (Some(RuntimeKind::Native), Some(_)) => {
            bail!("--image makes a docker bottle: leave out --image or --runtime native")
        }
        (None | Some(RuntimeKind::Docker), Some(_)) | (None | Some(RuntimeKind::Native), None) => {}
    }
    Ok(RunRequest {
        variables: arguments.env.iter().map(|variable| variable_of(variable)).collect::<Result<_>>()?,
        image: arguments.image,
        shared: shared.collect::<Result<_>>()?,
        agent: arguments.terms.agent,
        shutdown: arguments.terms.shutdown,
        budget: arguments.terms.budget.into_iter().map(|amount| (amount.provider, amount.limit)).collect(),
        extends: arguments.terms.extends,
        command: arguments.command.into_iter().map(bytes).collect(),
        environment: std::env::vars_os().map(|(name, value)| (bytes(name), bytes(value))).collect(),
        directory: directory.as_os_str().as_bytes().to_vec(),
        has_terminal: streams.has_terminal(),
    })
}

/// With its value here when none is said.
fn variable_of(text: &str) -> Result<String> {
    if text.contains('=') {
        return Ok(text.to_owned());
    }
    let value = std::env::var(text).with_context(|| format!("--env {text}: there is no such variable here"))?;
    Ok(format!("{text}={value}"))
}

/// A directory by its real path, which is the same inside.
fn shared(directory: &Path) -> Result<PathBuf> {
    let real = directory.canonicalize().with_context(|| format!("--share {}", directory.display()))?;
    ensure!(real.is_dir(), "--share {}: this is not a directory", directory.display());
    ensure!(
        real != Path::new("/"),
        "--share /: this is the whole host; name the directories that the command writes to"
    );
    let own = OWN_TREES.into_iter().find(|tree| real.starts_with(tree));
    ensure!(own.is_none(), "--share {}: a bottle has its own {}", directory.display(), own.unwrap_or_default());
    Ok(real)
}

/// The daemon went away; the bottle goes on without it (and without network). Waits for it to be back.
async fn reconnect(client: &Client, path: &str, wanted: WaitRequest) -> Result<RunEvents> {
    show::note("the egress daemon went away; the bottle has no network until it is back");
    let deadline = tokio::time::Instant::now() + RECONNECT_FOR;
    while tokio::time::Instant::now() < deadline {
        tokio::time::sleep(RECONNECT_EVERY).await;
        match client.follow(&format!("{path}/wait"), &wanted).await {
            Ok(events) => return Ok(events),
            Err(ClientError::Refused(error)) if error.code == ErrorCode::NotFound => {
                bail!("the bottle ended while the egress daemon was away: its exit code is not known")
            }
            Err(_) => {}
        }
    }
    bail!(
        "the egress daemon has not come back in {} minutes: the next one ends the bottle and keeps its files",
        RECONNECT_FOR.as_secs() / 60
    )
}

fn exit(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
