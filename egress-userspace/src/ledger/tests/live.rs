//! What followers are told of requests, and what they read.

use tokio::sync::broadcast::error::TryRecvError;

use super::*;
use crate::domain::{AuditKind, CutCause, LiveRequest, Stop, UsageRow};
use crate::ledger::live::FOLLOWED_NEWS_MAX;
use crate::ledger::{Command, GateChange, RequestNews, UsageFilter};

fn of(bottle: &BottleRow, permit: PermitId, held: u64) -> LiveRequest {
    let SpendRequest { provider, host, target, model, .. } = reserve(bottle, "claude", held, 5);
    let (bottle, agent) = (bottle.name.clone(), bottle.agent.clone());
    LiveRequest { permit, bottle, agent, provider, host, target, model, held: Tokens(held), admitted: clock() }
}

async fn rows(world: &World) -> Vec<UsageRow> {
    world.ledger().usage_rows(UsageFilter::default()).await.unwrap()
}

#[tokio::test]
async fn followers_are_told_of_requests_as_they_come_and_go() {
    let world = World::new(&[("claude", 1_000)]);
    let web = world.run("web", &[]).await;
    let before = world.ledger().admit(reserve(&web, "claude", 10, 5)).await.unwrap().unwrap().permit;
    let mut news = world.ledger().requests();
    let permit = world.ledger().admit(reserve(&web, "claude", 20, 5)).await.unwrap().unwrap().permit;
    assert_eq!(news.try_recv(), Ok(RequestNews::Admitted(Box::new(of(&web, permit, 20)))));
    let start = world.ledger().live_start(9).await.unwrap();
    assert_eq!(start.requests, [of(&web, before, 10), of(&web, permit, 20)]);
    world.ledger().settle(settle(permit, 7, 3)).await.unwrap();
    let row = rows(&world).await.pop().unwrap();
    assert_eq!((row.usage, row.agent.as_ref()), (usage(7, 3), web.agent.as_ref()));
    assert_eq!(news.try_recv(), Ok(RequestNews::Settled(permit, Box::new(row))));

    // What nobody settles any more, several at once.
    world.ledger().settle_open(Ending::ProxyLost).await.unwrap();
    let row = rows(&world).await.remove(0);
    assert_eq!(row.ending, Ending::ProxyLost);
    assert_eq!(news.try_recv(), Ok(RequestNews::Settled(before, Box::new(row))));
    assert_eq!(news.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(world.ledger().live_start(9).await.unwrap().requests, []);
}

#[tokio::test]
async fn followers_are_not_told_of_what_was_not_done() {
    let world = World::new(&[("claude", 1_000)]);
    let web = world.run("web", &[]).await;
    let mut news = world.ledger().requests();
    let unmetered = SpendRequest { is_metered: false, ..reserve(&web, "claude", 0, 0) };
    let permit = world.ledger().admit(unmetered).await.unwrap().unwrap().permit;
    assert_eq!(world.ledger().live_start(9).await.unwrap().requests, []);
    world.ledger().settle(Settlement { known: Known::Unmetered, ..settle(permit, 0, 0) }).await.unwrap();
    assert!(world.ledger().admit(reserve(&web, "claude", 2_000, 5)).await.unwrap().is_err());
    assert!(world.ledger().settle(settle(PermitId(99), 1, 1)).await.is_err());
    assert_eq!(news.try_recv(), Err(TryRecvError::Empty));

    // The second of two settlements that are one command fails, so the first was not done either.
    for _ in 0..2 {
        world.ledger().admit(reserve(&web, "claude", 10, 5)).await.unwrap().unwrap();
        news.try_recv().unwrap();
    }
    let sql = "CREATE TRIGGER refuse BEFORE INSERT ON usage WHEN (SELECT count(*) FROM usage) > 1
               BEGIN SELECT RAISE(ABORT, 'refused'); END";
    world.sql().execute_batch(sql).unwrap();
    assert!(world.ledger().settle_open(Ending::ProxyLost).await.is_err());
    assert_eq!(news.try_recv(), Err(TryRecvError::Empty));
    world.sql().execute_batch("DROP TRIGGER refuse").unwrap();
    assert_eq!(world.ledger().settle_open(Ending::ProxyLost).await.unwrap().len(), 2);
    assert_eq!(news.len(), 2);
}

#[tokio::test]
async fn a_follower_that_does_not_read_holds_nobody_up_and_hears_that_it_missed_something() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let mut news = world.ledger().requests();
    let rounds = FOLLOWED_NEWS_MAX / 2 + 1;
    for _ in 0..rounds {
        let done = world.ledger().write_together(vec![Command::Admit(reserve(&web, "claude", 1, 1))]);
        let [crate::ledger::Done::Admitted(Ok(Ok(admitted)))] = done.as_slice() else { panic!("{done:?}") };
        assert_eq!(world.ledger().write_together(vec![Command::Settle(settle(admitted.permit, 1, 1))]).len(), 1);
    }
    assert_eq!(rows(&world).await.len(), rounds);
    assert_eq!(news.try_recv(), Err(TryRecvError::Lagged(2)));
}

#[tokio::test]
async fn a_look_holds_what_was_committed_since() {
    let world = World::new(&[("claude", 1_000)]);
    let (web, api) = (world.run("web", &[]).await, world.run("api", &[]).await);
    let start = world.ledger().live_start(2).await.unwrap();
    let names = |bottles: &[crate::ledger::ListedBottle]| -> Vec<String> {
        bottles.iter().map(|bottle| bottle.row.name.to_string()).collect()
    };
    assert_eq!(names(&start.bottles), ["api", "web"]);
    assert_eq!((start.audit.rows.len(), start.newest_approval), (2, crate::domain::ApprovalId(0)));
    let one = world.ledger().bottle(&api.name).await.unwrap();
    assert_eq!(start.bottles[0].row, one);
    assert_eq!(start.bottles[0].budgets, world.ledger().budgets(api.id).await.unwrap());

    // Ended with an open gate: shown no more. Ended and cut, or frozen: still shown.
    let other = world.run("other", &[]).await;
    for bottle in [&web, &api] {
        world.ledger().end_run(bottle.id, 0).await.unwrap();
    }
    world.ledger().change_gate(api.id, GateChange::Cut(CutCause::Operator)).await.unwrap();
    world.ledger().end_stop(other.id, Stop::Freeze, CutCause::Operator).await.unwrap();
    let look = world.ledger().live_look(start.newest_approval, start.audit.newest, 3).await.unwrap();
    assert_eq!(names(&look.bottles), ["api", "other"]);
    let kinds: Vec<AuditKind> = look.audit.rows.into_iter().map(|row| row.kind).collect();
    let ended = || AuditKind::BottleEnded { exit_code: 0 };
    assert_eq!(kinds, [AuditKind::BottleStarted { agent: other.agent }, ended(), ended()]);
}
