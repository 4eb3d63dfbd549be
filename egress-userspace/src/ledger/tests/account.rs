//! Admission and settlement: the whole account afterwards.

use std::collections::HashSet;

use super::*;
use crate::domain::{Preflight, RateLimits, RefusalReason, Scope};
use crate::ledger::UsageFilter;
use crate::ledger::column::{TEXT_BYTES_MAX, TOKENS_PER_EXCHANGE_MAX};

#[tokio::test]
async fn what_was_admitted_is_held_and_what_was_settled_is_recorded() {
    let world = World::new(&[]);
    let web = world.run("web", &[("claude", 10_000)]).await;
    let permit = world.ledger().admit(reserve(&web, "claude", 100, 400)).await.unwrap().unwrap().permit;
    let before = world.ledger().budgets(web.id).await.unwrap();
    assert_eq!(before[0].chain[0].held, Tokens(100), "input is held; output is not promised to anybody");
    assert_eq!(before[0].chain[0].used, Tokens::ZERO);

    let mut said = settle(permit, 90, 30);
    said.usage.cache_write = Tokens(7);
    said.usage.cache_read = Tokens(5);
    let settled = world.ledger().settle(said).await.unwrap();
    assert_eq!((settled.bottle, settled.crossing), (web.id, None));

    let after = world.ledger().budgets(web.id).await.unwrap();
    let scopes: Vec<_> = after[0].chain.iter().map(|state| (state.scope.clone(), state.limit, state.used)).collect();
    let used = Tokens(132);
    assert_eq!(
        scopes,
        [
            (Scope::Agent("reviewer".parse().unwrap()), None, used),
            (Scope::Bottle(web.name.clone()), Some(Tokens(10_000)), used),
            (Scope::Host, None, used)
        ],
        "spend rolls up"
    );
    let rows = world.ledger().usage_rows(UsageFilter::default()).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].usage.total(), used);
    assert_eq!(rows[0].model.as_deref(), Some("asked"), "the request's model, for want of the response's");
    assert_eq!(rows[0].agent.as_ref().map(ToString::to_string).as_deref(), Some("reviewer"));
    let sums = world.ledger().usage_sums(Some(web.name)).await.unwrap();
    assert_eq!((sums[0].requests, sums[0].usage.total(), sums[0].held), (1, used, Tokens::ZERO));
    world.assert_totals_are_sums();
}

#[tokio::test]
async fn what_a_provider_tells_besides_is_kept_and_counts_nothing() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let headers = [("retry-after", &b"7"[..]), ("anthropic-ratelimit-unified-5h-utilization", b"0.4")];
    let limits = RateLimits::among(headers.into_iter());
    let notes = ProviderNotes { service_tier: Some("x".repeat(TEXT_BYTES_MAX + 1)), limits };
    let details = UsageDetails { cache_write_1h: Tokens(3), reasoning: Tokens(u64::MAX) };
    for said in [Some((details, notes.clone())), None] {
        let permit = world.ledger().admit(reserve(&web, "claude", 1, 1)).await.unwrap().unwrap().permit;
        let mut settlement = settle(permit, 10, 20);
        settlement.usage.cache_write = Tokens(5);
        if let Some((details, notes)) = said {
            (settlement.details, settlement.notes) = (details, notes);
        }
        world.ledger().settle(settlement).await.unwrap();
    }
    let rows = world.ledger().usage_rows(UsageFilter::default()).await.unwrap();
    let within = UsageDetails { cache_write_1h: Tokens(3), reasoning: Tokens(20) };
    assert_eq!((rows[0].details, &rows[0].notes.limits), (within, &notes.limits), "parts are no more than the whole");
    assert_eq!(rows[0].notes.service_tier.as_ref().map(String::len), Some(TEXT_BYTES_MAX));
    assert_eq!((rows[1].details, &rows[1].notes), (UsageDetails::default(), &ProviderNotes::default()));
    let sums = world.ledger().usage_sums(None).await.unwrap();
    assert_eq!(sums[0].usage.total(), Tokens(70));
    world.assert_totals_are_sums();
}

#[tokio::test]
async fn a_reservation_is_settled_once() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let permit = world.ledger().admit(reserve(&web, "claude", 1, 1)).await.unwrap().unwrap().permit;
    world.ledger().settle(settle(permit, 1, 1)).await.unwrap();
    for unknown in [permit, PermitId(999), PermitId(-1)] {
        let again = world.ledger().settle(settle(unknown, 1, 1)).await;
        assert!(matches!(again, Err(LedgerError::NoReservation(number)) if number == unknown), "{again:?}");
    }
    assert_eq!(world.count("usage"), 1);
    world.assert_totals_are_sums();
}

#[tokio::test]
async fn permit_numbers_are_never_used_twice() {
    let mut world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let first = world.ledger().admit(reserve(&web, "claude", 1, 1)).await.unwrap().unwrap().permit;
    world.ledger().settle(settle(first, 1, 1)).await.unwrap();
    world.reopen();
    let second = world.ledger().admit(reserve(&web, "claude", 1, 1)).await.unwrap().unwrap().permit;
    assert!(second > first);
}

#[tokio::test]
async fn a_crossing_is_reported_from_the_settlement_that_crosses_on() {
    let world = World::new(&[("claude", 1_000_000)]);
    let web = world.run("web", &[("claude", 100)]).await;
    let mut permits = Vec::new();
    for _ in 0..3 {
        permits.push(world.ledger().admit(reserve(&web, "claude", 10, 0)).await.unwrap().unwrap().permit);
    }
    let mut crossings = Vec::new();
    for permit in permits {
        crossings.push(world.ledger().settle(settle(permit, 10, 50)).await.unwrap().crossing);
    }
    let used: Vec<_> = crossings.iter().map(|crossing| crossing.as_ref().map(|crossing| crossing.used.0)).collect();
    assert_eq!(used, [None, Some(120), Some(180)]);
    assert_eq!(crossings[1].as_ref().unwrap().scope, Scope::Bottle(web.name.clone()));

    for is_metered in [true, false] {
        let refused = world.ledger().admit(SpendRequest { is_metered, ..reserve(&web, "claude", 0, 0) }).await.unwrap();
        assert_eq!(refused.unwrap_err().reason, RefusalReason::BudgetExhausted, "metered: {is_metered}");
    }
    assert!(world.ledger().admit(reserve(&web, "codex", 10, 10)).await.unwrap().is_ok(), "another provider");
}

#[tokio::test]
async fn unmetered_requests_hold_and_count_nothing() {
    let world = World::new(&[("claude", 10)]);
    let web = world.run("web", &[]).await;
    let free = SpendRequest { is_metered: false, ..reserve(&web, "claude", 5_000, 5_000) };
    let permit = world.ledger().admit(free.clone()).await.unwrap().unwrap().permit;
    let said = Settlement { known: Known::Unmetered, ..settle(permit, 0, 0) };
    assert_eq!(world.ledger().settle(said).await.unwrap().crossing, None);
    world.ledger().admit(free).await.unwrap().unwrap();
    assert_eq!(world.ledger().settle_open(Ending::ProxyLost).await.unwrap().len(), 1);
    let sums = world.ledger().usage_sums(None).await.unwrap();
    assert_eq!((sums[0].requests, sums[0].usage.total(), sums[0].held), (0, Tokens::ZERO, Tokens::ZERO));
    let rows = world.ledger().usage_rows(UsageFilter::default()).await.unwrap();
    assert!(rows.iter().all(|row| row.known == Known::Unmetered) && rows.len() == 2);
}

#[tokio::test]
async fn without_a_look_ahead_only_a_used_up_budget_refuses() {
    let mut world = World::new(&[("claude", 100)]);
    world.rules.preflight.usual = Preflight::Off;
    world.reopen();
    let web = world.run("web", &[]).await;
    let admit = async |input| world.ledger().admit(reserve(&web, "claude", input, 0)).await.unwrap();
    let first = admit(5_000).await.unwrap();
    let second = admit(5_000).await.unwrap();
    world.ledger().settle(settle(first.permit, 99, 0)).await.unwrap();
    admit(5_000).await.unwrap();
    world.ledger().settle(settle(second.permit, 1, 0)).await.unwrap();
    let refusal = admit(1).await.unwrap_err();
    assert!(refusal.is_exhausted(), "{refusal:?}");
    // What is set aside is still what a crash would settle.
    world.reopen();
    let settled = world.ledger().settle_open(Ending::ProxyLost).await.unwrap();
    assert_eq!(settled.len(), 1);
    let rows = world.ledger().usage_rows(UsageFilter { last: Some(1), ..UsageFilter::default() }).await.unwrap();
    assert_eq!(rows[0].usage.input, Tokens(5_000));
}

#[tokio::test]
async fn absurd_answers_can_neither_overflow_nor_fill_the_ledger() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    for _ in 0..3 {
        let mut ask = reserve(&web, "claude", u64::MAX, u64::MAX);
        ask.target = "GET /".repeat(TEXT_BYTES_MAX);
        let permit = world.ledger().admit(ask).await.unwrap().unwrap().permit;
        let mut said = settle(permit, u64::MAX, u64::MAX);
        said.model = Some("ä".repeat(TEXT_BYTES_MAX));
        world.ledger().settle(said).await.unwrap();
    }
    let rows = world.ledger().usage_rows(UsageFilter { bottle: Some(web.name), last: Some(1) }).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].usage.input, TOKENS_PER_EXCHANGE_MAX);
    assert_eq!(rows[0].target.len(), TEXT_BYTES_MAX);
    world.assert_totals_are_sums();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_at_once_are_never_promised_the_same_tokens() {
    const BUDGET: u64 = 10_000;
    let world = World::new(&[("claude", BUDGET)]);
    let web = world.run("web", &[]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64_u64 {
        let (ledger, web) = (world.ledger().clone(), web.clone());
        tasks.spawn(async move {
            let mut settled = Vec::new();
            for turn in 0..20 {
                let Ok(admitted) = ledger.admit(reserve(&web, "claude", 10 + task, 0)).await.unwrap() else { break };
                let permit = admitted.permit;
                tokio::task::yield_now().await;
                ledger.settle(settle(permit, 10 + task - turn % 3, 0)).await.unwrap();
                settled.push(permit);
            }
            settled
        });
    }
    let settled: Vec<PermitId> = tasks.join_all().await.into_iter().flatten().collect();
    let distinct: HashSet<PermitId> = settled.iter().copied().collect();
    assert_eq!(distinct.len(), settled.len());
    assert_eq!(world.count("usage"), settled.len());
    let sums = world.ledger().usage_sums(None).await.unwrap();
    let used = sums[0].usage.total().0;
    assert!(used <= BUDGET && used > BUDGET / 2, "no response exceeded what was set aside for it: {used}");
    world.assert_totals_are_sums();
}
