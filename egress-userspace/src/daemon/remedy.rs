//! What to do about a file or directory that the system does not give.

use std::io::{self, ErrorKind};

/// The rest of a sentence that ends with what the system says.
const REMEDIES: [(ErrorKind, &str); 9] = [
    (ErrorKind::PermissionDenied, ": put `sudo` before the command"),
    (ErrorKind::NotFound, ": write it, or name the directory it is in with --home"),
    (ErrorKind::IsADirectory, ": move that directory away, a file belongs there"),
    (ErrorKind::AlreadyExists, ": move what is there away, or choose another place with --home or --run-dir"),
    (ErrorKind::NotADirectory, ": a file stands where a directory belongs; choose another with --home or --run-dir"),
    (ErrorKind::ReadOnlyFilesystem, ": choose a directory that can be written to with --home or --run-dir"),
    (ErrorKind::StorageFull, ": make room on its file system"),
    (ErrorKind::AddrInUse, ": stop that one, or give this one a --run-dir of its own"),
    (ErrorKind::InvalidData, ": write it in UTF-8"),
];

/// Nothing where nothing is known.
pub(super) fn of(error: &io::Error) -> &'static str {
    if error.kind() == ErrorKind::PermissionDenied && nix::unistd::geteuid().is_root() {
        return ": not even root may; choose another directory with --home or --run-dir";
    }
    REMEDIES.into_iter().find(|(kind, _)| *kind == error.kind()).map_or("", |(_, remedy)| remedy)
}
