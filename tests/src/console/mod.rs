//! What the documentation shows of a terminal: commands, and what they print. Reading is pure, typing is done in
//! [`Terminals`]; how it is written is told in CONTRIBUTING.md.

mod typing;

use anyhow::{Result, bail, ensure};

pub use typing::{Terminals, type_sessions};

/// Languages of code blocks that nobody types.
const SILENT: [&str; 6] = ["text", "yaml", "json", "toml", "ini", "promql"];
/// What is left out: any letters of a line, or, alone, any lines.
const GAP: char = '…';

/// A page of the documentation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// What its commands are run in, if it says so.
    pub world: Option<String>,
    /// Its terminal sessions, in order.
    pub sessions: Vec<Session>,
    /// Its files that egress reads: what language, and the text.
    pub files: Vec<(String, String)>,
    /// Code in running text.
    pub inline: Vec<String>,
}

/// A block of commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Line of its first command.
    pub line: usize,
    /// The bottle that it is typed in, if not on the host.
    pub inside: Option<String>,
    /// Why no test types it.
    pub not_run: Option<String>,
    /// The clean host that is needed for it, if it changes the whole host.
    pub on: Option<String>,
    /// Its commands go on beside what follows.
    pub is_background: bool,
    /// Its commands go on until they are ended.
    pub is_endless: bool,
    /// Not a session, but a file of another program.
    pub is_foreign: bool,
    /// What its last command ends with.
    pub exit: i32,
    /// What is typed.
    pub commands: Vec<Typed>,
}

/// One command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// What stands after the prompt.
    pub text: String,
    /// What is shown of its output; nothing when nothing is.
    pub shows: Vec<String>,
}

/// Reads a page.
///
/// # Errors
/// What is not written as CONTRIBUTING.md says, with its line.
pub fn read(text: &str) -> Result<Page> {
    let mut page = Page::default();
    let mut next = Session::default();
    let mut lines = (1..).zip(text.lines());
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            match line.trim().strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->")) {
                Some(comment) => direct(comment.trim(), &mut page, &mut next),
                None => page.inline.extend(line.split('`').skip(1).step_by(2).map(str::to_owned)),
            }
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let inside = lines.by_ref().map(|(_, line)| line.get(indent..).unwrap_or_default());
        let block: Vec<&str> = inside.take_while(|line| !line.starts_with("```")).collect();
        match language {
            "console" => {
                let session = Session { line: number + 1, ..std::mem::take(&mut next) };
                page.sessions.push(typed(session, &block)?);
            }
            silent if SILENT.contains(&silent) => {
                let looks_typed =
                    |line: &&&str| ["$ ", "# egress", "egress "].iter().any(|start| line.starts_with(start));
                if let Some(line) = block.iter().find(looks_typed) {
                    bail!("line {number}: {line:?} looks like a command: write it in a block of `console`");
                }
                if !std::mem::take(&mut next).is_foreign {
                    page.files.push((silent.to_owned(), block.join("\n")));
                }
            }
            other => {
                bail!("line {number}: a block of {other:?}: commands stand in blocks of `console`, see CONTRIBUTING.md")
            }
        }
    }
    Ok(page)
}

/// A comment that is meant for the test.
fn direct(comment: &str, page: &mut Page, next: &mut Session) {
    match comment.split_once(':').map(|(key, value)| (key, value.trim())) {
        Some(("world", name)) => page.world = Some(name.to_owned()),
        Some(("in", bottle)) => next.inside = Some(bottle.to_owned()),
        Some(("not run", reason)) => next.not_run = Some(reason.to_owned()),
        Some(("on", host)) => next.on = Some(host.to_owned()),
        Some(("exits", code)) => next.exit = code.parse().unwrap_or(-1),
        _ if comment == "background" => next.is_background = true,
        _ if comment == "foreign" => next.is_foreign = true,
        _ if comment == "endless" => next.is_endless = true,
        _ => {}
    }
}

fn typed(mut session: Session, block: &[&str]) -> Result<Session> {
    for line in block {
        let command = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "));
        if let Some(text) = command {
            session.commands.push(Typed { text: text.to_owned(), shows: Vec::new() });
            continue;
        }
        let Some(last) = session.commands.last_mut() else {
            bail!("line {}: {line:?} stands before any command", session.line);
        };
        match line.strip_prefix("> ").filter(|_| last.shows.is_empty()) {
            Some(more) => last.text = format!("{}\n{more}", last.text),
            None => last.shows.push((*line).to_owned()),
        }
    }
    ensure!(!session.commands.is_empty(), "line {}: there is no command, which begins with '$ ' or '# '", session.line);
    Ok(session)
}

impl Page {
    /// What is typed on a clean host: what needs that one, and what needs none.
    #[must_use]
    pub fn typed_on(&self, host: &str) -> Vec<&Session> {
        let is_for = |on: &str| on == host;
        let typed = self.sessions.iter().filter(|session| session.not_run.is_none());
        typed.filter(|session| session.on.as_deref().is_none_or(is_for)).collect()
    }

    /// What is typed where a world is set up for the page.
    #[must_use]
    pub fn typed_in_world(&self) -> Vec<&Session> {
        self.sessions.iter().filter(|session| session.not_run.is_none() && session.on.is_none()).collect()
    }
}

/// Is this what is shown? Blanks count once; `…` stands for whatever is left out.
#[must_use]
pub fn is_shown(shows: &[String], output: &str) -> bool {
    let output: Vec<String> = output.lines().map(blanks).collect();
    let shows: Vec<String> = shows.iter().map(|line| blanks(line)).collect();
    fits(&shows, &output)
}

fn blanks(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn fits(shows: &[String], output: &[String]) -> bool {
    let Some((line, rest)) = shows.split_first() else { return output.is_empty() };
    if line.chars().eq([GAP]) {
        return (0..=output.len()).any(|skipped| fits(rest, output.get(skipped..).unwrap_or_default()));
    }
    output.split_first().is_some_and(|(first, others)| line_fits(line, first) && fits(rest, others))
}

fn line_fits(shown: &str, line: &str) -> bool {
    let mut parts = shown.split(GAP);
    let first = parts.next().unwrap_or_default();
    let Some(mut left) = line.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return left.is_empty() };
    for part in middle {
        let Some(at) = left.find(part) else { return false };
        left = left.get(at + part.len()..).unwrap_or_default();
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read() {
        let text = "<!-- world: spent -->\nSay `egress list`.\n\n<!-- in: web -->\n<!-- exits: 7 -->\n```console\n$ one\nout\n\
                    # two \\\n> more\n```\n```yaml\na: 1\n```\n";
        let page = read(text).unwrap();
        assert_eq!((page.world.as_deref(), page.inline.as_slice()), (Some("spent"), &["egress list".to_owned()][..]));
        assert_eq!(page.files, [("yaml".to_owned(), "a: 1".to_owned())]);
        assert_eq!(read("<!-- foreign -->\n```yaml\nb: 2\n```\n```yaml\na: 1\n```\n").unwrap().files, page.files);
        let [session] = page.sessions.as_slice() else { panic!("{page:?}") };
        assert_eq!((session.inside.as_deref(), session.exit, session.line), (Some("web"), 7, 7));
        let [one, two] = session.commands.as_slice() else { panic!("{session:?}") };
        assert_eq!((one.text.as_str(), one.shows.as_slice()), ("one", &["out".to_owned()][..]));
        assert_eq!(two.text, "two \\\nmore");
    }

    #[test]
    fn commands_outside_the_convention_are_found() {
        for bad in
            ["```sh\nls\n```", "```\nls\n```", "```text\negress list\n```", "```console\nls\n```", "```console\n```"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_left_out_may_be_anything() {
        let check = |shown: &str, output: &str, expected| {
            let shows: Vec<String> = shown.lines().map(str::to_owned).collect();
            assert_eq!(is_shown(&shows, output), expected, "{shown:?} {output:?}");
        };
        check("a b", "a    b  ", true);
        check("a b", "a b c", false);
        check("a … c\nd", "a b c\nd", true);
        check("…\nd", "a\nb\nd", true);
        check("a\n…", "a", true);
        check("a\n…\nd", "a\nb", false);
        check("…x…", "axb", true);
        check("a…b…a", "aba", true);
        check("a…a", "a", false);
    }
}
