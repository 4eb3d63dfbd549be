//! The reference pages, made from what the program itself reads. With `EGRESS_WRITE=1` they are written anew.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, ensure};
use clap::{Arg, Command, CommandFactory};
use egress_userspace::cli::Arguments;
use egress_userspace::domain::{Api, StreamUsage};
use egress_userspace::policy::{MeteredHost, metered_hosts};
use egress_userspace::settings::keys::{
    AGENT, BOTTLE, DETECTOR, Key, MARKER, Otherwise, PROVIDER, ROUTE, ROUTES, SETTINGS, Section, Takes, UPSTREAM,
};

use crate::pages;

/// Asks for the pages to be written anew.
const WRITE_VARIABLE: &str = "EGRESS_WRITE";
/// Who is to change a page that nobody writes.
const GENERATED: &str = "<!-- Made from the types: `cargo xtask docs --write` writes it anew. -->";

/// The page is what it would be if it were made now.
fn check(file: &str, made: &str) -> Result<()> {
    let path = pages::top().join("docs").join(file);
    if std::env::var_os(WRITE_VARIABLE).is_some() {
        return fs::write(&path, made).with_context(|| path.display().to_string());
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    ensure!(found == made, "docs/{file} is not what the types say: `cargo xtask docs --write` writes it anew");
    Ok(())
}

fn page(title: &str, introduction: &str) -> String {
    format!("# {title}\n\n{GENERATED}\n\n{introduction}\n")
}

#[test]
fn settings() -> Result<()> {
    let introduction = "\
Every key of `~/.bot-bottle/settings.yml`. Unknown keys are errors that name line and column, and so is a section that stands
twice. [Settings](settings.md) tells of them in context; `egress settings check` reads a file as the daemon does.";
    let mut text = page("Settings: every key", introduction);
    [&SETTINGS, &AGENT, &BOTTLE, &PROVIDER, &UPSTREAM].into_iter().for_each(|section| table(&mut text, section));
    check("settings-reference.md", &text)
}

#[test]
fn routes() -> Result<()> {
    let introduction = "\
Every key of `~/.bot-bottle/routes.yaml` and `routes/<bottle>.yaml`. What a file leaves out is as the next file says: the
bottle's own, its parents', then the host's. [Routes](routes.md) tells of them in context; `egress routes check` reads the
files as the daemon does.";
    let mut text = page("Routes: every key", introduction);
    [&ROUTES, &ROUTE, &DETECTOR, &MARKER].into_iter().for_each(|section| table(&mut text, section));
    check("routes-reference.md", &text)
}

fn table(text: &mut String, section: &Section) {
    let _ = write!(text, "\n## {}\n\n| key | what it is for | value | left out |\n|---|---|---|---|\n", section.title);
    for Key { name, takes, default, says } in section.keys {
        let default = match default {
            Otherwise::Value(value) => format!("`{value}`"),
            Otherwise::Is(text) => (*text).to_owned(),
            Otherwise::Needed => "it must be there".to_owned(),
        };
        let _ = writeln!(text, "| `{name}` | {says} | {} | {default} |", value(takes).replace('|', "\\|"));
    }
}

fn value(takes: &Takes) -> String {
    match takes {
        Takes::OneOf(words) => {
            let word = |(word, means): &(&str, &str)| {
                if means.is_empty() { format!("`{word}`") } else { format!("`{word}`: {means}") }
            };
            words.iter().map(word).collect::<Vec<_>>().join("; ")
        }
        Takes::Like(what, example) => format!("{what}: `{example}`"),
        Takes::Map(of, what, example) => format!("for each {of}, {what}: `{example}`"),
        Takes::One(section) => link(section),
        Takes::Named(of, section) => format!("for each {of}: {}", link(section)),
        Takes::List(section) => format!("a list, each {}", link(section)),
    }
}

fn link(section: &Section) -> String {
    let title = section.title.to_lowercase();
    format!("[{title}](#{})", title.replace(' ', "-"))
}

#[test]
fn providers() -> Result<()> {
    let introduction = "\
Hosts whose responses carry token usage, and which a bottle reaches without a route. A budget is one of the names in the
second column. Further hosts are named under `providers:` in [settings](settings.md). In a pattern `*` stands for part of one
label.";
    let mut text = page("Providers", introduction);
    let (rented, own): (Vec<MeteredHost>, Vec<_>) = metered_hosts().into_iter().partition(|row| row.is_rented);
    hosts(&mut text, &own);
    text.push_str(
        "\n## Where anybody can rent a name\n\nReached only by names that settings or `upstream.resolve` hold.\n",
    );
    hosts(&mut text, &rented);
    text.push_str("\n## APIs\n\nWhat a host under `providers:` may be said to speak: ");
    text.push_str(&Api::ALL.map(|api| format!("`{}`", api.as_str())).join(", "));
    text.push_str(".\n");
    check("providers.md", &text)
}

fn hosts(text: &mut String, rows: &[MeteredHost]) {
    text.push_str("\n| host | budget | API | usage of a streamed chat |\n|---|---|---|---|\n");
    for row in rows {
        let usage = match row.stream_usage {
            StreamUsage::Told => "is told",
            StreamUsage::OnRequest => "is asked for",
        };
        let _ = writeln!(text, "| `{}` | `{}` | `{}` | {usage} |", row.host, row.provider, row.api.as_str());
    }
}

#[test]
fn command_line() -> Result<()> {
    let introduction = "\
Commands that answer with a table take `--json`. Exit codes: 0 done, 1 failed, 2 a command line that is not understood, 3 no daemon, 4 not permitted. `egress run` and `egress resume` end with
the exit code of their command; one that was frozen or killed ends with 137, and a line that says why and what to type next.";
    let mut text = page("Command line", introduction);
    let mut egress = Arguments::command().term_width(0);
    egress.build();
    let global: Vec<&Arg> = egress.get_arguments().filter(|argument| argument.is_global_set()).collect();
    text.push_str("\nEvery command takes:\n");
    arguments(&mut text, &global);
    text.push_str("\n| command | |\n|---|---|\n");
    for command in egress.get_subcommands().filter(is_shown) {
        let name = command.get_name();
        let _ = writeln!(text, "| [`egress {name}`](#egress-{name}) | {} |", about(command));
    }
    egress.get_subcommands().filter(is_shown).for_each(|command| describe(&mut text, "egress", command));
    check("command-line.md", &text)
}

fn is_shown(command: &&Command) -> bool {
    !command.is_hide_set() && command.get_name() != "help"
}

fn describe(text: &mut String, before: &str, command: &Command) {
    let name = format!("{before} {}", command.get_name());
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = write!(text, "\n## {name}\n\n{}.\n", about(command).trim_end_matches('.'));
    if command.has_subcommands() {
        return command.get_subcommands().filter(is_shown).for_each(|inner| describe(text, &name, inner));
    }
    let _ = write!(text, "\n`{usage}`\n");
    let is_own =
        |argument: &&Arg| !argument.is_global_set() && !["help", "version"].contains(&argument.get_id().as_str());
    let own: Vec<&Arg> = command.get_arguments().filter(is_own).filter(|argument| !argument.is_hide_set()).collect();
    if !own.is_empty() {
        arguments(text, &own);
    }
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn arguments(text: &mut String, arguments: &[&Arg]) {
    text.push_str("\n| | |\n|---|---|\n");
    for argument in arguments {
        let values: Vec<String> =
            argument.get_value_names().into_iter().flatten().map(|name| format!("<{name}>")).collect();
        let values = if argument.get_action().takes_values() { values.join(" ") } else { String::new() };
        let name = argument.get_long().map_or(values.clone(), |long| format!("--{long} {values}"));
        let mut says = argument.get_help().map(ToString::to_string).unwrap_or_default();
        says.push_str(if says.ends_with([']', '.']) || says.is_empty() { "" } else { "." });
        let possible = argument.get_possible_values();
        if !possible.is_empty() && argument.get_action().takes_values() {
            let names: Vec<String> = possible.iter().map(|value| format!("`{}`", value.get_name())).collect();
            let _ = write!(says, " One of {}.", names.join(", "));
        }
        let defaults: Vec<String> =
            argument.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
        if !defaults.is_empty() && argument.get_action().takes_values() {
            let _ = write!(says, " Default: {}.", defaults.join(" "));
        }
        if let Some(variable) = argument.get_env() {
            let _ = write!(says, " Also `{}` in the environment.", variable.to_string_lossy());
        }
        let _ = writeln!(text, "| `{}` | {} |", name.trim(), says.trim().replace('|', "\\|"));
    }
}
