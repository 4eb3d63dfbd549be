//! Taking away everything the command must not have. There is no way back from here, and it is checked.

use std::fs;
use std::io;

use caps::CapSet;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use super::raw;
use crate::bottle::Caller;

/// A piped core handler of the host (`core_pattern`) would run outside the bottle on input the bottle chose. The kernel runs
/// none for a limit of exactly one byte, while it does for zero (core(5)).
const CORE_BYTES_MAX: u64 = 1;

/// Families a bottle may open sockets of. All of them end at its network namespace; others (`AF_VSOCK` reaches the machine's
/// hypervisor) do not.
const SOCKET_FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Calls that reach what no namespace holds apart.
const REFUSED_CALLS: [libc::c_long; 9] = [
    // Keyrings belong to a user id, on the host as in the bottle.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // Some kernels let anybody load programs.
    libc::SYS_bpf,
    // Measures other processes, and has a long record of holes.
    libc::SYS_perf_event_open,
    // Opens sockets without the call below.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
];

/// Numbers of the x32 calls have this bit; they reach the same functions.
#[cfg(target_arch = "x86_64")]
const X32_CALL: libc::c_long = 0x4000_0000;

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
    apply_filter(&filter().map_err(io::Error::other)?).map_err(io::Error::other)?;
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

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let other_family = |family: i32| {
        let family = u64::from(family.unsigned_abs());
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
    };
    let foreign = SeccompRule::new(SOCKET_FAMILIES.into_iter().map(other_family).collect::<Result<_, _>>()?)?;
    let refused = REFUSED_CALLS.into_iter().map(|call| (call, Vec::new()));
    let rules = refused.chain([(libc::SYS_socket, vec![foreign])]);
    #[cfg(target_arch = "x86_64")]
    let rules = rules.flat_map(|(call, rules)| [(call, rules.clone()), (call | X32_CALL, rules)]);
    let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules.collect(), SeccompAction::Allow, refusal, architecture)?.try_into()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_filter_compiles() {
        assert!(!super::filter().unwrap().is_empty());
    }
}
