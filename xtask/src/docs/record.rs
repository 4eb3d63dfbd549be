//! Records the demonstration on a terminal of its own, as an asciicast (version 2) and as a picture of its first steps.

use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use nix::pty::{Winsize, openpty};
use serde_json::json;

use super::draw;
use crate::command;

/// The terminal.
const COLUMNS: u16 = 110;
const ROWS: u16 = 40;
/// A player waits no longer than this for what comes next.
const IDLE_SECONDS_MAX: f64 = 1.5;
/// The recording and the picture.
const CAST: &str = "docs/casts/demo.cast";
const PICTURE: &str = "docs/images/demo.svg";

/// What is built, and the first seven steps.
const PARAGRAPHS: usize = 8;

/// Output, and when it came.
type Event = (f64, String);

/// Plays and records `cargo xtask demo`. Everything it needs has been built before, so that nothing but it is seen.
pub(super) fn demo() -> anyhow::Result<()> {
    command::run(command::cargo().args(["build", "--workspace", "--bins"]))?;
    let mut cargo = Command::new("setsid");
    cargo.args(["--ctty", "cargo", "xtask", "demo"]).current_dir(command::workspace());
    cargo.env("TERM", "xterm-256color").env("CARGO_TERM_QUIET", "true").env_remove("NO_COLOR");
    command::without_package(&mut cargo);
    let events = play(cargo)?;
    let top = command::workspace();
    for (file, text) in [(CAST, cast(&events)?), (PICTURE, draw::picture(&beginning(&screen(&events))))] {
        let path = top.join(file);
        fs::create_dir_all(path.parent().context("a directory")?)?;
        fs::write(&path, text).with_context(|| file.to_owned())?;
        println!("{file}");
    }
    Ok(())
}

fn play(mut command: Command) -> anyhow::Result<Vec<Event>> {
    let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = openpty(Some(&size), None).context("there is no terminal to be had")?;
    let stream = || Ok::<_, std::io::Error>(Stdio::from(pair.slave.try_clone()?));
    let mut child = command.stdin(stream()?).stdout(stream()?).stderr(stream()?).spawn()?;
    // With the last copy of its end gone, reading ends.
    drop((command, pair.slave));
    let (start, mut events) = (Instant::now(), Vec::new());
    let (mut reader, mut buffer, mut left) = (File::from(pair.master), [0; 4096], Vec::new());
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        left.extend_from_slice(buffer.get(..count).unwrap_or_default());
        // A letter of several bytes may come in two pieces.
        let whole = match std::str::from_utf8(&left) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = String::from_utf8(left.drain(..whole).collect())?;
        events.push((start.elapsed().as_secs_f64(), text));
    }
    ensure!(child.wait()?.success(), "the demonstration failed:\n{}", screen(&events));
    Ok(events)
}

fn cast(events: &[Event]) -> anyhow::Result<String> {
    let header = json!({
        "version": 2, "width": COLUMNS, "height": ROWS, "idle_time_limit": IDLE_SECONDS_MAX,
        "timestamp": SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        "title": "egress: a bottle spends its budget and is cut in the kernel",
        "env": { "TERM": "xterm-256color", "SHELL": "/bin/bash" },
    });
    let mut lines = vec![header.to_string()];
    lines.extend(events.iter().map(|(at, text)| json!([(at * 1e6).round() / 1e6, "o", text]).to_string()));
    Ok(lines.join("\n") + "\n")
}

/// Everything that was written, lines as a terminal ends them.
fn screen(events: &[Event]) -> String {
    events.iter().map(|(_, text)| text.replace('\r', "")).collect()
}

/// As much as a picture can show: until the bottle is cut, and stays cut without a proxy.
fn beginning(shown: &str) -> String {
    shown.split("\n\n").take(PARAGRAPHS).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was recorded, from the file.
    fn recorded() -> Vec<Event> {
        let text = fs::read_to_string(command::workspace().join(CAST)).unwrap();
        let event = |line: &str| serde_json::from_str::<(f64, String, String)>(line).unwrap();
        text.lines().skip(1).map(event).map(|(at, _, text)| (at, text)).collect()
    }

    #[test]
    fn what_was_recorded_is_what_the_demonstration_shows() {
        let shown = screen(&recorded());
        for title in crate::demo::titles() {
            assert!(shown.contains(title), "{title:?} was not recorded: `cargo xtask docs --record` does it anew");
        }
        assert!(shown.contains("all of it was seen, nothing is left behind"));
    }

    #[test]
    fn a_recording_is_played_as_it_was_made() {
        let text = cast(&[(0.5, "a\r\n".to_owned()), (1.25, "\u{1b}[1;32m✓\u{1b}[0m".to_owned())]).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("\"version\":2"));
        assert_eq!(lines[1..], ["[0.5,\"o\",\"a\\r\\n\"]", "[1.25,\"o\",\"\\u001b[1;32m✓\\u001b[0m\"]"]);
    }
}
