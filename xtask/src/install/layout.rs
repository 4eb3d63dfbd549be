//! Where everything of an installed egress lies. Pure.

use std::path::{Path, PathBuf};

/// Settings, ledger, CA, and what bottles write.
pub(super) const STATE: &str = "/var/lib/egress";
/// Sockets, and handles of bottles that run.
pub(super) const RUN: &str = "/run/egress";
/// Gates.
pub(super) const PINS: &str = "/sys/fs/bpf/egress";
/// Gates of nftables.
pub(super) const TABLE: &str = "egress";
/// The device that holds the gateway's address.
pub(super) const BRIDGE: &str = "egress0";
/// The unit.
pub(super) const UNIT: &str = "egress.service";
/// Both the user that the proxy runs as and the group that may control egress.
pub(super) const ACCOUNT: &str = "egress";

/// Where `ExecStart=` of the committed unit finds the program.
const PACKAGED_BINARY: &str = "/usr/bin/egress";

/// The directories of one installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Another tree than the host's own, if that is what is filled.
    root: Option<PathBuf>,
    /// `/usr` is a package manager's; what an administrator builds goes to `/usr/local`.
    prefix: &'static str,
}

impl Layout {
    /// Of the host, or of a tree that is to be packaged.
    pub(super) fn new(root: Option<PathBuf>) -> Self {
        let prefix = if root.is_some() { "/usr" } else { "/usr/local" };
        Self { root, prefix }
    }

    /// A tree that this host does not run.
    pub(super) fn is_staged(&self) -> bool {
        self.root.is_some()
    }

    /// Where a path of the installed system is at the moment.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        match &self.root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    fn below_prefix(&self, path: &str) -> PathBuf {
        self.at(Path::new(self.prefix).join(path))
    }

    pub(super) fn binary(&self) -> PathBuf {
        self.below_prefix("bin/egress")
    }

    pub(super) fn unit(&self) -> PathBuf {
        self.below_prefix("lib/systemd/system").join(UNIT)
    }

    pub(super) fn sysusers(&self) -> PathBuf {
        self.below_prefix("lib/sysusers.d/egress.conf")
    }

    pub(super) fn tmpfiles(&self) -> PathBuf {
        self.below_prefix("lib/tmpfiles.d/egress.conf")
    }

    pub(super) fn man(&self) -> PathBuf {
        self.below_prefix("share/man/man1")
    }

    pub(super) fn completion(&self, shell: Shell) -> PathBuf {
        self.below_prefix(match shell {
            Shell::Bash => "share/bash-completion/completions/egress",
            Shell::Zsh => "share/zsh/site-functions/_egress",
            Shell::Fish => "share/fish/vendor_completions.d/egress.fish",
        })
    }

    /// The committed unit, for where the program is.
    pub(super) fn unit_text(&self, committed: &str) -> String {
        committed.replace(PACKAGED_BINARY, &format!("{}/bin/egress", self.prefix))
    }
}

/// A shell that completes the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    pub(super) const ALL: [Self; 3] = [Self::Bash, Self::Zsh, Self::Fish];

    /// As `egress completions` takes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }
}
