//! The system calls that have no safe wrapper, each behind a function that is safe to call.
#![expect(unsafe_code, reason = "fork, signal dispositions, the controlling terminal, secure bits and close_range")]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::ForkResult;

/// No privilege by user id, neither at `exec` nor at a change of user, no ambient capabilities, and none of it to be undone
/// (capabilities(7), "The securebits flags"; the values are those of linux/securebits.h).
const SECURE_BITS: libc::c_ulong = 0b1110_1111;

nix::ioctl_write_int_bad!(
    /// Makes a terminal the session's.
    set_controlling_terminal,
    libc::TIOCSCTTY
);

/// Splits this process in two. Refuses when it has other threads: the child would have only this one, and whatever lock
/// another held would stay held.
pub(super) fn fork() -> io::Result<ForkResult> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with threads cannot be split"));
    }
    // SAFETY: there is no other thread, so the child may do whatever the parent may.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// Gives every signal its default meaning, those without a name included.
pub(super) fn reset_signals() {
    for each in 1..=libc::SIGRTMAX() {
        // SAFETY: no handler is installed, so no code can run at a wrong time. That some signals cannot be changed is fine:
        // they have their default meaning.
        unsafe { libc::signal(each, libc::SIG_DFL) };
    }
}

/// Makes `terminal` the controlling terminal of this session.
pub(in crate::bottle) fn take_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call takes a number and touches no memory of ours.
    unsafe { set_controlling_terminal(terminal.as_raw_fd(), 0) }?;
    Ok(())
}

/// Sets and locks the secure bits.
pub(super) fn lock_secure_bits() -> io::Result<()> {
    // SAFETY: the call takes numbers and touches no memory of ours.
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECURE_BITS, 0, 0, 0) };
    Errno::result(result)?;
    Ok(())
}

/// Marks every file from `first` on to be closed at `exec`.
pub(super) fn close_at_exec_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| Errno::EBADF)?;
    let flags = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).map_err(|_| Errno::EINVAL)?;
    // SAFETY: files stay open, so nothing that owns one notices; only what happens at `exec` changes.
    let result = unsafe { libc::close_range(first, libc::c_uint::MAX, flags) };
    Errno::result(result)?;
    Ok(())
}
