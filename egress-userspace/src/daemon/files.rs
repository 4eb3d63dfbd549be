//! What the daemon needs of the host before it starts: privilege, directories, settings.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};

use crate::policy::metered_hosts;
use crate::settings::{self, Settings};

use super::{DaemonError, Options};

/// Everything the controller does is covered by these; the unit of the service bounds it to them. `docs/install.md` says what
/// each is for.
const CAPABILITIES: [Capability; 15] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_KILL,
    // An overlay writes with the rights of whoever mounted it.
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    // A bottle's own /dev.
    Capability::CAP_MKNOD,
];

/// What the operator says of budgets, providers and the rest, in the home.
const SETTINGS_FILE: &str = "settings.yml";

/// Names every missing capability at once, unless it is all that an ordinary user lacks.
pub(super) fn check_privilege() -> Result<(), DaemonError> {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    let missing: Vec<String> =
        CAPABILITIES.iter().filter(|capability| !held.contains(capability)).map(ToString::to_string).collect();
    match missing.as_slice() {
        [] => Ok(()),
        _ if !nix::unistd::geteuid().is_root() => Err(DaemonError::NotRoot),
        missing => Err(DaemonError::Privilege { missing: missing.join(", ") }),
    }
}

/// The home is the controller's alone; the run directory may be entered, its socket decides who is heard.
pub(super) fn make_directories(options: &Options) -> Result<(), DaemonError> {
    for (path, mode) in [(&options.home, 0o700), (&options.run_directory, 0o755)] {
        let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        let made = made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
        made.map_err(|cause| DaemonError::File { path: path.clone(), action: "made", cause })?;
    }
    Ok(())
}

pub(super) fn settings_path(home: &Path) -> PathBuf {
    home.join(SETTINGS_FILE)
}

fn parse_settings(text: &str, path: &Path) -> Result<Settings, DaemonError> {
    let built_in: Vec<_> = metered_hosts().into_iter().map(|row| (row.host, row.provider)).collect();
    Ok(settings::parse(text, path, &built_in)?)
}

/// `settings.yml`, or the defaults when there is none.
pub(super) fn read_settings(home: &Path) -> Result<Settings, DaemonError> {
    let path = settings_path(home);
    // With the ending of routes it is a mistake that would lift every budget.
    let misnamed = path.with_extension("yaml");
    match read_settings_file(&path)? {
        Some(settings) => Ok(settings),
        None if misnamed.exists() => Err(DaemonError::Misnamed { path: misnamed, name: SETTINGS_FILE }),
        None => Ok(Settings::default()),
    }
}

/// A settings file, if there is one.
pub(super) fn read_settings_file(path: &Path) -> Result<Option<Settings>, DaemonError> {
    match fs::read_to_string(path) {
        Ok(text) => parse_settings(&text, path).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(DaemonError::File { path: path.to_owned(), action: "read", cause }),
    }
}

/// The roots of `upstream.ca`, as PEM; empty when it names none.
pub(super) fn read_roots(home: &Path, settings: &Settings) -> Result<String, DaemonError> {
    let Some(file) = &settings.upstream_ca else { return Ok(String::new()) };
    let path = home.join(file);
    fs::read_to_string(&path).map_err(|cause| DaemonError::File {
        path,
        action: "read (upstream.ca of settings.yml)",
        cause,
    })
}

/// Which boot of the host this is.
pub(super) fn boot() -> String {
    // Without it no reservation is told to be of another boot; all are settled at start anyway.
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The capabilities in lines that begin so.
    fn names(text: &str, before: &str) -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(before));
        lines
            .flat_map(|line| line.split([' ', '`', ',', '|']))
            .filter(|word| word.starts_with("CAP_"))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn no_settings_are_the_defaults_unless_they_have_another_name() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(read_settings(home.path()).unwrap(), Settings::default());
        let misnamed = home.path().join("settings.yaml");
        fs::write(&misnamed, "").unwrap();
        let error = read_settings(home.path()).unwrap_err().to_string();
        assert_eq!(error, format!("{} is not read: rename it settings.yml", misnamed.display()));
        fs::write(settings_path(home.path()), "").unwrap();
        assert_eq!(read_settings(home.path()).unwrap(), Settings::default());
    }

    #[test]
    fn the_service_is_bounded_to_what_the_daemon_asks_for() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |path: &str| fs::read_to_string(workspace.join(path)).unwrap();
        let asked: BTreeSet<String> = CAPABILITIES.iter().map(ToString::to_string).collect();
        assert_eq!(names(&read("xtask/package/egress.service"), "CapabilityBoundingSet="), asked);
        assert_eq!(names(&read("docs/install.md"), "| `"), asked);
    }
}
