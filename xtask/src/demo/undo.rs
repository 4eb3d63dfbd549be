//! Leaving nothing behind: each thing made registers how it is unmade; all of it runs in reverse, however the
//! demonstration ends. The names are fixed, so that a killed run's leftovers are removed by the next.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long something may take to end when asked, before it is killed.
const ASKED_SECONDS_MAX: u64 = 5;

/// Set by Ctrl-C and by a request to end; every wait looks at it.
static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C ends the wait in progress, so that the plan is undone.
pub(super) fn catch_interrupts() -> anyhow::Result<()> {
    ctrlc::set_handler(|| IS_INTERRUPTED.store(true, Ordering::SeqCst)).context("Ctrl-C cannot be caught")
}

pub(super) fn fail_when_interrupted() -> anyhow::Result<()> {
    if IS_INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    Ok(())
}

/// Asks `is_done` until it says yes; an error after `limit`, or when interrupted.
pub(super) fn wait_until(what: &str, limit: Duration, mut is_done: impl FnMut() -> bool) -> anyhow::Result<Duration> {
    let start = Instant::now();
    while !is_done() {
        fail_when_interrupted()?;
        if start.elapsed() > limit {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        sleep(Duration::from_millis(25));
    }
    Ok(start.elapsed())
}

/// What was made, and how each part is unmade.
#[derive(Default)]
pub(super) struct Plan {
    steps: Vec<Box<dyn FnOnce()>>,
}

impl Plan {
    /// Registers how to unmake something, before or right after it is made.
    pub(super) fn on_undo(&mut self, step: impl FnOnce() + 'static) {
        self.steps.push(Box::new(step));
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        while let Some(step) = self.steps.pop() {
            step();
        }
    }
}

/// Asks a process to end, then makes it.
pub(super) fn end(child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(ASKED_SECONDS_MAX);
    if let Ok(pid) = i32::try_from(child.id()).map(Pid::from_raw)
        && matches!(child.try_wait(), Ok(None))
    {
        // It may have ended between the question and the signal; that is as good.
        let _ = kill(pid, Signal::SIGTERM);
    }
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        sleep(Duration::from_millis(25));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Kills what a killed run left: our programs that were given a path in `directory`.
pub(super) fn end_strays(directory: &Path) {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let arguments = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        let mut words = arguments.split('\0').map(Path::new);
        let is_ours =
            words.next().and_then(Path::file_name).is_some_and(|name| name == "egress" || name == "test-provider");
        if is_ours && words.any(|word| word.starts_with(directory)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Unmounts everything under `directory` and removes it. Nothing there is as good.
pub(super) fn remove_directory(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut inside: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|mount| Path::new(mount).starts_with(directory))
        .collect();
    // The innermost first.
    inside.sort_by_key(|mount| std::cmp::Reverse(mount.len()));
    for mount in inside {
        quietly(Command::new("umount").args(["--lazy", mount]));
    }
    let _ = fs::remove_dir_all(directory);
}

/// Kills whatever is in the daemon's control groups and removes them. None of that name is as good.
pub(super) fn remove_control_group(name: &str) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let trees = fields.filter_map(|fields| match fields.as_slice() {
        [_, tree, "cgroup2", ..] => Some(Path::new(tree).join(name)),
        _ => None,
    });
    for group in trees {
        for bottle in fs::read_dir(&group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
            let _ = fs::write(bottle.path().join("cgroup.kill"), "1");
            // The kernel takes a moment to let go of the killed.
            for _ in 0..100 {
                if fs::remove_dir(bottle.path()).is_ok() {
                    break;
                }
                sleep(Duration::from_millis(10));
            }
        }
        let _ = fs::remove_dir(group);
    }
}

/// Removes a network device. None of that name is as good.
pub(super) fn remove_device(name: &str) {
    quietly(Command::new("ip").args(["link", "delete", name]));
}

/// Runs something whose failure means that there was nothing to do.
fn quietly(command: &mut Command) {
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
