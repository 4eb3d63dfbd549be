//! What the daemon keeps on disk, and the daemon itself.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use jiff::Timestamp;
use nix::unistd::{Gid, Group};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::report::{Area, Verdict};
use super::{Options, certificate};
use crate::control::{Client, ClientError, SOCKET_NAME, StatusReply};
use crate::domain::with_causes;
use crate::ledger;

const NOT_YET: &str = "not there yet; the daemon makes it";
const BEYOND_GROUP: u32 = 0o007;
const BEYOND_OWNER: u32 = 0o077;
/// A CA that ends within this is told of.
const EXPIRES_SOON_DAYS: i64 = 30;

/// The daemon's answer, when one runs.
pub(super) fn daemon(options: &Options, area: &mut Area<'_>) -> Option<StatusReply> {
    socket(&options.run_directory.join(SOCKET_NAME), area);
    let asked = tokio::runtime::Builder::new_current_thread().enable_all().build().map(|runtime| {
        let client = Client::new(&options.run_directory);
        runtime.block_on(client.get::<StatusReply>("status"))
    });
    let status = match asked {
        Ok(Ok(status)) => status,
        Ok(Err(ClientError::NoDaemon { .. })) => {
            area.check("daemon", Verdict::NotChecked, "none runs: `egress daemon` starts it");
            return None;
        }
        Ok(Err(error)) => {
            area.check("daemon", Verdict::Failed, with_causes(&error));
            return None;
        }
        Err(error) => {
            area.check("daemon", Verdict::Failed, error.to_string());
            return None;
        }
    };
    area.check("daemon", Verdict::Holds, format!("{} runs as process {}", status.version, status.pid));
    area.result(
        "proxy",
        match status.proxy_pid {
            Some(pid) => Ok(format!("runs as process {pid}")),
            None => Err("does not run: nothing flows; the daemon's log says why".to_owned()),
        },
    );
    area.result(
        "enforcing",
        match &status.not_enforcing {
            None => Ok(format!("gates by {} in {}", status.enforcer, status.pins)),
            Some(problem) => {
                Err(format!("NOT ENFORCING: {problem}; what fails below says more, then start the daemon again"))
            }
        },
    );
    if let Some(problem) = &status.settings_problem {
        area.check("settings in force", Verdict::Failed, problem.as_str());
    }
    Some(status)
}

fn socket(path: &Path, area: &mut Area<'_>) {
    let name = "control socket";
    let found = match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => found,
        Ok(_) => return area.check(name, Verdict::Failed, format!("{} is no socket: remove it", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return area.check(name, Verdict::NotChecked, NOT_YET),
        Err(error) => return area.check(name, Verdict::Failed, error.to_string()),
    };
    let group = Group::from_name("egress").ok().flatten().map(|group| group.gid);
    let (mode, owner) = (found.mode() & 0o777, Gid::from_raw(found.gid()));
    let wrong = match group {
        _ if mode & BEYOND_GROUP != 0 => Some("anybody may use it".to_owned()),
        _ if found.uid() != 0 => Some(format!("it is user {}'s", found.uid())),
        Some(group) if owner != group => Some("it is not the group egress's".to_owned()),
        None if mode & BEYOND_OWNER != 0 => Some(format!("group {owner} may use it")),
        Some(_) | None => None,
    };
    area.result(
        name,
        match wrong {
            None => Ok(format!("mode {mode:o}")),
            Some(wrong) => Err(format!("{} has mode {mode:o}, and {wrong}: start the daemon again", path.display())),
        },
    );
}

/// What is in the home; only its owner can look.
pub(super) fn home(options: &Options, is_served: bool, area: &mut Area<'_>) {
    let home = &options.home;
    match fs::metadata(home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return area.check("home", Verdict::NotChecked, format!("{}: {NOT_YET}", home.display()));
        }
        Err(error) => return area.check("home", Verdict::Failed, format!("{}: {error}", home.display())),
        Ok(found) => private("home", home, found.mode(), area),
    }
    area.result("settings", (options.check_settings)(home));
    authority(&home.join("ca"), area);
    let database = home.join("bot-bottle.db");
    match fs::metadata(&database) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => area.check("ledger", Verdict::NotChecked, NOT_YET),
        Err(error) => area.check("ledger", Verdict::Failed, error.to_string()),
        Ok(_) if is_served => area.check("ledger", Verdict::Holds, "open: the daemon has it"),
        Ok(_) => area.result(
            "ledger",
            ledger::inspect(&database)
                .map_err(|error| format!("{}: {}; restore it from a backup", database.display(), with_causes(&error))),
        ),
    }
}

fn private(name: &str, path: &Path, mode: u32, area: &mut Area<'_>) {
    let mode = mode & 0o777;
    area.result(
        name,
        if mode & BEYOND_OWNER == 0 {
            Ok(format!("{}, mode {mode:o}", path.display()))
        } else {
            Err(format!("{0} has mode {mode:o}, so that others may read it: `chmod go= {0}`", path.display()))
        },
    );
}

fn authority(directory: &Path, area: &mut Area<'_>) {
    let (key, pem) = (directory.join("ca.key"), directory.join("ca.pem"));
    match fs::metadata(&key) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return area.check("CA", Verdict::NotChecked, NOT_YET);
        }
        Err(error) => return area.check("CA key", Verdict::Failed, format!("{}: {error}", key.display())),
        Ok(found) => private("CA key", &key, found.mode(), area),
    }
    let remedy = || format!("remove {} and start the daemon again: it makes a new one", directory.display());
    let validity = CertificateDer::from_pem_file(&pem).ok().and_then(|found| certificate::validity(&found));
    let Some((begin, end)) = validity else {
        return area.check("CA", Verdict::Failed, format!("{} is no certificate: {}", pem.display(), remedy()));
    };
    let now = Timestamp::now();
    let days = (end.as_second() - now.as_second()) / (24 * 60 * 60);
    match () {
        () if now < begin => area.check("CA", Verdict::Failed, format!("valid from {begin}: is the clock right?")),
        () if now >= end => area.check("CA", Verdict::Failed, format!("it expired at {end}: {}", remedy())),
        () if days < EXPIRES_SOON_DAYS => {
            area.check("CA", Verdict::Warning, format!("it expires at {end}: {}", remedy()));
        }
        () => area.check("CA", Verdict::Holds, format!("valid until {end}")),
    }
}
