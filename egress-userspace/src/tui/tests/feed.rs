//! What the daemon tells, and what becomes of it.
#![expect(clippy::wildcard_enum_match_arm, reason = "anything else fails the test")]

use super::super::state::{Detail, Fetched, Link, Loaded, Screen, Section, State, Whose, governing};
use super::super::update::{Action, Event, Key, update};
use super::sample::*;
use crate::control::{GateCounts, LiveEvent, LiveGate, LiveSnapshot};
use crate::domain::{AuditKind, BottleName, Scope, Tokens, UnixMillis, Verdict};

fn web() -> BottleName {
    "web".parse().unwrap()
}

fn rate(state: &State, whose: &Whose) -> u64 {
    state.rates.per_minute(whose, state.now).0
}

fn detail(state: &State) -> &Detail {
    match &state.screen {
        Screen::Detail(detail) => detail,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_is_on_its_way_until_it_is_settled_and_then_counts() {
    let mut state = with(vec![budgeted("web", "claude", (10, 0, 100)), bottle("api")]);
    tell(&mut state, LiveEvent::Admitted { request: request(1, "web") });
    tell(&mut state, LiveEvent::Admitted { request: request(2, "web") });
    assert_eq!((state.in_flight(&web()), state.in_flight(&"api".parse().unwrap())), (2, 0));
    tell(&mut state, settled(1, row("web", "claude", (0, 6_000))));
    assert_eq!(state.in_flight(&web()), 1);
    let host = Whose::Budget(Scope::Host, "claude".parse().unwrap());
    assert_eq!((rate(&state, &Whose::Bottle(web())), rate(&state, &host)), (6_000, 6_000));
    // Of another provider: it is the bottle's, and no claude budget's.
    tell(&mut state, settled(3, row("web", "codex", (0, 600))));
    assert_eq!((rate(&state, &Whose::Bottle(web())), rate(&state, &host)), (6_600, 6_000));
    // What another bottle spends counts for the budget that both share.
    tell(&mut state, LiveEvent::Bottle { bottle: Box::new(budgeted("api", "claude", (0, 0, 50))) });
    tell(&mut state, settled(4, row("api", "claude", (0, 1_000))));
    assert_eq!((rate(&state, &Whose::Bottle(web())), rate(&state, &host)), (6_600, 7_000));
}

#[test]
fn what_was_spent_before_counts_once() {
    let mut state = blank();
    let LiveEvent::Snapshot(told) = snapshot(vec![bottle("web")]) else { panic!("no snapshot") };
    let now = ago(30);
    let actions = tell(&mut state, LiveEvent::Snapshot(Box::new(LiveSnapshot { now, ..*told })));
    assert_eq!(actions, [Action::History]);
    let (before, after) = (row("web", "claude", (40, 500)), row("web", "claude", (20, 70)));
    // Either comes both ways: the feed begins before everything is read, and reading ends after that.
    tell(&mut state, settled(1, before.clone()));
    tell(&mut state, settled(2, after.clone()));
    update(&mut state, Event::History(vec![before, after]));
    let points = state.rates.points(&Whose::Bottle(web()), state.now);
    assert_eq!(points.iter().sum::<u64>(), 570);
}

#[test]
fn a_daemon_that_goes_is_looked_for_and_everything_is_forgotten_when_it_is_back() {
    let mut state = with(vec![budgeted("web", "claude", (10, 0, 100)), bottle("old")]);
    tell(&mut state, LiveEvent::Admitted { request: request(1, "web") });
    tell(&mut state, LiveEvent::Approval { approval: Box::new(question(7, "web")) });
    key(&mut state, Key::Enter);
    assert_eq!(update(&mut state, Event::Lost("gone".to_owned())), [Action::Connect(250)]);
    update(&mut state, Event::Tick(ago(-9)));
    assert_eq!(update(&mut state, Event::Lost("no one listens".to_owned())), [Action::Connect(500)]);
    let Link::Lost { since, why, .. } = &state.link else { panic!("{:?}", state.link) };
    assert_eq!((*since, why.as_str()), (NOW, "no one listens"));
    assert_eq!((state.bottles.len(), state.in_flight(&web())), (2, 1), "what was known is still shown");
    assert_eq!(press(&mut state, "c"), []);
    assert!(state.message.as_ref().is_some_and(|message| message.text.contains("there is no daemon")));

    let actions = tell(&mut state, snapshot(vec![budgeted("web", "claude", (20, 0, 100))]));
    assert_eq!((&state.link, state.bottles.len(), state.in_flight(&web())), (&Link::Live, 1, 0));
    assert_eq!(state.approvals, []);
    assert_eq!(governing(&state.bottles[&web()].info).unwrap().state.used, Tokens(20));
    assert_eq!(actions.len(), 5, "{actions:?}: history, and what the detail shows");
    assert_eq!(detail(&state).requests, Loaded::Waiting(Vec::new()));
}

#[test]
fn a_detail_is_kept_current_by_events() {
    let mut state = with(vec![budgeted("web", "claude", (10, 0, 100)), bottle("api")]);
    key(&mut state, Key::Enter);
    let outcome = |fetched| Event::Fetched { bottle: web(), section: Section::Requests, outcome: fetched };
    let rows = [3, 2, 1].map(|seconds| row("web", "claude", (seconds, 10)));
    // Heard while the answer was on its way: the second is in it, the third is not.
    tell(&mut state, settled(2, rows[1].clone()));
    tell(&mut state, settled(3, rows[2].clone()));
    update(&mut state, outcome(Ok(Fetched::Requests(rows[..2].to_vec()))));
    assert_eq!(detail(&state).requests, Loaded::Here(rows.to_vec()));
    tell(&mut state, settled(4, row("api", "claude", (0, 10))));
    assert_eq!(detail(&state).requests, Loaded::Here(rows.to_vec()), "another bottle's");

    let kinds = [(5, AuditKind::GateRestored), (6, AuditKind::CutLifted), (7, AuditKind::BottleResumed)];
    let [old, both, new] = kinds.map(|(number, kind)| audit(number, "web", kind));
    tell(&mut state, LiveEvent::Audit { row: both.clone() });
    tell(&mut state, LiveEvent::Audit { row: new.clone() });
    update(&mut state, outcome(Ok(Fetched::Audit(vec![old.clone(), both.clone()]))));
    assert_eq!(detail(&state).audit, Loaded::Here(vec![old, both, new]));

    let failed = Event::Fetched { bottle: web(), section: Section::Routes, outcome: Err("no".to_owned()) };
    update(&mut state, failed.clone());
    assert_eq!(detail(&state).routes, Loaded::Failed("no".to_owned()));
    key(&mut state, Key::Escape);
    assert_eq!(update(&mut state, failed), [], "nobody looks any more");
}

#[test]
fn packets_are_counted_and_their_reasons_asked_for_while_somebody_looks() {
    let mut state = with(vec![bottle("web")]);
    let counts = GateCounts { passed_bytes_from_bottle: 5, passed_bytes_to_bottle: 6 };
    let gates = |name: &str| LiveEvent::Gates {
        gates: vec![LiveGate { bottle: name.parse().unwrap(), dropped_packets: 9, counts }],
    };
    assert_eq!(tell(&mut state, gates("web")), []);
    let known = &state.bottles[&web()];
    assert_eq!((known.info.dropped_packets, known.counts), (9, counts));
    assert_eq!(tell(&mut state, gates("nobody")), []);
    key(&mut state, Key::Enter);
    assert_eq!(tell(&mut state, gates("web")), [], "another section is shown");
    press(&mut state, "4");
    assert_eq!(tell(&mut state, gates("web")), [Action::Fetch(web(), Section::Counters)]);
}

#[test]
fn questions_wait_until_they_are_settled() {
    let mut state = with(vec![bottle("web")]);
    let ids = |state: &State| state.approvals.iter().map(|row| row.id.0).collect::<Vec<_>>();
    for id in [7, 8, 7] {
        tell(&mut state, LiveEvent::Approval { approval: Box::new(question(id, "web")) });
    }
    assert_eq!(ids(&state), [7, 8]);
    let settled = crate::domain::ApprovalRow { verdict: Some(Verdict::Denied), ..question(7, "web") };
    for _ in 0..2 {
        tell(&mut state, LiveEvent::Approval { approval: Box::new(settled.clone()) });
        assert_eq!(ids(&state), [8]);
    }
}

#[test]
fn a_message_is_shown_for_a_while() {
    let mut state = with(vec![]);
    press(&mut state, "c");
    let shown = |state: &State| state.message.is_some();
    update(&mut state, Event::Tick(UnixMillis(NOW.0 + 30_000)));
    assert!(shown(&state));
    update(&mut state, Event::Tick(UnixMillis(NOW.0 + 30_001)));
    assert!(!shown(&state));
}
