//! Keys while something lies above the screen.

#![expect(clippy::wildcard_enum_match_arm, reason = "most keys mean nothing in most places")]

use crate::domain::{Stop, Tokens};

use super::super::state::{Confirmation, GrantForm, Overlay, State};
use super::{Action, Job, Key, begin, feed};

/// Longest filter and longest amount, in characters.
const TEXT_CHARACTERS_MAX: usize = 48;

/// Takes a key.
pub(super) fn press(state: &mut State, key: Key) -> Vec<Action> {
    match state.overlay.take() {
        Some(Overlay::Confirm(question)) => answer(state, question, key),
        Some(Overlay::Grant(form)) => write_grant(state, form, key),
        Some(Overlay::Filter(before)) => {
            write_filter(state, before, key);
            Vec::new()
        }
        Some(Overlay::Help) | None => Vec::new(),
    }
}

/// Anything but a yes is a no.
fn answer(state: &mut State, Confirmation { bottle, stop }: Confirmation, key: Key) -> Vec<Action> {
    if key != Key::Char('y') {
        let what = match stop {
            Stop::Freeze => "frozen",
            Stop::Kill => "killed",
        };
        super::say(state, format!("{bottle} was not {what}"));
        return Vec::new();
    }
    begin(state, Job::Stop(bottle, stop))
}

fn write_grant(state: &mut State, mut form: GrantForm, key: Key) -> Vec<Action> {
    let others = form.targets.len().saturating_sub(1);
    match key {
        Key::Escape => return Vec::new(),
        Key::Enter => match form.amount.parse::<Tokens>() {
            Ok(Tokens::ZERO) => form.problem = Some("none is nothing to grant".to_owned()),
            Ok(tokens) => {
                let target = form.targets.get(form.chosen).cloned();
                return target.map(|target| begin(state, Job::Grant(target, tokens))).unwrap_or_default();
            }
            Err(error) => form.problem = Some(error.to_string()),
        },
        Key::Tab | Key::Down => form.chosen = if form.chosen >= others { 0 } else { form.chosen + 1 },
        Key::BackTab | Key::Up => form.chosen = form.chosen.checked_sub(1).unwrap_or(others),
        _ => {
            write(&mut form.amount, key);
            form.problem = None;
        }
    }
    state.overlay = Some(Overlay::Grant(form));
    Vec::new()
}

fn write_filter(state: &mut State, before: String, key: Key) {
    match key {
        Key::Enter => {}
        Key::Escape => state.filter = before,
        _ => {
            write(&mut state.filter, key);
            state.overlay = Some(Overlay::Filter(before));
        }
    }
    feed::select_something(state);
}

fn write(text: &mut String, key: Key) {
    match key {
        Key::Backspace => {
            text.pop();
        }
        Key::Char(letter) if !letter.is_control() && text.chars().count() < TEXT_CHARACTERS_MAX => text.push(letter),
        _ => {}
    }
}
