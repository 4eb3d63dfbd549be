//! `egress approvals`: what waits for an operator, what was decided, and deciding it. Never what was found.
#![expect(clippy::print_stdout, reason = "printing is what this file is for")]

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::control::{
    ApprovalEvent, ApprovalsReply, Client, ClientError, DecideReply, DecideRequest, Events, ForgetReply,
};
use crate::domain::{ApprovalId, ApprovalRow, BottleName, UnixMillis, Verdict, printable};

use super::arguments::Output;
use super::show::{self, Table, json, text};

/// How often a daemon that went away is looked for.
const RECONNECT_EVERY: Duration = Duration::from_millis(300);
/// Questions that `--all` shows.
const ROWS: u32 = 100;

/// `egress approvals`
#[derive(Debug, Subcommand)]
pub enum ApprovalsCommand {
    /// Show the requests that wait for an operator.
    List(ListArguments),
    /// Let a request go with what was found in it.
    Approve(DecideArguments),
    /// Refuse a request.
    Deny(DecideArguments),
    /// Take back what was decided with --always: the next request with the same value is asked about again.
    Forget {
        /// This decision.
        #[arg(required_unless_present = "bottle")]
        id: Option<ApprovalId>,
        /// All decisions on this bottle.
        #[arg(long, conflicts_with = "id")]
        bottle: Option<BottleName>,
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
}

/// `egress approvals list`
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Of this bottle only.
    #[arg(long)]
    pub bottle: Option<BottleName>,
    /// Show settled ones too, and which decisions are remembered: the newest 100.
    #[arg(long, conflicts_with = "follow")]
    pub all: bool,
    /// Go on with what is asked and decided from now on, until interrupted. With --json one object a line.
    #[arg(long)]
    pub follow: bool,
    #[command(flatten)]
    /// How to print.
    pub output: Output,
}

/// `egress approvals approve` and `deny`
#[derive(Debug, Args)]
pub struct DecideArguments {
    /// The number that `egress approvals list` shows.
    pub id: ApprovalId,
    /// And the same value of the same bottle to the same host from now on, unasked.
    #[arg(long)]
    pub always: bool,
    #[command(flatten)]
    /// How to print.
    pub output: Output,
}

pub(super) async fn run(client: &Client, command: ApprovalsCommand) -> Result<()> {
    match command {
        ApprovalsCommand::List(list) if list.follow => follow(client, &list).await,
        ApprovalsCommand::List(list) => show_list(client, &list).await,
        ApprovalsCommand::Approve(decide) => decided(client, &decide, "approve").await,
        ApprovalsCommand::Deny(decide) => decided(client, &decide, "deny").await,
        ApprovalsCommand::Forget { id, bottle, output } => {
            let path = match (id, bottle) {
                (Some(id), _) => format!("approvals/{id}/forget"),
                (None, bottle) => format!("bottles/{}/forget", text(bottle)),
            };
            let reply: ForgetReply = client.post(&path, &()).await?;
            if output.json {
                return json(&reply);
            }
            for ApprovalRow { id, bottle, detector, host, .. } in &reply.forgotten {
                println!(
                    "{id} is forgotten: what {detector} finds is asked about again when {bottle} sends it to {host}"
                );
            }
            Ok(())
        }
    }
}

async fn show_list(client: &Client, list: &ListArguments) -> Result<()> {
    let bottle = list.bottle.as_ref().map(|bottle| format!("bottle={bottle}"));
    let last = list.all.then(|| format!("last={ROWS}"));
    let query: Vec<String> = bottle.into_iter().chain(last).collect();
    let reply: ApprovalsReply = client.get(&format!("approvals?{}", query.join("&"))).await?;
    if list.output.json {
        return json(&reply);
    }
    if reply.approvals.is_empty() {
        println!("{}", if list.all { "nothing was asked" } else { "no request waits for an approval" });
        return Ok(());
    }
    let mut table = Table::new(&["ID", "BOTTLE", "DETECTOR", "HOST", "TARGET", "AGE", "LEFT", "STATE"]);
    reply.approvals.iter().for_each(|row| table.row(cells(row, reply.now)));
    table.print();
    Ok(())
}

fn cells(row: &ApprovalRow, now: UnixMillis) -> Vec<String> {
    let left = row.decided.is_none().then(|| span(now, row.expires));
    vec![
        row.id.to_string(),
        row.bottle.to_string(),
        row.detector.clone(),
        row.host.to_string(),
        row.target.clone(),
        span(row.asked, now),
        text(left),
        state(row),
    ]
}

/// How it stands, in words.
fn state(row: &ApprovalRow) -> String {
    let Some(verdict) = row.verdict else { return "waits".to_owned() };
    let by = row.by.map(|by| format!(" by user {by}")).unwrap_or_default();
    let always = match (row.is_always, row.forgotten) {
        (false, _) => String::new(),
        (true, Some(_)) => ", always; forgotten".to_owned(),
        (true, None) => format!(", always; {} more since", row.used),
    };
    format!("{}{by}{always}", verdict.as_str())
}

/// `45s`, `12m` or `3h`.
fn span(from: UnixMillis, until: UnixMillis) -> String {
    let seconds = until.0.saturating_sub(from.0).max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3_600),
    }
}

async fn decided(client: &Client, decide: &DecideArguments, action: &str) -> Result<()> {
    let request = DecideRequest { always: decide.always };
    let reply: DecideReply = client.post(&format!("approvals/{}/{action}", decide.id), &request).await?;
    if decide.output.json {
        return json(&reply);
    }
    let ApprovalRow { id, bottle, detector, host, .. } = &reply.approval;
    let what = if reply.approval.verdict == Some(Verdict::Approved) { "may send" } else { "may not send" };
    let how_long = if decide.always { "from now on" } else { "this once" };
    println!("{id}: {bottle} {what} what {detector} found to {host}, {how_long}");
    for also in &reply.also {
        println!("{also} waited with the same value, and is settled with it");
    }
    Ok(())
}

async fn follow(client: &Client, list: &ListArguments) -> Result<()> {
    let mut events = listen(client, list).await?;
    let mut shown = ApprovalId(0);
    loop {
        match events.next().await {
            Ok(Some(event)) => {
                if !print_event(&event, &mut shown, list.output.json)? {
                    return Ok(());
                }
            }
            Ok(None) | Err(_) => events = reconnect(client, list).await?,
        }
    }
}

async fn listen(client: &Client, list: &ListArguments) -> Result<Events<ApprovalEvent>, ClientError> {
    let bottle = list.bottle.as_ref().map(|bottle| format!("?bottle={bottle}")).unwrap_or_default();
    client.listen(&format!("approvals/events{bottle}")).await
}

/// The daemon went away; the next one begins with what waits there.
async fn reconnect(client: &Client, list: &ListArguments) -> Result<Events<ApprovalEvent>> {
    show::note("the egress daemon went away; going on when it is back");
    loop {
        tokio::time::sleep(RECONNECT_EVERY).await;
        match listen(client, list).await {
            Ok(events) => return Ok(events),
            Err(error @ ClientError::Refused(_)) => return Err(error.into()),
            Err(ClientError::NoDaemon { .. } | ClientError::NotPermitted { .. } | ClientError::Broken(_)) => {}
        }
    }
}

/// One event, a line for each question. `shown` is the last question there was a line for. False when nobody reads it.
fn print_event(event: &ApprovalEvent, shown: &mut ApprovalId, as_json: bool) -> Result<bool> {
    let lines: Vec<String> = match event {
        event if as_json => vec![serde_json::to_string(event)?],
        // What waits still was shown before the daemon went away.
        ApprovalEvent::Waiting { approvals } => approvals.iter().filter(|row| row.id > *shown).map(line).collect(),
        ApprovalEvent::Changed { approval } => vec![line(approval)],
    };
    let rows = match event {
        ApprovalEvent::Waiting { approvals } => approvals.as_slice(),
        ApprovalEvent::Changed { approval } => std::slice::from_ref(approval),
    };
    *shown = rows.iter().map(|row| row.id).chain([*shown]).max().unwrap_or(*shown);
    for line in lines {
        match writeln!(io::stdout(), "{line}") {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(false),
            outcome => outcome?,
        }
    }
    Ok(true)
}

fn line(row: &ApprovalRow) -> String {
    let ApprovalRow { id, bottle, detector, host, target, .. } = row;
    let at = show::time(row.decided.unwrap_or(row.asked));
    let state = match row.verdict {
        Some(_) => state(row),
        None => format!("waits until {}", show::time(row.expires)),
    };
    let (detector, target) = (printable(detector), printable(target));
    format!("{id:<6}  {at}  {bottle:<12}  {detector} in {target} to {host}: {state}")
}

/// That somebody waits, for those who look at something else.
pub(super) fn waiting(open: u64) -> Option<String> {
    match open {
        0 => None,
        1 => Some("1 request waits for an approval: `egress approvals list`".to_owned()),
        many => Some(format!("{many} requests wait for an approval: `egress approvals list`")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Arguments, Command};

    fn parsed(line: &str) -> Result<ApprovalsCommand, clap::Error> {
        let words = ["egress", "approvals"].into_iter().chain(line.split_whitespace());
        Arguments::try_parse_from(words).map(|arguments| {
            let Command::Approvals(command) = arguments.command else { panic!("not approvals") };
            command
        })
    }

    fn row(verdict: Option<Verdict>) -> ApprovalRow {
        ApprovalRow {
            id: ApprovalId(7),
            bottle: "web".parse().unwrap(),
            detector: "aws_key".to_owned(),
            host: "a.example".parse().unwrap(),
            target: "POST /x\u{1b}[2J".to_owned(),
            asked: UnixMillis(1_000),
            expires: UnixMillis(301_000),
            decided: verdict.map(|_| UnixMillis(2_000)),
            verdict,
            by: None,
            is_always: false,
            forgotten: None,
            used: 0,
        }
    }

    #[test]
    fn words_are_read() {
        let ApprovalsCommand::Approve(approve) = parsed("approve 7 --always").unwrap() else { panic!("not approve") };
        assert_eq!((approve.id, approve.always), (ApprovalId(7), true));
        assert!(matches!(parsed("deny 7"), Ok(ApprovalsCommand::Deny(DecideArguments { always: false, .. }))));
        assert!(matches!(parsed("forget --bottle web"), Ok(ApprovalsCommand::Forget { id: None, .. })));
        for bad in ["", "approve", "approve x", "approve 0", "forget", "forget 7 --bottle web", "list --all --follow"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rows_say_how_they_stand() {
        let check = |row: ApprovalRow, expected: &str| assert_eq!(state(&row), expected);
        check(row(None), "waits");
        check(row(Some(Verdict::Expired)), "expired");
        check(ApprovalRow { by: Some(5), ..row(Some(Verdict::Denied)) }, "denied by user 5");
        let always = ApprovalRow { is_always: true, used: 3, ..row(Some(Verdict::Approved)) };
        check(always.clone(), "approved, always; 3 more since");
        check(ApprovalRow { forgotten: Some(UnixMillis(3)), ..always }, "approved, always; forgotten");
        let shown = cells(&row(None), UnixMillis(62_000));
        let mut table = Table::new(&["TARGET"]);
        table.row(vec![shown[4].clone()]);
        assert_eq!(table.lines()[1], "POST /x\\u{1b}[2J", "what a bottle sends does nothing to a terminal");
        assert_eq!(shown[5..7], ["61s", "3m"]);
    }

    #[test]
    fn a_follower_shows_what_waits_once() {
        let mut shown = ApprovalId(0);
        let waiting = ApprovalEvent::Waiting { approvals: vec![row(None)] };
        assert!(print_event(&waiting, &mut shown, false).unwrap());
        assert_eq!(shown, ApprovalId(7));
        assert!(line(&row(None)).contains("aws_key in POST /x") && line(&row(None)).contains("waits until"));
        assert_eq!(waiting_text(), [None, Some("1 request waits for an approval: `egress approvals list`".to_owned())]);
    }

    fn waiting_text() -> [Option<String>; 2] {
        [waiting(0), waiting(1)]
    }
}
