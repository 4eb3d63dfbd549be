//! How every screen looks: text as a terminal shows it, then a map of its styles. `EGRESS_REWRITE_SCREENS=1` writes the files
//! anew, to be looked at before they are committed.
#![expect(clippy::wildcard_enum_match_arm, reason = "anything else fails the test")]

use std::fs;
use std::path::Path;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};
use ratatui::text::Span;

use super::super::state::{Fetched, Look, Section, Size, State};
use super::super::update::{Event, Key, update};
use super::super::view;
use super::sample::*;
use crate::control::{GateCounter, GateCounts, KernelGate, KernelReply, LiveBottle, LiveEvent, StatusReply};
use crate::domain::{
    AuditKind, BottleState, BudgetView, CutCause, CutoffPolicy, GateView, InboundOnMatch, Known, LimitSource,
    ListedRoute, OutboundOnMatch, RouteAuth, RuntimeKind, Scope, ScopeState, Tokens, UnixMillis, UsageRow, Window,
};

const NARROW: (u16, u16) = (80, 24);
const WIDE: (u16, u16) = (200, 30);
/// Set to write the files anew.
const REWRITE: &str = "EGRESS_REWRITE_SCREENS";

fn drawn(state: &State, (columns, lines): (u16, u16)) -> Buffer {
    let mut state = state.clone();
    update(&mut state, Event::Resized(Size { columns, lines }));
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal.draw(|frame| view::draw(&state, frame)).unwrap();
    terminal.backend().buffer().clone()
}

/// Light and dark are the terminal's business: colours are of its own palette, on its own background.
fn style_of(cell: &Cell, look: Look) -> char {
    assert_eq!(cell.bg, Color::Reset, "{cell:?}");
    let letter = match cell.fg {
        Color::Reset => None,
        Color::Red => Some('r'),
        Color::Green => Some('g'),
        Color::Yellow => Some('y'),
        Color::Blue => Some('b'),
        Color::Cyan => Some('c'),
        other => panic!("{other} is not readable on every background"),
    };
    assert!(look.has_colour || letter.is_none(), "a colour: {cell:?}");
    assert!(look.has_unicode || cell.symbol().is_ascii(), "not ASCII: {cell:?}");
    let has = |modifier| cell.modifier.contains(modifier);
    match letter {
        _ if has(Modifier::REVERSED) => '%',
        _ if has(Modifier::DIM) => '~',
        Some(letter) if has(Modifier::BOLD) => letter.to_ascii_uppercase(),
        Some(letter) => letter,
        None if has(Modifier::BOLD) => '*',
        None => '.',
    }
}

fn screen(state: &State, size: (u16, u16)) -> String {
    let buffer = drawn(state, size);
    let (mut text, mut styles) = (String::new(), String::new());
    for cells in buffer.content().chunks(usize::from(size.0)) {
        let line = text_of(cells);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        text.push_str(line.trim_end());
        text.push('\n');
        let line: String = cells.iter().map(|cell| style_of(cell, state.look)).collect();
        styles.push_str(line.trim_end_matches('.'));
        styles.push('\n');
    }
    format!("{text}--- styles\n{styles}")
}

/// What stands in a line; behind a character that takes two cells the second is empty.
fn text_of(cells: &[Cell]) -> String {
    let mut text = String::new();
    let mut left = cells.iter();
    while let Some(cell) = left.next() {
        text.push_str(cell.symbol());
        let more = Span::raw(cell.symbol()).width().saturating_sub(1);
        left.by_ref().take(more).for_each(drop);
    }
    text
}

fn check(name: &str, state: &State, size: (u16, u16)) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/tui/testdata/{name}.txt"));
    let found = screen(state, size);
    if std::env::var_os(REWRITE).is_some() {
        fs::write(&path, &found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{name} is otherwise; {REWRITE}=1 writes it anew:\n{found}");
}

fn shared(used: u64) -> ScopeState {
    ScopeState {
        limit: Some(Tokens(20_000_000)),
        window: Some(Window::Day),
        turns: Some(UnixMillis(NOW.0 + 35_793_000)),
        source: Some(LimitSource::Settings),
        used: Tokens(used),
        ..ScopeState::of(Scope::Host)
    }
}

/// A working day: bottles in every state.
fn busy() -> State {
    let mut web = budgeted("web", "claude", (812_400, 32_000, 1_000_000));
    web.info.agent = Some("reviewer".parse().unwrap());
    web.info.policy = CutoffPolicy::Freeze;
    web.info.budgets[0].chain[1] = shared(11_300_000);
    web.info.dropped_packets = 14;
    web.counts = GateCounts { passed_bytes_from_bottle: 1_240_000, passed_bytes_to_bottle: 30_100_000 };
    let mut api = budgeted("api-tests", "codex", (5_200, 0, 5_000));
    api.info.gate = GateView::Cut(CutCause::Budget);
    api.info.dropped_packets = 1_312;
    let mut docs = budgeted("docs", "gemini", (41_000, 0, 2_000_000));
    docs.info.agent = Some("writer".parse().unwrap());
    docs.info.policy = CutoffPolicy::Kill;
    docs.info.runtime = RuntimeKind::Docker;
    let mut nightly = budgeted("nightly", "claude", (120_000, 0, 400_000));
    (nightly.info.state, nightly.info.frozen) = (BottleState::Frozen, Some(CutCause::Operator));
    (nightly.info.gate, nightly.info.address) = (GateView::Cut(CutCause::Operator), None);
    let mut old = budgeted("old", "claude", (1_000, 0, 1_000));
    (old.info.state, old.info.gate, old.info.address) = (BottleState::Ended, GateView::Cut(CutCause::Budget), None);
    let mut free = bottle("scratch");
    free.info.budgets = vec![BudgetView {
        provider: "claude".parse().unwrap(),
        own: Tokens(7_700),
        chain: vec![ScopeState::of(Scope::Host)],
    }];
    let mut state = with(vec![web, api, docs, nightly, old, free]);
    for (seconds, tokens) in [(280, 9_000), (230, 14_000), (170, 6_000), (120, 21_000), (62, 17_500), (14, 30_200)] {
        tell(&mut state, settled(0, row("web", "claude", (seconds, tokens))));
    }
    for seconds in [200, 100, 3] {
        tell(&mut state, settled(0, row("docs", "gemini", (seconds, 2_000))));
    }
    tell(&mut state, LiveEvent::Admitted { request: request(1, "web") });
    tell(&mut state, LiveEvent::Admitted { request: request(2, "web") });
    let row = audit(39, "api-tests", AuditKind::GateCut { cause: CutCause::Budget });
    tell(&mut state, LiveEvent::Audit { row });
    key(&mut state, Key::Down);
    state
}

fn plain(mut state: State) -> State {
    state.look = Look { has_colour: false, has_unicode: false };
    state
}

#[test]
fn bottles() {
    check("bottles", &busy(), NARROW);
    let shown = drawn(&busy(), NARROW)
        .content()
        .chunks(80)
        .map(|line| format!("{}\n", text_of(line).trim_end()))
        .collect::<String>();
    let told = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/dashboard.md")).unwrap();
    assert!(told.contains(&shown), "docs/dashboard.md shows another screen than:\n{shown}");
    check("bottles-wide", &busy(), WIDE);
    check("bottles-half-wide", &busy(), (120, 30));
    check("bottles-ascii-without-colour", &plain(busy()), NARROW);
    let mut state = busy();
    press(&mut state, "ssS/e");
    check("bottles-filter", &state, NARROW);
    check("too-small", &busy(), (60, 12));
}

#[test]
fn no_bottles() {
    check("empty", &with(vec![]), NARROW);
    check("connecting", &blank(), NARROW);
    let mut state = busy();
    press(&mut state, "/nothing-has-this");
    check("filter-without-rows", &state, NARROW);
}

#[test]
fn actions_are_shown_while_they_last_and_when_they_end() {
    let mut state = busy();
    press(&mut state, "fy");
    key(&mut state, Key::Down);
    press(&mut state, "c");
    update(&mut state, Event::Tick(ago(-41)));
    check("working", &state, NARROW);
    let numbers: Vec<_> = state.running.iter().map(|running| running.number).collect();
    update(&mut state, Event::Done(numbers[0], Ok("web is frozen: u resumes it".to_owned())));
    update(&mut state, Event::Done(numbers[1], Err("there is no bottle docs".to_owned())));
    check("failed", &state, NARROW);
}

#[test]
fn the_daemon_is_gone_or_does_not_enforce() {
    let mut state = busy();
    let why = "no egress daemon listens on /run/egress/control.sock: start one with `egress daemon`";
    for _ in 0..5 {
        update(&mut state, Event::Lost(why.to_owned()));
    }
    update(&mut state, Event::Tick(ago(-1)));
    check("daemon-gone", &state, NARROW);
    check("daemon-gone-ascii-without-colour", &plain(state), NARROW);
    let mut state = blank();
    update(&mut state, Event::Lost(why.to_owned()));
    check("no-daemon", &state, NARROW);

    let mut state = busy();
    let why = "the gate of a throw-away namespace let a packet pass that it is to drop".to_owned();
    let status = StatusReply { not_enforcing: Some(why), ..status() };
    tell(&mut state, LiveEvent::Daemon { status: status.clone() });
    check("not-enforcing", &state, NARROW);
    let problem = Some(
        "settings.yml:7:3: unknown key \"bugdet\", did you mean \"budget\"? What was read before holds.".to_owned(),
    );
    tell(
        &mut state,
        LiveEvent::Daemon { status: StatusReply { proxy_pid: None, settings_problem: problem, ..status } },
    );
    check("everything-wrong", &plain(state), NARROW);
}

#[test]
fn questions_before_something_is_done() {
    let mut state = busy();
    press(&mut state, "?");
    check("help", &state, NARROW);
    check("help-ascii-without-colour", &plain(state), NARROW);
    for (name, keys) in [("kill", "k"), ("freeze", "f"), ("grant", "g5x")] {
        let mut state = busy();
        press(&mut state, keys);
        key(&mut state, Key::Enter);
        if name != "grant" {
            press(&mut state, keys);
        }
        check(name, &state, NARROW);
    }
}

#[test]
fn approvals() {
    let mut state = busy();
    press(&mut state, "a");
    check("approvals-none", &state, NARROW);
    for id in [7, 8, 9] {
        let mut asked = question(id, if id == 8 { "docs" } else { "web" });
        asked.target = format!("POST /upload/of/something/long/{id}");
        tell(&mut state, LiveEvent::Approval { approval: Box::new(asked) });
    }
    key(&mut state, Key::Down);
    key(&mut state, Key::Down);
    check("approvals", &state, NARROW);
    key(&mut state, Key::Escape);
    check("bottles-approvals", &plain(state), NARROW);
}

fn route(host: &str) -> ListedRoute {
    ListedRoute {
        host: host.to_owned(),
        provider: None,
        ports: vec![443],
        methods: Vec::new(),
        paths: Vec::new(),
        auth: RouteAuth::Own,
        intercept: true,
        git_fetch: false,
        git_push: Vec::new(),
        outbound_on_match: OutboundOnMatch::Block,
        inbound_on_match: InboundOnMatch::Off,
    }
}

fn counter(direction: &str, outcome: &str, packets: u64) -> GateCounter {
    GateCounter { direction: direction.to_owned(), outcome: outcome.to_owned(), packets, bytes: packets * 1_111 }
}

/// One looked at closely, everything that was asked for here.
fn detailed() -> State {
    let mut state = busy();
    key(&mut state, Key::Enter);
    let estimated =
        UsageRow { known: Known::Estimated, status: None, model: None, ..row("web", "claude", (90_000, 555)) };
    let rows: Vec<UsageRow> = [estimated]
        .into_iter()
        .chain((0..30).rev().map(|at| row("web", "claude", (14 + at * 7, 3_000 * (31 - at.unsigned_abs())))))
        .collect();
    let paths = vec!["/repos/*".to_owned(), "/search".to_owned()];
    let github = ListedRoute {
        methods: vec!["GET".to_owned(), "POST".to_owned()],
        paths,
        auth: RouteAuth::Injected,
        outbound_on_match: OutboundOnMatch::Supervise,
        inbound_on_match: InboundOnMatch::Redact,
        ..route("api.github.com")
    };
    let routes = vec![route("api.anthropic.com"), github, ListedRoute { intercept: false, ..route("*.example.org") }];
    let counters = vec![
        counter("FromBottle", "NotAllowedPort", 0),
        counter("FromBottle", "Passed", 4_111),
        counter("FromBottle", "NotIpv4", 14),
        counter("ToBottle", "Passed", 20_004),
    ];
    let gate = KernelGate { bottle: None, interface: 7, ledger: None, kernel: None, programs: Vec::new(), counters };
    let kernel =
        KernelReply { enforcer: "ebpf".to_owned(), pins: String::new(), gates: vec![gate], differences: Vec::new() };
    let kinds = [
        AuditKind::BottleStarted { agent: Some("reviewer".parse().unwrap()) },
        AuditKind::GateCut { cause: CutCause::Operator },
        AuditKind::GateRestored,
    ];
    let happened = (40..).zip(kinds).map(|(number, kind)| audit(number, "web", kind)).collect();
    for (section, fetched) in [
        (Section::Requests, Fetched::Requests(rows)),
        (Section::Routes, Fetched::Routes(routes)),
        (Section::Counters, Fetched::Counters(Box::new(kernel))),
        (Section::Audit, Fetched::Audit(happened)),
    ] {
        update(&mut state, Event::Fetched { bottle: "web".parse().unwrap(), section, outcome: Ok(fetched) });
    }
    state
}

#[test]
fn details() {
    let mut state = detailed();
    check("detail-requests", &state, NARROW);
    check("detail-requests-wide", &state, WIDE);
    for _ in 0..12 {
        key(&mut state, Key::Down);
    }
    check("detail-requests-scrolled", &state, NARROW);
    for section in [Section::Scopes, Section::Routes, Section::Counters, Section::Audit] {
        key(&mut state, Key::Tab);
        check(&format!("detail-{}", section.as_str()), &state, NARROW);
    }
    tell(&mut state, LiveEvent::Gone { name: "web".parse().unwrap() });
    check("detail-gone", &plain(state), NARROW);
    let mut state = busy();
    key(&mut state, Key::Enter);
    press(&mut state, "3");
    check("detail-waiting", &state, NARROW);
}

#[test]
fn a_hundred_bottles_scroll() {
    let bottles: Vec<LiveBottle> =
        (0..100).map(|at| budgeted(&format!("bottle-{at:02}"), "claude", (at, 0, 100))).collect();
    let mut state = with(bottles);
    check("hundred-first", &state, NARROW);
    for _ in 0..40 {
        key(&mut state, Key::Down);
    }
    check("hundred-middle", &state, NARROW);
    key(&mut state, Key::End);
    check("hundred-last", &state, NARROW);
}

#[test]
fn long_names_and_what_bottles_send_stay_in_their_places() {
    let long = "a-bottle-whose-name-is-as-long-as-names-become-1";
    let mut hostile = budgeted(long, long, (u64::MAX / 2, u64::MAX / 4, u64::MAX));
    hostile.info.agent = Some(long.parse().unwrap());
    hostile.info.dropped_packets = u64::MAX;
    let mut state = with(vec![hostile]);
    let mut sent = request(1, long);
    sent.target = "POST /\u{1b}]0;owned\u{7}\u{202e}gnp.exe\u{9b}2J".to_owned();
    sent.model = Some("\u{1b}[31m東京-モデル\r\n\u{200b}x".to_owned());
    tell(&mut state, LiveEvent::Admitted { request: sent });
    check("hostile", &state, NARROW);
    check("hostile-wide", &state, WIDE);
    let mut asked = question(7, long);
    (asked.detector, asked.target) = ("x\u{1b}[2Jy".to_owned(), "PUT /\u{8}\u{8}".to_owned());
    tell(&mut state, LiveEvent::Approval { approval: Box::new(asked) });
    press(&mut state, "a");
    check("hostile-approvals", &state, NARROW);
    key(&mut state, Key::Escape);
    key(&mut state, Key::Enter);
    check("hostile-detail", &state, NARROW);
}
