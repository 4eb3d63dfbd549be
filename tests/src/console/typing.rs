//! Sessions of the documentation are typed.

use anyhow::Result;
use egress_userspace::control::{BottlesReply, StatusReply};
use serde::de::DeserializeOwned;

use super::{Session, Typed, is_shown};
use crate::world::{Done, PATIENCE, until};

/// Where commands are typed: a shell on a host, and shells in its bottles.
pub trait Terminals {
    /// Types a line on the host.
    fn on_host(&mut self, text: &str) -> Result<Done>;

    /// Types a line in a bottle.
    fn inside(&mut self, bottle: &str, text: &str) -> Result<Done>;
}

/// Types every command; returns what is wrong, by line.
pub fn type_sessions(sessions: &[&Session], terminals: &mut dyn Terminals) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for session in sessions {
        for (index, command) in session.commands.iter().enumerate() {
            let is_last = index + 1 == session.commands.len();
            let expected = if is_last { session.exit } else { 0 };
            wrong.extend(type_one(terminals, session, command, expected)?);
        }
    }
    Ok(wrong)
}

/// What is wrong with it, if something is.
fn type_one(
    terminals: &mut dyn Terminals,
    session: &Session,
    command: &Typed,
    expected: i32,
) -> Result<Option<String>> {
    let Typed { text, shows } = command;
    let is_ended = session.is_endless || text.contains("--follow");
    let done = match &session.inside {
        Some(bottle) => terminals.inside(bottle, text)?,
        None if session.is_background => return begin(terminals, text).map(|()| None),
        // Ctrl-C after a moment.
        None if is_ended => terminals.on_host(&format!("timeout --signal INT 2 {text}"))?,
        None => terminals.on_host(text)?,
    };
    let line = session.line;
    // What is ended from outside has no exit code of its own.
    if done.code != expected && !is_ended {
        return Ok(Some(format!("{line}: `{text}` ended with {}, not {expected}:\n{}", done.code, done.output)));
    }
    let is_right = shows.is_empty() || is_shown(shows, done.output.trim_end());
    let shown = shows.join("\n");
    Ok((!is_right).then(|| format!("{line}: `{text}` printed\n{}\nand not\n{shown}", done.output)))
}

/// Types a command that goes on, and waits until it is there: a daemon serves, a bottle runs.
fn begin(terminals: &mut dyn Terminals, text: &str) -> Result<()> {
    terminals.on_host(&format!("{text} >background.log 2>&1 &"))?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "egress").skip(1);
    match (words.next(), words.next()) {
        (Some("daemon"), _) => until("the daemon serves", PATIENCE, || {
            let status: Option<StatusReply> = said(terminals, "egress status --json")?;
            Ok(status.is_some_and(|status| status.proxy_pid.is_some()))
        }),
        (Some("run"), Some(name)) => until("the bottle runs", PATIENCE, || {
            let listed: Option<BottlesReply> = said(terminals, "egress list --json")?;
            let mut bottles = listed.into_iter().flat_map(|reply| reply.bottles);
            Ok(bottles.any(|bottle| bottle.name.as_str() == name && bottle.address.is_some()))
        }),
        _ => Ok(()),
    }
}

/// What it says, when it says something.
fn said<T: DeserializeOwned>(terminals: &mut dyn Terminals, line: &str) -> Result<Option<T>> {
    Ok(serde_json::from_str(&terminals.on_host(line)?.output).ok())
}
