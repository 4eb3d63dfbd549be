//! Taking away everything the command must not have. There is no way back from here, and it is checked.

use std::fs;
use std::io;

use caps::CapSet;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::{calls, raw};
use crate::bottle::Caller;

/// A piped core handler of the host (`core_pattern`) would run outside the bottle on input the bottle chose. The kernel runs
/// none for a limit of exactly one byte, while it does for zero (core(5)).
const CORE_BYTES_MAX: u64 = 1;

/// Becomes `caller` and nothing more.
pub(super) fn drop_all(caller: &Caller) -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, CORE_BYTES_MAX, CORE_BYTES_MAX)?;
    for set in [CapSet::Ambient, CapSet::Bounding] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    raw::lock_secure_bits()?;
    let groups: Vec<Gid> = caller.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    let (user, group) = (Uid::from_raw(caller.uid), Gid::from_raw(caller.gid));
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    prctl::set_no_new_privs()?;
    calls::refuse().map_err(io::Error::other)?;
    check_nothing_is_left()
}

/// The kernel's own word, so that a capability newer than our libraries is not overlooked.
fn check_nothing_is_left() -> io::Result<()> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    let sets: Vec<&str> = status.lines().filter_map(|line| line.strip_prefix("Cap")).collect();
    let is_empty =
        |set: &&str| set.split_once(':').is_some_and(|(_, mask)| mask.trim().bytes().all(|digit| digit == b'0'));
    if sets.is_empty() || !sets.iter().all(is_empty) {
        return Err(io::Error::other("capabilities are left over"));
    }
    Ok(())
}
