//! What lies above the screen: help, and questions before something is done.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Widget};

use crate::domain::Stop;

use super::super::state::{Confirmation, GrantForm, Look, Overlay, State};
use super::put;
use super::style::{quiet, strong};
use super::text::{counted, cut};

/// Cells across, borders included.
const WIDTH: u16 = 72;

/// What each key does, in the order of the help.
const KEYS: [(&str, &str); 16] = [
    ("up down", "choose a bottle; PgUp, PgDn, Home and End go further"),
    ("Enter", "look at it: requests, scopes, routes, counters, audit"),
    ("Esc", "back; on the first screen, show all bottles again"),
    ("c", "cut it: the kernel drops all it sends and gets, at once"),
    ("r", "restore it: its gate is opened again"),
    ("f", "freeze it: its processes end, its files are kept; asks first"),
    ("u", "resume it when it is frozen; says where its output goes"),
    ("k", "kill it: its processes end, its files go; asks first"),
    ("g", "grant more tokens to the budget that governs it"),
    ("a", "requests that wait for you: y approves, n denies"),
    ("/", "show only bottles with this in name, agent, state, provider"),
    ("s  S", "sort by budget, name, burn, state, drops; the other way round"),
    ("q", "leave; no bottle ends with the dashboard"),
    ("", ""),
    ("budget", "used, then held for requests on their way, then left"),
    ("lasts", "what is left, at the rate of the last five minutes"),
];

/// Draws it.
pub(super) fn draw(state: &State, overlay: &Overlay, buffer: &mut Buffer, area: Rect) {
    match overlay {
        Overlay::Help => boxed(state.look, " Keys ", &help(state.look), buffer, area),
        Overlay::Confirm(question) => {
            let title = match question.stop {
                Stop::Freeze => format!(" Freeze {}? ", question.bottle),
                Stop::Kill => format!(" Kill {}? ", question.bottle),
            };
            boxed(state.look, &title, &confirmation(state, question), buffer, area);
        }
        Overlay::Grant(form) => boxed(state.look, " Grant tokens ", &grant(state, form), buffer, area),
        // It is typed where messages stand.
        Overlay::Filter(_) => {}
    }
}

fn help(look: Look) -> Vec<Line<'static>> {
    let line = |(key, does): (&'static str, &'static str)| {
        Line::from(vec![Span::styled(format!(" {key:<8}"), look.key()), Span::raw(does)])
    };
    KEYS.into_iter().map(line).collect()
}

fn confirmation(state: &State, Confirmation { bottle, stop }: &Confirmation) -> Vec<Line<'static>> {
    let mut said = match stop {
        Stop::Freeze => vec![
            "Its gate is cut and its processes are ended.".to_owned(),
            "Its files and its command are kept: `u` resumes it.".to_owned(),
        ],
        Stop::Kill => vec![
            "Its gate is cut, its processes are ended, and every file that it".to_owned(),
            "wrote outside shared directories is removed. This cannot be undone.".to_owned(),
            "What it has spent stays on record.".to_owned(),
        ],
    };
    let flying = state.in_flight(bottle);
    if flying > 0 {
        said.push(format!("{} broken off.", counted(flying, "request on its way is", "requests on their way are")));
    }
    let mut lines: Vec<Line<'static>> = said.into_iter().map(|line| Line::raw(format!(" {line}"))).collect();
    lines.push(Line::default());
    let verb = match stop {
        Stop::Freeze => " freezes it; any other key leaves it as it is.",
        Stop::Kill => " kills it; any other key leaves it as it is.",
    };
    lines.push(Line::from(vec![Span::styled(" y", state.look.key()), Span::raw(verb)]));
    lines
}

fn grant(state: &State, form: &GrantForm) -> Vec<Line<'static>> {
    let look = state.look;
    let cursor = if look.has_unicode { "▏" } else { "_" };
    let mut lines = vec![
        Line::from(vec![
            Span::raw(" How many more tokens?  "),
            Span::styled(format!("{}{cursor}", form.amount), strong()),
            Span::styled("   such as 500k or 2M", quiet()),
        ]),
        Line::default(),
    ];
    for (at, target) in form.targets.iter().enumerate() {
        let is_chosen = at == form.chosen;
        let (lead, style) = if is_chosen { (look.cursor(), strong()) } else { (" ", quiet()) };
        let why = if at == 0 { "  (governs)" } else { "" };
        lines.push(Line::from(vec![
            Span::styled(format!(" {lead} "), look.key()),
            Span::styled(format!("{target}{why}"), style),
        ]));
    }
    if let Some(problem) = &form.problem {
        lines.push(Line::default());
        lines.push(Line::styled(format!(" {} {problem}", look.flag()), look.bad()));
    }
    lines
}

/// In a frame, in the middle.
fn boxed(look: Look, title: &str, lines: &[Line<'_>], buffer: &mut Buffer, area: Rect) {
    let height = super::lines_of(lines).saturating_add(2).min(area.height);
    let width = WIDTH.max(80.min(area.width).saturating_sub(2)).min(area.width);
    let frame = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(frame, buffer);
    let title = cut(title, usize::from(width).saturating_sub(4), look.has_unicode);
    let block = Block::bordered().title(Span::styled(title, strong()));
    let block = if look.has_unicode { block.border_type(BorderType::Rounded) } else { block.border_set(ASCII) };
    let inner = block.inner(frame);
    block.render(frame, buffer);
    put(buffer, inner, lines);
}

const ASCII: ratatui::symbols::border::Set<'static> = ratatui::symbols::border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};
