//! Records what programs show on a terminal of their own, as an asciicast (version 2) and as a picture of a part of it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use nix::pty::{Winsize, openpty};
use serde_json::json;

use super::draw;
use crate::command;

/// What is recorded, and how.
struct Recording {
    /// Names its files.
    name: &'static str,
    title: &'static str,
    /// The program and its arguments.
    words: &'static [&'static str],
    columns: u16,
    rows: u16,
    /// A player waits no longer than this for what comes next, in seconds.
    idle_max: f64,
    /// What is written first; what comes before is left out.
    begins: &'static str,
    /// Keys that are pressed, each some seconds after the beginning.
    keys: &'static [(f64, &'static str)],
    /// The output that the picture shows, and the lines it may have.
    shot: fn(&[Event]) -> (String, u16),
}

/// Output, and when it came, in seconds.
type Event = (f64, String);

/// What is built, and the first seven steps of the demonstration.
const PARAGRAPHS: usize = 8;
/// When the picture of the dashboard is taken, in seconds: one bottle has spent its budget, another has been resumed.
const DASHBOARD_SHOWN: f64 = 57.2;
/// Lines of a picture that is of no screen.
const PICTURE_ROWS_MAX: u16 = 500;

const DEMO: Recording = Recording {
    name: "demo",
    title: "egress: a bottle spends its budget and is cut in the kernel",
    words: &["cargo", "xtask", "demo"],
    columns: 110,
    rows: 40,
    idle_max: 1.5,
    begins: "",
    keys: &[],
    shot: |events| (beginning(&screen(events)).replace('\n', "\r\n"), PICTURE_ROWS_MAX),
};

/// Watched, cut, restored, granted to, looked at in detail, frozen and resumed.
const DASHBOARD: Recording = Recording {
    name: "dashboard",
    title: "egress top: bottles are watched, cut, restored, granted to, frozen and resumed",
    words: &["target/debug/test-dashboard"],
    columns: 104,
    rows: 24,
    idle_max: 3.0,
    // The screen that programs have which take all of it.
    begins: "\u{1b}[?1049h",
    keys: &[
        (5.0, "\u{1b}[B"),
        (6.0, "\u{1b}[A"),
        (8.0, "c"),
        (12.0, "r"),
        (16.0, "g"),
        (17.0, "5"),
        (17.3, "0"),
        (17.6, "k"),
        (18.6, "\r"),
        (22.0, "\r"),
        (25.0, "\t"),
        (28.0, "\t"),
        (31.0, "\u{1b}"),
        (33.0, "f"),
        (35.5, "y"),
        (40.0, "u"),
        (46.0, "?"),
        (50.0, "\u{1b}"),
        (54.0, "r"),
        (58.0, "q"),
    ],
    shot: |events| {
        let shown = events.iter().take_while(|(at, _)| *at < DASHBOARD_SHOWN);
        (shown.map(|(_, text)| text.as_str()).collect(), DASHBOARD.rows)
    },
};

/// Records everything anew. What it needs has been built before, so that nothing but it is seen.
pub(super) fn all() -> anyhow::Result<()> {
    command::run(command::cargo().args(["build", "--workspace", "--bins"]))?;
    record(&DEMO)?;
    record(&DASHBOARD)
}

impl Recording {
    fn cast(&self) -> String {
        format!("docs/casts/{}.cast", self.name)
    }

    fn picture(&self) -> String {
        format!("docs/images/{}.svg", self.name)
    }
}

fn record(recording: &Recording) -> anyhow::Result<()> {
    println!("recording {} …", recording.title);
    let mut command = Command::new("setsid");
    command.arg("--ctty").args(recording.words).current_dir(command::workspace());
    command.env("TERM", "xterm-256color").env("CARGO_TERM_QUIET", "true").env_remove("NO_COLOR");
    command::without_package(&mut command);
    let events = play(command, recording)?;
    let (shown, rows) = (recording.shot)(&events);
    let size = |number: u16| NonZeroU16::new(number).context("a terminal has a size");
    let picture = draw::picture(&shown, size(rows)?, size(recording.columns)?);
    let top = command::workspace();
    for (file, text) in [(recording.cast(), cast(recording, &events)?), (recording.picture(), picture)] {
        let path = top.join(&file);
        fs::create_dir_all(path.parent().context("a directory")?)?;
        fs::write(&path, text).with_context(|| file.clone())?;
        println!("{file}");
    }
    Ok(())
}

/// Runs it, presses keys, and tells what it wrote since its beginning.
fn play(mut command: Command, recording: &Recording) -> anyhow::Result<Vec<Event>> {
    let size = Winsize { ws_row: recording.rows, ws_col: recording.columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = openpty(Some(&size), None).context("there is no terminal to be had")?;
    let stream = || Ok::<_, std::io::Error>(Stdio::from(pair.slave.try_clone()?));
    let mut child = command.stdin(stream()?).stdout(stream()?).stderr(stream()?).spawn()?;
    // With the last copy of its end gone, reading ends.
    drop((command, pair.slave));
    let mut reader = File::from(pair.master);
    let (begun, may_type) = mpsc::channel();
    let (keyboard, keys) = (reader.try_clone()?, recording.keys);
    let typist = thread::spawn(move || may_type.recv().map_or(Ok(()), |start| type_keys(keyboard, keys, start)));
    let (mut start, mut events): (Option<Instant>, Vec<Event>) = (None, Vec::new());
    let (mut before, mut buffer, mut left) = (String::new(), [0; 4096], Vec::new());
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        left.extend_from_slice(buffer.get(..count).unwrap_or_default());
        // A letter of several bytes may come in two pieces.
        let whole = match std::str::from_utf8(&left) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let mut text = String::from_utf8(left.drain(..whole).collect())?;
        let start = match start {
            Some(start) => start,
            None => {
                let Some(at) = text.find(recording.begins) else {
                    before.push_str(&text);
                    continue;
                };
                text.drain(..at);
                let now = *start.insert(Instant::now());
                begun.send(now)?;
                now
            }
        };
        events.push((start.elapsed().as_secs_f64(), text));
    }
    drop(begun);
    ensure!(child.wait()?.success(), "{} failed:\n{before}{}", recording.name, screen(&events));
    match typist.join() {
        Ok(typed) => typed?,
        Err(_) => bail!("the typist panicked"),
    }
    Ok(events)
}

fn type_keys(mut keyboard: File, keys: &[(f64, &str)], start: Instant) -> std::io::Result<()> {
    for (at, key) in keys {
        thread::sleep((start + Duration::from_secs_f64(*at)).saturating_duration_since(Instant::now()));
        keyboard.write_all(key.as_bytes())?;
    }
    Ok(())
}

fn cast(recording: &Recording, events: &[Event]) -> anyhow::Result<String> {
    let header = json!({
        "version": 2, "width": recording.columns, "height": recording.rows, "idle_time_limit": recording.idle_max,
        "timestamp": SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        "title": recording.title,
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
    fn recorded(recording: &Recording) -> Vec<Event> {
        let text = fs::read_to_string(command::workspace().join(recording.cast())).unwrap();
        let event = |line: &str| serde_json::from_str::<(f64, String, String)>(line).unwrap();
        text.lines().skip(1).map(event).map(|(at, _, text)| (at, text)).collect()
    }

    #[test]
    fn what_was_recorded_is_what_the_demonstration_shows() {
        let shown = screen(&recorded(&DEMO));
        for title in crate::demo::titles() {
            assert!(shown.contains(title), "{title:?} was not recorded: `cargo xtask docs --record` does it anew");
        }
        assert!(shown.contains("all of it was seen, nothing is left behind"));
    }

    #[test]
    fn what_was_recorded_of_the_dashboard_is_what_is_pressed_for() {
        let mut parser = vt100::Parser::new(24.try_into().unwrap(), 104.try_into().unwrap(), 0);
        let mut show = |(_, text): (f64, String)| {
            parser.process(text.as_bytes());
            parser.screen().contents()
        };
        let screens: Vec<String> = recorded(&DASHBOARD).into_iter().map(&mut show).collect();
        for said in ["web is cut (operator)", "web is open", "50,000 tokens more", "web is frozen", "web is resumed"] {
            let is_shown = screens.iter().any(|screen| screen.contains(said));
            assert!(is_shown, "{said:?} was not recorded: `cargo xtask docs --record` does it anew");
        }
        let picture = fs::read_to_string(command::workspace().join(DASHBOARD.picture())).unwrap();
        assert!(picture.contains("reviewer"), "no bottle is in the picture");
    }

    #[test]
    fn a_recording_is_played_as_it_was_made() {
        let text = cast(&DEMO, &[(0.5, "a\r\n".to_owned()), (1.25, "\u{1b}[1;32m✓\u{1b}[0m".to_owned())]).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("\"version\":2"));
        assert_eq!(lines[1..], ["[0.5,\"o\",\"a\\r\\n\"]", "[1.25,\"o\",\"\\u001b[1;32m✓\\u001b[0m\"]"]);
    }
}
