//! The system calls that the proxy may make: what its runtime, sockets and allocator need, and nothing that opens, starts or
//! mounts.
//!
//! Three filters, of which the kernel takes the strictest verdict. What is not on the list fails with `EPERM`: libraries
//! probe for calls they can do without, and a probe must not end the data path of every bottle. What nobody calls by
//! accident ends the process. `clone3` fails with `ENOSYS`, which makes libc use `clone`, whose flags a filter can see.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use thiserror::Error;

/// Why there is no filter.
#[derive(Debug, Error)]
pub enum FilterError {
    /// It could not be built.
    #[error("the filter cannot be built")]
    Build(#[from] BackendError),
    /// It could not be installed.
    #[error("the filter cannot be installed")]
    Install(#[from] seccompiler::Error),
}

/// Allowed whatever the arguments.
const ALLOWED: &[libc::c_long] = &[
    // Sockets that exist, and the poller.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    // Memory; mappings that may run code are refused below.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads and time.
    libc::SYS_clone3,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
];

/// The older names of some of them, where the architecture has them.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// Nobody calls these by accident: whoever does is not the proxy any more.
const FATAL: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_bpf,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_io_uring_setup,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
];

/// Installs the filters for the calling thread and all it will start.
pub(super) fn install() -> Result<(), FilterError> {
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let fatal = FATAL.iter().map(|call| (*call, Vec::new())).collect();
    let not_permitted = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let not_implemented = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    // The list comes last: it does not allow installing another.
    let filters = [
        compile(no_clone3, SeccompAction::Allow, not_implemented)?,
        compile(fatal, SeccompAction::Allow, SeccompAction::KillProcess)?,
        compile(allowed()?, not_permitted, SeccompAction::Allow)?,
    ];
    for filter in &filters {
        apply_filter(filter)?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, FilterError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, otherwise, matched, architecture)?.try_into()?)
}

fn allowed() -> Result<Rules, FilterError> {
    let mut rules: Rules = ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();
    let families = [libc::AF_INET, libc::AF_INET6].map(|family| argument(0, SeccompCmpOp::Eq, family));
    rules.insert(libc::SYS_socket, any(families)?);
    // The runtime's own wake-up pair; it reaches nobody else.
    rules.insert(libc::SYS_socketpair, any([argument(0, SeccompCmpOp::Eq, libc::AF_UNIX)])?);
    let never_runs = SeccompCmpOp::MaskedEq(u64::from(libc::PROT_EXEC.unsigned_abs()));
    rules.insert(libc::SYS_mmap, any([argument(2, never_runs.clone(), 0)])?);
    rules.insert(libc::SYS_mprotect, any([argument(2, never_runs, 0)])?);
    let thread = SeccompCmpOp::MaskedEq(u64::from(libc::CLONE_THREAD.unsigned_abs()));
    rules.insert(libc::SYS_clone, any([argument(0, thread, libc::CLONE_THREAD)])?);
    let ioctls = [libc::TIOCOUTQ, libc::FIONBIO, libc::FIONREAD].map(|request| i32::try_from(request).unwrap_or(0));
    rules.insert(libc::SYS_ioctl, any(ioctls.map(|request| argument(1, SeccompCmpOp::Eq, request)))?);
    let fcntls = [libc::F_GETFL, libc::F_SETFL, libc::F_GETFD, libc::F_SETFD, libc::F_DUPFD_CLOEXEC];
    rules.insert(libc::SYS_fcntl, any(fcntls.map(|command| argument(1, SeccompCmpOp::Eq, command)))?);
    let prctls = [libc::PR_SET_NAME, libc::PR_SET_VMA];
    rules.insert(libc::SYS_prctl, any(prctls.map(|option| argument(0, SeccompCmpOp::Eq, option)))?);
    Ok(rules)
}

/// A condition on one argument.
fn argument(index: u8, operator: SeccompCmpOp, value: i32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, u64::from(value.unsigned_abs()))
}

/// Rules of which any allows the call.
fn any<const N: usize>(
    conditions: [Result<SeccompCondition, BackendError>; N],
) -> Result<Vec<SeccompRule>, BackendError> {
    conditions.into_iter().map(|condition| SeccompRule::new(vec![condition?])).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn sockets_and_threads_work_and_files_processes_and_new_filters_do_not() {
        // A thread of its own: what the filter forbids, it forbids until the thread ends.
        let confined = std::thread::spawn(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            nix::sys::prctl::set_no_new_privs().unwrap();
            install().unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            UnixStream::pair().unwrap();
            std::thread::spawn(|| ()).join().unwrap();
            let denied = |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            denied(TcpListener::bind("127.0.0.1:0").unwrap_err());
            denied(File::open("/etc/passwd").unwrap_err());
            denied(File::create("/tmp/egress-sandbox-test").unwrap_err());
            denied(UnixStream::connect("/run/egress/control.sock").unwrap_err());
            denied(std::fs::remove_dir("/tmp/egress-sandbox-test").unwrap_err());
            denied(nix::sys::signal::kill(nix::unistd::Pid::from_raw(1), None).unwrap_err().into());
            assert!(install().is_err(), "a second filter was installed");
        });
        confined.join().unwrap();
    }
}
