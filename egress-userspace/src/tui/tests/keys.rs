//! What keys do.
#![expect(clippy::wildcard_enum_match_arm, reason = "anything else fails the test")]

use super::super::state::{Overlay, Screen, Section, SortBy, State, shown};
use super::super::update::{Action, Event, Job, Key, update};
use super::sample::*;
use crate::control::{DecideRequest, LiveEvent};
use crate::domain::{ApprovalId, ApprovalRow, BottleName, BottleState, Scope, Stop, Tokens, Verdict};

fn three() -> State {
    with(vec![
        budgeted("api", "claude", (10, 0, 100)),
        budgeted("docs", "codex", (90, 0, 100)),
        budgeted("web", "claude", (50, 0, 100)),
    ])
}

fn names(state: &State) -> Vec<&str> {
    shown(state).iter().map(|bottle| bottle.info.name.as_str()).collect()
}

fn selected(state: &State) -> Option<&str> {
    state.selected.as_ref().map(BottleName::as_str)
}

/// What is to be done, if that is one thing.
fn job(mut actions: Vec<Action>) -> Option<Job> {
    let Action::Begin(_, job) = actions.pop()? else { return None };
    actions.is_empty().then_some(job)
}

fn said(state: &State) -> &str {
    state.message.as_ref().map_or("", |message| &message.text)
}

#[test]
fn the_cursor_goes_over_rows_and_stays_with_its_bottle() {
    let mut state = three();
    assert_eq!((names(&state), selected(&state)), (vec!["docs", "web", "api"], Some("docs")));
    key(&mut state, Key::Down);
    assert_eq!(selected(&state), Some("web"));
    press(&mut state, "s");
    assert_eq!((names(&state), selected(&state)), (vec!["api", "docs", "web"], Some("web")));
    for (pressed, expected) in [
        (Key::Down, "web"),
        (Key::Home, "api"),
        (Key::Up, "api"),
        (Key::PageDown, "web"),
        (Key::PageUp, "api"),
        (Key::End, "web"),
    ] {
        key(&mut state, pressed);
        assert_eq!(selected(&state), Some(expected), "{pressed:?}");
    }
    tell(&mut state, LiveEvent::Gone { name: "web".parse().unwrap() });
    assert_eq!(selected(&state), Some("docs"), "the row that took its place");
}

#[test]
fn rows_are_sorted_by_what_s_says() {
    let mut state = three();
    let mut frozen = bottle("base");
    (frozen.info.state, frozen.info.dropped_packets) = (BottleState::Frozen, 7);
    tell(&mut state, LiveEvent::Bottle { bottle: Box::new(frozen) });
    tell(&mut state, settled(1, row("web", "claude", (5, 400))));
    let orders = [
        (SortBy::Budget, ["docs", "web", "api", "base"]),
        (SortBy::Name, ["api", "base", "docs", "web"]),
        (SortBy::Burn, ["web", "api", "base", "docs"]),
        (SortBy::State, ["api", "docs", "web", "base"]),
        (SortBy::Drops, ["base", "api", "docs", "web"]),
        (SortBy::Budget, ["docs", "web", "api", "base"]),
    ];
    for (by, expected) in orders {
        assert_eq!((state.order.by, names(&state)), (by, expected.to_vec()));
        press(&mut state, "s");
    }
    press(&mut state, "S");
    assert_eq!(names(&state), ["web", "docs", "base", "api"]);
}

#[test]
fn a_filter_is_typed_kept_and_taken_back() {
    let mut state = three();
    press(&mut state, "/cLau");
    assert_eq!(names(&state), ["web", "api"], "capitals or not");
    for _ in 0..3 {
        key(&mut state, Key::Backspace);
    }
    press(&mut state, "lau");
    assert_eq!((names(&state), selected(&state)), (vec!["web", "api"], Some("web")));
    key(&mut state, Key::Enter);
    assert_eq!(state.overlay, None);
    assert_eq!(job(press(&mut state, "c")), Some(Job::Cut("web".parse().unwrap())), "keys are keys again");
    press(&mut state, "/xyz");
    assert_eq!((names(&state), selected(&state)), (vec![], None));
    key(&mut state, Key::Escape);
    assert_eq!(names(&state), ["web", "api"], "as it was before");
    key(&mut state, Key::Escape);
    assert_eq!(names(&state).len(), 3);
    for (word, expected) in [("codex", "docs"), ("we", "web")] {
        press(&mut state, "/");
        press(&mut state, word);
        key(&mut state, Key::Enter);
        assert_eq!(names(&state), [expected]);
        key(&mut state, Key::Escape);
    }
}

#[test]
fn bottles_are_cut_restored_and_resumed_at_a_key() {
    let mut state = three();
    let docs = || "docs".parse().unwrap();
    assert_eq!(job(press(&mut state, "c")), Some(Job::Cut(docs())));
    assert_eq!(job(press(&mut state, "r")), Some(Job::Restore(docs())));
    assert_eq!(job(press(&mut state, "u")), None);
    assert_eq!(said(&state), "docs is not frozen: there is nothing to resume");
    let mut frozen = budgeted("docs", "codex", (90, 0, 100));
    frozen.info.state = BottleState::Frozen;
    tell(&mut state, LiveEvent::Bottle { bottle: Box::new(frozen) });
    assert_eq!(job(press(&mut state, "u")), Some(Job::Resume(docs())));
    assert_eq!(
        state.running.iter().map(|running| running.verb).collect::<Vec<_>>(),
        ["cutting", "opening", "resuming"]
    );
    let first = state.running[0].number;
    update(&mut state, Event::Done(first, Err("no such bottle".to_owned())));
    assert_eq!((state.running.len(), said(&state)), (2, "no such bottle"));
    assert_eq!(job(press(&mut with(vec![]), "c")), None);
}

#[test]
fn freezing_and_killing_ask_first() {
    for (letter, stop) in [("f", Stop::Freeze), ("k", Stop::Kill)] {
        let mut state = three();
        for no in [Key::Char('n'), Key::Char('k'), Key::Char('Y'), Key::Enter, Key::Escape] {
            assert_eq!(press(&mut state, letter), []);
            assert!(matches!(state.overlay, Some(Overlay::Confirm(_))));
            assert_eq!(key(&mut state, no), [], "{no:?}");
            assert_eq!(state.overlay, None);
            assert!(said(&state).starts_with("docs was not "), "{}", said(&state));
        }
        press(&mut state, letter);
        // The rows may move in the meantime: it is the bottle that was named.
        key(&mut state, Key::Down);
        press(&mut state, letter);
        tell(&mut state, LiveEvent::Bottle { bottle: Box::new(budgeted("aaa", "claude", (99, 0, 100))) });
        let asked = job(press(&mut state, "y"));
        assert_eq!(asked, Some(Job::Stop("docs".parse().unwrap(), stop)));
    }
}

#[test]
fn a_grant_goes_to_the_budget_that_is_chosen() {
    let mut state = three();
    press(&mut state, "g");
    let Some(Overlay::Grant(form)) = &state.overlay else { panic!("no form") };
    assert_eq!(form.targets.iter().map(ToString::to_string).collect::<Vec<_>>(), ["codex of bottle docs"]);
    assert_eq!(key(&mut state, Key::Enter), []);
    press(&mut state, "5x");
    assert_eq!(key(&mut state, Key::Enter), []);
    let Some(Overlay::Grant(form)) = &state.overlay else { panic!("no form") };
    assert!(form.problem.as_ref().is_some_and(|problem| problem.contains("write 5000, 5_000, 5k or 5M")), "{form:?}");
    key(&mut state, Key::Backspace);
    press(&mut state, "00k");
    let Some(Job::Grant(target, tokens)) = job(key(&mut state, Key::Enter)) else { panic!("no grant") };
    assert_eq!((target.scope, tokens), (Scope::Bottle("docs".parse().unwrap()), Tokens(500_000)));

    let mut two = budgeted("web", "claude", (50, 0, 100));
    two.info.budgets[0].chain[1].limit = Some(Tokens(1_000));
    let mut state = with(vec![two, bottle("poor")]);
    press(&mut state, "g7");
    for (pressed, chosen) in [(Key::Tab, 1), (Key::Tab, 0), (Key::Up, 1), (Key::Down, 0), (Key::BackTab, 1)] {
        key(&mut state, pressed);
        let Some(Overlay::Grant(form)) = &state.overlay else { panic!("no form") };
        assert_eq!(form.chosen, chosen, "{pressed:?}");
    }
    let Some(Job::Grant(target, Tokens(7))) = job(key(&mut state, Key::Enter)) else { panic!("no grant") };
    assert_eq!(target.scope, Scope::Host);
    press(&mut state, "g");
    assert_eq!((key(&mut state, Key::Escape), &state.overlay), (vec![], &None));
    key(&mut state, Key::Down);
    press(&mut state, "g");
    assert!(said(&state).contains("poor has no budget to add to"), "{}", said(&state));
}

#[test]
fn a_bottle_is_looked_at_and_left() {
    let mut state = three();
    key(&mut state, Key::Down);
    let asked: Vec<Section> = key(&mut state, Key::Enter)
        .into_iter()
        .map(|action| match action {
            Action::Fetch(bottle, section) if bottle.as_str() == "web" => section,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(asked, [Section::Requests, Section::Routes, Section::Counters, Section::Audit]);
    let section = |state: &State| match &state.screen {
        Screen::Detail(detail) => detail.section,
        other => panic!("{other:?}"),
    };
    for expected in [Section::Scopes, Section::Routes, Section::Counters, Section::Audit, Section::Requests] {
        key(&mut state, Key::Tab);
        assert_eq!(section(&state), expected);
    }
    for expected in [Section::Audit, Section::Counters, Section::Routes, Section::Scopes, Section::Requests] {
        key(&mut state, Key::BackTab);
        assert_eq!(section(&state), expected);
    }
    let counters = Action::Fetch("web".parse().unwrap(), Section::Counters);
    assert_eq!(press(&mut state, "4"), [counters], "what is not told unasked is asked for again");
    assert_eq!(section(&state), Section::Counters);
    assert_eq!(job(press(&mut state, "c")), Some(Job::Cut("web".parse().unwrap())));
    key(&mut state, Key::Escape);
    assert_eq!((&state.screen, selected(&state)), (&Screen::Bottles, Some("web")));
}

#[test]
fn questions_are_decided_and_a_settled_one_takes_no_key() {
    let mut state = three();
    for id in [7, 8, 9] {
        tell(&mut state, LiveEvent::Approval { approval: Box::new(question(id, "web")) });
    }
    press(&mut state, "a");
    let decide = |id: i64, is_approved: bool, always: bool| {
        Some(Job::Decide { id: ApprovalId(id), is_approved, request: DecideRequest { always } })
    };
    assert_eq!(job(press(&mut state, "y")), decide(7, true, false));
    assert_eq!(job(press(&mut state, "N")), decide(7, false, true));
    key(&mut state, Key::Down);
    assert_eq!(job(press(&mut state, "n")), decide(8, false, false));
    assert_eq!(job(press(&mut state, "Y")), decide(8, true, true));
    let expired = ApprovalRow { verdict: Some(Verdict::Expired), ..question(8, "web") };
    tell(&mut state, LiveEvent::Approval { approval: Box::new(expired) });
    assert_eq!(job(press(&mut state, "y")), None, "another question slipped under the key");
    assert!(said(&state).contains("no question is chosen"), "{}", said(&state));
    key(&mut state, Key::Down);
    assert_eq!(job(press(&mut state, "y")), decide(7, true, false));
    key(&mut state, Key::Escape);
    assert_eq!(state.screen, Screen::Bottles);
}

#[test]
fn it_is_left_with_q_and_with_control_c_wherever_one_is() {
    assert_eq!(press(&mut three(), "q"), [Action::Quit]);
    assert_eq!(update(&mut three(), Event::Ended), [Action::Quit]);
    for before in ["", "g", "k", "/", "?", "a"] {
        let mut state = three();
        press(&mut state, before);
        assert_eq!(key(&mut state, Key::Interrupt), [Action::Quit], "{before}");
    }
    let mut state = three();
    assert_eq!(press(&mut state, "/q"), [], "what is typed is no key");
    let mut state = three();
    press(&mut state, "?");
    assert_eq!(
        (press(&mut state, "k"), &state.overlay),
        (vec![], &None),
        "a key closes the help and does nothing else"
    );
    assert_eq!(key(&mut state, Key::Redraw), [Action::Redraw]);
}
