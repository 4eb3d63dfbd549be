//! Who is on the other end of a control connection: known from the kernel, never from what it says.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Group;

/// The group whose members may control egress.
const GROUP: &str = "egress";

/// A process as it was when it connected: what it has become since counts for nothing.
#[derive(Debug)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The standard streams that it sent before its request, if it did.
    pub streams: Option<[OwnedFd; 3]>,
}

impl Peer {
    /// Reads the credentials of whoever connected.
    pub(super) fn of(socket: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(socket, PeerCredentials)?;
        let groups = option::peer_groups(socket.as_fd())?;
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), groups, streams: None })
    }

    /// Root and members of the `egress` group may; nobody else.
    pub(super) fn may_control(&self) -> bool {
        let group = Group::from_name(GROUP).ok().flatten().map(|group| group.gid.as_raw());
        self.uid == 0 || group.is_some_and(|group| self.gid == group || self.groups.contains(&group))
    }
}

#[expect(unsafe_code, reason = "no safe wrapper for SO_PEERGROUPS exists")]
mod option {
    use std::io;
    use std::os::fd::{AsRawFd, BorrowedFd};

    use nix::errno::Errno;
    use nix::libc;

    /// Groups a process can be in (`NGROUPS_MAX`).
    const GROUPS_MAX: usize = 65_536;

    /// The supplementary groups of the process that connected, of that moment.
    pub(super) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<libc::gid_t>> {
        let mut groups: Vec<libc::gid_t> = vec![0; GROUPS_MAX];
        let mut bytes = libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(|_| Errno::EINVAL)?;
        let into = groups.as_mut_ptr().cast();
        // SAFETY: at most `bytes` bytes are written, which is what `groups` holds, and any are a valid number; `bytes` is what
        // was written then. Both live until the call returns.
        let result = unsafe {
            libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, into, &raw mut bytes)
        };
        Errno::result(result)?;
        groups.truncate(usize::try_from(bytes).map_err(|_| Errno::EINVAL)? / size_of::<libc::gid_t>());
        groups.shrink_to_fit();
        Ok(groups)
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::{Gid, getegid, geteuid, getgroups};

    use super::*;

    #[test]
    fn a_peer_is_who_made_the_socket() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        assert_eq!((peer.uid, peer.gid), (geteuid().as_raw(), getegid().as_raw()));
        let mut groups: Vec<u32> = getgroups().unwrap().into_iter().map(Gid::as_raw).collect();
        let mut of_peer = peer.groups;
        groups.sort_unstable();
        of_peer.sort_unstable();
        assert_eq!(of_peer, groups);
    }
}
