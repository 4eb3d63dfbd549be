//! `egress usage`: what was used, request by request or added up, for people, programs and spreadsheets.

mod chart;
mod csv;
mod table;

use std::collections::BTreeMap;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};

use anyhow::Result;
use clap::Args;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use crate::control::{Client, UsageReply, UsageRowsReply, UsageSumsReply};
use crate::domain::{
    BottleName, GroupBy, UnixMillis, UsageCursor, UsageGroup, UsageKey, UsageRow, UsageSum, printable,
};

use super::arguments::Output;
use super::audit::Since;
use super::progress::Progress;
use super::{show, terminal};

use chart::Canvas;

/// Rows that are shown when nothing is said of how many.
const ROWS: u32 = 20;

/// `egress usage`
#[derive(Debug, Args)]
pub struct UsageArguments {
    /// Of this bottle only.
    pub bottle: Option<BottleName>,
    /// The newest so many requests [default: 20; all with --since, --by or --csv].
    #[arg(long, value_name = "N")]
    pub last: Option<u32>,
    /// What was settled then or later: a time such as 2026-01-31T08:00:00Z, or how long ago, such as 90s, 30m, 2h or 1d.
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Add requests up by bottle, agent, provider, model or day; several with commas, in the order of columns.
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub by: Vec<GroupBy>,
    /// Print comma-separated values: a line for each request, or with --by for each group.
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// With --by: draw bars, also when the output is no terminal or there are no days.
    #[arg(long, requires = "by", conflicts_with_all = ["csv", "json"])]
    pub chart: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

pub(super) async fn run(client: &Client, arguments: UsageArguments) -> Result<()> {
    let UsageArguments { by, csv, .. } = &arguments;
    let mut out = Out::stdout();
    let written = if !by.is_empty() {
        sums(client, &arguments, &mut out).await
    } else if *csv || arguments.since.is_some() {
        requests(client, &arguments, &mut out).await
    } else {
        let bottle = arguments.bottle.as_ref().map(|bottle| format!("&bottle={bottle}")).unwrap_or_default();
        let last = arguments.last.unwrap_or(ROWS);
        let reply: UsageReply = client.get(&format!("usage?last={last}{bottle}")).await?;
        out.whole(&reply, arguments.output.json)
    };
    match written.and_then(|()| Ok(out.0.flush()?)) {
        // Whoever reads has had enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) => {
            Ok(())
        }
        written => written,
    }
}

/// Standard output, written in large pieces; what cannot be written is told, not panicked about.
struct Out(BufWriter<io::Stdout>);

impl Out {
    fn stdout() -> Self {
        Self(BufWriter::new(io::stdout()))
    }

    fn line(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.0, "{line}")?)
    }

    fn lines(&mut self, lines: &[String]) -> Result<()> {
        lines.iter().try_for_each(|line| self.line(line))
    }

    fn whole(&mut self, reply: &UsageReply, as_json: bool) -> Result<()> {
        if as_json { self.line(&serde_json::to_string_pretty(reply)?) } else { self.lines(&table::requests(reply)) }
    }
}

/// Requests one by one. What is not shown as a table is written page by page.
async fn requests(client: &Client, arguments: &UsageArguments, out: &mut Out) -> Result<()> {
    let mut sums: BTreeMap<(BottleName, crate::domain::ProviderName), UsageSum> = BTreeMap::new();
    let mut kept = Vec::new();
    let mut is_first = true;
    if arguments.csv {
        out.line(&csv::line(&csv::COLUMNS))?;
    } else if arguments.output.json {
        write!(out.0, "{{\"rows\":[")?;
    }
    let mut pages = Pages::of(arguments, "rows");
    while let Some(path) = pages.next() {
        let reply: UsageRowsReply = client.get(&path).await?;
        pages.had(u64::from(reply.requests_max), reply.next, reply.total);
        for row in reply.rows {
            if arguments.csv {
                out.line(&csv::row(&row))?;
                continue;
            }
            add(&mut sums, &row);
            if arguments.output.json {
                let comma = if std::mem::take(&mut is_first) { "" } else { "," };
                write!(out.0, "{comma}\n{}", serde_json::to_string(&row)?)?;
            } else {
                kept.push(row);
            }
        }
    }
    drop(pages);
    let sums: Vec<UsageSum> = sums.into_values().collect();
    if arguments.output.json {
        return out.line(&format!("\n],\"sums\":{}}}", serde_json::to_string(&sums)?));
    }
    if arguments.csv { Ok(()) } else { out.whole(&UsageReply { sums, rows: kept }, false) }
}

/// As the ledger adds up: what is not metered is no request.
fn add(sums: &mut BTreeMap<(BottleName, crate::domain::ProviderName), UsageSum>, row: &UsageRow) {
    if row.known == crate::domain::Known::Unmetered {
        return;
    }
    let sum = sums.entry((row.bottle.clone(), row.provider.clone())).or_insert_with(|| UsageSum {
        bottle: row.bottle.clone(),
        provider: row.provider.clone(),
        requests: 0,
        usage: Default::default(),
        held: crate::domain::Tokens::ZERO,
    });
    sum.requests += 1;
    sum.usage = sum.usage + row.usage;
}

async fn sums(client: &Client, arguments: &UsageArguments, out: &mut Out) -> Result<()> {
    let by = &arguments.by;
    let groups = groups(client, arguments).await?;
    if arguments.output.json {
        let groups: Vec<Value> = groups.iter().map(|group| object(group, by)).collect();
        return out.line(&serde_json::to_string_pretty(&json!({ "groups": groups }))?);
    }
    if arguments.csv {
        out.line(&csv::line(&csv::group_columns(by)))?;
        return groups.iter().try_for_each(|group| out.line(&csv::group(group, by)));
    }
    out.lines(&table::groups(&groups, by))?;
    let is_wanted = by.contains(&GroupBy::Day) && io::stdout().is_terminal();
    if (arguments.chart || is_wanted) && !groups.is_empty() {
        let label = |group: &UsageGroup| by.iter().map(|by| shown(&group.key, *by)).collect::<Vec<_>>().join(" ");
        let bars = groups.iter().map(|group| (label(group), group.usage.total().0)).collect();
        let bars = if by.as_slice() == [GroupBy::Day] { chart::with_empty_days(bars) } else { bars };
        let canvas = Canvas { columns: terminal::columns(), is_unicode: terminal::is_unicode() };
        out.line("")?;
        out.lines(&chart::lines(&bars, canvas))?;
    }
    Ok(())
}

/// All groups, in the order of their columns.
async fn groups(client: &Client, arguments: &UsageArguments) -> Result<Vec<UsageGroup>> {
    let by = &arguments.by;
    let mut sums: BTreeMap<UsageKey, UsageGroup> = BTreeMap::new();
    let mut pages = Pages::of(arguments, "sums");
    while let Some(path) = pages.next() {
        let reply: UsageSumsReply = client.get(&path).await?;
        pages.had(u64::from(reply.requests_max), reply.next, reply.total);
        for group in reply.groups {
            let sum = sums.entry(group.key.clone()).or_insert_with(|| UsageGroup {
                key: group.key.clone(),
                requests: 0,
                usage: Default::default(),
            });
            sum.requests += group.requests;
            sum.usage = sum.usage + group.usage;
        }
    }
    let mut groups: Vec<UsageGroup> = sums.into_values().collect();
    groups.sort_by_cached_key(|group| by.iter().map(|by| key(&group.key, *by)).collect::<Vec<_>>());
    Ok(groups)
}

/// What a group has in common, by one of what it was made by.
fn key(key: &UsageKey, by: GroupBy) -> Option<String> {
    match by {
        GroupBy::Bottle => key.bottle.as_ref().map(ToString::to_string),
        GroupBy::Agent => key.agent.as_ref().map(ToString::to_string),
        GroupBy::Provider => key.provider.as_ref().map(ToString::to_string),
        GroupBy::Model => key.model.clone(),
        GroupBy::Day => key.day.clone(),
    }
}

fn shown(of: &UsageKey, by: GroupBy) -> String {
    printable(&show::text(key(of, by)))
}

fn object(group: &UsageGroup, by: &[GroupBy]) -> Value {
    let UsageGroup { key: of, requests, usage } = group;
    let mut object: Map<String, Value> = by.iter().map(|by| (by.as_str().to_owned(), json!(key(of, *by)))).collect();
    let amounts = [
        ("input", usage.input),
        ("cache_write", usage.cache_write),
        ("cache_read", usage.cache_read),
        ("output", usage.output),
        ("total", usage.total()),
    ];
    object.insert("requests".to_owned(), json!(requests));
    object.extend(amounts.map(|(name, tokens)| (name.to_owned(), json!(tokens.0))));
    Value::Object(object)
}

/// The pages of an export, and how far it has come.
struct Pages {
    query: String,
    next: Option<Option<UsageCursor>>,
    done: u64,
    total: u64,
    progress: Option<Progress>,
}

impl Pages {
    fn of(arguments: &UsageArguments, kind: &str) -> Self {
        let mut query = format!("usage/{kind}?");
        if let Some(bottle) = &arguments.bottle {
            query += &format!("&bottle={bottle}");
        }
        if let Some(Since(UnixMillis(since))) = arguments.since {
            query += &format!("&since={since}");
        }
        if let Some(last) = arguments.last {
            query += &format!("&last={last}");
        }
        if !arguments.by.is_empty() {
            let by: Vec<&str> = arguments.by.iter().map(|by| by.as_str()).collect();
            query += &format!("&by={}", by.join(","));
        }
        if arguments.by.contains(&GroupBy::Day) {
            query += &format!("&zone={}", zone());
        }
        // What is written as it comes shows by itself how far it is.
        let is_shown =
            arguments.by.is_empty() && (arguments.csv || arguments.output.json) && io::stdout().is_terminal();
        let progress = (!is_shown).then(|| Progress::of("reading usage"));
        Self { query, next: Some(None), done: 0, total: 0, progress }
    }

    /// What to ask for, until everything has come.
    fn next(&mut self) -> Option<String> {
        let after = self.next.take()?;
        Some(after.map_or_else(|| self.query.clone(), |after| format!("{}&after={after}", self.query)))
    }

    fn had(&mut self, requests: u64, next: Option<UsageCursor>, total: Option<u64>) {
        self.next = next.map(Some);
        self.done += requests;
        self.total = total.unwrap_or(self.total);
        if let Some(progress) = &self.progress {
            progress.step(format!("{} of {} requests", self.done.min(self.total), self.total));
        }
    }
}

/// Whose days are meant.
fn zone() -> String {
    let system = TimeZone::system();
    match system.iana_name() {
        Some(name) => name.to_owned(),
        None => {
            show::note("this terminal's time zone has no name: days are those of UTC");
            "UTC".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Arguments, Command};
    use crate::domain::{Tokens, Usage};

    fn parsed(words: &str) -> Result<UsageArguments, clap::Error> {
        let words = ["egress", "usage"].into_iter().chain(words.split_whitespace());
        let Command::Usage(arguments) = Arguments::try_parse_from(words)?.command else { panic!("not usage") };
        Ok(arguments)
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for words in ["", "web --last 5 --json", "--csv --since 2h", "--by day,bottle --chart", "--by model --by day"] {
            assert!(parsed(words).is_ok(), "{words}");
        }
        for words in ["--csv --json", "--chart", "--by colour", "--by day --csv --chart"] {
            assert!(parsed(words).is_err(), "{words}");
        }
        assert_eq!(parsed("--by model --by day,bottle").unwrap().by, [GroupBy::Model, GroupBy::Day, GroupBy::Bottle]);
    }

    #[test]
    fn pages_follow_each_other() {
        let arguments = parsed("web --last 5 --by bottle,model").unwrap();
        let mut pages = Pages::of(&arguments, "sums");
        let first = "usage/sums?&bottle=web&last=5&by=bottle,model";
        assert_eq!(pages.next().as_deref(), Some(first));
        pages.had(1, Some("7.3".parse().unwrap()), Some(2));
        assert_eq!(pages.next(), Some(format!("{first}&after=7.3")));
        pages.had(1, None, None);
        assert_eq!(pages.next(), None);
    }

    #[test]
    fn groups_are_told_by_what_they_were_made_by() {
        let key = UsageKey { day: Some("2026-01-31".to_owned()), model: Some("=m".to_owned()), ..UsageKey::default() };
        let usage = Usage { input: Tokens(1), cache_write: Tokens(2), cache_read: Tokens(3), output: Tokens(4) };
        let group = UsageGroup { key, requests: 7, usage };
        let by = [GroupBy::Day, GroupBy::Agent, GroupBy::Model];
        assert_eq!(
            csv::line(&csv::group_columns(&by)),
            "day,agent,model,requests,input,cache_write,cache_read,output,total"
        );
        assert_eq!(csv::group(&group, &by), "2026-01-31,,'=m,7,1,2,3,4,10");
        let expected = json!({"day": "2026-01-31", "agent": null, "model": "=m", "requests": 7, "input": 1,
            "cache_write": 2, "cache_read": 3, "output": 4, "total": 10});
        assert_eq!(object(&group, &by), expected);
    }
}
