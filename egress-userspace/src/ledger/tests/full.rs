//! What cannot be written is not kept, is not answered as if it were, and can be tried again.

use std::sync::mpsc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::domain::AuditKind;
use crate::ledger::column::TEXT_BYTES_MAX;
use crate::ledger::writer::Desk;

/// Lets the database grow by so many pages and no further.
async fn leave_pages(world: &World, pages: u32) {
    let limit = move |desk: &mut Desk| {
        let count: u32 = desk.connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
        Ok(desk.connection.pragma_update(None, "max_page_count", count.saturating_add(pages))?)
    };
    world.ledger().write("limit the pages", limit).await.unwrap();
}

fn is_full(error: &LedgerError) -> bool {
    let LedgerError::Transaction { source: rusqlite::Error::SqliteFailure(code, _), .. } = error else { return false };
    code.code == rusqlite::ErrorCode::DiskFull
}

#[tokio::test]
async fn a_full_disk_fails_the_settlement_and_loses_nothing() {
    let mut world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(world.ledger().admit(reserve(&web, "claude", 10, 10)).await.unwrap().unwrap().permit);
    }
    leave_pages(&world, 5).await;
    let long = |permit| Settlement { model: Some("m".repeat(TEXT_BYTES_MAX)), ..settle(permit, 7, 7) };
    let mut settled = 0_usize;
    let error = loop {
        match world.ledger().settle(long(open[settled])).await {
            Ok(_) => settled += 1,
            Err(error) => break error,
        }
    };
    assert!(is_full(&error), "{error:?}");
    let rest = open.len() - settled;
    assert_eq!(world.count("reservation"), rest, "what was not settled is still held");
    world.assert_totals_are_sums();
    let all_at_once = world.ledger().settle_open(Ending::ProxyLost).await;
    assert!(all_at_once.is_err_and(|error| is_full(&error)));
    assert_eq!(world.count("reservation"), rest, "all of them or none");
    world.assert_totals_are_sums();

    leave_pages(&world, 10_000).await;
    for permit in open.into_iter().skip(settled) {
        world.ledger().settle(long(permit)).await.unwrap();
    }
    assert_eq!((world.count("reservation"), world.count("usage")), (0, 200));
    world.assert_totals_are_sums();
    world.reopen();
    world.assert_totals_are_sums();
}

/// Runs on a file system of its own, of so many bytes, that only this thread and those it starts can see.
fn on_a_small_disk(bytes: u32, test: fn(World)) {
    let thread = std::thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNS).is_err() {
            println!("skipped: a disk of its own takes root");
            return;
        }
        let (nothing, options) = (None::<&str>, format!("size={bytes}"));
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        let directory = TempDir::new().unwrap();
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        let path = directory.path().to_owned();
        let clock = Arc::new(AtomicI64::new(clock().0));
        let mut world = World { directory, ledger: None, rules: rules(&[]), clock, boot: "this boot".to_owned() };
        world.reopen();
        test(world);
        umount2(&path, MntFlags::MNT_DETACH).ok();
        std::fs::remove_dir(&path).ok();
    });
    thread.join().unwrap();
}

#[test]
fn a_disk_that_was_really_full_is_used_again_when_there_is_room() {
    on_a_small_disk(6 << 20, |mut world| {
        let ballast = world.directory.path().join("ballast");
        std::fs::write(&ballast, vec![0; 3_000_000]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let web = world.run("web", &[]).await;
            let (mut settled, mut errors) = (0_usize, Vec::new());
            while errors.len() < 10 {
                match world.ledger().admit(reserve(&web, "claude", 10, 10)).await {
                    Ok(permit) => match world.ledger().settle(settle(permit.unwrap().permit, 7, 7)).await {
                        Ok(_) => settled += 1,
                        Err(error) => errors.push(error),
                    },
                    Err(error) => errors.push(error),
                }
            }
            assert!(errors.iter().all(is_full), "{errors:?}");
            world.reopen();
            std::fs::remove_file(ballast).unwrap();
            let rest = world.ledger().settle_open(Ending::ProxyLost).await.unwrap();
            for _ in 0..100 {
                let permit = world.ledger().admit(reserve(&web, "claude", 10, 10)).await.unwrap().unwrap().permit;
                world.ledger().settle(settle(permit, 7, 7)).await.unwrap();
            }
            assert_eq!(world.count("usage"), settled + rest.len() + 100);
            world.assert_totals_are_sums();
        });
        drop(runtime);
    });
}

/// Holds the writer up until the returned sender is used, so that what is sent meanwhile is one batch.
async fn hold_up(ledger: &Ledger) -> (mpsc::Sender<()>, tokio::task::JoinHandle<()>) {
    let (release, released) = mpsc::channel::<()>();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let ledger = ledger.clone();
    let task = tokio::spawn(async move {
        let wait = move |_: &mut Desk| {
            begin.send(()).unwrap();
            released.recv().unwrap();
            Ok(())
        };
        ledger.write("wait", wait).await.unwrap();
    });
    begun.await.unwrap();
    (release, task)
}

#[tokio::test]
async fn one_bad_command_does_not_spoil_the_batch() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let (release, waiting) = hold_up(world.ledger()).await;
    let (noted, first, bad, odd, second, ()) = tokio::join!(
        world.ledger().audit(None, AuditKind::GateRestored),
        world.ledger().admit(reserve(&web, "claude", 1, 1)),
        world.ledger().settle(settle(PermitId(77), 1, 1)),
        world.ledger().write("post and fail", {
            let ask = reserve(&web, "claude", 500, 0);
            move |desk| {
                desk.admit(&ask)?.unwrap();
                desk.audit(None, &AuditKind::SettingsReloaded)?;
                Err::<(), _>(LedgerError::NoAddress.into())
            }
        }),
        world.ledger().admit(reserve(&web, "claude", 2, 2)),
        async { release.send(()).unwrap() },
    );
    waiting.await.unwrap();
    noted.unwrap();
    assert!(first.unwrap().is_ok() && second.unwrap().is_ok());
    assert!(matches!(bad, Err(LedgerError::NoReservation(PermitId(77)))), "{bad:?}");
    assert!(matches!(odd, Err(LedgerError::NoAddress)), "{odd:?}");
    assert_eq!(world.count("reservation"), 2);
    world.assert_totals_are_sums();
    world.assert_chain_is_whole(2).await;
    world.ledger().audit(None, AuditKind::GateRestored).await.unwrap();
    world.assert_chain_is_whole(3).await;
}

#[tokio::test]
async fn when_the_commit_fails_everybody_hears_it_and_nothing_is_kept() {
    let world = World::new(&[]);
    let web = world.run("web", &[]).await;
    let kept = world.ledger().admit(reserve(&web, "claude", 1, 1)).await.unwrap().unwrap().permit;
    let mut news = world.ledger().requests();
    let (release, waiting) = hold_up(world.ledger()).await;
    let (admitted, settled, spoiler, ()) = tokio::join!(
        world.ledger().admit(reserve(&web, "claude", 1, 1)),
        world.ledger().settle(settle(kept, 1, 1)),
        // A broken reference that is looked at only by COMMIT.
        world.ledger().write("break a promise", |desk| {
            desk.connection.pragma_update(None, "defer_foreign_keys", true)?;
            desk.audit(None, &AuditKind::SettingsReloaded)?;
            desk.connection.execute("UPDATE reservation SET bottle = 999", [])?;
            Ok(())
        }),
        async { release.send(()).unwrap() },
    );
    waiting.await.unwrap();
    assert!(matches!(admitted, Err(LedgerError::Transaction { action: "admit a request", .. })), "{admitted:?}");
    assert!(matches!(settled, Err(LedgerError::Transaction { action: "settle a request", .. })), "{settled:?}");
    assert!(spoiler.is_err());
    assert!(news.try_recv().is_err(), "followers hear of what is committed only");
    assert_eq!((world.count("reservation"), world.count("usage")), (1, 0));
    world.assert_totals_are_sums();
    world.assert_chain_is_whole(1).await;

    world.ledger().settle(settle(kept, 1, 1)).await.unwrap();
    world.ledger().audit(None, AuditKind::SettingsReloaded).await.unwrap();
    world.assert_totals_are_sums();
    world.assert_chain_is_whole(2).await;
}
