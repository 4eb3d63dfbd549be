//! System calls that are refused: those that reach what no namespace holds apart. Everything else is allowed.
//!
//! Programs for another instruction set than the machine's own are killed, as their calls have other numbers.

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// Families a bottle may open sockets of. All of them end at its network namespace; others (`AF_VSOCK` reaches the machine's
/// hypervisor) do not.
const SOCKET_FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

const REFUSED: [libc::c_long; 9] = [
    // Keyrings belong to a user id, on the host as in the bottle.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // Some kernels let anybody load programs.
    libc::SYS_bpf,
    // Measures other processes, and has a long record of holes.
    libc::SYS_perf_event_open,
    // Opens sockets without calling `socket`.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
];

/// Whoever owns a control group namespace may mount control groups; root's would be writable, the host's among them where
/// cgroup v1 is in use.
const CONTROL_GROUP_NAMESPACE: u64 = libc::CLONE_NEWCGROUP.unsigned_abs() as u64;

/// Numbers of the x32 calls have this bit; they reach the same functions.
#[cfg(target_arch = "x86_64")]
const X32_CALL: libc::c_long = 0x4000_0000;

type Rules = Vec<(libc::c_long, Vec<SeccompRule>)>;

/// Refuses them for this process and its descendants. Needs `no_new_privs`.
pub(super) fn refuse() -> Result<(), Error> {
    for filter in filters()? {
        apply_filter(&filter)?;
    }
    Ok(())
}

fn filters() -> Result<[BpfProgram; 2], BackendError> {
    let other_family = |family: i32| condition(SeccompCmpOp::Ne, u64::from(family.unsigned_abs()));
    let other_families = SOCKET_FAMILIES.into_iter().map(other_family).collect::<Result<_, _>>()?;
    let foreign = SeccompRule::new(other_families)?;
    let makes_groups =
        SeccompRule::new(vec![condition(SeccompCmpOp::MaskedEq(CONTROL_GROUP_NAMESPACE), CONTROL_GROUP_NAMESPACE)?])?;
    let mut refused: Rules = REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    refused.push((libc::SYS_socket, vec![foreign]));
    refused.push((libc::SYS_unshare, vec![makes_groups.clone()]));
    refused.push((libc::SYS_clone, vec![makes_groups]));
    // Its flags are in memory, where no filter sees them. Programs that are told it does not exist use `clone`.
    let absent = vec![(libc::SYS_clone3, Vec::new())];
    Ok([filter(refused, libc::EPERM)?, filter(absent, libc::ENOSYS)?])
}

/// On the first argument; the kernel looks at its lower half only.
fn condition(operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value)
}

fn filter(rules: Rules, error: i32) -> Result<BpfProgram, BackendError> {
    let rules = rules.into_iter();
    #[cfg(target_arch = "x86_64")]
    let rules = rules.flat_map(|(call, rules)| [(call, rules.clone()), (call | X32_CALL, rules)]);
    let refusal = SeccompAction::Errno(error.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules.collect(), SeccompAction::Allow, refusal, architecture)?.try_into()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_filters_compile() {
        assert!(super::filters().unwrap().iter().all(|filter| !filter.is_empty()));
    }
}
