//! The secrets that routes files name: read from the daemon's environment and from files, at start and whenever a file changes.
//!
//! A value goes from here to the proxy and nowhere else. One that is not to be had is warned of and left out: requests that
//! need it are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use thiserror::Error;
use tracing::warn;
use zeroize::Zeroizing;

use crate::domain::{Auth, LooksFor, RouteFile, Secret, SecretSource, with_causes};
use crate::policy::RouteFiles;
use crate::policy::dlp::SECRET_BYTES_MIN;

/// Longest secret, in bytes: service accounts are JSON of a few thousand.
const SECRET_BYTES_MAX: usize = 64 << 10;
/// Permissions that nobody but the owner may have.
const OF_OTHERS: u32 = 0o077;

/// Why a secret is not to be had.
#[derive(Debug, Error)]
enum SecretError {
    #[error("it is not set in the daemon's environment")]
    NotSet,
    #[error("it cannot be read")]
    Unreadable(#[from] std::io::Error),
    #[error("it is not a plain file")]
    NotAFile,
    #[error("others than its owner may read or write it (mode {mode:03o}): chmod 600 it")]
    Shared {
        /// Its permissions.
        mode: u32,
    },
    #[error("it belongs to user {0}, and not to root or the daemon's user")]
    Foreign(u32),
    #[error("it is longer than {SECRET_BYTES_MAX} bytes")]
    TooLong,
    #[error("it is not text")]
    NotText,
    #[error("it is empty")]
    Empty,
}

/// What tells one state of a file from the next: changed (seconds, nanoseconds), length, number.
type Stamp = (i64, i64, u64, u64);

/// Secrets as they are said to the proxy.
pub(super) type Values = Vec<(SecretSource, Secret)>;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Looked {
    /// What there is.
    pub(super) values: Values,
    /// What is not to be had, and why.
    pub(super) problems: Vec<String>,
}

/// Who reads them.
pub(super) struct SecretFiles {
    home: PathBuf,
    /// What was named at the last look, and what its files were then.
    seen: Option<BTreeMap<SecretSource, Option<Stamp>>>,
}

impl SecretFiles {
    /// Nothing has been read.
    pub(super) fn new(home: PathBuf) -> Self {
        Self { home, seen: None }
    }

    /// Every secret that these routes name, if it may be another than at the last look, or when that `is_asked`.
    pub(super) fn look(&mut self, routes: &RouteFiles, is_asked: bool) -> Option<Looked> {
        let found = sources(routes).into_iter().map(|source| {
            let stamp = self.stamp(&source);
            (source, stamp)
        });
        let found: BTreeMap<_, _> = found.collect();
        if !is_asked && self.seen.as_ref() == Some(&found) {
            return None;
        }
        let (mut values, mut problems) = (Vec::new(), Vec::new());
        for source in found.keys() {
            match self.read(source) {
                Ok(secret) => {
                    if secret.reveal().trim().len() < SECRET_BYTES_MIN {
                        warn!(%source, "a secret is shorter than {SECRET_BYTES_MIN} bytes: it is not looked for in what leaves");
                    }
                    values.push((source.clone(), secret));
                }
                Err(error) => {
                    let problem = with_causes(&error);
                    warn!(%source, problem, "a secret is not to be had: requests of routes that name it are refused");
                    problems.push(format!("{source}: {problem}"));
                }
            }
        }
        self.seen = Some(found);
        Some(Looked { values, problems })
    }

    /// The files that were named at the last look.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let path = |source: &SecretSource| match source {
            SecretSource::File(path) => Some(self.home.join(path)),
            SecretSource::Env(_) => None,
        };
        self.seen.iter().flatten().filter_map(|(source, _)| path(source)).collect()
    }

    fn stamp(&self, source: &SecretSource) -> Option<Stamp> {
        let SecretSource::File(path) = source else { return None };
        let found = std::fs::metadata(self.home.join(path)).ok()?;
        Some((found.ctime(), found.ctime_nsec(), found.len(), found.ino()))
    }

    fn read(&self, source: &SecretSource) -> Result<Secret, SecretError> {
        let value = match source {
            SecretSource::Env(name) => {
                let value = std::env::var_os(name).ok_or(SecretError::NotSet)?;
                Zeroizing::new(value.into_encoded_bytes())
            }
            SecretSource::File(path) => read_file(&self.home.join(path))?,
        };
        let value = std::str::from_utf8(&value).map_err(|_| SecretError::NotText)?;
        let value = value.strip_suffix('\n').map_or(value, |line| line.strip_suffix('\r').unwrap_or(line));
        if value.is_empty() { Err(SecretError::Empty) } else { Ok(Secret::new(value.to_owned())) }
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    // A pipe would keep the daemon waiting.
    let mut file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    check(&file.metadata()?, nix::unistd::geteuid().as_raw())?;
    // One more than may be, all in one piece: what grows is copied, and its copies stay.
    let mut value = Zeroizing::new(vec![0; SECRET_BYTES_MAX + 1]);
    let length = read_up_to(&mut file, &mut value)?;
    if length > SECRET_BYTES_MAX {
        return Err(SecretError::TooLong);
    }
    value.truncate(length);
    Ok(value)
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    loop {
        let room = buffer.get_mut(filled..).unwrap_or_default();
        match file.read(room)? {
            0 => return Ok(filled),
            read => filled += read,
        }
    }
}

/// Whoever may read a secret has it.
fn check(file: &Metadata, own_user: u32) -> Result<(), SecretError> {
    let mode = file.mode() & 0o777;
    if !file.is_file() {
        return Err(SecretError::NotAFile);
    }
    if mode & OF_OTHERS != 0 {
        return Err(SecretError::Shared { mode });
    }
    if file.uid() != 0 && file.uid() != own_user {
        return Err(SecretError::Foreign(file.uid()));
    }
    Ok(())
}

/// Everything that the files name.
fn sources(routes: &RouteFiles) -> BTreeSet<SecretSource> {
    let files = || routes.bottles.values().chain([&routes.host]);
    let injected = files().flat_map(|file| &file.routes).filter_map(|route| match &route.auth {
        Auth::Inject(_, source) => Some(source),
        Auth::Unsaid | Auth::Passthrough => None,
    });
    let rules = |file: &RouteFile| [file.detectors.clone(), file.markers.clone()].concat();
    let looked_for = files().flat_map(rules).filter_map(|rule| match rule.looks_for {
        LooksFor::Secret(source) => Some(source),
        LooksFor::Pattern(_) => None,
    });
    injected.cloned().chain(looked_for).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::domain::{AuthScheme, DetectorRule, Route};

    struct Home(tempfile::TempDir);

    impl Home {
        fn write(&self, name: &str, value: &[u8], mode: u32) {
            let path = self.0.path().join(name);
            fs::write(&path, value).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }

        fn read(&self, name: &str) -> Result<String, String> {
            let files = SecretFiles::new(self.0.path().to_owned());
            let read = files.read(&SecretSource::File(name.into()));
            read.map(|secret| secret.reveal().to_owned()).map_err(|error| error.to_string())
        }
    }

    fn home() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn naming(sources: &[SecretSource]) -> RouteFiles {
        let route = |source: &SecretSource| {
            let mut route = Route::to("a.com".parse::<crate::domain::Host>().unwrap().into(), "1".to_owned());
            route.auth = Auth::Inject(AuthScheme::Bearer, source.clone());
            route
        };
        let host = RouteFile { routes: sources.iter().map(route).collect(), ..RouteFile::default() };
        RouteFiles { host, ..RouteFiles::default() }
    }

    #[test]
    fn a_value_is_the_files_line() {
        let home = home();
        let check = |value: &[u8], expected: Result<&str, &str>| {
            home.write("key", value, 0o600);
            let found = home.read("key");
            assert_eq!(found.as_deref().map_err(String::as_str), expected);
        };
        check(b"s3cret\n", Ok("s3cret"));
        check(b"s3cret\r\n", Ok("s3cret"));
        check(b" two\nlines \n\n", Ok(" two\nlines \n"));
        check(b"\n", Err("it is empty"));
        check(b"", Err("it is empty"));
        check(b"\xff", Err("it is not text"));
        check(&vec![b'x'; SECRET_BYTES_MAX], Ok(&"x".repeat(SECRET_BYTES_MAX)));
        check(&vec![b'x'; SECRET_BYTES_MAX + 1], Err("it is longer than 65536 bytes"));
    }

    #[test]
    fn what_others_may_read_is_no_secret() {
        let home = home();
        for (mode, is_secret) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)] {
            home.write("key", b"s3cret", mode);
            let expected = if is_secret {
                Ok("s3cret".to_owned())
            } else {
                Err(format!("others than its owner may read or write it (mode {mode:03o}): chmod 600 it"))
            };
            assert_eq!(home.read("key"), expected);
        }
        assert_eq!(home.read("."), Err("it is not a plain file".to_owned()));
        assert_eq!(home.read("gone"), Err("it cannot be read".to_owned()));
        home.write("key", b"s3cret", 0o600);
        let owned = fs::metadata(home.0.path().join("key")).unwrap();
        assert!(check(&owned, owned.uid()).is_ok());
        let foreign = check(&owned, owned.uid() + 1).map_err(|error| error.to_string());
        let expected = format!("it belongs to user {}, and not to root or the daemon's user", owned.uid());
        assert_eq!(foreign, if owned.uid() == 0 { Ok(()) } else { Err(expected) });
    }

    #[test]
    fn they_are_read_anew_when_a_file_or_a_name_changes() {
        let home = home();
        home.write("one", b"first", 0o600);
        let [one, two] = ["one", "two"].map(|name| SecretSource::File(name.into()));
        let mut files = SecretFiles::new(home.0.path().to_owned());
        let mut check = |sources: &[SecretSource], is_asked, expected: Option<&[(&SecretSource, &str)]>| {
            let found = files.look(&naming(sources), is_asked).map(|looked| looked.values);
            let expected = expected.map(|values| {
                let value =
                    |(source, value): &(&SecretSource, &str)| ((*source).clone(), Secret::new((*value).to_owned()));
                values.iter().map(value).collect::<Vec<_>>()
            });
            assert_eq!(found, expected);
        };
        let only = [one.clone()];
        check(&only, false, Some(&[(&one, "first")]));
        check(&only, false, None);
        check(&only, true, Some(&[(&one, "first")]));
        check(&[one.clone(), two.clone()], false, Some(&[(&one, "first")]));
        home.write("two", b"second", 0o600);
        check(&[one.clone(), two.clone()], false, Some(&[(&one, "first"), (&two, "second")]));
        home.write("two", b"second", 0o644);
        check(&[one.clone(), two.clone()], false, Some(&[(&one, "first")]));
        home.write("one", b"other", 0o600);
        check(&[one.clone(), two.clone()], false, Some(&[(&one, "other")]));
        check(&[], false, Some(&[]));
    }

    #[test]
    fn files_are_named_with_their_paths() {
        let mut files = SecretFiles::new(PathBuf::from("/srv"));
        assert!(files.paths().is_empty());
        let [elsewhere, own] = ["/etc/keys/one", "keys/two"].map(|name| SecretSource::File(name.into()));
        files.look(&naming(&[own, elsewhere, SecretSource::Env("PATH".to_owned())]), false);
        assert_eq!(files.paths(), ["/etc/keys/one", "/srv/keys/two"].map(PathBuf::from));
    }

    #[test]
    fn variables_and_what_detectors_look_for_are_secrets_too() {
        let unset = SecretSource::Env("EGRESS_TEST_NO_SUCH_VARIABLE".to_owned());
        let set = SecretSource::Env("PATH".to_owned());
        let files = SecretFiles::new(PathBuf::from("."));
        assert_eq!(files.read(&set).unwrap().reveal(), std::env::var("PATH").unwrap());
        assert_eq!(files.read(&unset).unwrap_err().to_string(), "it is not set in the daemon's environment");
        let mut routes = naming(&[]);
        let rule = |source: &SecretSource| DetectorRule {
            name: "x".to_owned(),
            looks_for: LooksFor::Secret(source.clone()),
            line: 1,
        };
        (routes.host.detectors, routes.host.markers) = (vec![rule(&set)], vec![rule(&unset)]);
        assert_eq!(sources(&routes), BTreeSet::from([set, unset]));
    }
}
