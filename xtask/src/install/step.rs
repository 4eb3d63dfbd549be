//! What installing and removing do to a host, as steps. Pure.

use std::fmt;
use std::path::PathBuf;

use super::layout::{ACCOUNT, Shell, UNIT};

/// One step. Doing one that has been done changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The group that may control egress.
    Group,
    /// The user that the proxy runs as.
    User,
    /// A directory.
    Directory { path: PathBuf, mode: u32 },
    /// A file with these contents, put in the place of what is there in one move.
    File { path: PathBuf, mode: u32, contents: Contents },
    /// A page for every command.
    ManPages(PathBuf),
    /// The service manager reads its units anew.
    Reload,
    /// The service starts with the host.
    Enable,
    /// The service runs, and what runs is what has been installed.
    Start,
    /// It does not run, and does not start with the host.
    Disable,
    /// Nothing of egress runs: no bottle, no daemon that somebody has started by hand.
    Quiet,
    /// A file goes.
    Remove(PathBuf),
    /// Man pages go.
    RemoveManPages(PathBuf),
    /// A directory goes with everything in it.
    RemoveTree(PathBuf),
    /// The gateway's device goes.
    DeleteDevice(&'static str),
    /// The table of gates that are made of nftables goes.
    DeleteTable(&'static str),
    /// User and group go.
    RemoveAccount,
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// The program.
    Program,
    /// This.
    Text(String),
    /// What the program prints for a shell.
    Completions(Shell),
}

impl Step {
    /// Commands that do the same.
    pub(super) fn as_typed(&self) -> String {
        match self {
            Self::Group => format!("groupadd --system {ACCOUNT}"),
            Self::User => user_words().join(" "),
            Self::Directory { path, mode } => format!("install --directory --mode={mode:04o} {}", path.display()),
            Self::File { path, mode, contents } => {
                let place = path.display();
                match contents {
                    Contents::Program => format!("install --mode={mode:04o} target/release/egress {place}"),
                    Contents::Text(_) => {
                        let name = path.file_name().unwrap_or_default().display();
                        format!("install --mode={mode:04o} {name} {place}")
                    }
                    Contents::Completions(shell) => format!("egress completions {} > {place}", shell.name()),
                }
            }
            Self::ManPages(directory) => format!("egress man-pages {}", directory.display()),
            Self::Reload => "systemctl daemon-reload".to_owned(),
            Self::Enable => format!("systemctl enable {UNIT}"),
            Self::Start => format!("systemctl restart {UNIT}"),
            Self::Disable => format!("systemctl disable --now {UNIT}"),
            Self::Quiet => "test -z \"$(ls /run/egress/bottles)\" && ! egress status".to_owned(),
            Self::Remove(path) => format!("rm --force {}", path.display()),
            Self::RemoveManPages(directory) => format!("rm --force {}/egress{{,-*}}.1", directory.display()),
            Self::RemoveTree(path) => format!("rm --recursive --force {}", path.display()),
            Self::DeleteDevice(device) => format!("ip link delete {device}"),
            Self::DeleteTable(table) => format!("nft delete table netdev {table}"),
            Self::RemoveAccount => format!("userdel {ACCOUNT} && groupdel --force {ACCOUNT}"),
        }
    }
}

/// The command that makes the user.
pub(super) fn user_words() -> [&'static str; 11] {
    [
        "useradd",
        "--system",
        "--gid",
        ACCOUNT,
        "--home-dir",
        "/nonexistent",
        "--no-create-home",
        "--shell",
        "/usr/sbin/nologin",
        "--comment=egress-proxy",
        ACCOUNT,
    ]
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group => write!(f, "group {ACCOUNT}: who may control egress"),
            Self::User => write!(f, "user {ACCOUNT}: what the proxy runs as"),
            Self::Directory { path, mode } => write!(f, "directory {} ({mode:04o})", path.display()),
            Self::File { path, mode, .. } => write!(f, "file {} ({mode:04o})", path.display()),
            Self::ManPages(directory) => write!(f, "man pages in {}", directory.display()),
            Self::Reload => f.write_str("the service manager reads its units"),
            Self::Enable => write!(f, "{UNIT} starts with the host"),
            Self::Start => write!(f, "{UNIT} runs"),
            Self::Disable => write!(f, "{UNIT} is stopped, and does not start with the host"),
            Self::Quiet => write!(f, "no bottle and no daemon runs"),
            Self::Remove(path) => write!(f, "without file {}", path.display()),
            Self::RemoveManPages(directory) => write!(f, "without man pages in {}", directory.display()),
            Self::RemoveTree(path) => write!(f, "without directory {}", path.display()),
            Self::DeleteDevice(device) => write!(f, "without device {device}"),
            Self::DeleteTable(table) => write!(f, "without nftables' table {table}"),
            Self::RemoveAccount => write!(f, "without user and group {ACCOUNT}"),
        }
    }
}
