//! The audit's chain: what an intruder does to it is found, what the writer goes through leaves it whole.

use super::*;
use crate::domain::{AuditHash, AuditKind, ChainFault, ChainReport};
use crate::ledger::chain::{Walk, append};
use crate::ledger::{AuditFilter, BudgetChange, Command};

/// Numbers 1 and 2 are a bottle's, the other four nobody's.
const ROWS: i64 = 6;

async fn six_rows() -> World {
    let world = World::new(&[]);
    for name in ["web", "api"] {
        world.run(name, &[]).await;
    }
    for permits_settled in 0..4 {
        world.ledger().audit(None, AuditKind::ProxyRestarted { permits_settled }).await.unwrap();
    }
    world
}

/// As root has it: nothing of the schema stands in the way.
fn intruder(world: &World) -> Connection {
    let sql = world.sql();
    let open = "DROP TRIGGER IF EXISTS audit_is_never_changed; DROP TRIGGER IF EXISTS audit_is_never_deleted;
        PRAGMA foreign_keys = off; PRAGMA ignore_check_constraints = on;";
    sql.execute_batch(open).unwrap();
    sql
}

async fn verify(world: &World, noted: Option<AuditHash>) -> ChainReport {
    world.ledger().verify_audit(noted).await.unwrap()
}

async fn hashes(world: &World) -> Vec<AuditHash> {
    let page = world.ledger().audit_rows(AuditFilter::default()).await.unwrap();
    page.rows.iter().map(|row| row.hash).collect()
}

async fn check(attack: &str, fault: ChainFault) {
    let mut world = six_rows().await;
    intruder(&world).execute_batch(attack).unwrap();
    let found = verify(&world, None).await;
    assert_eq!(found.fault, Some(fault), "{attack}");
    // What goes on afterwards does not cover it up.
    world.reopen();
    world.ledger().audit(None, AuditKind::SettingsReloaded).await.unwrap();
    let found = verify(&world, None).await;
    assert!(found.fault.is_some(), "{attack}: covered up");
}

#[tokio::test]
async fn every_row_follows_from_the_one_before() {
    let mut world = six_rows().await;
    let hashes = hashes(&world).await;
    assert_eq!(hashes.len(), 6);
    for (number, hash) in (1..).zip(&hashes) {
        let found = verify(&world, Some(*hash)).await;
        assert_eq!(found, ChainReport { rows: 6, tip: hashes[5], noted: Some(number), fault: None });
    }
    assert_eq!(verify(&world, Some(AuditHash([1; 32]))).await.noted, None);
    assert_eq!(verify(&world, Some(AuditHash::NONE)).await.noted, Some(0));
    world.reopen();
    world.assert_chain_is_whole(6).await;
}

#[tokio::test]
async fn a_changed_row_is_named() {
    let row = |number| ChainFault::Row { number, is_after_gap: false };
    check("UPDATE audit SET at = at + 1 WHERE number = 3", row(3)).await;
    check("UPDATE audit SET bottle = NULL WHERE number = 2", row(2)).await;
    check("UPDATE audit SET bottle = 2 WHERE number = 1", row(1)).await;
    check("UPDATE bottle SET name = 'other' WHERE id = 2", row(2)).await;
    check("UPDATE audit SET detail = replace(detail, '0', '9') WHERE number = 3", row(3)).await;
    check("UPDATE audit SET detail = detail || ' ' WHERE number = 6", row(6)).await;
    check("UPDATE audit SET hash = (SELECT hash FROM audit WHERE number = 3) WHERE number = 4", row(4)).await;
    check("UPDATE audit SET number = 9 WHERE number = 6", ChainFault::Row { number: 9, is_after_gap: true }).await;
    check("UPDATE audit SET hash = 'x' WHERE number = 5", ChainFault::Unreadable { number: 5 }).await;
    check("UPDATE audit SET bottle = 77 WHERE number = 4", ChainFault::Unreadable { number: 4 }).await;
    let swap = "CREATE TABLE pair AS SELECT * FROM audit WHERE number IN (3, 4);
        UPDATE audit SET (detail, hash) = (SELECT detail, hash FROM pair WHERE pair.number = 7 - audit.number)
        WHERE number IN (3, 4)";
    check(swap, row(3)).await;
}

#[tokio::test]
async fn a_missing_row_is_noticed() {
    let after_gap = |number| ChainFault::Row { number, is_after_gap: true };
    check("DELETE FROM audit WHERE number = 6", ChainFault::Removed { rows: 1 }).await;
    check("DELETE FROM audit WHERE number > 2", ChainFault::Removed { rows: 4 }).await;
    check("DELETE FROM audit", ChainFault::Removed { rows: 6 }).await;
    check("DELETE FROM audit WHERE number = 1", after_gap(2)).await;
    check("DELETE FROM audit WHERE number = 4", after_gap(5)).await;
    let renumbered = "DELETE FROM audit WHERE number = 4;
        UPDATE audit SET number = 4 WHERE number = 5; UPDATE audit SET number = 5 WHERE number = 6";
    check(renumbered, ChainFault::Row { number: 4, is_after_gap: false }).await;
}

#[tokio::test]
async fn an_added_row_is_named() {
    let row = |number| ChainFault::Row { number, is_after_gap: false };
    let copy = |number: &str| {
        format!("INSERT INTO audit SELECT {number}, at, bottle, detail, hash FROM audit WHERE number = 3")
    };
    check(&copy("7"), row(7)).await;
    check(&copy("0"), row(0)).await;
    check(&copy("-9223372036854775808"), row(i64::MIN)).await;
    check(
        "UPDATE audit SET number = 7 WHERE number = 6; INSERT INTO audit SELECT 6, at, bottle, detail, hash FROM audit
        WHERE number = 5",
        row(6),
    )
    .await;

    // One that follows, as an intruder can compute it: the tip does not know it.
    let world = six_rows().await;
    let sql = intruder(&world);
    let tip: (i64, String) =
        sql.query_row("SELECT rows, hash FROM audit_tip", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    append(&sql, UnixMillis(1), None, r#"{"event":"settings_reloaded"}"#).unwrap();
    sql.execute("UPDATE audit_tip SET rows = ?1, hash = ?2", tip).unwrap();
    assert_eq!(verify(&world, None).await.fault, Some(ChainFault::Added { number: 7 }));
}

#[tokio::test]
async fn a_changed_tip_is_noticed() {
    let (zeros, last) = ("0".repeat(64), ChainFault::Tip { number: ROWS });
    check(&format!("UPDATE audit_tip SET hash = '{zeros}'"), last).await;
    check("UPDATE audit_tip SET hash = (SELECT hash FROM audit WHERE number = 5)", last).await;
    check("UPDATE audit_tip SET hash = 'x'", last).await;
    check("UPDATE audit_tip SET rows = 7", ChainFault::Removed { rows: 1 }).await;
    check("UPDATE audit_tip SET rows = 5", ChainFault::Added { number: 6 }).await;
    check("UPDATE audit_tip SET rows = -1", ChainFault::Added { number: 1 }).await;
    check("DELETE FROM audit_tip", ChainFault::NoTip).await;
}

/// What the chain alone cannot show, and a tip that was noted elsewhere does.
#[tokio::test]
async fn only_a_noted_tip_shows_that_everything_was_written_anew() {
    let world = six_rows().await;
    let before = hashes(&world).await;
    let sql = intruder(&world);
    sql.execute_batch(
        "CREATE TABLE kept AS SELECT * FROM audit WHERE number > 4; DELETE FROM audit WHERE number > 3;
        UPDATE audit_tip SET rows = 3, hash = (SELECT hash FROM audit WHERE number = 3)",
    )
    .unwrap();
    let details: Vec<String> = sql
        .prepare("SELECT detail FROM kept")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for detail in details {
        append(&sql, UnixMillis(1), None, &detail).unwrap();
    }
    world.assert_chain_is_whole(5).await;
    assert_eq!(verify(&world, Some(before[5])).await.noted, None);
    assert_eq!(verify(&world, Some(before[2])).await.noted, Some(3));
}

#[tokio::test]
async fn numbers_of_removed_rows_are_not_used_again() {
    let world = six_rows().await;
    intruder(&world).execute_batch("DELETE FROM audit WHERE number > 4").unwrap();
    world.ledger().audit(None, AuditKind::SettingsReloaded).await.unwrap();
    let fault = ChainFault::Row { number: 7, is_after_gap: true };
    assert_eq!(verify(&world, None).await.fault, Some(fault));
}

#[tokio::test]
async fn a_walk_may_pause_anywhere() {
    let world = six_rows().await;
    let sql = world.sql();
    for rows_max in 1..=8 {
        let mut walk = Walk::new(None);
        let mut steps = 1;
        while !walk.go_on(&sql, rows_max).unwrap() {
            steps += 1;
        }
        let report = walk.report();
        assert_eq!((report.rows, report.fault), (6, None), "{rows_max} at a time");
        assert_eq!(steps, 6 / rows_max + 1, "{rows_max} at a time");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_at_the_same_time_make_one_chain() {
    let world = World::new(&[("claude", 1_000_000)]);
    let web = world.run("web", &[]).await;
    let tasks: Vec<_> = (0..8_u64)
        .map(|task| {
            let (ledger, web) = (world.ledger().clone(), web.clone());
            tokio::spawn(async move {
                for number in 0..25 {
                    let kind = AuditKind::ProxyRestarted { permits_settled: task * 100 + number };
                    ledger.audit(Some(web.id), kind).await.unwrap();
                    // Between them, transactions on other threads, and commands that fail.
                    let together = ledger.clone();
                    let ask = reserve(&web, "claude", 0, 0);
                    tokio::task::spawn_blocking(move || together.write_together(vec![Command::Admit(ask)]))
                        .await
                        .unwrap();
                    let failing = BudgetChange::Clear { scope: crate::domain::Scope::Host, provider: None };
                    assert!(ledger.change_budget(failing, 0).await.is_err());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    world.assert_chain_is_whole(1 + 8 * 25).await;
}

#[tokio::test]
async fn whoever_follows_is_told_of_commits_and_of_nothing_else() {
    let world = World::new(&[]);
    let mut audited = world.ledger().audited();
    audited.mark_unchanged();
    let web = world.run("web", &[]).await;
    assert!(audited.has_changed().unwrap(), "a run was started");
    audited.mark_unchanged();
    world.ledger().admit(reserve(&web, "claude", 1, 1)).await.unwrap().unwrap();
    assert!(!audited.has_changed().unwrap(), "an admission is no audit row");
    let spoilt = world.ledger().write("fail at the commit", |desk| {
        desk.audit(None, &AuditKind::SettingsReloaded)?;
        desk.connection.pragma_update(None, "defer_foreign_keys", true)?;
        desk.connection.execute("UPDATE reservation SET bottle = 999", [])?;
        Ok(())
    });
    assert!(spoilt.await.is_err());
    assert!(!audited.has_changed().unwrap(), "nothing was committed");
    world.ledger().audit(None, AuditKind::SettingsReloaded).await.unwrap();
    assert!(audited.has_changed().unwrap());
}

#[tokio::test]
async fn rows_from_before_the_chain_are_chained() {
    let mut world = World::new(&[]);
    world.ledger = None;
    std::fs::remove_file(world.path()).unwrap();
    let sql = world.sql();
    sql.execute_batch("CREATE TABLE schema_version (version INTEGER PRIMARY KEY, applied INTEGER NOT NULL) STRICT")
        .unwrap();
    let chained =
        crate::ledger::open::MIGRATIONS.iter().position(|text| text.contains("CREATE TABLE audit_tip")).unwrap();
    for (number, migration) in (1_u32..).zip(&crate::ledger::open::MIGRATIONS[..chained]) {
        sql.execute_batch(migration).unwrap();
        sql.execute("INSERT INTO schema_version VALUES (?1, 0)", [number]).unwrap();
    }
    sql.execute_batch(
        r#"INSERT INTO bottle (id, name, address, started) VALUES (3, 'web', 7, 1);
        INSERT INTO audit VALUES (1, 1700000000000, NULL, '{"event":"daemon_started","version":"0.1.0"}');
        INSERT INTO audit VALUES (2, 1700000000001, 3, '{"event":"gate_cut","cause":"operator"}');"#,
    )
    .unwrap();
    drop(sql);
    world.reopen();
    world.assert_chain_is_whole(2).await;
    let first = "8c1714bd8935f05e539c46045d9d3d9078ea603921f03b0cbf2c76eafebc041c".parse().unwrap();
    let second = "c383789509153506f12203465d62dad9094d2aa4817f07867004f76835f31fae".parse().unwrap();
    assert_eq!(hashes(&world).await, [first, second], "as sha256sum says");
    assert_eq!(world.count("sqlite_master WHERE name = 'audit_unchained'"), 0);
    for statement in ["UPDATE audit SET at = 0", "DELETE FROM audit WHERE number = 1"] {
        let refused = world.sql().execute(statement, []).unwrap_err();
        assert!(refused.to_string().contains("append-only"), "{refused}");
    }
    world.ledger().audit(None, AuditKind::SettingsReloaded).await.unwrap();
    world.assert_chain_is_whole(3).await;
}
