//! Runs, addresses, gates and their audit.

use super::*;
use crate::domain::{AuditKind, BottleId, BottleName, CutCause, GateView, RefusalReason};
use crate::ledger::{AuditFilter, AuditTail, GateChange};

async fn events(world: &World, bottle: &str) -> Vec<AuditKind> {
    let filter = AuditFilter { bottle: Some(bottle.parse().unwrap()), ..AuditFilter::default() };
    world.ledger().audit_rows(filter).await.unwrap().rows.into_iter().map(|row| row.kind).collect()
}

async fn try_run(world: &World, name: &str, amounts: &[(&str, u64)]) -> Result<BottleRow, LedgerError> {
    world.ledger().begin_run(new_run(name, amounts), POOL).await
}

/// Uses so many tokens, whatever the budget.
async fn spend(world: &World, bottle: &BottleRow, tokens: u64) {
    let permit = world.ledger().admit(reserve(bottle, "claude", 0, 0)).await.unwrap().unwrap().permit;
    world.ledger().settle(settle(permit, tokens, 0)).await.unwrap();
}

#[tokio::test]
async fn a_name_keeps_its_number_and_addresses_are_used_again() {
    let mut world = World::new(&[]);
    let web = world.run("web", &[("claude", 5)]).await;
    let other = world.run("other", &[]).await;
    assert_eq!(web.address, Some("10.213.0.2".parse().unwrap()));
    assert_eq!(other.address, Some("10.213.0.3".parse().unwrap()));
    let again = try_run(&world, "web", &[]).await;
    assert!(matches!(again, Err(LedgerError::AlreadyRunning(_))), "{again:?}");

    world.ledger().end_run(web.id, 3).await.unwrap();
    world.ledger().end_run(web.id, 4).await.unwrap();
    let ended = world.ledger().bottle(&web.name).await.unwrap();
    assert_eq!((ended.address, ended.ended, ended.exit_code), (None, Some(clock()), Some(3)));
    assert_eq!(world.run("third", &[]).await.address, web.address);
    world.reopen();
    let again = world.run("web", &[("codex", 7)]).await;
    assert_eq!((again.id, again.budget.clone()), (web.id, budget(&[("codex", 7)])));
    assert_eq!(again.address, Some("10.213.0.4".parse().unwrap()));
    assert_eq!(world.ledger().bottle(&web.name).await.unwrap(), again);

    let started = AuditKind::BottleStarted { agent: Some("reviewer".parse().unwrap()) };
    assert_eq!(events(&world, "web").await, [started.clone(), AuditKind::BottleEnded { exit_code: 3 }, started]);
}

#[tokio::test]
async fn a_full_pool_starts_nothing() {
    let world = World::new(&[]);
    let pool = AddressPool { prefix: 30, ..POOL };
    world.ledger().begin_run(new_run("web", &[]), pool).await.unwrap();
    let refused = world.ledger().begin_run(new_run("other", &[]), pool).await;
    assert!(matches!(refused, Err(LedgerError::NoAddress)), "{refused:?}");
    assert_eq!(world.count("bottle"), 1);
}

#[tokio::test]
async fn an_operators_cut_stands_until_restored() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    assert!(!world.ledger().change_gate(web.id, GateChange::Cut(CutCause::Operator)).await.unwrap());
    assert!(world.ledger().change_gate(web.id, GateChange::Cut(CutCause::Operator)).await.unwrap());
    assert!(world.ledger().change_gate(web.id, GateChange::Cut(CutCause::Budget)).await.unwrap());
    let refused = world.ledger().admit(reserve(&web, "claude", 1, 1)).await.unwrap();
    assert_eq!(refused.unwrap_err().reason, RefusalReason::BottleCut);

    world.ledger().end_run(web.id, 0).await.unwrap();
    let still = try_run(&world, "web", &[("claude", 1_000_000)]).await.unwrap_err();
    assert_eq!(still.to_string(), "bottle web is still cut (operator): `egress restore web` opens its gate");
    assert!(!world.ledger().change_gate(web.id, GateChange::Restore).await.unwrap());
    assert!(world.ledger().change_gate(web.id, GateChange::Restore).await.unwrap());
    assert_eq!(world.run("web", &[]).await.gate, GateView::Open);

    let gates: Vec<_> = events(&world, "web")
        .await
        .into_iter()
        .filter(|kind| matches!(kind, AuditKind::GateCut { .. } | AuditKind::GateRestored))
        .collect();
    assert_eq!(gates, [AuditKind::GateCut { cause: CutCause::Operator }, AuditKind::GateRestored]);
}

#[tokio::test]
async fn a_budgets_cut_is_lifted_by_a_larger_budget() {
    let world = World::new(&[("claude", 1_000), ("codex", 0)]);
    let web = world.run("web", &[("claude", 100)]).await;
    spend(&world, &web, 150).await;
    world.ledger().change_gate(web.id, GateChange::Cut(CutCause::Budget)).await.unwrap();
    world.ledger().end_run(web.id, 0).await.unwrap();

    let still = try_run(&world, "web", &[("claude", 150)]).await.unwrap_err();
    assert!(still.to_string().contains("`egress restore web`"), "{still}");
    let web = world.run("web", &[("claude", 151)]).await;
    assert_eq!(web.gate, GateView::Open);
    assert!(events(&world, "web").await.contains(&AuditKind::GateRestored));

    spend(&world, &web, 1_000).await;
    world.ledger().change_gate(web.id, GateChange::Cut(CutCause::Budget)).await.unwrap();
    world.ledger().end_run(web.id, 0).await.unwrap();
    let still = try_run(&world, "web", &[]).await;
    assert!(matches!(still, Err(LedgerError::StillCut { cause: CutCause::Budget, .. })), "the host's: {still:?}");
}

#[tokio::test]
async fn an_operators_cut_replaces_a_budgets() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    assert!(!world.ledger().change_gate(web.id, GateChange::Cut(CutCause::Budget)).await.unwrap());
    assert!(world.ledger().change_gate(web.id, GateChange::Cut(CutCause::Operator)).await.unwrap());
    world.ledger().end_run(web.id, 0).await.unwrap();
    assert!(try_run(&world, "web", &[]).await.is_err());
}

#[tokio::test]
async fn a_bottle_that_has_ended_gets_no_permit_but_its_requests_are_settled() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let permit = world.ledger().admit(reserve(&web, "claude", 1, 1)).await.unwrap().unwrap().permit;
    world.ledger().end_run(web.id, 0).await.unwrap();
    let refused = world.ledger().admit(reserve(&web, "claude", 1, 1)).await.unwrap();
    assert_eq!(refused.unwrap_err().message, "bottle web is not running");
    world.ledger().settle(settle(permit, 1, 1)).await.unwrap();
    world.assert_totals_are_sums();
}

#[tokio::test]
async fn what_does_not_exist_is_named() {
    let world = World::new(&[]);
    let (nobody, nothing) = ("nobody".parse().unwrap(), BottleId(42));
    let mut errors = vec![
        world.ledger().bottle(&nobody).await.unwrap_err(),
        world.ledger().usage_sums(Some(nobody.clone())).await.unwrap_err(),
        world.ledger().audit_rows(AuditFilter { bottle: Some(nobody), ..AuditFilter::default() }).await.unwrap_err(),
        world.ledger().end_run(nothing, 0).await.unwrap_err(),
        world.ledger().change_gate(nothing, GateChange::Restore).await.unwrap_err(),
        world.ledger().audit(Some(nothing), AuditKind::GateRestored).await.unwrap_err(),
    ];
    errors.push(world.ledger().budgets(nothing).await.unwrap_err());
    for error in errors {
        assert!(matches!(error, LedgerError::NoBottle(_)), "{error:?}");
    }
}

#[tokio::test]
async fn the_audit_only_grows() {
    let world = World::new(&[]);
    world.run("web", &[]).await;
    for number in 0..3 {
        let kind = AuditKind::ProxyRestarted { permits_settled: number };
        world.ledger().audit(None, kind).await.unwrap();
    }
    let last = world.ledger().audit_rows(AuditFilter { last: Some(2), ..AuditFilter::default() }).await.unwrap();
    let kinds: Vec<_> = last.rows.iter().map(|row| (row.number, row.bottle.clone(), row.kind.clone())).collect();
    assert_eq!(
        kinds,
        [
            (3, None, AuditKind::ProxyRestarted { permits_settled: 1 }),
            (4, None, AuditKind::ProxyRestarted { permits_settled: 2 })
        ]
    );
    for statement in ["UPDATE audit SET at = 0", "DELETE FROM audit WHERE number = 1"] {
        let refused = world.sql().execute(statement, []).unwrap_err();
        assert!(refused.to_string().contains("append-only"), "{refused}");
    }
}

#[tokio::test]
async fn audit_rows_are_picked_by_bottle_time_and_place() {
    let world = World::new(&[]);
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        world.set_clock(i64::try_from(index).unwrap() * 10);
        let bottle = world.run(name, &[]).await;
        world.ledger().change_gate(bottle.id, GateChange::Cut(CutCause::Operator)).await.unwrap();
    }
    let check = async |filter: AuditFilter, numbers: &[i64]| {
        let page = world.ledger().audit_rows(filter.clone()).await.unwrap();
        let found: Vec<i64> = page.rows.iter().map(|row| row.number).collect();
        assert_eq!((found.as_slice(), page.newest), (numbers, 6), "{filter:?}");
    };
    let b = Some("b".parse().unwrap());
    let all = AuditFilter::default();
    check(all.clone(), &[1, 2, 3, 4, 5, 6]).await;
    check(AuditFilter { since: Some(UnixMillis(10)), ..all.clone() }, &[3, 4, 5, 6]).await;
    check(AuditFilter { since: Some(UnixMillis(11)), ..all.clone() }, &[5, 6]).await;
    check(AuditFilter { before: Some(4), last: Some(2), ..all.clone() }, &[2, 3]).await;
    check(AuditFilter { since: Some(UnixMillis(10)), before: Some(6), bottle: b.clone(), last: Some(9) }, &[3, 4])
        .await;
    check(AuditFilter { bottle: b.clone(), last: Some(1), ..all.clone() }, &[4]).await;
    check(AuditFilter { last: Some(0), ..all }, &[]).await;

    let after = async |bottle: &Option<BottleName>, after, rows_max| {
        let tail = AuditTail { bottle: bottle.clone(), after };
        let page = world.ledger().audit_rows_after(tail, rows_max).await.unwrap();
        (page.rows.iter().map(|row| row.number).collect::<Vec<_>>(), page.newest)
    };
    assert_eq!(after(&None, 2, 3).await, (vec![3, 4, 5], 6));
    assert_eq!(after(&None, 6, 3).await, (vec![], 6));
    assert_eq!(after(&b, 0, 1).await, (vec![3], 6));
    assert_eq!(after(&b, 4, 1).await, (vec![], 6));
}
