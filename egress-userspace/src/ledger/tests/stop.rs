//! Freezing, resuming and killing, as the ledger has them.

use super::*;
use crate::domain::{AuditKind, BottleState, CutCause, GateView, Stop};
use crate::ledger::{AuditFilter, GateChange};

async fn frozen(world: &World, cause: CutCause) -> BottleRow {
    let web = world.run("web", &[("claude", 100), ("codex", 7)]).await;
    let permit = world.ledger().admit(reserve(&web, "claude", 0, 0)).await.unwrap().unwrap();
    world.ledger().settle(settle(permit.permit, 150, 0)).await.unwrap();
    world.ledger().change_gate(web.id, GateChange::Cut(cause)).await.unwrap();
    world.ledger().begin_stop(web.id, Stop::Freeze).await.unwrap();
    world.ledger().end_stop(web.id, Stop::Freeze, cause).await.unwrap();
    world.ledger().bottle(&web.name).await.unwrap()
}

async fn resume(world: &World, amounts: &[(&str, u64)]) -> Result<BottleRow, LedgerError> {
    world.ledger().resume_run("web".parse().unwrap(), budget(amounts), POOL).await
}

async fn last_event(world: &World) -> AuditKind {
    world.ledger().audit_rows(AuditFilter::default()).await.unwrap().rows.pop().unwrap().kind
}

#[tokio::test]
async fn what_was_begun_is_found_again() {
    let mut world = World::new(&[]);
    let web = world.run("web", &[]).await;
    assert_eq!((web.policy, web.stopping, web.state()), (CutoffPolicy::Freeze, None, BottleState::Running));
    world.ledger().begin_stop(web.id, Stop::Freeze).await.unwrap();
    world.ledger().abandon_stop(web.id).await.unwrap();
    assert_eq!(world.ledger().bottle(&web.name).await.unwrap().stopping, None);
    world.ledger().begin_stop(web.id, Stop::Kill).await.unwrap();
    world.reopen();
    let found = world.ledger().bottle(&web.name).await.unwrap();
    assert_eq!((found.policy, found.stopping, found.ended), (CutoffPolicy::Freeze, Some(Stop::Kill), None));
    world.ledger().end_run(web.id, 0).await.unwrap();
    assert_eq!(world.ledger().bottle(&web.name).await.unwrap().stopping, None, "it ended by itself");
}

#[tokio::test]
async fn a_frozen_bottle_is_resumed_and_not_run() {
    let mut world = World::new(&[]);
    let web = frozen(&world, CutCause::Operator).await;
    assert_eq!((web.state(), web.frozen, web.address), (BottleState::Frozen, Some(CutCause::Operator), None));
    assert_eq!(last_event(&world).await, AuditKind::BottleFrozen { cause: CutCause::Operator });
    world.reopen();
    let refused = world.ledger().begin_run(new_run("web", &[]), POOL).await.unwrap_err().to_string();
    assert!(refused.contains("is frozen") && refused.contains("egress resume web"), "{refused}");

    // An operator froze it: that its budget is used up does not matter.
    let resumed = resume(&world, &[]).await.unwrap();
    assert_eq!((resumed.id, resumed.state(), resumed.gate), (web.id, BottleState::Running, GateView::Open));
    assert_eq!(resumed.address, Some("10.213.0.2".parse().unwrap()));
    assert_eq!((resumed.agent, resumed.budget), (web.agent, web.budget));
    assert_eq!(last_event(&world).await, AuditKind::BottleResumed);
    let again = resume(&world, &[]).await;
    assert!(matches!(again, Err(LedgerError::AlreadyRunning(_))), "{again:?}");
    world.ledger().end_run(web.id, 0).await.unwrap();
    let ended = resume(&world, &[]).await;
    assert!(matches!(ended, Err(LedgerError::NotFrozen(_))), "{ended:?}");
}

#[tokio::test]
async fn the_budget_that_froze_it_has_to_be_larger() {
    let world = World::new(&[]);
    frozen(&world, CutCause::Budget).await;
    let refused = resume(&world, &[]).await.unwrap_err().to_string();
    assert!(refused.contains("the claude budget of bottle web is still used up (150 of 100 tokens)"), "{refused}");
    assert!(refused.contains("egress resume web --budget claude=TOKENS"), "{refused}");
    assert!(resume(&world, &[("claude", 150)]).await.is_err());
    let resumed = resume(&world, &[("claude", 151)]).await.unwrap();
    assert_eq!(resumed.budget, budget(&[("claude", 151), ("codex", 7)]));
}

#[tokio::test]
async fn an_operators_cut_of_a_frozen_bottle_stands() {
    let world = World::new(&[]);
    let web = frozen(&world, CutCause::Budget).await;
    world.ledger().change_gate(web.id, GateChange::Cut(CutCause::Operator)).await.unwrap();
    let refused = resume(&world, &[("claude", 1_000)]).await.unwrap_err();
    assert!(matches!(refused, LedgerError::StillCut { cause: CutCause::Operator, .. }), "{refused:?}");
    world.ledger().change_gate(web.id, GateChange::Restore).await.unwrap();
    resume(&world, &[("claude", 1_000)]).await.unwrap();
}

#[tokio::test]
async fn a_killed_bottle_keeps_what_it_has_spent() {
    let world = World::new(&[]);
    let web = frozen(&world, CutCause::Operator).await;
    world.ledger().begin_removal(web.id).await.unwrap();
    let busy = world.ledger().begin_run(new_run("web", &[]), POOL).await.unwrap_err();
    assert!(matches!(busy, LedgerError::BeingKilled(_)), "{busy:?}");
    world.ledger().end_stop(web.id, Stop::Kill, CutCause::Operator).await.unwrap();
    let killed = world.ledger().bottle(&web.name).await.unwrap();
    assert_eq!((killed.state(), killed.frozen, killed.ended), (BottleState::Ended, None, web.ended));
    assert_eq!(last_event(&world).await, AuditKind::BottleKilled { cause: CutCause::Operator });
    assert_eq!(world.count("usage"), 1);
    world.assert_totals_are_sums();
    let running = world.run("web", &[("claude", 1_000)]).await;
    let refused = world.ledger().begin_removal(running.id).await.unwrap_err();
    assert!(matches!(refused, LedgerError::AlreadyRunning(_)), "{refused:?}");
}
