//! The handle everyone else has: commands go to the writer's queue, what decisions need is read by one connection, and reports,
//! which may take long, by another: nobody's cut waits for somebody's export.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::book::Book;
use super::chain::Walk;
use super::error::{Fault, LedgerError};
use super::exchange::Abandoned;
use super::live::RequestNews;
use super::writer::{self, Desk, Job, QUEUE_COMMANDS_MAX, job};
use super::{
    AddressPool, Admitted, AuditFilter, AuditPage, AuditTail, BottleRow, BudgetChange, Clock, Command, Done,
    GateChange, NewRun, Settled, Terms, UsageFilter, UsagePage, UsageSlice, UsageSums, audit, export, open, report,
};
use crate::domain::{
    AuditHash, AuditKind, BottleId, BottleName, Budget, BudgetView, ChainReport, CutCause, Distribution, Durability,
    Ending, GroupBy, Refusal, Rules, ScopeView, Settlement, SpendRequest, Stop, UsageRow, UsageSum, UsageTally,
};

/// Rows of the audit that are verified in one go: some milliseconds, for which other reports wait.
const VERIFIED_ROWS_MAX: u32 = 5_000;

/// The ledger of this host. Clones share one writer; it ends, and the files are free again, when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    /// `None` only while dropping.
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    /// For what decisions need. `None` only while dropping.
    reader: Option<Mutex<Connection>>,
    /// For reports. `None` only while dropping.
    reports: Option<Mutex<Connection>>,
    /// As the desk has them.
    rules: Mutex<Arc<Rules>>,
    pub(super) clock: Clock,
    pub(super) desk: Arc<Mutex<Desk>>,
    commits: Arc<Mutex<Distribution>>,
    audited: watch::Receiver<()>,
    pub(super) followers: broadcast::Sender<RequestNews>,
    /// Last, so that it outlives the writer.
    _lock: File,
}

impl Ledger {
    /// Opens the ledger, made where there is none, for this process alone. Reservations that an earlier process left open
    /// stay open until [`Ledger::settle_open`].
    ///
    /// # Errors
    /// When it is in use, written by a later version, or cannot be opened.
    pub fn open(path: &Path, terms: Terms) -> Result<Self, LedgerError> {
        let opened = open::open(path, (terms.clock)(), terms.durability)?;
        let failed = |source| LedgerError::Open { path: path.to_owned(), source };
        let (rules, clock) = (Mutex::new(Arc::new(terms.rules.clone())), Arc::clone(&terms.clock));
        let desk = Desk::new(opened.writer, terms).map_err(failed)?;
        let (audited, followers) = (desk.audited.subscribe(), desk.followers.clone());
        let commits = Arc::clone(&desk.commits);
        let desk = Arc::new(Mutex::new(desk));
        let serving = Arc::clone(&desk);
        let (queue, commands) = mpsc::channel(QUEUE_COMMANDS_MAX);
        let writer = thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer::serve(&serving, commands))
            .map_err(|source| LedgerError::File { path: path.to_owned(), source })?;
        let (reader, reports) = (Some(Mutex::new(opened.reader)), Some(Mutex::new(opened.reports)));
        let (queue, writer) = (Some(queue), Some(writer));
        let shared = Shared {
            queue,
            writer,
            reader,
            reports,
            rules,
            clock,
            desk,
            commits,
            audited,
            followers,
            _lock: opened.lock,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// May this request go? A permit says its tokens are set aside; a refusal says why not.
    ///
    /// # Errors
    /// When it could not be recorded: the request must not go.
    pub async fn admit(&self, request: SpendRequest) -> Result<Result<Admitted, Refusal>, LedgerError> {
        self.write("admit a request", move |desk| desk.admit(&request)).await
    }

    /// Replaces a reservation by what was used. Reports the governing budget's crossing at the settlement that crosses
    /// and at each one after it.
    ///
    /// # Errors
    /// [`LedgerError::NoReservation`] when it was settled before; otherwise it could not be recorded and is still open.
    pub async fn settle(&self, settlement: Settlement) -> Result<Settled, LedgerError> {
        self.write("settle a request", move |desk| desk.settle(&settlement)).await
    }

    /// Does these in one transaction, in this order, on the calling thread, which must be one that may block.
    #[must_use]
    pub fn write_together(&self, commands: Vec<Command>) -> Vec<Done> {
        let (jobs, answers): (Vec<Job>, Vec<Waiting>) = commands.into_iter().map(prepare).unzip();
        writer::take(&self.shared.desk).run_batch(jobs.into_iter());
        answers.into_iter().map(Waiting::done).collect()
    }

    /// Settles everything open as if all that was set aside had been used: nobody saw how it ended.
    ///
    /// # Errors
    /// When it could not be recorded; all are still open.
    pub async fn settle_open(&self, ending: Ending) -> Result<Vec<Settled>, LedgerError> {
        self.write("settle the open requests", move |desk| desk.settle_abandoned(Abandoned::All, ending)).await
    }

    /// The same for what nobody will settle any more: reservations that have expired, or were made on another boot.
    ///
    /// # Errors
    /// When it could not be recorded; all are still open.
    pub async fn settle_stale(&self) -> Result<Vec<Settled>, LedgerError> {
        let stale = Abandoned::Stale;
        self.write("settle what is stale", move |desk| desk.settle_abandoned(stale, Ending::TimedOut)).await
    }

    /// Waits until the writer has done all that was asked of it before; false when there is none.
    pub async fn answers(&self) -> bool {
        // On a full disk it says that it cannot write, which is an answer.
        !matches!(self.write("answer", |_| Ok(())).await, Err(LedgerError::Closed))
    }

    /// Decides by these rules from now on.
    ///
    /// # Errors
    /// When a running bottle would be its own ancestor; nothing has changed then.
    pub async fn set_rules(&self, rules: Rules) -> Result<(), LedgerError> {
        let rules = Arc::new(rules);
        let set = Arc::clone(&rules);
        self.write("take new rules", move |desk| desk.set_rules(set)).await?;
        *self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
        Ok(())
    }

    /// Makes commits so sure from now on.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn set_durability(&self, durability: Durability) -> Result<(), LedgerError> {
        let shared = Arc::clone(&self.shared);
        let setting = tokio::task::spawn_blocking(move || {
            // Between two transactions: inside one it cannot be changed.
            let desk = writer::take(&shared.desk);
            open::set_durability(&desk.connection, durability)
        });
        let failed = |source| LedgerError::Transaction { action: "change its durability", source };
        setting.await.map_err(|_| LedgerError::Closed)?.map_err(failed)
    }

    /// Changes budgets at run time, with its audit row. `by` is the operator's user id.
    ///
    /// # Errors
    /// When there is nothing to add to or to clear, or it could not be recorded.
    pub async fn change_budget(&self, change: BudgetChange, by: u32) -> Result<(), LedgerError> {
        self.write("change a budget", move |desk| desk.change_budget(&change, by)).await
    }

    /// Takes grants away whose time is over; tells how many there were.
    ///
    /// # Errors
    /// When it could not be recorded. They count no more all the same.
    pub async fn end_grants(&self) -> Result<usize, LedgerError> {
        self.write("end what was granted for a time", Desk::end_grants).await
    }

    /// Starts a run of a bottle, with an address of `pool`. Lifts a cut for a used-up budget when the budgets that
    /// govern this run are not used up.
    ///
    /// # Errors
    /// When it runs already, is still cut, no address is free, or it could not be recorded.
    pub async fn begin_run(&self, run: NewRun, pool: AddressPool) -> Result<BottleRow, LedgerError> {
        self.write("start a run", move |desk| desk.begin_run(&run, pool)).await
    }

    /// Ends a run: its address is free again, its gate stays as it is. Harmless when it has ended.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be recorded.
    pub async fn end_run(&self, bottle: BottleId, exit_code: i32) -> Result<(), LedgerError> {
        self.write("end a run", move |desk| desk.end_run(bottle, exit_code)).await
    }

    /// A bottle is about to be frozen or killed: whoever opens this ledger next finishes it.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be recorded.
    pub async fn begin_stop(&self, bottle: BottleId, stop: Stop) -> Result<(), LedgerError> {
        self.write("begin to stop a bottle", move |desk| desk.begin_stop(bottle, Some(stop))).await
    }

    /// What [`Self::begin_stop`] said has been taken back.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be recorded.
    pub async fn abandon_stop(&self, bottle: BottleId) -> Result<(), LedgerError> {
        self.write("go on with a bottle", move |desk| desk.begin_stop(bottle, None)).await
    }

    /// The files of an ended bottle are about to be removed: no run of it begins until [`Self::end_stop`].
    ///
    /// # Errors
    /// When there is no such bottle, it runs, or it could not be recorded.
    pub async fn begin_removal(&self, bottle: BottleId) -> Result<(), LedgerError> {
        self.write("begin to remove a bottle", move |desk| desk.begin_removal(bottle)).await
    }

    /// A bottle has been frozen or killed: its address is free again, its gate stays as it is.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be recorded.
    pub async fn end_stop(&self, bottle: BottleId, stop: Stop, cause: CutCause) -> Result<(), LedgerError> {
        self.write("stop a bottle", move |desk| desk.end_stop(bottle, stop, cause)).await
    }

    /// Starts the run of a frozen bottle again, with an address of `pool` and an open gate. Budgets given here replace those
    /// of the run for their providers.
    ///
    /// # Errors
    /// When it is not frozen, the budget that froze it is still used up, an operator cut it since, no address is free, or
    /// it could not be recorded.
    pub async fn resume_run(
        &self,
        name: BottleName,
        budget: Budget,
        pool: AddressPool,
    ) -> Result<BottleRow, LedgerError> {
        self.write("resume a run", move |desk| desk.resume_run(&name, &budget, pool)).await
    }

    /// Changes the desired state of a gate, with its audit row; returns whether it was cut or open already.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be recorded.
    pub async fn change_gate(&self, bottle: BottleId, change: GateChange) -> Result<bool, LedgerError> {
        self.write("change a gate", move |desk| desk.change_gate(bottle, change)).await
    }

    /// Cuts many at once: all of them are on record, or none.
    ///
    /// # Errors
    /// When one of them does not exist or the change could not be recorded.
    pub async fn cut_gates(&self, bottles: Vec<BottleId>, cause: CutCause) -> Result<(), LedgerError> {
        let cut = move |desk: &mut Desk| {
            bottles.iter().try_for_each(|bottle| desk.change_gate(*bottle, GateChange::Cut(cause)).map(drop))
        };
        self.write("cut gates", cut).await
    }

    /// Adds an audit row.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be recorded.
    pub async fn audit(&self, bottle: Option<BottleId>, kind: AuditKind) -> Result<(), LedgerError> {
        self.write("write the audit", move |desk| desk.audit(bottle, &kind)).await
    }

    /// Every bottle there has been, by name.
    ///
    /// # Errors
    /// When it could not be read.
    pub async fn bottles(&self) -> Result<Vec<BottleRow>, LedgerError> {
        self.read("read the bottles", |connection| Ok(report::bottles(connection)?)).await
    }

    /// One bottle.
    ///
    /// # Errors
    /// When there is none of that name or it could not be read.
    pub async fn bottle(&self, name: &BottleName) -> Result<BottleRow, LedgerError> {
        let name = name.clone();
        self.read("read a bottle", move |connection| named(connection, &name)).await
    }

    /// The newest settled exchanges, oldest first.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be read.
    pub async fn usage_rows(&self, filter: UsageFilter) -> Result<Vec<UsageRow>, LedgerError> {
        self.report("read the usage", move |connection| {
            let bottle = filter.bottle.as_ref().map(|name| named(connection, name)).transpose()?;
            Ok(report::usage_rows(connection, bottle.as_ref(), &filter)?)
        })
        .await
    }

    /// The next so many requests of a slice.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be read.
    pub async fn usage_page(&self, slice: UsageSlice, rows_max: u32) -> Result<UsagePage, LedgerError> {
        self.report("read the usage", move |connection| {
            let bottle = slice.bottle.as_ref().map(|name| named(connection, name)).transpose()?;
            Ok(export::rows(connection, bottle.as_ref(), &slice, rows_max)?)
        })
        .await
    }

    /// The next so many requests of a slice, added up.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be read.
    pub async fn usage_sums_page(
        &self,
        slice: UsageSlice,
        by: Vec<GroupBy>,
        rows_max: u32,
    ) -> Result<UsageSums, LedgerError> {
        self.report("read the usage", move |connection| {
            let bottle = slice.bottle.as_ref().map(|name| named(connection, name)).transpose()?;
            Ok(export::sums(connection, bottle.as_ref(), &slice, &by, rows_max)?)
        })
        .await
    }

    /// Totals of all requests there have ever been.
    ///
    /// # Errors
    /// When they could not be read.
    pub async fn usage_tallies(&self) -> Result<Vec<UsageTally>, LedgerError> {
        self.report("read the totals", |connection| Ok(export::tallies(connection)?)).await
    }

    /// How long commits have taken since this ledger was opened, from their beginning to their end.
    #[must_use]
    pub fn commit_times(&self) -> Distribution {
        self.shared.commits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Totals per bottle and provider.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be read.
    pub async fn usage_sums(&self, bottle: Option<BottleName>) -> Result<Vec<UsageSum>, LedgerError> {
        self.report("read the usage", move |connection| {
            let bottle = bottle.as_ref().map(|name| named(connection, name)).transpose()?;
            Ok(report::usage_sums(connection, bottle.as_ref().map(|bottle| &bottle.name))?)
        })
        .await
    }

    /// The newest audit rows, oldest first.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be read.
    pub async fn audit_rows(&self, filter: AuditFilter) -> Result<AuditPage, LedgerError> {
        self.report("read the audit", move |connection| {
            let bottle = filter.bottle.as_ref().map(|name| named(connection, name)).transpose()?;
            Ok(audit::rows(connection, bottle.as_ref(), &filter)?)
        })
        .await
    }

    /// The audit rows after one, oldest first, at most so many.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be read.
    pub async fn audit_rows_after(&self, tail: AuditTail, rows_max: u32) -> Result<AuditPage, LedgerError> {
        self.report("read the audit", move |connection| {
            let bottle = tail.bottle.as_ref().map(|name| named(connection, name)).transpose()?;
            Ok(audit::rows_after(connection, bottle.as_ref(), &tail, rows_max)?)
        })
        .await
    }

    /// Changes whenever audit rows have been committed.
    #[must_use]
    pub fn audited(&self) -> watch::Receiver<()> {
        self.shared.audited.clone()
    }

    /// Walks along the whole chain of the audit, on the look-out for a hash that was noted.
    ///
    /// # Errors
    /// When it could not be read.
    pub async fn verify_audit(&self, noted: Option<AuditHash>) -> Result<ChainReport, LedgerError> {
        let mut walk = Walk::new(noted);
        loop {
            let step = move |connection: &Connection| {
                let is_done = walk.go_on(connection, VERIFIED_ROWS_MAX)?;
                Ok((walk, is_done))
            };
            let (further, is_done) = self.report("verify the audit", step).await?;
            if is_done {
                return Ok(further.report());
            }
            walk = further;
        }
    }

    /// Budgets of a bottle for each provider that has a limit on its chain, or that it has used.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be read.
    pub async fn budgets(&self, bottle: BottleId) -> Result<Vec<BudgetView>, LedgerError> {
        let (rules, now) = (self.rules(), (self.shared.clock)());
        self.read("read the budgets", move |connection| {
            let mut book = Book::default();
            let entry = book.bottle(connection, &rules, bottle)?;
            let entry = entry.ok_or_else(|| LedgerError::NoBottle(format!("number {}", bottle.0)))?;
            Ok(report::views(&mut book, connection, &rules, now, &entry)?)
        })
        .await
    }

    /// A bottle and its ancestors, nearest first.
    ///
    /// # Errors
    /// When there is no such bottle or it could not be read.
    pub async fn lineage(&self, bottle: BottleId) -> Result<Vec<BottleName>, LedgerError> {
        let rules = self.rules();
        self.read("read a bottle's line", move |connection| {
            let entry = Book::default().bottle(connection, &rules, bottle)?;
            let entry = entry.ok_or_else(|| LedgerError::NoBottle(format!("number {}", bottle.0)))?;
            Ok(entry.lineage.clone())
        })
        .await
    }

    /// Every scope that has a limit or has used something, per provider.
    ///
    /// # Errors
    /// When it could not be read.
    pub async fn scopes(&self) -> Result<Vec<ScopeView>, LedgerError> {
        let (rules, now) = (self.rules(), (self.shared.clock)());
        self.read("read the budgets", move |connection| {
            Ok(report::all_scopes(&mut Book::default(), connection, &rules, now)?)
        })
        .await
    }

    /// What it decides by.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn write<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&mut Desk) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (job, answer) = job(action, work);
        let queue = self.shared.queue.as_ref().ok_or(LedgerError::Closed)?;
        queue.send(job).await.map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }

    /// Reads one consistent state of the database on a thread that may block: few rows, for which others wait.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.read_by(|shared| shared.reader.as_ref(), action, work).await
    }

    /// The same for what may read many rows.
    async fn report<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.read_by(|shared| shared.reports.as_ref(), action, work).await
    }

    async fn read_by<T: Send + 'static>(
        &self,
        reader: impl Fn(&Shared) -> Option<&Mutex<Connection>> + Send + 'static,
        action: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let shared = Arc::clone(&self.shared);
        let reading = tokio::task::spawn_blocking(move || {
            let connection = reader(&shared).ok_or(LedgerError::Closed)?.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction = connection.unchecked_transaction()?;
            work(&transaction)
        });
        reading.await.map_err(|_| LedgerError::Closed)?.map_err(|fault| fault.while_trying_to(action))
    }
}

/// Where the answer to a command will be.
enum Waiting {
    Admit(oneshot::Receiver<Result<Result<Admitted, Refusal>, LedgerError>>),
    Settle(oneshot::Receiver<Result<Settled, LedgerError>>),
}

impl Waiting {
    /// To be asked when the batch has run.
    fn done(self) -> Done {
        match self {
            Self::Admit(mut answer) => Done::Admitted(answer.try_recv().unwrap_or(Err(LedgerError::Closed))),
            Self::Settle(mut answer) => Done::Settled(answer.try_recv().unwrap_or(Err(LedgerError::Closed))),
        }
    }
}

fn prepare(command: Command) -> (Job, Waiting) {
    match command {
        Command::Admit(request) => {
            let (job, answer) = job("admit a request", move |desk| desk.admit(&request));
            (job, Waiting::Admit(answer))
        }
        Command::Settle(settlement) => {
            let (job, answer) = job("settle a request", move |desk| desk.settle(&settlement));
            (job, Waiting::Settle(answer))
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The writer's connection has to be the last one: closing that folds the write-ahead log into the database.
        self.reader.take();
        self.reports.take();
        self.queue.take();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has said so, and its transaction is rolled back.
            writer.join().ok();
        }
    }
}

fn named(connection: &Connection, name: &BottleName) -> Result<BottleRow, Fault> {
    report::bottle(connection, name)?.ok_or_else(|| LedgerError::NoBottle(name.to_string()).into())
}
