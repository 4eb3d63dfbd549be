//! Files, locks and schema versions.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[tokio::test]
async fn opening_again_changes_nothing() {
    let mut world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let schema = |world: &World| -> Vec<(String, String)> {
        let sql = world.sql();
        let mut statement = sql.prepare("SELECT name, ifnull(sql, '') FROM sqlite_master ORDER BY name").unwrap();
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    let first = schema(&world);
    for _ in 0..2 {
        world.reopen();
        assert_eq!(schema(&world), first);
        assert_eq!(world.count("schema_version"), crate::ledger::open::MIGRATIONS.len());
        assert_eq!(world.ledger().bottles().await.unwrap(), std::slice::from_ref(&web));
    }
}

#[tokio::test]
async fn a_first_versions_file_keeps_all_it_has() {
    let mut world = World::new(&[]);
    world.ledger = None;
    std::fs::remove_file(world.path()).unwrap();
    let sql = world.sql();
    let first = [
        "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, applied INTEGER NOT NULL) STRICT;",
        "INSERT INTO schema_version VALUES (1, 0);",
        crate::ledger::open::MIGRATIONS[0],
        "INSERT INTO bottle (id, name, address, started) VALUES (3, 'web', 7, 1);",
        "INSERT INTO usage VALUES (5, 3, 'a', 'claude', 'api.anthropic.com', 'POST /', 'm', 'r', 200,
            1, 2, 3, 4, 'reported', 'complete', 6, 7);",
    ];
    sql.execute_batch(&first.concat()).unwrap();
    drop(sql);
    world.reopen();
    let rows = world.ledger().usage_rows(crate::ledger::UsageFilter::default()).await.unwrap();
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    let tokens =
        [row.usage.input, row.usage.cache_write, row.usage.cache_read, row.usage.output].map(|tokens| tokens.0);
    assert_eq!(
        (tokens, row.ending, row.admitted, row.settled),
        ([1, 2, 3, 4], Ending::Complete, UnixMillis(6), UnixMillis(7))
    );
    assert_eq!((row.model.as_deref(), row.request_id.as_deref(), row.status), (Some("m"), Some("r"), Some(200)));
    assert_eq!((row.details, &row.notes), (UsageDetails::default(), &ProviderNotes::default()));
    assert_eq!(world.count("schema_version"), crate::ledger::open::MIGRATIONS.len());
    let bottle = world.ledger().bottle(&"web".parse().unwrap()).await.unwrap();
    let permit = world.ledger().admit(reserve(&bottle, "claude", 1, 1)).await.unwrap().unwrap().permit;
    assert!(permit > PermitId(5), "numbers go on");
    world.ledger().settle(settle(permit, 1, 1)).await.unwrap();
}

#[tokio::test]
async fn every_ending_can_be_recorded() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    for ending in Ending::ALL {
        let permit = world.ledger().admit(reserve(&web, "claude", 1, 1)).await.unwrap().unwrap().permit;
        world.ledger().settle(Settlement { ending, ..settle(permit, 1, 1) }).await.unwrap();
    }
    let rows = world.ledger().usage_rows(crate::ledger::UsageFilter::default()).await.unwrap();
    for ending in Ending::ALL {
        assert_eq!(rows.iter().filter(|row| row.ending == ending).count(), 1, "{ending:?}");
    }
}

#[test]
fn a_later_versions_file_is_left_alone() {
    let mut world = World::new(&[]);
    world.ledger = None;
    world.sql().execute("INSERT INTO schema_version (version, applied) VALUES (1000, 0)", []).unwrap();
    let before = std::fs::read(world.path()).unwrap();
    let refused = open(&world.path(), &rules(&[]));
    assert!(matches!(refused, Err(LedgerError::FromTheFuture { found: 1000, .. })), "{refused:?}");
    assert_eq!(std::fs::read(world.path()).unwrap(), before);
}

#[test]
fn one_controller_at_a_time() {
    let mut world = World::new(&[]);
    let second = open(&world.path(), &rules(&[]));
    assert!(matches!(second, Err(LedgerError::InUse { .. })), "{second:?}");
    world.ledger = None;
    open(&world.path(), &rules(&[])).unwrap();
}

#[tokio::test]
async fn only_its_owner_reads_it() {
    let directory = TempDir::new().unwrap();
    let home = directory.path().join("home").join(".bot-bottle");
    let path = home.join("bot-bottle.db");
    let ledger = open(&path, &rules(&[])).unwrap();
    ledger.begin_run(new_run("web", &[]), POOL).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home), 0o700);
    for file in ["bot-bottle.db", "bot-bottle.db-wal", "bot-bottle.db-shm", "bot-bottle.db.lock"] {
        assert_eq!(mode(&home.join(file)), 0o600, "{file}");
    }
    drop(ledger);
    assert!(!home.join("bot-bottle.db-wal").exists(), "a closed ledger is one file");
}

#[test]
fn what_is_not_a_ledger_is_not_overwritten() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bot-bottle.db");
    std::fs::write(&path, "not a database, but somebody's notes".repeat(100)).unwrap();
    let refused = open(&path, &rules(&[]));
    assert!(matches!(refused, Err(LedgerError::Open { .. })), "{refused:?}");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("not a database"));
    let nowhere = open(Path::new("/proc/nowhere/bot-bottle.db"), &rules(&[]));
    assert!(matches!(nowhere, Err(LedgerError::File { .. })), "{nowhere:?}");
}
