//! What the proxy gives up before it reads a byte from a bottle. There is no way back.
//!
//! Order: limits; the bounding set, while dropping from it is still allowed; the user; all capabilities; no new ones; no
//! core, no debugger; Landlock; seccomp last, because it forbids everything above.

mod syscalls;

use caps::CapSet;
use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, User, geteuid, setgid, setgroups, setuid};
use thiserror::Error;

/// Who the proxy runs as, the first of these that exists.
const USERS: [&str; 2] = ["egress", "nobody"];

/// Why the sandbox could not be closed. The proxy does not run without it.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// No user to become.
    #[error("neither of the users {USERS:?} exists")]
    NoUser,
    /// The user is root after all.
    #[error("user {0} is not unprivileged")]
    Privileged(String),
    /// A system call failed.
    #[error("{step} failed")]
    System {
        /// Which.
        step: &'static str,
        /// How.
        #[source]
        source: nix::Error,
    },
    /// Capabilities could not be dropped.
    #[error("capabilities could not be dropped")]
    Capabilities(#[from] caps::errors::CapsError),
    /// Landlock exists and refuses.
    #[error("landlock refuses")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter could not be made or installed.
    #[error("the system call filter could not be installed")]
    Seccomp(#[from] syscalls::FilterError),
}

/// Closes the sandbox around the calling thread and all that it will start. To be called while it is the only one.
pub(super) fn enter() -> Result<(), SandboxError> {
    limit_resources()?;
    if geteuid().is_root() {
        let user = unprivileged_user()?;
        drop_bounding_set()?;
        become_user(user.uid, user.gid)?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set)?;
    }
    step("no_new_privs", prctl::set_no_new_privs())?;
    step("PR_SET_DUMPABLE", prctl::set_dumpable(false))?;
    close_files_and_ports()?;
    Ok(syscalls::install()?)
}

/// No memory image on disk.
fn limit_resources() -> Result<(), SandboxError> {
    step("RLIMIT_CORE", setrlimit(Resource::RLIMIT_CORE, 0, 0))
}

fn unprivileged_user() -> Result<User, SandboxError> {
    for name in USERS {
        if let Some(user) = step("looking up the user", User::from_name(name))? {
            let is_privileged = user.uid.is_root() || user.gid.as_raw() == 0;
            return if is_privileged { Err(SandboxError::Privileged(user.name)) } else { Ok(user) };
        }
    }
    Err(SandboxError::NoUser)
}

fn drop_bounding_set() -> Result<(), SandboxError> {
    for capability in caps::read(None, CapSet::Bounding)? {
        caps::drop(None, CapSet::Bounding, capability)?;
    }
    Ok(())
}

fn become_user(uid: Uid, gid: Gid) -> Result<(), SandboxError> {
    step("setgroups", setgroups(&[]))?;
    step("setgid", setgid(gid))?;
    step("setuid", setuid(uid))
}

/// No file, no port, no process outside. Older kernels enforce what they know; seccomp forbids opening files anyway.
fn close_files_and_ports() -> Result<(), SandboxError> {
    let abi = ABI::V6;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => {}
        RulesetStatus::PartiallyEnforced => tracing::warn!("this kernel enforces only part of the landlock rules"),
        RulesetStatus::NotEnforced => tracing::warn!("this kernel has no landlock; seccomp alone forbids files"),
    }
    Ok(())
}

fn step<T>(step: &'static str, result: nix::Result<T>) -> Result<T, SandboxError> {
    result.map_err(|source| SandboxError::System { step, source })
}
