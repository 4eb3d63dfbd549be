//! What operators are asked, and what is remembered of their answers.

use std::time::Duration;

use super::*;
use crate::domain::{ApprovalId, AuditKind, Fingerprint, Question, Verdict};
use crate::ledger::{ApprovalFilter, Asked, AuditFilter, Decided, Decision, Forgotten};

const BY: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(300);
const APPROVED: Decision = Decision { is_approved: true, is_always: false, by: BY };
const ALWAYS: Decision = Decision { is_always: true, ..APPROVED };
const NEVER: Decision = Decision { is_approved: false, ..ALWAYS };

fn question(bottle: &BottleRow, host: &str, value: u8) -> Question {
    Question {
        bottle: bottle.id,
        detector: "aws_key".to_owned(),
        host: host.parse().unwrap(),
        target: "POST /upload".to_owned(),
        fingerprint: Fingerprint([value; 32]),
    }
}

async fn ask(world: &World, bottle: &BottleRow, host: &str, value: u8) -> Asked {
    world.ledger().ask_approval(question(bottle, host, value), PATIENCE).await.unwrap()
}

async fn waits(world: &World, bottle: &BottleRow, host: &str, value: u8) -> ApprovalId {
    let asked = ask(world, bottle, host, value).await;
    let Asked::Waits(id) = asked else { panic!("{asked:?}") };
    id
}

async fn decide(world: &World, id: ApprovalId, decision: Decision) -> Result<Decided, String> {
    world.ledger().decide_approval(id, decision).await.map_err(|error| error.to_string())
}

async fn told(world: &World) -> Vec<AuditKind> {
    let rows = world.ledger().audit_rows(AuditFilter::default()).await.unwrap().rows;
    rows.into_iter().map(|row| row.kind).filter(|kind| !matches!(kind, AuditKind::BottleStarted { .. })).collect()
}

async fn open(world: &World) -> Vec<ApprovalId> {
    let rows = world.ledger().approvals(ApprovalFilter::default()).await.unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

/// Questions that hold a fingerprint.
fn fingerprints(world: &World) -> u32 {
    let count = "SELECT count(*) FROM approval WHERE fingerprint IS NOT NULL";
    world.sql().query_row(count, [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn an_approval_holds_for_one_request_unless_it_is_for_good() {
    let mut world = World::new(&[]);
    let (web, api) = (world.run("web", &[]).await, world.run("api", &[]).await);
    let first = waits(&world, &web, "a.example", 1).await;
    assert_eq!(decide(&world, first, APPROVED).await.unwrap().settled, [first]);
    assert_eq!(fingerprints(&world), 0, "nothing is kept of what is not remembered");

    let second = waits(&world, &web, "a.example", 1).await;
    let decided = decide(&world, second, ALWAYS).await.unwrap();
    assert_eq!(
        (decided.row.verdict, decided.row.by, decided.row.is_remembered()),
        (Some(Verdict::Approved), Some(BY), true)
    );
    world.reopen();
    for _ in 0..2 {
        assert_eq!(ask(&world, &web, "a.example", 1).await, Asked::Remembered(Verdict::Approved));
    }
    let all = world.ledger().approvals(ApprovalFilter { last: Some(9), ..ApprovalFilter::default() }).await.unwrap();
    assert_eq!(all.iter().map(|row| (row.id, row.used)).collect::<Vec<_>>(), [(first, 0), (second, 2)]);
    // Another host, another bottle, another value: asked.
    for (bottle, host, value) in [(&web, "b.example", 1), (&api, "a.example", 1), (&web, "a.example", 2)] {
        waits(&world, bottle, host, value).await;
    }
    assert_eq!(open(&world).await.len(), 3);
}

#[tokio::test]
async fn every_step_is_audited_and_the_chain_is_whole() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let id = waits(&world, &web, "a.example", 1).await;
    decide(&world, id, NEVER).await.unwrap();
    assert_eq!(ask(&world, &web, "a.example", 1).await, Asked::Remembered(Verdict::Denied));
    world.ledger().forget_approvals(Forgotten::One(id), BY).await.unwrap();
    let (detector, host, target) = ("aws_key".to_owned(), "a.example".parse().unwrap(), "POST /upload".to_owned());
    let expected = [
        AuditKind::ApprovalAsked { id, detector, host, target },
        AuditKind::ApprovalDecided { id, verdict: Verdict::Denied, is_always: true, by: Some(BY) },
        AuditKind::ApprovalForgotten { id, by: BY },
    ];
    assert_eq!(told(&world).await, expected);
    world.assert_chain_is_whole(4).await;
    assert_eq!(fingerprints(&world), 0);
    waits(&world, &web, "a.example", 1).await;
}

#[tokio::test]
async fn a_decision_for_good_settles_all_that_wait_with_the_same_value() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let [one, other] = [waits(&world, &web, "a.example", 1).await, waits(&world, &web, "a.example", 1).await];
    let elsewhere = waits(&world, &web, "b.example", 1).await;
    assert_eq!(decide(&world, other, ALWAYS).await.unwrap().settled, [other, one]);
    assert_eq!(open(&world).await, [elsewhere]);
    assert_eq!(ask(&world, &web, "a.example", 1).await, Asked::Remembered(Verdict::Approved));
    let forgotten = world.ledger().forget_approvals(Forgotten::Of("web".parse().unwrap()), BY).await.unwrap();
    assert_eq!(forgotten.iter().map(|row| row.id).collect::<Vec<_>>(), [other]);
}

#[tokio::test]
async fn what_is_late_or_settled_is_decided_no_more() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let [late, in_time] = [waits(&world, &web, "a.example", 1).await, waits(&world, &web, "a.example", 2).await];
    world.set_clock(world.now() + 299_999);
    decide(&world, in_time, APPROVED).await.unwrap();
    world.set_clock(world.now() + 1);
    assert_eq!(decide(&world, late, ALWAYS).await.unwrap().row.verdict, Some(Verdict::Expired));
    assert!(matches!(ask(&world, &web, "a.example", 1).await, Asked::Waits(_)), "what is late is not remembered");
    let expired = AuditKind::ApprovalDecided { id: late, verdict: Verdict::Expired, is_always: false, by: None };
    assert!(told(&world).await.contains(&expired));
    for (id, said) in [
        (late, "approval 1 is settled already: nobody answered in time"),
        (in_time, "approval 2 is settled already: it was approved"),
        (ApprovalId(99), "there is no approval 99"),
    ] {
        let refused = decide(&world, id, APPROVED).await.unwrap_err();
        assert!(refused.contains(said), "{refused}");
    }
    for which in [Forgotten::One(late), Forgotten::Of("web".parse().unwrap()), Forgotten::One(ApprovalId(99))] {
        assert!(world.ledger().forget_approvals(which, BY).await.is_err());
    }
}

#[tokio::test]
async fn what_waited_is_abandoned_and_what_was_remembered_stays() {
    let mut world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let kept = waits(&world, &web, "a.example", 1).await;
    decide(&world, kept, ALWAYS).await.unwrap();
    let [one, other] = [waits(&world, &web, "a.example", 2).await, waits(&world, &web, "a.example", 3).await];
    world.ledger().close_approvals(vec![one, kept], Verdict::Expired).await.unwrap();
    world.reopen();
    assert_eq!(open(&world).await, [other]);
    assert_eq!(world.ledger().abandon_approvals().await.unwrap(), 1);
    assert_eq!(world.ledger().abandon_approvals().await.unwrap(), 0);
    assert_eq!(ask(&world, &web, "a.example", 1).await, Asked::Remembered(Verdict::Approved));
    let rows = world.ledger().approvals_from(kept).await.unwrap();
    let verdicts: Vec<_> = rows.iter().map(|row| (row.id, row.verdict.unwrap())).collect();
    assert_eq!(verdicts, [(kept, Verdict::Approved), (one, Verdict::Expired), (other, Verdict::Abandoned)]);
}

#[tokio::test]
async fn a_bottle_that_asks_too_much_is_not_heard_and_others_are() {
    let world = World::new(&[]);
    let (web, api) = (world.run("web", &[]).await, world.run("api", &[]).await);
    let limits = crate::ledger::approvals::LIMITS;
    let mut asked = Vec::new();
    for value in 0..limits.open_max {
        asked.push(waits(&world, &web, "a.example", u8::try_from(value).unwrap()).await);
    }
    assert_eq!(ask(&world, &web, "a.example", 200).await, Asked::TooMany);
    waits(&world, &api, "a.example", 200).await;
    for _ in limits.open_max..limits.asked_per_minute_max {
        world.ledger().close_approvals(vec![asked.pop().unwrap()], Verdict::Abandoned).await.unwrap();
        asked.push(waits(&world, &web, "a.example", 201).await);
    }
    world.ledger().abandon_approvals().await.unwrap();
    assert_eq!(ask(&world, &web, "a.example", 200).await, Asked::TooMany, "in this minute");
    world.set_clock(world.now() + 60_000);
    waits(&world, &web, "a.example", 200).await;
}
