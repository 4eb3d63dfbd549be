//! The controller dies between admission and settlement.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;
use crate::domain::{AuditKind, BottleName};
use crate::ledger::UsageFilter;

/// Set for the copy of this test binary that is to be killed: where its ledger is.
const CHILD: &str = "EGRESS_TEST_LEDGER_OF_CHILD";
const TEST: &str = "ledger::tests::crash::killed_at_any_moment_nothing_that_was_answered_is_lost";

#[tokio::test]
async fn open_reservations_outlive_a_restart_and_are_settled_at_their_most() {
    let mut world = World::new(&[]);
    let web = world.run("web", &[("claude", 400)]).await;
    let permit = world.ledger().admit(reserve(&web, "claude", 100, 400)).await.unwrap().unwrap().permit;
    world.reopen();
    assert_eq!(world.ledger().budgets(web.id).await.unwrap()[0].chain[0].held, Tokens(100));

    let settled = world.ledger().settle_open(Ending::ProxyLost).await.unwrap();
    assert_eq!(settled.len(), 1);
    assert_eq!(settled[0].crossing.as_ref().map(|crossing| crossing.used), Some(Tokens(500)));
    let rows = world.ledger().usage_rows(UsageFilter::default()).await.unwrap();
    assert_eq!((rows[0].usage, rows[0].known, rows[0].ending), (usage(100, 400), Known::Estimated, Ending::ProxyLost));

    let late = world.ledger().settle(settle(permit, 1, 1)).await;
    assert!(matches!(late, Err(LedgerError::NoReservation(_))), "{late:?}");
    assert!(world.ledger().settle_open(Ending::ProxyLost).await.unwrap().is_empty());
    world.assert_totals_are_sums();
}

#[tokio::test]
async fn killed_at_any_moment_nothing_that_was_answered_is_lost() {
    if let Some(path) = std::env::var_os(CHILD) {
        spend_until_killed(Path::new(&path)).await;
    }
    for answers in [1, 40, 333] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("bot-bottle.db");
        let last = kill_after(&path, answers);

        let ledger = open(&path, &rules(&[])).unwrap();
        assert_totals_are_sums(&path);
        let chain = ledger.verify_audit(None).await.unwrap();
        assert_eq!(chain.fault, None);
        assert!(chain.rows > answers as u64, "{chain:?}");
        let rows = ledger.usage_rows(UsageFilter::default()).await.unwrap();
        assert!(
            rows.iter().any(|row| row.request_id.as_deref() == Some(&format!("req_{last}"))),
            "settlement of {last}"
        );
        assert!(!ledger.settle_open(Ending::ProxyLost).await.unwrap().is_empty(), "the one that is never settled");
        let sums = ledger.usage_sums(None).await.unwrap();
        assert_eq!(sums[0].held, Tokens::ZERO);
        assert_totals_are_sums(&path);
        let name: BottleName = "web".parse().unwrap();
        assert_eq!(ledger.bottle(&name).await.unwrap().ended, None, "for the daemon to find and end");
    }
}

/// Starts a child that spends, kills it after so many of its answers, and returns the last permit it saw settled.
fn kill_after(path: &Path, answers: usize) -> i64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([TEST, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let settled = lines.filter_map(|line| line.strip_prefix("settled ").map(|permit| permit.parse().unwrap()));
    let last = settled.take(answers).last().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    last
}

async fn spend_until_killed(path: &Path) {
    let ledger = open(path, &rules(&[])).unwrap();
    let web = ledger.begin_run(new_run("web", &[]), POOL).await.unwrap();
    ledger.admit(reserve(&web, "claude", 5, 5)).await.unwrap().unwrap();
    loop {
        let permit = ledger.admit(reserve(&web, "claude", 10, 20)).await.unwrap().unwrap().permit;
        ledger.settle(settle(permit, 11, 13)).await.unwrap();
        ledger.audit(Some(web.id), AuditKind::ProxyRestarted { permits_settled: 1 }).await.unwrap();
        println!("\nsettled {}", permit.0);
    }
}
