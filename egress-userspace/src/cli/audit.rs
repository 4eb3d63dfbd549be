//! `egress audit`: what happened, what goes on happening, and whether the record of it is whole.
#![expect(clippy::print_stdout, reason = "printing is what this file is for")]

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;

use crate::control::{AUDIT_ROWS_MAX, AuditReply, Client, ClientError, Events, GateDifference, GateFault, VerifyReply};
use crate::domain::{AuditHash, AuditRow, BottleName, ChainFault, UnixMillis, happened, printable};

use super::arguments::{Output, TimeToLive};
use super::{Exit, kernel, show};

/// Rows that are shown when nothing is said of how many.
const ROWS: u32 = 20;
/// How often a daemon that went away is looked for.
const RECONNECT_EVERY: Duration = Duration::from_millis(300);

/// `egress audit`
#[derive(Debug, Args)]
pub struct AuditArguments {
    /// Of this bottle only.
    pub bottle: Option<BottleName>,
    /// The same.
    #[arg(long = "bottle", value_name = "BOTTLE", conflicts_with = "bottle")]
    pub of: Option<BottleName>,
    /// The newest so many rows [default: 20, or all with --since].
    #[arg(long, value_name = "N")]
    pub last: Option<u32>,
    /// What happened then or later: a time such as 2026-01-31T08:00:00Z, or how long ago, such as 90s, 30m, 2h or 1d.
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Go on with what happens from now on, until interrupted. With --json one object a line.
    #[arg(long)]
    pub follow: bool,
    /// Verify that no row was changed, removed or added, and that each gate is what the ledger wants. Ends with 1 when not.
    #[arg(long, conflicts_with_all = ["bottle", "of", "last", "since", "follow"])]
    pub verify: bool,
    /// Show each gate as the kernel holds it, line by line beside what the ledger wants, with its programs and counters.
    /// Ends with 1 when they differ.
    #[arg(long, conflicts_with_all = ["verify", "last", "since", "follow"])]
    pub kernel: bool,
    /// With --verify: a tip that was noted earlier must be in the chain.
    #[arg(long, value_name = "HASH", requires = "verify")]
    pub tip: Option<AuditHash>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `--since 2h`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(pub UnixMillis);

impl FromStr for Since {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        since(text, Timestamp::now())
    }
}

fn since(text: &str, now: Timestamp) -> Result<Since, String> {
    let at = match (text.parse(), text.parse()) {
        (Ok(TimeToLive(ago)), _) => now.checked_sub(ago).map_err(|_| format!("{text:?} is too long ago"))?,
        (_, Ok(at)) => at,
        (Err(_), Err(_)) => {
            return Err(format!("{text:?} is no time: write 2026-01-31T08:00:00Z, or how long ago: 90s, 30m, 2h, 1d"));
        }
    };
    if at > now { Err(format!("{text:?} is yet to come")) } else { Ok(Since(UnixMillis(at.as_millisecond()))) }
}

pub(super) async fn run(client: &Client, arguments: AuditArguments) -> Result<ExitCode> {
    if arguments.verify {
        return verify(client, arguments.tip, arguments.output).await;
    }
    if arguments.kernel {
        return kernel::audit(client, arguments.bottle.as_ref().or(arguments.of.as_ref()), arguments.output).await;
    }
    let reply = history(client, &arguments).await?;
    if arguments.follow {
        return follow(client, &arguments, &reply).await;
    }
    if arguments.output.json {
        show::json(&reply)?;
    } else {
        let mut table = show::Table::new(&["NO", "TIME", "BOTTLE", "WHAT"]);
        reply.rows.iter().for_each(|row| table.row(cells(row).into()));
        table.print();
    }
    Ok(ExitCode::SUCCESS)
}

impl AuditArguments {
    /// As parameters of the control API.
    fn query(&self) -> String {
        let bottle = self.bottle.as_ref().or(self.of.as_ref());
        bottle.map(|bottle| format!("&bottle={bottle}")).unwrap_or_default()
    }
}

/// The rows that were asked for, page by page from the newest back.
async fn history(client: &Client, arguments: &AuditArguments) -> Result<AuditReply> {
    let since = arguments.since.map(|Since(at)| since_query(at)).unwrap_or_default();
    let left = arguments.last.unwrap_or(if arguments.since.is_some() { u32::MAX } else { ROWS });
    pages(client, left, arguments.query() + &since).await
}

/// All that is on record of a bottle since then.
pub(super) async fn rows_of(client: &Client, bottle: &BottleName, since: Option<UnixMillis>) -> Result<Vec<AuditRow>> {
    let filter = format!("&bottle={bottle}{}", since.map(since_query).unwrap_or_default());
    Ok(pages(client, u32::MAX, filter).await?.rows)
}

fn since_query(at: UnixMillis) -> String {
    format!("&since={}", at.0)
}

async fn pages(client: &Client, mut left: u32, filter: String) -> Result<AuditReply> {
    let mut reply: AuditReply = page(client, left, &filter, "").await?;
    let mut older = reply.rows.clone();
    loop {
        let is_last = older.len() < left.min(AUDIT_ROWS_MAX) as usize;
        left = left.saturating_sub(u32::try_from(older.len()).unwrap_or(u32::MAX));
        let (Some(first), false, true) = (older.first(), is_last, left > 0) else { return Ok(reply) };
        older = page(client, left, &filter, &format!("&before={}", first.number)).await?.rows;
        reply.rows.splice(0..0, older.iter().cloned());
    }
}

async fn page(client: &Client, left: u32, filter: &str, before: &str) -> Result<AuditReply> {
    Ok(client.get(&format!("audit?last={}{filter}{before}", left.min(AUDIT_ROWS_MAX))).await?)
}

async fn follow(client: &Client, arguments: &AuditArguments, history: &AuditReply) -> Result<ExitCode> {
    let filter = arguments.query();
    for row in &history.rows {
        if !print_line(row, arguments.output.json)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let mut after = history.newest;
    let mut events = listen(client, after, &filter).await?;
    loop {
        match events.next().await {
            Ok(Some(row)) => {
                after = row.number;
                if !print_line(&row, arguments.output.json)? {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Ok(None) | Err(_) => events = reconnect(client, after, &filter).await?,
        }
    }
}

async fn listen(client: &Client, after: i64, filter: &str) -> Result<Events<AuditRow>, ClientError> {
    client.listen(&format!("audit/events?after={after}{filter}")).await
}

/// The daemon went away; the next one goes on after the last row that was seen.
async fn reconnect(client: &Client, after: i64, filter: &str) -> Result<Events<AuditRow>> {
    show::note("the egress daemon went away; going on when it is back");
    loop {
        tokio::time::sleep(RECONNECT_EVERY).await;
        match listen(client, after, filter).await {
            Ok(events) => return Ok(events),
            Err(error @ ClientError::Refused(_)) => return Err(error.into()),
            Err(ClientError::NoDaemon { .. } | ClientError::NotPermitted { .. } | ClientError::Broken(_)) => {}
        }
    }
}

/// One row, one line. False when nobody reads it.
fn print_line(row: &AuditRow, as_json: bool) -> Result<bool> {
    let line = if as_json {
        serde_json::to_string(row)?
    } else {
        let [number, time, bottle, what] = cells(row);
        format!("{number:<6}  {time}  {bottle:<12}  {what}")
    };
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        outcome => Ok(outcome.map(|()| true)?),
    }
}

fn cells(row: &AuditRow) -> [String; 4] {
    [
        row.number.to_string(),
        show::time(row.at),
        show::text(row.bottle.as_ref()),
        printable(&happened(&row.kind, &show::time)),
    ]
}

async fn verify(client: &Client, tip: Option<AuditHash>, output: Output) -> Result<ExitCode> {
    let query = tip.map(|tip| format!("?tip={tip}")).unwrap_or_default();
    let reply: VerifyReply = client.get(&format!("audit/verify{query}")).await?;
    let (lines, is_sound) = findings(&reply, tip);
    if output.json {
        show::json(&reply)?;
    } else {
        lines.iter().for_each(|line| println!("{line}"));
    }
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::from(Exit::Failed as u8) })
}

/// What was found, and whether it is as it should be.
fn findings(reply: &VerifyReply, tip: Option<AuditHash>) -> (Vec<String>, bool) {
    let chain = &reply.chain;
    let mut lines = vec![match chain.fault {
        None => format!("{} rows, chain intact, tip {}", chain.rows, chain.tip),
        Some(fault) => format!("{} rows, then the chain is broken: {}", chain.rows, broken(fault)),
    }];
    match (tip, chain.noted) {
        (None, _) => {}
        (Some(_), Some(number)) => {
            lines.push(format!("the noted tip is row {number}: up to there all is as it was then"));
        }
        (Some(_), None) if chain.fault.is_some() => {
            lines.push("the noted tip is not among the rows before that".to_owned());
        }
        (Some(_), None) => {
            lines.push(
                "the noted tip is not in the chain: it was written anew since, or it is another ledger's".to_owned(),
            );
        }
    }
    if reply.differences.is_empty() {
        lines.push(format!("{} gates, each as the ledger wants it", reply.gates));
    }
    lines.extend(reply.differences.iter().map(differing));
    let is_sound = chain.fault.is_none() && (tip.is_none() || chain.noted.is_some()) && reply.differences.is_empty();
    (lines, is_sound)
}

fn broken(fault: ChainFault) -> String {
    match fault {
        ChainFault::Row { number, is_after_gap: false } => {
            format!("row {number} does not follow from the one before: one of its columns, or its place, was changed")
        }
        ChainFault::Row { number, is_after_gap: true } => format!("rows before row {number} are missing"),
        ChainFault::Unreadable { number } => format!("row {number} holds what egress never writes"),
        ChainFault::Added { number } => format!("row {number} was added behind the last that egress wrote"),
        ChainFault::Removed { rows } => format!("the last rows are missing, {rows} of them"),
        ChainFault::Tip { number } => {
            format!("row {number}, the last, is not the one the tip on record is of: one of the two was changed")
        }
        ChainFault::NoTip => "the record of its tip is missing".to_owned(),
    }
}

pub(super) fn differing(difference: &GateDifference) -> String {
    let GateDifference { bottle, interface, fault } = difference;
    let bottle = bottle.as_ref().map_or_else(|| "a bottle that nobody knows".to_owned(), ToString::to_string);
    match fault {
        GateFault::Missing => format!("{bottle}: the kernel holds no gate for it"),
        GateFault::State { wanted, is_open } => {
            let held = if *is_open { "open" } else { "cut" };
            format!("{bottle}: the ledger wants its gate {}, the kernel's is {held}", show::gate_text(*wanted))
        }
        GateFault::Terms => format!("{bottle}: the kernel's gate lets other addresses or ports pass than it is to"),
        GateFault::Detached => format!("{bottle}: its gate is not on its interface in both directions"),
        GateFault::Unreadable => format!("{bottle}: what is on its interface cannot be read"),
        GateFault::NoInterface => {
            format!("{bottle}: its interface is gone, it has no network: end it and run it again")
        }
        GateFault::Stray => format!("{bottle}: the kernel holds a gate on interface {interface}, but it does not run"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Arguments, Command};
    use crate::domain::{ChainReport, CutCause, GateView};

    fn parsed(words: &str) -> Result<AuditArguments, clap::Error> {
        let words = ["egress", "audit"].into_iter().chain(words.split_whitespace());
        let Command::Audit(arguments) = Arguments::try_parse_from(words)?.command else { panic!("not audit") };
        Ok(arguments)
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let hash = "0".repeat(64);
        for words in ["", "web --last 5 --json", "--bottle web --since 2h --follow --json --last 0"] {
            assert!(parsed(words).is_ok(), "{words}");
        }
        assert!(parsed(&format!("--verify --tip {hash} --json")).is_ok());
        let with_verify = ["web", "--bottle web", "--last 5", "--since 2h", "--follow"];
        for words in with_verify.map(|word| format!("{word} --verify")) {
            let message = parsed(&words).unwrap_err().to_string();
            assert!(message.contains("cannot be used with"), "{words}: {message}");
        }
        assert!(parsed("web --kernel --json").is_ok());
        assert!(parsed("--kernel --verify").is_err());
        assert!(parsed("web --bottle web").unwrap_err().to_string().contains("cannot be used with"));
        assert!(parsed(&format!("--tip {hash}")).unwrap_err().to_string().contains("--verify"));
        assert!(parsed("--verify --tip abc").unwrap_err().to_string().contains("64 digits"));
    }

    #[test]
    fn times_are_read() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let at = |text: &str| since(text, now).map(|Since(at)| now.as_millisecond() - at.0);
        assert_eq!(at("90s"), Ok(90_000));
        assert_eq!(at("1d"), Ok(86_400_000));
        assert_eq!(at("2026-03-01T11:59:59.5Z"), Ok(500));
        assert_eq!(at("2026-03-01T14:00:00+02:30"), Ok(30 * 60_000));
        for bad in ["", "yesterday", "2h30", "2026-03-01", "2026-03-01T11:00:00", "2026-03-01T12:00:01Z", "0s"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    fn check(reply: &VerifyReply, tip: Option<AuditHash>, (is_sound, said): (bool, &str)) {
        let (lines, found) = findings(reply, tip);
        assert_eq!(found, is_sound, "{lines:?}");
        assert!(lines.iter().any(|line| line.contains(said)), "{said}: {lines:?}");
    }

    #[test]
    fn findings_decide_the_exit_code() {
        let chain = ChainReport { rows: 9, tip: AuditHash::NONE, noted: None, fault: None };
        let sound = VerifyReply { chain, gates: 2, differences: Vec::new() };
        let tip = Some(AuditHash([1; 32]));
        check(&sound, None, (true, "9 rows, chain intact, tip 0000"));
        check(&sound, None, (true, "2 gates, each"));
        check(&sound, tip, (false, "not in the chain"));
        let with =
            |noted, fault| VerifyReply { chain: ChainReport { noted, fault, ..sound.chain.clone() }, ..sound.clone() };
        check(&with(Some(7), None), tip, (true, "row 7"));
        check(&with(Some(7), Some(ChainFault::Removed { rows: 3 })), tip, (false, "row 7"));
        check(&with(None, Some(ChainFault::Row { number: 10, is_after_gap: true })), None, (false, "row 10"));
        let fault = GateFault::State { wanted: GateView::Cut(CutCause::Operator), is_open: true };
        let difference = GateDifference { bottle: Some("web".parse().unwrap()), interface: 7, fault };
        let differing = VerifyReply { differences: vec![difference], ..sound.clone() };
        check(&differing, None, (false, "web: the ledger wants its gate cut (operator), the kernel's is open"));
    }
}
