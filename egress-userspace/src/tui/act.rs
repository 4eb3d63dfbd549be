//! Does what was decided: asks the daemon, each in a task of its own, so that nothing keeps the screen.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::mpsc::Sender;

use crate::control::{
    AuditReply, BottleRoutesReply, BudgetChangeRequest, BudgetsReply, Client, ClientError, DecideReply, GateReply,
    KernelReply, StopReply, UsageReply,
};
use crate::domain::{BottleName, CutCause, GateView, Stop, Tokens, with_causes};

use super::state::{Fetched, GrantTarget, ROWS_MAX, Section};
use super::update::{Action, Event, Job};
use super::{environment, feed};

/// Settled requests that burn rates begin with.
const HISTORY_ROWS: usize = 1_000;
/// A resumed bottle that has not ended after this long runs.
const RESUMED_AFTER: Duration = Duration::from_millis(1_500);
/// Of what a failed `egress resume` said, so much is looked at, in bytes.
const LAST_WORDS_BYTES: usize = 4_096;

/// See the module.
pub(super) struct Hands {
    client: Client,
    run_directory: PathBuf,
    events: Sender<Event>,
}

impl Hands {
    pub(super) fn new(client: Client, run_directory: &Path, events: Sender<Event>) -> Self {
        Self { client, run_directory: run_directory.to_owned(), events }
    }

    /// Begins an action; its end is an event.
    pub(super) fn begin(&self, action: Action) {
        let (client, events) = (self.client.clone(), self.events.clone());
        match action {
            // The terminal's, not the daemon's.
            Action::Quit | Action::Redraw => {}
            Action::Connect(wait_ms) => {
                let wait = Duration::from_millis(wait_ms.unsigned_abs());
                tokio::spawn(feed::follow(client, wait, events));
            }
            Action::History => {
                tokio::spawn(async move {
                    // Without it rates begin now.
                    if let Ok(reply) = client.get::<UsageReply>(&format!("usage?last={HISTORY_ROWS}")).await {
                        let _ = events.send(Event::History(reply.rows)).await;
                    }
                });
            }
            Action::Fetch(bottle, section) => {
                tokio::spawn(async move {
                    let outcome = fetch(&client, &bottle, section).await.map_err(|error| with_causes(&error));
                    let _ = events.send(Event::Fetched { bottle, section, outcome }).await;
                });
            }
            Action::Begin(number, job) => {
                let run_directory = self.run_directory.clone();
                tokio::spawn(async move {
                    let outcome = perform(&client, &run_directory, job).await;
                    let _ = events.send(Event::Done(number, outcome)).await;
                });
            }
        }
    }
}

async fn fetch(client: &Client, bottle: &BottleName, section: Section) -> Result<Fetched, ClientError> {
    match section {
        Section::Requests | Section::Scopes => {
            let reply: UsageReply = client.get(&format!("usage?bottle={bottle}&last={ROWS_MAX}")).await?;
            Ok(Fetched::Requests(reply.rows))
        }
        Section::Routes => {
            let reply: BottleRoutesReply = client.get(&format!("bottles/{bottle}/routes")).await?;
            Ok(Fetched::Routes(reply.routes))
        }
        Section::Counters => {
            let reply: KernelReply = client.get(&format!("audit/kernel?bottle={bottle}")).await?;
            Ok(Fetched::Counters(Box::new(reply)))
        }
        Section::Audit => {
            let reply: AuditReply = client.get(&format!("audit?bottle={bottle}&last={ROWS_MAX}")).await?;
            Ok(Fetched::Audit(reply.rows))
        }
    }
}

/// What it came to, in words.
async fn perform(client: &Client, run_directory: &Path, job: Job) -> Result<String, String> {
    let answer = match job {
        Job::Resume(bottle) => return resume(run_directory, &bottle).await,
        Job::Cut(bottle) => client.post(&format!("bottles/{bottle}/cut"), &()).await.map(|reply| gate_words(&reply)),
        Job::Restore(bottle) => {
            client.post(&format!("bottles/{bottle}/restore"), &()).await.map(|reply| gate_words(&reply))
        }
        Job::Stop(bottle, stop) => {
            let path = format!("bottles/{bottle}/{}", stop.as_str());
            client.post(&path, &()).await.map(|reply| stop_words(&reply))
        }
        Job::Grant(target, tokens) => {
            let GrantTarget { provider, scope } = target.clone();
            let request = BudgetChangeRequest::Grant { scope, provider, tokens, ttl_seconds: None };
            client.post("budgets", &request).await.map(|reply| grant_words(&reply, &target, tokens))
        }
        Job::Decide { id, is_approved, request } => {
            let verb = if is_approved { "approve" } else { "deny" };
            let path = format!("approvals/{id}/{verb}");
            client.post(&path, &request).await.map(|reply| decided_words(&reply, is_approved))
        }
    };
    answer.map_err(|error| with_causes(&error))
}

fn gate_words(GateReply { name, gate, was_already, note }: &GateReply) -> String {
    let already = if *was_already { "already " } else { "" };
    let gate = match gate {
        GateView::Open => "open",
        GateView::Cut(CutCause::Budget) => "cut (budget)",
        GateView::Cut(CutCause::Operator) => "cut (operator)",
    };
    with_note(format!("{name} is {already}{gate}"), note.as_deref())
}

fn stop_words(StopReply { name, stop, was_already, note }: &StopReply) -> String {
    let already = if *was_already { "already " } else { "" };
    let said = match stop {
        Stop::Freeze => format!("{name} is {already}frozen: u resumes it"),
        Stop::Kill => format!("{name} is {already}gone: nothing of it runs, its files are removed"),
    };
    with_note(said, note.as_deref())
}

fn grant_words(reply: &BudgetsReply, target: &GrantTarget, tokens: Tokens) -> String {
    let limit = reply.scopes.iter().find(|view| view.provider == target.provider).and_then(|view| view.state.limit);
    let limit = limit.map(|limit| format!(", {limit} in all")).unwrap_or_default();
    format!("{tokens} tokens more for {target}{limit}")
}

fn decided_words(DecideReply { approval, also }: &DecideReply, is_approved: bool) -> String {
    let done = if is_approved { "approved" } else { "denied" };
    let always = if approval.is_always { ", and the same value from now on" } else { "" };
    let others = if also.is_empty() { String::new() } else { format!("; with it {} more", also.len()) };
    format!("question {} of {} is {done}{always}{others}", approval.id, approval.bottle)
}

fn with_note(said: String, note: Option<&str>) -> String {
    match note {
        Some(note) => format!("{said}; {note}"),
        None => said,
    }
}

/// Starts `egress resume`, whose connection has to live as long as the run: a process of its own, which goes on when the
/// dashboard ends, and which keys pressed here do not reach.
async fn resume(run_directory: &Path, bottle: &BottleName) -> Result<String, String> {
    let (path, log) =
        log_of(bottle).map_err(|error| format!("there is nowhere to write the output of {bottle}: {error}"))?;
    let failed = |error: std::io::Error| format!("{bottle} was not resumed: {error}");
    // This program, also when an upgrade has put another one in its place.
    let mut command = Command::new("/proc/self/exe");
    command.arg("--run-dir").arg(run_directory).arg("resume").arg(bottle.as_str());
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log).process_group(0);
    let mut child = command.spawn().map_err(failed)?;
    match tokio::time::timeout(RESUMED_AFTER, child.wait()).await {
        Err(_) => Ok(format!("{bottle} is resumed, its output goes to {}", path.display())),
        Ok(Ok(status)) if status.success() => Ok(format!("{bottle} was resumed and has ended; see {}", path.display())),
        Ok(Ok(status)) => {
            let said = last_words(&path).unwrap_or_else(|| format!("{status}; see {}", path.display()));
            Err(format!("{bottle} does not run: {said}"))
        }
        Ok(Err(error)) => Err(failed(error)),
    }
}

/// A file for the output of one bottle, which others cannot read; what earlier runs wrote stays in it.
fn log_of(bottle: &BottleName) -> std::io::Result<(PathBuf, File)> {
    let directory = environment::log_directory().ok_or(std::io::ErrorKind::NotFound)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let path = directory.join(format!("{bottle}.log"));
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
    Ok((path, file))
}

fn last_words(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let tail = bytes.get(bytes.len().saturating_sub(LAST_WORDS_BYTES)..)?;
    let text = String::from_utf8_lossy(tail);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim_start_matches("egress: ").to_owned())
}
