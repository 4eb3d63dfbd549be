//! The disk is full while tokens are being spent: nothing is delivered that could not be recorded, and nothing is lost.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use egress_userspace::domain::{Ending, Known, Tokens};
use harness::world::{PATIENCE, curl, until};
use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::prepared;

/// About a second.
const STREAM: &str = "claude-test+deltas-20+delay-50+output-333+input-44";

#[test]
fn what_cannot_be_recorded_waits() -> Result<()> {
    let Some(mut world) = prepared("a full disk", "")? else { return Ok(()) };
    let small = Some("size=8m,mode=700");
    mount(Some("tmpfs"), &world.names.home, Some("tmpfs"), MsFlags::empty(), small)?;
    world.write_settings("")?;
    world.start_daemon()?;
    let (mut streaming, mut asking) = (world.shell("streaming", &[])?, world.shell("asking", &[])?);
    assert_eq!(asking.ask("claude-test")?.status, 200);

    streaming.begin(&curl(STREAM, true, ""))?;
    streaming.until_output("text_delta")?;
    let ballast = world.names.home.join("ballast");
    // Room in the write-ahead log would be used again.
    let ledger = rusqlite::Connection::open(world.names.home.join("bot-bottle.db"))?;
    let is_busy: bool = ledger.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    ensure!(!is_busy, "the log was not emptied");
    fill_disk(&ballast)?;
    until("all of the text has arrived", PATIENCE, || Ok(streaming.output().matches("text_delta").count() >= 19))?;
    sleep(Duration::from_secs(1));
    ensure!(!streaming.output().contains("message_stop"), "the end was delivered though it is not recorded");

    let refused = asking.ask("claude-test")?;
    assert_eq!(refused.status, 503, "{refused:?}");
    let body: Value = serde_json::from_str(&refused.body)?;
    assert_eq!((&body["type"], &body["egress_reason"]), (&"error".into(), &"ledger_unavailable".into()));
    // The first of asking's, and what streams.
    ensure!(world.served().len() <= 2, "it was sent on all the same");

    fs::remove_file(&ballast)?;
    let done = streaming.end_of_command(PATIENCE)?;
    ensure!(done.code == 0 && done.output.contains("message_stop"), "{done:?}");
    let rows = world.rows("streaming")?;
    ensure!(rows.len() == 1, "{rows:?}");
    assert_eq!((rows[0].known, rows[0].ending), (Known::Reported, Ending::Complete));
    assert_eq!((rows[0].usage.input, rows[0].usage.output), (Tokens(44), Tokens(333)));
    assert_eq!(asking.ask("claude-test")?.status, 200);
    ensure!(world.usage()?.sums.iter().all(|sum| sum.held == Tokens::ZERO), "tokens are still held");
    Ok(())
}

/// To the last byte.
fn fill_disk(path: &Path) -> Result<()> {
    let mut file = fs::File::create(path)?;
    for size in [64 * 1024, 4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    Ok(())
}
