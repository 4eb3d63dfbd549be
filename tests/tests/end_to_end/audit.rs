//! The audit is watched, and nobody rewrites it unseen.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use egress_userspace::control::{AuditReply, VerifyReply};
use egress_userspace::domain::{AuditKind, AuditRow, ChainFault, CutCause};
use egress_userspace::kernel::{EbpfEnforcer, Enforcer, Gate, GateStatus, TcAttachment};
use harness::world::{PATIENCE, Said, World, until};
use rusqlite::Connection;

use crate::world;

/// The ledger as root has it, without what its schema forbids.
fn intruder(world: &World) -> Result<Connection> {
    let sql = Connection::open(world.names.home.join("bot-bottle.db"))?;
    sql.execute_batch("DROP TRIGGER IF EXISTS audit_is_never_changed; DROP TRIGGER IF EXISTS audit_is_never_deleted")?;
    Ok(sql)
}

/// `egress audit --verify` finds something, and says this of it.
fn finds(world: &World, arguments: &[&str], text: &str) -> Result<Said> {
    let said = world.egress(&[&["audit", "--verify"], arguments].concat())?;
    ensure!(said.code == 1 && said.output.contains(text), "not {text:?}: {said:?}");
    Ok(said)
}

fn rows(world: &World) -> Result<Vec<AuditRow>> {
    let reply: AuditReply = world.json(&["audit", "--since", "1d"])?;
    Ok(reply.rows)
}

#[test]
fn what_is_changed_in_the_database_is_named() -> Result<()> {
    let Some(mut world) = world("a changed audit", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    for action in ["cut", "restore", "cut"] {
        assert_eq!(world.egress(&[action, "web"])?.code, 0);
    }
    let (last, tip) = {
        let rows = rows(&world)?;
        let last = rows.last().context("no rows")?;
        (last.number, last.hash.to_string())
    };
    let sound = world.egress(&["audit", "--verify"])?;
    let first = format!("{last} rows, chain intact, tip {tip}\n");
    ensure!(sound.code == 0 && sound.output == first + "1 gates, each as the ledger wants it\n", "{sound:?}");

    let cut = rows(&world)?.into_iter().find(|row| row.kind == AuditKind::GateCut { cause: CutCause::Operator });
    let number = cut.context("no cut on record")?.number;
    let sql = intruder(&world)?;
    let blame = |from: &str, to: &str| {
        sql.execute("UPDATE audit SET detail = replace(detail, ?1, ?2) WHERE number = ?3", (from, to, number))
    };
    assert_eq!(blame("operator", "budget")?, 1);
    finds(&world, &[], &format!("row {number} does not follow"))?;
    let said = world.egress(&["audit", "--verify", "--json"])?;
    let reply: VerifyReply = serde_json::from_str(&said.output)?;
    assert_eq!((said.code, reply.chain.fault), (1, Some(ChainFault::Row { number, is_after_gap: false })));

    blame("budget", "operator")?;
    let noted = world.egress(&["audit", "--verify", "--tip", &tip])?;
    ensure!(noted.code == 0 && noted.output.contains(&format!("the noted tip is row {last}")), "{noted:?}");
    sql.execute("DELETE FROM audit WHERE number = ?1", [last])?;
    finds(&world, &["--tip", &tip], "the last rows are missing, 1 of them")?;
    world.stop_daemon()?;
    world.start_daemon()?;
    finds(&world, &[], &format!("rows before row {} are missing", last + 1))?;
    Ok(())
}

#[test]
fn a_gate_edited_behind_the_ledgers_back_is_named() -> Result<()> {
    let Some(world) = world("an edited gate", "")? else { return Ok(()) };
    let (_open, _closed) = (world.shell("open", &[])?, world.shell("closed", &[])?);
    assert_eq!(world.egress(&["cut", "closed"])?.code, 0);
    let sound = world.egress(&["audit", "--verify"])?;
    ensure!(sound.code == 0 && sound.output.contains("2 gates, each as"), "{sound:?}");

    let gates = EbpfEnforcer::new(&world.names.pins, TcAttachment::Auto)?;
    let held = gates.gates()?;
    let gate = |is_open| held.iter().find(|gate| (gate.status == GateStatus::Open) == is_open);
    let (open, closed) = (gate(true).context("no open gate")?, gate(false).context("no cut gate")?);
    // The daemon puts it right within seconds: done again until it is seen before that.
    let named = |change: &dyn Fn() -> Result<()>, text: &str| {
        until(text, PATIENCE, || {
            change()?;
            let said = world.egress(&["audit", "--verify"])?;
            let is_named = said.code == 1 && said.output.contains(text) && said.output.contains("chain intact");
            ensure!(is_named || said.code == 0, "{said:?}");
            Ok(is_named)
        })
    };
    let open_it = || Ok(gates.set(closed.interface, GateStatus::Open)?);
    named(&open_it, "closed: the ledger wants its gate cut (operator), the kernel's is open\n")?;
    let widen = || Ok(gates.attach(&Gate { dns_port: 54, ..open.clone() })?);
    named(&widen, "open: the kernel's gate lets other addresses or ports pass than it is to\n")?;
    let sound = || Ok(world.egress(&["audit", "--verify"])?.code == 0);
    until("the gates are put right", PATIENCE, sound)?;
    assert_eq!(gates.gates()?, held);
    Ok(())
}

/// `egress audit --follow`; ended when it is dropped.
struct Follower {
    process: Child,
    output: PathBuf,
}

impl Follower {
    fn start(world: &World, name: &str, arguments: &[&str]) -> Result<Self> {
        let output = world.names.directory.join(name);
        let mut command = world.command(&[&["audit", "--follow"], arguments].concat());
        let (stdout, stderr) = (File::create(&output)?, File::create(output.with_extension("errors"))?);
        let process = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn()?;
        Ok(Self { process, output })
    }

    fn output(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.output)?)
    }

    fn until_output(&self, text: &str) -> Result<()> {
        until(&format!("it prints {text:?}"), PATIENCE, || Ok(self.output()?.contains(text)))
            .with_context(|| format!("it printed {:?}", self.output()))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_follower_sees_each_row_once_over_restarts_of_the_daemon() -> Result<()> {
    let Some(mut world) = world("a follower", "")? else { return Ok(()) };
    let (_web, _api) = (world.shell("web", &[])?, world.shell("api", &[])?);
    let json = Follower::start(&world, "json", &["--json", "--since", "1d"])?;
    let one = Follower::start(&world, "one", &["--bottle", "web", "--last", "0"])?;
    json.until_output("\"bottle_started\"")?;
    for (bottle, action) in [("api", "cut"), ("web", "cut"), ("web", "restore")] {
        assert_eq!(world.egress(&[action, bottle])?.code, 0);
    }
    json.until_output("\"gate_restored\"")?;
    one.until_output("restored")?;
    let restores = |count| {
        until("the follower of one has all", PATIENCE, || Ok(one.output()?.matches("restored").count() == count))
    };
    for (kill, count) in [(false, 2), (true, 3)] {
        if kill {
            world.kill_daemon_and_proxy()?;
        } else {
            world.stop_daemon()?;
        }
        world.start_daemon()?;
        assert_eq!(world.egress(&["cut", "web"])?.code, 0);
        assert_eq!(world.egress(&["restore", "web"])?.code, 0);
        restores(count)?;
    }
    let told = rows(&world)?;
    let last = told.last().context("no rows")?;
    json.until_output(&format!("\"number\":{}", last.number))?;
    let lines = json.output()?;
    let seen: Vec<AuditRow> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(seen, told, "each row once, in order");
    let seen: Vec<String> = one.output()?.lines().map(str::to_owned).collect();
    ensure!(seen.len() == 6 && seen.iter().all(|line| line.contains("  web  ")), "{seen:?}");
    let errors = fs::read_to_string(one.output.with_extension("errors"))?;
    assert_eq!(errors.matches("the egress daemon went away; going on when it is back").count(), 2, "{errors}");
    Ok(())
}

#[test]
fn what_contradicts_itself_or_cannot_be_is_refused() -> Result<()> {
    let Some(mut world) = world("wrong words of audit", "")? else { return Ok(()) };
    for (words, message) in [
        (&["--verify", "--follow"][..], "cannot be used with"),
        (&["--verify", "--since", "1h"], "cannot be used with"),
        (&["web", "--bottle", "web"], "cannot be used with"),
        (&["--tip", "abc"], "64 digits"),
        (&["--since", "2999-01-01T00:00:00Z"], "is yet to come"),
    ] {
        let said = world.egress(&[&["audit"], words].concat())?;
        ensure!(said.code == 2 && said.errors.contains(message), "{words:?}: {said:?}");
    }
    let nobody = world.egress(&["audit", "--follow", "--bottle", "nobody"])?;
    ensure!(nobody.code == 1 && nobody.errors.contains("there is no bottle nobody"), "{nobody:?}");
    world.stop_daemon()?;
    for words in [&["audit", "--follow"][..], &["audit", "--verify"]] {
        assert_eq!(world.egress(words)?.code, 3, "{words:?}");
    }
    Ok(())
}
