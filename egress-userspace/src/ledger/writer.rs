//! The one writer: whoever holds the desk has the write connection, and commits what has gathered in one transaction.
//!
//! A thread of its own does what comes through the queue. Whoever may block can take the desk itself
//! ([`super::Ledger::write_together`]), which saves two changes of thread per request.
//!
//! Each command runs in a savepoint, so one that fails does not spoil its neighbours. Nobody is answered before the
//! commit; when it fails, nothing was kept and every command of the batch is told so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::book::Book;
use super::error::{Fault, LedgerError, again};
use super::live::{FOLLOWED_NEWS_MAX, RequestNews};
use super::{Clock, Terms};
use crate::domain::{Distribution, PermitId, Rules, Scale, UnixMillis};

/// Most commands in one transaction.
const BATCH_COMMANDS_MAX: usize = 512;
/// Most commands that wait for the writer before callers wait for room.
pub(super) const QUEUE_COMMANDS_MAX: usize = 4096;

/// A command; run inside the transaction, it returns its answer, to be given once the commit has succeeded or failed.
pub(super) type Job = Box<dyn FnOnce(&mut Desk) -> Answer + Send>;
/// Gives a command's caller what it is waiting for.
type Answer = Box<dyn FnOnce(Result<(), &rusqlite::Error>)>;

/// Everything a command works with.
pub(super) struct Desk {
    pub(super) connection: Connection,
    pub(super) book: Book,
    pub(super) rules: Arc<Rules>,
    /// Which boot of the host this is.
    pub(super) boot: String,
    /// The time of this transaction.
    pub(super) now: UnixMillis,
    /// This transaction holds an audit row.
    pub(super) is_audited: bool,
    /// Rung when one has been committed.
    pub(super) audited: watch::Sender<()>,
    /// How long batches took. Locked once for each, and to be looked at.
    pub(super) commits: Arc<Mutex<Distribution>>,
    /// What is to be told of requests when this transaction has been committed.
    pub(super) news: Vec<RequestNews>,
    /// Whom it is told.
    pub(super) followers: broadcast::Sender<RequestNews>,
    clock: Clock,
    next_permit: i64,
    /// Why the transaction can no longer be committed.
    spoilt: Option<rusqlite::Error>,
    /// The write-ahead log is to be copied into the database first: the last transaction was not committed, or an earlier
    /// process left it as it was.
    wants_checkpoint: bool,
}

impl Desk {
    pub(super) fn new(connection: Connection, terms: Terms) -> rusqlite::Result<Self> {
        let next_permit = connection.query_row(
            "SELECT 1 + max(ifnull((SELECT max(permit) FROM reservation), 0), ifnull((SELECT max(permit) FROM usage), 0))",
            [],
            |row| row.get(0),
        )?;
        Ok(Self {
            connection,
            book: Book::default(),
            rules: Arc::new(terms.rules),
            boot: terms.boot,
            now: (terms.clock)(),
            is_audited: false,
            audited: watch::Sender::new(()),
            commits: Arc::new(Mutex::new(Distribution::new(Scale::Local))),
            news: Vec::new(),
            followers: broadcast::Sender::new(FOLLOWED_NEWS_MAX),
            clock: terms.clock,
            next_permit,
            spoilt: None,
            wants_checkpoint: true,
        })
    }

    /// A number no reservation has had. Numbers of transactions that were not committed are skipped.
    pub(super) fn take_permit(&mut self) -> PermitId {
        let permit = PermitId(self.next_permit);
        self.next_permit = self.next_permit.saturating_add(1);
        permit
    }

    /// Does these in one transaction; every one is answered when this returns.
    pub(super) fn run_batch(&mut self, jobs: impl Iterator<Item = Job>) {
        self.now = (self.clock)();
        let start = Instant::now();
        if std::mem::take(&mut self.wants_checkpoint) {
            // On a full disk the write-ahead log may be what fills it: once copied into the database, its room is used
            // again. Tried here because by now there may be the little space that takes; if not, COMMIT says so.
            self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).ok();
        }
        self.spoilt = self.execute("BEGIN IMMEDIATE").err();
        let answers: Vec<Answer> = jobs.map(|job| job(self)).collect();
        let outcome = self.commit();
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).record_time(start.elapsed());
        if std::mem::take(&mut self.is_audited) && outcome.is_ok() {
            self.audited.send_replace(());
        }
        self.publish(outcome.is_ok());
        tracing::debug!(commands = answers.len(), "committed");
        for answer in answers {
            answer(outcome.as_ref().copied());
        }
    }

    fn commit(&mut self) -> Result<(), rusqlite::Error> {
        let outcome = match self.spoilt.take() {
            Some(error) => Err(error),
            None => self.book.write(&self.connection).and_then(|()| self.execute("COMMIT")),
        };
        if outcome.is_err() {
            self.abandon();
        }
        outcome
    }

    /// Leaves the failed transaction. What its clean-up says is of no use: if it fails, so does the next BEGIN or COMMIT.
    fn abandon(&mut self) {
        self.book.forget();
        if !self.connection.is_autocommit() {
            self.execute("ROLLBACK").ok();
        }
        self.wants_checkpoint = true;
    }

    fn in_savepoint<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if let Some(error) = &self.spoilt {
            return Err(Fault::Sql(again(error)));
        }
        self.execute("SAVEPOINT command")?;
        let told = self.news.len();
        let outcome = work(self);
        let closed = match &outcome {
            Ok(_) => {
                self.book.keep();
                self.execute("RELEASE command")
            }
            // SQLite itself rolls everything back on some failures; there is no savepoint to return to then.
            Err(Fault::Sql(error)) if self.connection.is_autocommit() => Err(again(error)),
            Err(_) => {
                self.book.take_back();
                self.execute("ROLLBACK TO command").and_then(|()| self.execute("RELEASE command"))
            }
        };
        if outcome.is_err() {
            self.news.truncate(told);
        }
        self.spoilt = closed.err();
        outcome
    }

    fn execute(&self, statement: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(statement)?.execute([]).map(drop)
    }
}

/// Does everything that is queued, until every handle is gone.
pub(super) fn serve(desk: &Mutex<Desk>, mut queue: mpsc::Receiver<Job>) {
    let mut jobs = Vec::new();
    while queue.blocking_recv_many(&mut jobs, BATCH_COMMANDS_MAX) > 0 {
        take(desk).run_batch(jobs.drain(..));
    }
}

/// The desk for one batch. What a panic left open there, the next BEGIN finds and rolls back.
pub(super) fn take(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command and where its answer will arrive.
pub(super) fn job<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce(&mut Desk) -> Result<T, Fault> + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, LedgerError>>) {
    let (reply, answer) = oneshot::channel();
    let job: Job = Box::new(move |desk| {
        let outcome = desk.in_savepoint(work);
        Box::new(move |committed| {
            let outcome = match committed {
                Ok(()) => outcome.map_err(|fault| fault.while_trying_to(action)),
                Err(error) => Err(LedgerError::Transaction { action, source: again(error) }),
            };
            // A caller that has gone away no longer wants to know; what it asked for is done.
            reply.send(outcome).ok();
        })
    });
    (job, answer)
}
