//! Which steps install egress, and which remove it. Pure.

use super::layout::{BRIDGE, Layout, PINS, RUN, STATE, Shell, TABLE};
use super::step::{Contents, Step};

const PROGRAM_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
/// What only the controller may see.
const PRIVATE_MODE: u32 = 0o700;
const PUBLIC_MODE: u32 = 0o755;

/// The files that are committed beside this tool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Committed<'a> {
    pub(super) unit: &'a str,
    pub(super) sysusers: &'a str,
    pub(super) tmpfiles: &'a str,
}

/// Makes the host, or a tree, what it is to be. The program and what it needs come before the service that runs it.
pub(super) fn install(layout: &Layout, committed: Committed<'_>, has_systemd: bool) -> Vec<Step> {
    let text = |path, text: String| Step::File { path, mode: FILE_MODE, contents: Contents::Text(text) };
    let mut steps = Vec::new();
    if !layout.is_staged() {
        steps.extend([Step::Group, Step::User]);
    }
    steps.push(Step::Directory { path: layout.at(STATE), mode: PRIVATE_MODE });
    if !layout.is_staged() {
        // Of a packaged tree the service manager makes it, at every start of the host.
        steps.push(Step::Directory { path: layout.at(RUN), mode: PUBLIC_MODE });
    }
    steps.push(Step::File { path: layout.binary(), mode: PROGRAM_MODE, contents: Contents::Program });
    steps.extend(Shell::ALL.map(|shell| {
        let contents = Contents::Completions(shell);
        Step::File { path: layout.completion(shell), mode: FILE_MODE, contents }
    }));
    steps.push(Step::ManPages(layout.man()));
    steps.push(text(layout.sysusers(), committed.sysusers.to_owned()));
    steps.push(text(layout.tmpfiles(), committed.tmpfiles.to_owned()));
    steps.push(text(layout.unit(), layout.unit_text(committed.unit)));
    if has_systemd && !layout.is_staged() {
        steps.extend([Step::Reload, Step::Enable, Step::Start]);
    }
    steps
}

/// What becomes of settings, ledger and CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ledger {
    Keep,
    Remove,
}

/// Takes everything away, the other way round. No bottle runs.
pub(super) fn uninstall(layout: &Layout, ledger: Ledger, has_systemd: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let is_live = !layout.is_staged();
    if has_systemd && is_live {
        steps.push(Step::Disable);
    }
    if is_live {
        // Once more: somebody may have started a bottle while the question about the ledger waited.
        steps.push(Step::Quiet);
    }
    steps.push(Step::Remove(layout.unit()));
    if has_systemd && is_live {
        steps.push(Step::Reload);
    }
    steps.extend([Step::Remove(layout.tmpfiles()), Step::Remove(layout.sysusers())]);
    steps.push(Step::RemoveManPages(layout.man()));
    steps.extend(Shell::ALL.map(|shell| Step::Remove(layout.completion(shell))));
    steps.push(Step::Remove(layout.binary()));
    if is_live {
        steps.push(Step::RemoveTree(layout.at(RUN)));
        steps.extend([Step::RemoveTree(layout.at(PINS)), Step::DeleteTable(TABLE), Step::DeleteDevice(BRIDGE)]);
    }
    if ledger == Ledger::Remove {
        steps.push(Step::RemoveTree(layout.at(STATE)));
        if is_live {
            steps.push(Step::RemoveAccount);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const COMMITTED: Committed<'_> =
        Committed { unit: "ExecStart=/usr/bin/egress daemon\n", sysusers: "g egress -\n", tmpfiles: "d /run/egress\n" };

    fn typed(steps: &[Step]) -> Vec<String> {
        steps.iter().map(Step::as_typed).collect()
    }

    fn check(steps: &[Step], expected: &[&str]) {
        assert_eq!(typed(steps), expected);
    }

    #[test]
    fn a_host_gets_accounts_files_and_a_service_in_this_order() {
        check(
            &install(&Layout::new(None), COMMITTED, true),
            &[
                "groupadd --system egress",
                "useradd --system --gid egress --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin \
                 --comment=egress-proxy egress",
                "install --directory --mode=0700 /var/lib/egress",
                "install --directory --mode=0755 /run/egress",
                "install --mode=0755 target/release/egress /usr/local/bin/egress",
                "egress completions bash > /usr/local/share/bash-completion/completions/egress",
                "egress completions zsh > /usr/local/share/zsh/site-functions/_egress",
                "egress completions fish > /usr/local/share/fish/vendor_completions.d/egress.fish",
                "egress man-pages /usr/local/share/man/man1",
                "install --mode=0644 egress.conf /usr/local/lib/sysusers.d/egress.conf",
                "install --mode=0644 egress.conf /usr/local/lib/tmpfiles.d/egress.conf",
                "install --mode=0644 egress.service /usr/local/lib/systemd/system/egress.service",
                "systemctl daemon-reload",
                "systemctl enable egress.service",
                "systemctl restart egress.service",
            ],
        );
    }

    #[test]
    fn a_tree_gets_files_alone_and_a_host_without_systemd_no_service() {
        let staged = install(&Layout::new(Some(PathBuf::from("/stage"))), COMMITTED, true);
        assert!(typed(&staged).iter().all(|line| line.contains(" /stage/")), "{staged:?}");
        let plain = typed(&install(&Layout::new(None), COMMITTED, false));
        assert!(!plain.iter().any(|line| line.contains("systemctl")), "{plain:?}");
    }

    #[test]
    fn the_unit_starts_the_program_that_was_installed() {
        for (root, expected) in [(None, "/usr/local/bin/egress"), (Some(PathBuf::from("/stage")), "/usr/bin/egress")] {
            let steps = install(&Layout::new(root), COMMITTED, true);
            let contents = Contents::Text(format!("ExecStart={expected} daemon\n"));
            let is_unit = |step: &Step| matches!(step, Step::File { contents: found, .. } if *found == contents);
            assert!(steps.iter().any(is_unit), "{steps:?}");
        }
    }

    #[test]
    fn the_ledger_goes_only_when_it_is_to() {
        let removes_ledger = |ledger| {
            let lines = typed(&uninstall(&Layout::new(None), ledger, true));
            lines.iter().any(|line| line == "rm --recursive --force /var/lib/egress")
        };
        assert!(removes_ledger(Ledger::Remove) && !removes_ledger(Ledger::Keep));
    }

    #[test]
    fn whatever_is_installed_is_removed() {
        let layout = Layout::new(None);
        let removed = typed(&uninstall(&layout, Ledger::Remove, true)).join("\n");
        for step in install(&layout, COMMITTED, true) {
            let (Step::File { path, .. } | Step::Directory { path, .. } | Step::ManPages(path)) = step else {
                continue;
            };
            assert!(removed.contains(&format!("{}", path.display())), "{} is left", path.display());
        }
        assert!(removed.starts_with("systemctl disable --now"), "{removed}");
    }
}
