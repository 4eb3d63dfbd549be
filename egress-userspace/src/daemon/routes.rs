//! The routes files of this host: `routes.yaml` and `routes/<bottle>.yaml`, read at start and whenever one of them changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::domain::{BottleName, ProviderName, RouteFile, with_causes};
use crate::policy::{RouteFiles, dlp};
use crate::settings;

use super::DaemonError;

/// The file for every bottle.
const HOST_FILE: &str = "routes.yaml";
/// Where those for one bottle are.
const DIRECTORY: &str = "routes";
/// How they end.
const ENDING: &str = "yaml";
/// How settings end, and routes do not.
const OTHER_ENDING: &str = "yml";

/// What tells one state of the files from the next: each with when it was modified (seconds, nanoseconds), length, number.
pub(super) type Stamps = BTreeMap<PathBuf, (i64, i64, u64, u64)>;

/// The files as they are.
pub(super) fn stamps(home: &Path) -> Stamps {
    let Found { bottles, misnamed } = find(home).unwrap_or_default();
    let stamp = |path: PathBuf| {
        let found = fs::metadata(&path).ok()?;
        Some((path, (found.mtime(), found.mtime_nsec(), found.len(), found.ino())))
    };
    let bottles = bottles.into_values().chain(misnamed.into_keys());
    bottles.chain([home.join(HOST_FILE)]).filter_map(stamp).collect()
}

/// Every file, for a daemon that starts.
pub(super) fn read(home: &Path, providers: &BTreeSet<ProviderName>) -> Result<RouteFiles, DaemonError> {
    let (files, mut problems) = read_anew(home, providers, &RouteFiles::default());
    if problems.is_empty() { Ok(files) } else { Err(problems.swap_remove(0)) }
}

/// Every file anew; one that is wrong is as it was `before`. A file that is gone says nothing.
pub(super) fn read_anew(
    home: &Path,
    providers: &BTreeSet<ProviderName>,
    before: &RouteFiles,
) -> (RouteFiles, Vec<DaemonError>) {
    let mut problems = Vec::new();
    let mut take = |path: PathBuf, label: &str, before: &RouteFile| {
        read_file(path, label, providers).unwrap_or_else(|error| {
            problems.push(error);
            before.clone()
        })
    };
    let host = take(home.join(HOST_FILE), HOST_FILE, &before.host);
    let mut bottles = BTreeMap::new();
    match find(home) {
        Ok(found) => {
            for (name, path) in found.bottles {
                let label = format!("{DIRECTORY}/{name}.{ENDING}");
                let earlier = before.bottles.get(&name).cloned().unwrap_or_else(closed);
                bottles.insert(name, take(path, &label, &earlier));
            }
            problems.extend(found.misnamed.into_iter().map(|(path, name)| DaemonError::Misnamed { path, name }));
        }
        Err(error) => {
            problems.push(error);
            bottles.clone_from(&before.bottles);
        }
    }
    (RouteFiles { host, bottles }, problems)
}

/// A bottle's file that was never understood may have meant that the bottle goes nowhere.
fn closed() -> RouteFile {
    RouteFile { inherit: false, providers: Some(Vec::new()), ..RouteFile::default() }
}

fn read_file(path: PathBuf, label: &str, providers: &BTreeSet<ProviderName>) -> Result<RouteFile, DaemonError> {
    match fs::read_to_string(&path) {
        Ok(text) => {
            let file = settings::parse_routes(&text, &path, label, providers)?;
            dlp::check(&file).map_err(|cause| DaemonError::Detector { path, cause })?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(RouteFile::default()),
        Err(cause) => Err(DaemonError::File { path, action: "read", cause }),
    }
}

/// The files that there are besides the host's.
#[derive(Default)]
struct Found {
    bottles: BTreeMap<BottleName, PathBuf>,
    /// Those that somebody may have meant for routes, each with what to call it.
    misnamed: BTreeMap<PathBuf, &'static str>,
}

/// Looks for them. Hidden files, and those with any other ending, are an editor's.
fn find(home: &Path) -> Result<Found, DaemonError> {
    let mut found = Found::default();
    let other = home.join(HOST_FILE).with_extension(OTHER_ENDING);
    if other.exists() {
        found.misnamed.insert(other, HOST_FILE);
    }
    let directory = home.join(DIRECTORY);
    let failed = |cause| DaemonError::File { path: directory.clone(), action: "read", cause };
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(source) => return Err(failed(source)),
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let text = |part: Option<&OsStr>| part.and_then(OsStr::to_str).unwrap_or_default().to_owned();
        let (stem, ending) = (text(path.file_stem()), text(path.extension()));
        match (stem.parse(), ending.as_str()) {
            _ if stem.starts_with('.') => {}
            (Ok(name), ENDING) => {
                found.bottles.insert(name, path);
            }
            (_, ENDING | OTHER_ENDING) => {
                found.misnamed.insert(path, "as its bottle, with the ending .yaml");
            }
            _ => {}
        }
    }
    Ok(found)
}

/// What is wrong, in one line for each file.
pub(super) fn complaint(problems: &[DaemonError]) -> Option<String> {
    let lines: Vec<String> = problems.iter().map(|problem| with_causes(problem)).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(file: &RouteFile) -> Vec<String> {
        file.routes.iter().map(|route| route.host.to_string()).collect()
    }

    #[test]
    fn a_wrong_file_is_as_it_was_and_the_others_are_read() {
        let home = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(home.path().join(name), text).unwrap();
        assert_eq!(read(home.path(), &BTreeSet::new()).unwrap(), RouteFiles::default());
        fs::create_dir(home.path().join(DIRECTORY)).unwrap();
        write("routes.yaml", "routes:\n  - host: a.com\n");
        write("routes/web.yaml", "inherit: false\n");
        write("routes/.web.yaml.swp", "nonsense: [");
        write("routes/notes.txt", "nonsense: [");
        let first = read(home.path(), &BTreeSet::new()).unwrap();
        assert_eq!((hosts(&first.host), first.bottles.len()), (vec!["a.com".to_owned()], 1));
        let before = stamps(home.path());

        write("routes.yaml", "routes:\n  - hst: b.com\n");
        write("routes/web.yaml", "routes:\n  - host: c.com\n");
        write("routes/new.yaml", "nonsense\n");
        write("routes/late.yaml", "detectors:\n  - name: mine\n    pattern: \"a+\"\n");
        assert_ne!(stamps(home.path()), before);
        let (second, problems) = read_anew(home.path(), &BTreeSet::new(), &first);
        assert_eq!(hosts(&second.host), ["a.com"]);
        assert_eq!(hosts(&second.bottles[&"web".parse().unwrap()]), ["c.com"]);
        assert_eq!(second.bottles[&"new".parse().unwrap()], closed());
        assert_eq!(second.bottles[&"late".parse().unwrap()], closed());
        let complaint = complaint(&problems).unwrap();
        assert!(complaint.contains("late.yaml: the pattern of the detector \"mine\" cannot be used"), "{complaint}");
        assert!(
            complaint.contains("routes.yaml:2:5: unknown key \"hst\"") && complaint.contains("new.yaml:1:1"),
            "{complaint}"
        );
        assert!(read(home.path(), &BTreeSet::new()).is_err());

        fs::remove_file(home.path().join("routes.yaml")).unwrap();
        fs::remove_dir_all(home.path().join(DIRECTORY)).unwrap();
        let (third, problems) = read_anew(home.path(), &BTreeSet::new(), &second);
        assert!(third == RouteFiles::default() && problems.is_empty());
    }

    #[test]
    fn a_file_that_was_meant_to_be_read_and_is_not_is_told_of() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(DIRECTORY)).unwrap();
        let check = |name: &str, expected: Option<&str>| {
            let path = home.path().join(name);
            let before = stamps(home.path());
            fs::write(&path, "inherit: false\n").unwrap();
            let (files, problems) = read_anew(home.path(), &BTreeSet::new(), &RouteFiles::default());
            assert_eq!(files, RouteFiles::default(), "{name}");
            let expected = expected.map(|name| format!("{} is not read: rename it {name}", path.display()));
            assert_eq!(complaint(&problems), expected, "{name}");
            assert_eq!(stamps(home.path()) != before, expected.is_some(), "{name}: seen when it comes and goes");
            fs::remove_file(path).unwrap();
        };
        check("routes.yml", Some("routes.yaml"));
        check("routes/web.yml", Some("as its bottle, with the ending .yaml"));
        check("routes/Web.yaml", Some("as its bottle, with the ending .yaml"));
        check("routes/.#web.yaml", None);
        check("routes/web.yaml~", None);
        check("routes.yaml.bak", None);
    }
}
