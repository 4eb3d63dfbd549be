//! The ledger on real files: what is promised to hold is read back through a connection of the test's own.

mod account;
mod approvals;
mod budgets;
mod chain;
mod crash;
mod export;
mod files;
mod full;
mod live;
mod property;
mod run;
mod stop;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::Connection;
use tempfile::TempDir;

use super::{AddressPool, BottleRow, Clock, Ledger, LedgerError, NewRun, Terms};
use crate::domain::{
    Budget, CutoffPolicy, Durability, Ending, Known, Limit, PermitId, ProviderNotes, Rules, RuntimeKind, Settlement,
    SpendRequest, Tokens, UnixMillis, Usage, UsageDetails,
};

/// A ledger in a directory of its own.
struct World {
    directory: TempDir,
    ledger: Option<Ledger>,
    rules: Rules,
    /// The time, in Unix milliseconds.
    clock: Arc<AtomicI64>,
    boot: String,
}

impl World {
    fn new(host: &[(&str, u64)]) -> Self {
        Self::under(rules(host))
    }

    fn under(rules: Rules) -> Self {
        let (clock, boot) = (Arc::new(AtomicI64::new(clock().0)), "this boot".to_owned());
        let mut world = Self { directory: TempDir::new().unwrap(), ledger: None, rules, clock, boot };
        world.reopen();
        world
    }

    fn now(&self) -> i64 {
        self.clock.load(Ordering::SeqCst)
    }

    fn set_clock(&self, millis: i64) {
        self.clock.store(millis, Ordering::SeqCst);
    }

    /// Opens the ledger on another boot of the host.
    fn boot(&mut self, name: &str) {
        self.boot = name.to_owned();
        self.reopen();
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("bot-bottle.db")
    }

    fn ledger(&self) -> &Ledger {
        self.ledger.as_ref().unwrap()
    }

    /// Closes and opens the ledger, as a restart does.
    fn reopen(&mut self) {
        self.ledger = None;
        let time = Arc::clone(&self.clock);
        let clock: Clock = Arc::new(move || UnixMillis(time.load(Ordering::SeqCst)));
        let terms = Terms { clock, boot: self.boot.clone(), ..terms(&self.rules) };
        self.ledger = Some(Ledger::open(&self.path(), terms).unwrap());
    }

    async fn run(&self, name: &str, budget: &[(&str, u64)]) -> BottleRow {
        self.ledger().begin_run(new_run(name, budget), POOL).await.unwrap()
    }

    fn sql(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn count(&self, table: &str) -> usize {
        let count = |row: &rusqlite::Row<'_>| row.get::<_, u32>(0);
        self.sql().query_row(&format!("SELECT count(*) FROM {table}"), [], count).unwrap() as usize
    }

    /// The audit has so many rows, and each follows from the one before.
    async fn assert_chain_is_whole(&self, rows: u64) {
        let report = self.ledger().verify_audit(None).await.unwrap();
        assert_eq!((report.rows, report.fault), (rows, None));
    }

    /// The totals that decisions are made from must be the sums of the rows they stand for.
    fn assert_totals_are_sums(&self) {
        assert_totals_are_sums(&self.path());
    }
}

const POOL: AddressPool = AddressPool { gateway: std::net::Ipv4Addr::new(10, 213, 0, 1), prefix: 16 };

fn clock() -> UnixMillis {
    UnixMillis(1_700_000_000_000)
}

fn open(path: &Path, rules: &Rules) -> Result<Ledger, LedgerError> {
    Ledger::open(path, terms(rules))
}

fn terms(rules: &Rules) -> Terms {
    let boot = "this boot".to_owned();
    Terms { rules: rules.clone(), durability: Durability::Process, clock: Arc::new(clock), boot }
}

fn rules(host: &[(&str, u64)]) -> Rules {
    Rules { host: budget(host), ..Rules::default() }
}

fn budget(amounts: &[(&str, u64)]) -> Budget {
    amounts.iter().map(|(provider, tokens)| (provider.parse().unwrap(), Limit::lifetime(Tokens(*tokens)))).collect()
}

fn new_run(name: &str, amounts: &[(&str, u64)]) -> NewRun {
    NewRun {
        name: name.parse().unwrap(),
        agent: Some("reviewer".parse().unwrap()),
        extends: None,
        budget: budget(amounts),
        policy: CutoffPolicy::Freeze,
        runtime: RuntimeKind::Native,
        container: None,
    }
}

fn reserve(bottle: &BottleRow, provider: &str, input: u64, output: u64) -> SpendRequest {
    SpendRequest {
        bottle: bottle.id,
        provider: provider.parse().unwrap(),
        host: "api.anthropic.com".parse().unwrap(),
        target: "POST /v1/messages".to_owned(),
        is_metered: true,
        model: Some("asked".to_owned()),
        input_estimate: Tokens(input),
        output_cap: Tokens(output),
    }
}

fn settle(permit: PermitId, input: u64, output: u64) -> Settlement {
    Settlement {
        permit,
        usage: usage(input, output),
        known: Known::Reported,
        ending: Ending::Complete,
        status: Some(200),
        details: UsageDetails::default(),
        model: None,
        provider_request_id: Some(format!("req_{}", permit.0)),
        notes: ProviderNotes::default(),
    }
}

fn usage(input: u64, output: u64) -> Usage {
    Usage { input: Tokens(input), output: Tokens(output), ..Usage::default() }
}

fn assert_totals_are_sums(path: &Path) {
    let connection = Connection::open(path).unwrap();
    let wrong: i64 = connection.query_row(DIFFERENCES, [], |row| row.get(0)).unwrap();
    assert_eq!(wrong, 0, "rows of spend that are not the sums of usage and reservation");
}

/// Both ways round, so that neither a wrong nor a missing nor a superfluous total goes unseen.
const DIFFERENCES: &str = "
    WITH line (chain, name, provider, requests, input, cache_write, cache_read, output, held) AS (
        SELECT chain, b.name, provider, known <> 'unmetered', input, cache_write, cache_read, output, 0
            FROM usage JOIN bottle b ON b.id = bottle
        UNION ALL
        SELECT chain, b.name, provider, 0, 0, 0, 0, 0, held
            FROM reservation JOIN bottle b ON b.id = bottle
    ), entry AS (
        SELECT 'own' scope, name, provider, requests, input, cache_write, cache_read, output, held FROM line
        UNION ALL
        SELECT json_extract(value, '$.scope'), ifnull(json_extract(value, '$.name'), ''),
                provider, requests, input, cache_write, cache_read, output, held
            FROM line JOIN chain ON chain.id = line.chain, json_each(chain.scopes)
    ), total AS (
        SELECT scope, name, provider, sum(requests), sum(input), sum(cache_write), sum(cache_read), sum(output), sum(held)
        FROM entry GROUP BY scope, name, provider
    ), kept AS (
        SELECT scope, name, provider, requests, input, cache_write, cache_read, output, held FROM spend
    )
    SELECT (SELECT count(*) FROM (SELECT * FROM total EXCEPT SELECT * FROM kept))
         + (SELECT count(*) FROM (SELECT * FROM kept EXCEPT SELECT * FROM total))";
