//! Who is on the other end of a control connection: known from the kernel, never from what it says.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Group;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// The group whose members may control egress.
const GROUP: &str = "egress";

/// A connected process.
#[derive(Debug)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    process: OwnedFd,
}

impl Peer {
    /// Reads the credentials of whoever connected.
    pub(super) fn of(socket: &impl AsFd) -> std::io::Result<Self> {
        let credentials = getsockopt(socket, PeerCredentials)?;
        let pid = Pid::from_raw(credentials.pid()).ok_or(std::io::ErrorKind::NotFound)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", credentials.pid()))?;
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), groups: groups_of(&status), process })
    }

    /// Root and members of the `egress` group may; nobody else.
    pub(super) fn may_control(&self) -> bool {
        let group = Group::from_name(GROUP).ok().flatten().map(|group| group.gid.as_raw());
        self.uid == 0 || group.is_some_and(|group| self.gid == group || self.groups.contains(&group))
    }

    /// A copy of one of the process's own descriptors.
    ///
    /// # Errors
    /// When it has no such descriptor or has ended.
    pub fn descriptor(&self, number: RawFd) -> std::io::Result<OwnedFd> {
        Ok(pidfd_getfd(&self.process, number, PidfdGetfdFlags::empty())?)
    }
}

/// The `Groups:` line of `/proc/<pid>/status`.
fn groups_of(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or("");
    line.split_ascii_whitespace().filter_map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_the_status() {
        assert_eq!(groups_of("Uid:\t0\nGroups:\t4 27 1000 \nNgid:\t0\n"), [4, 27, 1000]);
        assert_eq!(groups_of("Groups:\t\n"), [0_u32; 0]);
        assert_eq!(groups_of(""), [0_u32; 0]);
    }
}
