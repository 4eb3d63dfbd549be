//! The operator's queue over the command line and restarts. What waits is written into the ledger here, as a request that a
//! detector stopped would have been.

use anyhow::{Context, Result, ensure};
use egress_userspace::control::{ApprovalEvent, ApprovalsReply, BottlesReply, DecideReply, StatusReply};
use egress_userspace::domain::{ApprovalId, ApprovalRow, AuditKind, Verdict};
use harness::world::{PATIENCE, World, until};
use rusqlite::Connection;

use std::fs::{self, File};
use std::process::Stdio;

use crate::world;

/// A question of `web` that waits for an hour; its number.
pub(crate) fn asked(world: &World, host: &str, value: u8) -> Result<i64> {
    let sql = Connection::open(world.names.home.join("bot-bottle.db"))?;
    sql.busy_timeout(PATIENCE)?;
    sql.execute(
        "INSERT INTO approval (bottle, detector, host, target, fingerprint, asked, expires)
         SELECT id, 'aws_key', ?1, 'POST /upload', ?2, unixepoch() * 1000, unixepoch() * 1000 + 3600000
         FROM bottle WHERE name = 'web'",
        (host, format!("{value:02x}").repeat(32)),
    )?;
    Ok(sql.last_insert_rowid())
}

fn rows(world: &World, arguments: &[&str]) -> Result<Vec<ApprovalRow>> {
    let reply: ApprovalsReply = world.json(&[&["approvals", "list"], arguments].concat())?;
    Ok(reply.approvals)
}

#[test]
fn an_operator_decides_once_and_for_good_and_takes_it_back() -> Result<()> {
    let Some(mut world) = world("approvals", "")? else { return Ok(()) };
    let _web = world.shell("web", &[])?;
    let none = world.egress(&["approvals", "list"])?;
    assert_eq!((none.code, none.output.as_str()), (0, "no request waits for an approval\n"));
    let ids = [asked(&world, "a.example", 1)?, asked(&world, "a.example", 1)?, asked(&world, "b.example", 2)?];
    let table = world.egress(&["approvals", "list"])?.output;
    ensure!(table.contains("aws_key") && table.contains("POST /upload") && table.contains("59m"), "{table}");
    ensure!(!table.contains(&"01".repeat(32)), "{table}");
    for command in ["list", "status"] {
        let said = world.egress(&[command])?.output;
        ensure!(said.contains("3 requests wait for an approval: `egress approvals list`"), "{said}");
    }
    let (status, bottles): (StatusReply, BottlesReply) = (world.json(&["status"])?, world.json(&["list"])?);
    assert_eq!((status.open_approvals, bottles.open_approvals), (3, 3));

    let [first, second, third] = ids.map(|id| id.to_string());
    let reply: DecideReply = world.json(&["approvals", "approve", &first, "--always"])?;
    assert_eq!((reply.approval.by, reply.also), (Some(0), vec![ApprovalId(ids[1])]));
    let denied = world.egress(&["approvals", "deny", &third])?;
    let said = format!("{third}: web may not send what aws_key found to b.example, this once\n");
    assert_eq!((denied.code, denied.output), (0, said));
    for (words, code, message) in [
        (&["approve", &second][..], 1, "is settled already: it was approved"),
        (&["deny", "999"], 1, "there is no approval 999"),
        (&["deny", "x"], 2, "is not the number of an approval"),
        (&["forget", &third], 1, "is not remembered"),
        (&["forget", "--bottle", "nobody"], 1, "there is no bottle nobody"),
        (&["list", "--bottle", "nobody"], 1, "there is no bottle nobody"),
    ] {
        let said = world.egress(&[&["approvals"], words].concat())?;
        ensure!(said.code == code && said.errors.contains(message), "{words:?}: {said:?}");
    }

    // A restart keeps what was decided, and ends what waited: its request is gone.
    let open = asked(&world, "a.example", 3)?;
    world.kill_daemon_and_proxy()?;
    world.start_daemon()?;
    assert_eq!(rows(&world, &[])?, []);
    let all = rows(&world, &["--all"])?;
    let verdicts: Vec<_> = all.iter().map(|row| (row.id.0, row.verdict, row.is_remembered())).collect();
    let expected = [
        (ids[0], Some(Verdict::Approved), true),
        (ids[1], Some(Verdict::Approved), false),
        (ids[2], Some(Verdict::Denied), false),
        (open, Some(Verdict::Abandoned), false),
    ];
    assert_eq!(verdicts, expected);
    let abandoned =
        AuditKind::ApprovalDecided { id: ApprovalId(open), verdict: Verdict::Abandoned, is_always: false, by: None };
    ensure!(world.audit(Some("web"))?.contains(&abandoned), "{:?}", world.audit(Some("web"))?);

    let forgotten = world.egress(&["approvals", "forget", "--bottle", "web"])?;
    ensure!(forgotten.code == 0 && forgotten.output.starts_with(&format!("{first} is forgotten")), "{forgotten:?}");
    ensure!(rows(&world, &["--all"])?.iter().all(|row| !row.is_remembered()), "something is remembered");
    let audit = world.egress(&["audit", "web"])?.output;
    ensure!(audit.contains(&format!("approval {first} approved by user 0, and the same value from now on")), "{audit}");
    ensure!(audit.contains(&format!("approval {first} forgotten by user 0")), "{audit}");
    let sound = world.egress(&["audit", "--verify"])?;
    ensure!(sound.code == 0, "{sound:?}");
    world.stop_daemon()?;
    assert_eq!(world.egress(&["approvals", "list"])?.code, 3);
    Ok(())
}

#[test]
fn a_follower_sees_what_waits_and_what_becomes_of_it() -> Result<()> {
    let Some(mut world) = world("a follower of approvals", "")? else { return Ok(()) };
    let _web = world.shell("web", &[])?;
    let first = asked(&world, "a.example", 1)?;
    let output = world.names.directory.join("followed");
    let mut command = world.command(&["approvals", "list", "--follow", "--json"]);
    let mut follower = command.stdin(Stdio::null()).stdout(File::create(&output)?).stderr(Stdio::null()).spawn()?;
    let followed = || -> Result<Vec<ApprovalEvent>> {
        let text = fs::read_to_string(&output)?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).context("a line")).collect()
    };
    let is_there = |is_it: &dyn Fn(&ApprovalEvent) -> bool| Ok(followed()?.iter().any(is_it));
    let of = |event: &ApprovalEvent, id: i64, verdict| {
        let ApprovalEvent::Changed { approval } = event else { return false };
        (approval.id.0, approval.verdict) == (id, verdict)
    };
    until("what waits is shown", PATIENCE, || {
        is_there(&|event| matches!(event, ApprovalEvent::Waiting { approvals } if approvals.len() == 1))
    })?;
    let second = asked(&world, "b.example", 2)?;
    // What is written behind the daemon's back is seen with the next change.
    assert_eq!(world.egress(&["approvals", "deny", &first.to_string()])?.code, 0);
    until("the new one is shown", PATIENCE, || is_there(&|event| of(event, second, None)))?;
    until("the decision is shown", PATIENCE, || is_there(&|event| of(event, first, Some(Verdict::Denied))))?;
    world.kill_daemon_and_proxy()?;
    world.start_daemon()?;
    let third = asked(&world, "c.example", 3)?;
    until("it goes on", PATIENCE, || Ok(followed()?.len() >= 4))?;
    assert_eq!(world.egress(&["approvals", "approve", &third.to_string()])?.code, 0);
    until("and on", PATIENCE, || is_there(&|event| of(event, third, Some(Verdict::Approved))))?;
    follower.kill()?;
    follower.wait()?;
    Ok(())
}
