//! `egress bottle-init`: the way into a bottle.
//!
//! Three processes. The *supervisor* is what the daemon started; it joins the bottle's group and namespaces and passes
//! signals on. The *first process* is pid 1 inside: it furnishes the bottle, drops every privilege and reaps. The *command*
//! is its child. Each ends with the exit code of the next. Nothing here has threads or knows tokio.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, UnlinkatFlags, chdir, setsid, unlinkat};

use super::command::SIGNALLED;
use super::freeze::LAUNCH;
use super::launch::LaunchSpec;
use super::namespace::{HostView, tolerate_absence};
use super::record::Record;
use super::{cgroup, files, mounts, privileges, raw};

/// The bottle could not be furnished.
const NOT_FURNISHED: i32 = 125;
/// The program exists and cannot be run.
const NOT_EXECUTABLE: i32 = 126;
/// There is no such program.
const NOT_FOUND: i32 = 127;
/// The first file that is not a standard stream.
const FIRST_OTHER_FILE: i32 = 3;

/// Runs what follows `bottle-init` on the command line. To be called before anything makes a thread.
#[must_use]
pub fn init_main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let spec = arguments.next().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput));
    let code = spec.and_then(|path| supervise(Path::new(&path))).unwrap_or_else(|error| {
        complain(&format!("the bottle could not be furnished: {error}"));
        NOT_FURNISHED
    });
    // Codes of processes have eight bits.
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn supervise(spec: &Path) -> io::Result<i32> {
    // Held open to the end: whoever freezes the bottle reads it from here.
    let told = File::open(spec)?;
    let spec: LaunchSpec = serde_json::from_reader(&told)?;
    raw::close_at_exec_from(FIRST_OTHER_FILE)?;
    cgroup::join(Path::new(&spec.group))?;
    let sockets = fs::read_to_string("/proc/net/unix")?;
    // Opened before the bottle's mounts hide them.
    let mut record = Record::begin(Path::new(&spec.record))?;
    let kept = File::open(&spec.layer)?;
    HostView(spec.view.as_ref().map(PathBuf::from)).enter()?;
    setns(File::open(&spec.namespace)?, CloneFlags::CLONE_NEWNET)?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )?;
    // Before there is a child, so that no signal comes too early to be passed on.
    SigSet::all().thread_block()?;
    match raw::fork()? {
        ForkResult::Parent { child } => {
            let code = stand_for(child, |signal| kill(child, signal))?;
            record.end(code)?;
            Ok(code)
        }
        ForkResult::Child => {
            drop(told);
            be_first_process(&spec, &sockets, kept)
        }
    }
}

fn be_first_process(spec: &LaunchSpec, sockets: &str, kept: File) -> io::Result<i32> {
    mounts::furnish(spec, sockets)?;
    // From here on the command is started, and what it was frozen with is of no use.
    tolerate_absence(unlinkat(&kept, LAUNCH, UnlinkatFlags::NoRemoveDir).map_err(io::Error::from))?;
    drop(kept);
    privileges::drop_all(&spec.caller)?;
    // Nothing outlives the supervisor, and the command cannot reach into this process, whose program is the host's.
    // After the change of user, which would reset both.
    prctl::set_dumpable(false)?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    match raw::fork()? {
        // The command leads its group once it runs; until then it is alone.
        ForkResult::Parent { child } => {
            stand_for(child, |signal| killpg(child, signal).or_else(|_| kill(child, signal)))
        }
        ForkResult::Child => Ok(be_command(spec)),
    }
}

/// Passes signals on and reaps until `child` has ended; returns its exit code.
fn stand_for(child: Pid, pass_on: impl Fn(Signal) -> nix::Result<()>) -> io::Result<i32> {
    loop {
        // A number that has no name is a real-time signal, which nobody sends.
        let Ok(signal) = SigSet::all().wait() else { continue };
        if signal != Signal::SIGCHLD {
            // It may just have ended.
            let _gone = pass_on(signal);
            continue;
        }
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
            if status.pid() == Some(child)
                && let Some(code) = exit_code(status)
            {
                return Ok(code);
            }
        }
    }
}

/// None while the process lives.
fn exit_code(status: WaitStatus) -> Option<i32> {
    if let WaitStatus::Exited(_, code) = status {
        return Some(code);
    }
    if let WaitStatus::Signaled(_, signal, _) = status { Some(SIGNALLED + signal as i32) } else { None }
}

/// Becomes the command; returns only when that fails.
fn be_command(spec: &LaunchSpec) -> i32 {
    let Some((program, arguments)) = spec.command.split_first() else {
        complain("there is no command");
        return NOT_FOUND;
    };
    let directory = Path::new(&spec.directory);
    if let Err(error) = settle_in(spec, directory) {
        let is_unseen = error.kind() == io::ErrorKind::NotFound;
        let text = if is_unseen { files::unseen(directory) } else { format!("{}: {error}", directory.display()) };
        complain(&text);
        return NOT_EXECUTABLE;
    }
    let environment = spec.environment.iter().map(|(name, value)| (name, value));
    let error = Command::new(program).args(arguments).env_clear().envs(environment).exec();
    complain(&format!("{}: {error}", Path::new(program).display()));
    if error.kind() == io::ErrorKind::NotFound || !is_somewhere(program, spec) { NOT_FOUND } else { NOT_EXECUTABLE }
}

/// Whether there is such a program. The system reports a directory on the search path that the caller may not enter as if
/// the program were there and forbidden.
fn is_somewhere(program: &OsStr, spec: &LaunchSpec) -> bool {
    if program.as_encoded_bytes().contains(&b'/') {
        return true;
    }
    let search = spec.environment.iter().find(|(name, _)| name == "PATH");
    search.is_none_or(|(_, search)| std::env::split_paths(search).any(|directory| directory.join(program).exists()))
}

/// What a program may expect to find: a session, the terminal, default signals, its directory.
fn settle_in(spec: &LaunchSpec, directory: &Path) -> io::Result<()> {
    setsid()?;
    if spec.has_terminal {
        raw::take_terminal(io::stdin().as_fd())?;
    }
    raw::reset_signals();
    SigSet::empty().thread_set_mask()?;
    chdir(directory)?;
    Ok(())
}

fn complain(text: &str) {
    // Without a standard error there is nobody to tell.
    let _unheard = writeln!(io::stderr(), "egress: {text}");
}
