//! Windows, parents, agents, and what operators change at run time.

use std::collections::BTreeMap;

use super::*;
use crate::domain::{AuditKind, BottleRules, CacheReads, LimitSource, Precedence, Scope, Thresholds, Window};
use crate::ledger::{AuditFilter, BudgetChange, GateChange};

const HOUR: i64 = 3_600_000;
const BY: u32 = 1000;

fn bottle(name: &str) -> Scope {
    Scope::Bottle(name.parse().unwrap())
}

fn limit(text: &str) -> Limit {
    text.parse().unwrap()
}

fn named(pairs: &[(&str, &str)]) -> Budget {
    pairs.iter().map(|(provider, amount)| (provider.parse().unwrap(), limit(amount))).collect()
}

/// A bottle's name, its parent and its budget.
type Laid<'a> = (&'a str, Option<&'a str>, &'a [(&'a str, &'a str)]);

fn family(bottles: &[Laid<'_>]) -> Rules {
    let rules = |(name, extends, budget): &Laid<'_>| {
        let extends = extends.map(|parent| parent.parse().unwrap());
        (name.parse().unwrap(), BottleRules { extends, budget: named(budget), ..BottleRules::default() })
    };
    Rules { bottles: bottles.iter().map(rules).collect(), ..Rules::default() }
}

async fn spend(world: &World, bottle: &BottleRow, input: u64) -> crate::ledger::Settled {
    let admitted = world.ledger().admit(reserve(bottle, "claude", input, 0)).await.unwrap().unwrap();
    world.ledger().settle(settle(admitted.permit, input, 0)).await.unwrap()
}

async fn refused_by(world: &World, bottle: &BottleRow, input: u64) -> Option<Scope> {
    let answer = world.ledger().admit(reserve(bottle, "claude", input, 0)).await.unwrap();
    let refusal = match answer {
        Ok(admitted) => {
            world.ledger().settle(settle(admitted.permit, 0, 0)).await.unwrap();
            return None;
        }
        Err(refusal) => refusal,
    };
    refusal.scope
}

async fn told(world: &World) -> Vec<AuditKind> {
    let rows = world.ledger().audit_rows(AuditFilter::default()).await.unwrap();
    rows.rows.into_iter().map(|row| row.kind).filter(|kind| !matches!(kind, AuditKind::BottleStarted { .. })).collect()
}

#[tokio::test]
async fn a_window_begins_anew_when_it_turns_and_not_before() {
    let mut world = World::under(Rules { host: named(&[("claude", "100/hour")]), ..Rules::default() });
    let web = world.run("web", &[]).await;
    assert!(spend(&world, &web, 100).await.crossing.is_some());
    assert_eq!(refused_by(&world, &web, 1).await, Some(Scope::Host));
    world.reopen();
    assert_eq!(refused_by(&world, &web, 1).await, Some(Scope::Host), "a restart turns no window");
    let turns = world.ledger().budgets(web.id).await.unwrap()[0].chain[2].turns.unwrap();
    world.set_clock(turns.0 - 1);
    assert_eq!(refused_by(&world, &web, 1).await, Some(Scope::Host));
    world.set_clock(turns.0);
    assert_eq!(refused_by(&world, &web, 1).await, None);
    spend(&world, &web, 60).await;
    let state = world.ledger().budgets(web.id).await.unwrap()[0].chain[2].clone();
    assert_eq!(
        (state.used, state.window, state.turns),
        (Tokens(60), Some(Window::Hour), Some(UnixMillis(turns.0 + HOUR)))
    );
    world.assert_totals_are_sums();
}

#[tokio::test]
async fn spending_counts_for_every_ancestor_and_only_upwards() {
    let world = World::under(family(&[
        ("web", Some("base"), &[]),
        ("api", Some("base"), &[]),
        ("base", Some("root"), &[("claude", "100")]),
        ("root", None, &[("claude", "1000")]),
    ]));
    let (web, api) = (world.run("web", &[]).await, world.run("api", &[]).await);
    let root = world.run("root", &[]).await;
    spend(&world, &web, 60).await;
    assert_eq!(refused_by(&world, &api, 41).await, Some(bottle("base")), "a sibling's spending counts");
    assert_eq!(refused_by(&world, &api, 40).await, None);
    assert_eq!(refused_by(&world, &root, 940).await, None);
    assert_eq!(refused_by(&world, &root, 941).await, Some(bottle("root")), "the grandchild's spending counts");
    let sums = world.ledger().usage_sums(None).await.unwrap();
    let totals: Vec<u64> = sums.iter().map(|sum| sum.usage.total().0).collect();
    assert_eq!(totals, [0, 0, 60], "a bottle's usage is its own: api, root, web");
    world.assert_totals_are_sums();
}

#[tokio::test]
async fn flags_of_a_run_beat_the_file_for_that_run() {
    let world =
        World::under(family(&[("web", Some("base"), &[("claude", "10")]), ("base", None, &[]), ("else", None, &[])]));
    let run = NewRun { extends: Some("else".parse().unwrap()), ..new_run("web", &[("claude", 50)]) };
    let web = world.ledger().begin_run(run, POOL).await.unwrap();
    let lineage = world.ledger().lineage(web.id).await.unwrap();
    assert_eq!(lineage.iter().map(ToString::to_string).collect::<Vec<_>>(), ["web", "else"]);
    assert_eq!(refused_by(&world, &web, 50).await, None);
    let state = world.ledger().budgets(web.id).await.unwrap()[0].chain[1].clone();
    assert_eq!((state.limit, state.source), (Some(Tokens(50)), Some(LimitSource::Launch)));
    world.ledger().end_run(web.id, 0).await.unwrap();
    let web = world.run("web", &[]).await;
    assert_eq!(refused_by(&world, &web, 11).await, Some(bottle("web")));
    assert_eq!(world.ledger().lineage(web.id).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_parent_that_is_unknown_or_leads_in_a_circle_is_refused() {
    let world = World::under(family(&[("base", Some("web"), &[]), ("web", None, &[])]));
    let with = |parent: &str| NewRun { extends: Some(parent.parse().unwrap()), ..new_run("web", &[]) };
    let unknown = world.ledger().begin_run(with("bsae"), POOL).await.unwrap_err();
    assert!(unknown.to_string().contains("no bottle bsae to extend"), "{unknown}");
    let circle = world.ledger().begin_run(with("base"), POOL).await.unwrap_err();
    assert!(circle.to_string().contains("web -> base -> web"), "{circle}");
    let web = world.run("web", &[]).await;
    world.ledger().end_run(web.id, 0).await.unwrap();
    let fine = family(&[("base", None, &[])]);
    world.ledger().set_rules(fine.clone()).await.unwrap();
    world.ledger().begin_run(with("base"), POOL).await.unwrap();
    let circle = world.ledger().set_rules(family(&[("base", Some("web"), &[])])).await.unwrap_err();
    assert!(circle.to_string().contains("web -> base -> web"), "{circle}");
    assert_eq!(*world.ledger().rules(), fine, "what was in force still is");
}

#[tokio::test]
async fn strict_precedence_makes_every_budget_a_cap() {
    let rules = family(&[("web", None, &[("claude", "500")])]);
    let host = named(&[("claude", "100")]);
    for (precedence, expected) in [(Precedence::Nearest, None), (Precedence::Strict, Some(Scope::Host))] {
        let world = World::under(Rules { host: host.clone(), precedence, ..rules.clone() });
        let web = world.run("web", &[]).await;
        assert_eq!(refused_by(&world, &web, 101).await, expected, "{precedence:?}");
    }
}

#[tokio::test]
async fn a_budget_that_binds_only_others_is_told_when_it_is_crossed() {
    let world =
        World::under(Rules { host: named(&[("claude", "100")]), ..family(&[("web", None, &[("claude", "500")])]) });
    let web = world.run("web", &[]).await;
    let first = spend(&world, &web, 99).await;
    assert!(!first.crosses());
    let second = spend(&world, &web, 2).await;
    assert_eq!(second.crossing, None);
    assert_eq!(
        second.crossed_for_others.iter().map(|crossing| crossing.scope.clone()).collect::<Vec<_>>(),
        [Scope::Host]
    );
    assert!(!spend(&world, &web, 1).await.crosses(), "told once");
}

#[tokio::test]
async fn what_a_reservation_set_aside_is_given_back_where_it_was() {
    let world = World::under(family(&[("web", Some("base"), &[]), ("base", None, &[]), ("else", None, &[])]));
    let web = world.run("web", &[]).await;
    let admitted = world.ledger().admit(reserve(&web, "claude", 70, 0)).await.unwrap().unwrap();
    world
        .ledger()
        .set_rules(family(&[("web", Some("else"), &[]), ("base", None, &[]), ("else", None, &[])]))
        .await
        .unwrap();
    world.ledger().settle(settle(admitted.permit, 50, 0)).await.unwrap();
    let scopes = world.ledger().scopes().await.unwrap();
    let of = |scope: Scope| {
        scopes.iter().find(|view| view.state.scope == scope).map(|view| (view.state.used, view.state.held))
    };
    assert_eq!(of(bottle("base")), Some((Tokens(50), Tokens::ZERO)));
    assert_eq!(of(bottle("else")), None);
    world.assert_totals_are_sums();
}

#[tokio::test]
async fn operators_set_grant_and_clear() {
    let world = World::new(&[("claude", 100)]);
    let web = world.run("web", &[]).await;
    let provider = || "claude".parse().unwrap();
    let change = async |change| world.ledger().change_budget(change, BY).await;
    change(BudgetChange::Set { scope: bottle("web"), provider: provider(), limit: limit("10/day") }).await.unwrap();
    assert_eq!(refused_by(&world, &web, 11).await, Some(bottle("web")));
    let until = Some(UnixMillis(world.now() + HOUR));
    change(BudgetChange::Grant { scope: bottle("web"), provider: provider(), tokens: Tokens(5), until }).await.unwrap();
    assert_eq!(refused_by(&world, &web, 15).await, None);
    assert_eq!(refused_by(&world, &web, 16).await, Some(bottle("web")));
    world.set_clock(world.now() + HOUR);
    assert_eq!(refused_by(&world, &web, 11).await, Some(bottle("web")), "a grant ends by the clock alone");
    assert_eq!(world.ledger().end_grants().await.unwrap(), 1);
    assert_eq!(world.ledger().end_grants().await.unwrap(), 0);
    change(BudgetChange::Clear { scope: bottle("web"), provider: None }).await.unwrap();
    assert_eq!(refused_by(&world, &web, 100).await, None);
    assert_eq!(refused_by(&world, &web, 101).await, Some(Scope::Host));
    let nothing = change(BudgetChange::Clear { scope: bottle("web"), provider: None }).await.unwrap_err();
    assert!(matches!(nothing, LedgerError::NoOverride(_)), "{nothing}");
    let no_limit = BudgetChange::Grant { scope: bottle("web"), provider: provider(), tokens: Tokens(5), until: None };
    let nothing = change(no_limit).await.unwrap_err();
    assert!(matches!(nothing, LedgerError::NoBudget { .. }), "{nothing}");
    let kinds = told(&world).await;
    assert!(
        matches!(
            kinds.as_slice(),
            [
                AuditKind::BudgetSet { by: BY, .. },
                AuditKind::BudgetGranted { tokens: Tokens(5), by: BY, .. },
                AuditKind::GrantEnded { tokens: Tokens(5), .. },
                AuditKind::BudgetCleared { by: BY, .. },
            ]
        ),
        "{kinds:?}"
    );
}

#[tokio::test]
async fn what_operators_set_outlives_restarts_and_new_settings() {
    let mut world = World::new(&[("claude", 100)]);
    let web = world.run("web", &[]).await;
    let set = BudgetChange::Set { scope: Scope::Host, provider: "claude".parse().unwrap(), limit: limit("7") };
    world.ledger().change_budget(set, BY).await.unwrap();
    world.reopen();
    world.ledger().set_rules(rules(&[("claude", 1_000)])).await.unwrap();
    assert_eq!(refused_by(&world, &web, 8).await, Some(Scope::Host));
    let state = world.ledger().scopes().await.unwrap().remove(0).state;
    assert_eq!((state.limit, state.source), (Some(Tokens(7)), Some(LimitSource::Operator)));
}

#[tokio::test]
async fn thresholds_are_told_once_with_the_settlement_that_reaches_them() {
    let rules = Rules { thresholds: Thresholds(vec![50, 90]), ..rules(&[("claude", 100)]) };
    let world = World::under(rules);
    let web = world.run("web", &[]).await;
    let mut percents = Vec::new();
    for input in [49, 1, 39, 11] {
        percents.push(spend(&world, &web, input).await.passed.iter().map(|passed| passed.percent).collect::<Vec<_>>());
    }
    assert_eq!(percents, [vec![], vec![50], vec![], vec![90]]);
    let kinds = told(&world).await;
    assert!(
        matches!(
            kinds.as_slice(),
            [AuditKind::BudgetUsed { percent: 50, .. }, AuditKind::BudgetUsed { percent: 90, used: Tokens(100), .. }]
        ),
        "{kinds:?}"
    );
}

#[tokio::test]
async fn cache_reads_that_do_not_count_are_recorded_all_the_same() {
    for (cache_reads, expected) in [(CacheReads::Count, 60), (CacheReads::Ignore, 10)] {
        let world = World::under(Rules { cache_reads, ..rules(&[("claude", 100)]) });
        let web = world.run("web", &[]).await;
        let admitted = world.ledger().admit(reserve(&web, "claude", 1, 0)).await.unwrap().unwrap();
        let mut said = settle(admitted.permit, 10, 0);
        said.usage.cache_read = Tokens(50);
        let settled = world.ledger().settle(said).await.unwrap();
        assert_eq!(settled.allowances[0].left, Tokens(100 - expected), "{cache_reads:?}");
        assert_eq!(world.ledger().usage_sums(None).await.unwrap()[0].usage.total(), Tokens(60));
    }
}

#[tokio::test]
async fn what_nobody_settles_in_time_is_settled_at_its_worst() {
    const DAY: i64 = 24 * HOUR;
    let mut world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let lost = world.ledger().admit(reserve(&web, "claude", 10, 5)).await.unwrap().unwrap();
    world.set_clock(world.now() + DAY - 1);
    let fresh = world.ledger().admit(reserve(&web, "claude", 20, 5)).await.unwrap().unwrap();
    assert!(world.ledger().settle_stale().await.unwrap().is_empty());
    world.set_clock(world.now() + 1);
    assert_eq!(world.ledger().settle_stale().await.unwrap().len(), 1);
    let late = world.ledger().settle(settle(lost.permit, 1, 1)).await;
    assert!(matches!(late, Err(LedgerError::NoReservation(_))), "{late:?}");
    assert_eq!(world.ledger().usage_sums(None).await.unwrap()[0].usage.total(), Tokens(15));
    world.boot("the next boot");
    assert_eq!(world.ledger().settle_stale().await.unwrap().len(), 1, "nothing of another boot is in flight");
    let late = world.ledger().settle(settle(fresh.permit, 1, 1)).await;
    assert!(matches!(late, Err(LedgerError::NoReservation(_))), "{late:?}");
    world.assert_totals_are_sums();
}

#[tokio::test]
async fn a_cut_for_a_budget_is_lifted_and_an_operators_is_not() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    for (cause, was_lifted) in [(crate::domain::CutCause::Budget, true), (crate::domain::CutCause::Operator, false)] {
        world.ledger().change_gate(web.id, GateChange::Cut(cause)).await.unwrap();
        world.ledger().change_gate(web.id, GateChange::Lift).await.unwrap();
        let gate = world.ledger().bottle(&web.name).await.unwrap().gate;
        assert_eq!(gate == crate::domain::GateView::Open, was_lifted, "{cause:?}");
    }
}

#[tokio::test]
async fn agents_have_budgets_wherever_they_run() {
    let agents = BTreeMap::from([("reviewer".parse().unwrap(), named(&[("claude", "100")]))]);
    let world = World::under(Rules { agents, ..Rules::default() });
    let (web, api) = (world.run("web", &[]).await, world.run("api", &[]).await);
    spend(&world, &web, 60).await;
    assert_eq!(refused_by(&world, &api, 41).await, Some(Scope::Agent("reviewer".parse().unwrap())));
    let run = NewRun { agent: None, ..new_run("free", &[]) };
    let free = world.ledger().begin_run(run, POOL).await.unwrap();
    assert_eq!(refused_by(&world, &free, 1_000).await, None);
}

#[tokio::test]
async fn durability_is_what_sqlite_is_told() {
    let world = World::new(&[]);
    for (durability, synchronous) in [(Durability::Power, 2), (Durability::Process, 1)] {
        world.ledger().set_durability(durability).await.unwrap();
        let desk = crate::ledger::writer::take(&world.ledger().shared.desk);
        let found: i64 = desk.connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!(found, synchronous, "{durability:?}");
    }
}
