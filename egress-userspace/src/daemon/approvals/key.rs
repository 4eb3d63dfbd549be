//! The key under which values are fingerprinted. Beside the ledger and not in it: whoever has a copy of the database alone can
//! test no guesses.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};

use crate::daemon::DaemonError;
use crate::domain::{Fingerprint, Secret};

/// In the home directory.
const FILE_NAME: &str = "approvals.key";
const FILE_MODE: u32 = 0o600;

/// Reads this host's key, or makes one.
pub(in crate::daemon) fn read_or_make(home: &Path) -> Result<Secret, DaemonError> {
    let path = home.join(FILE_NAME);
    let failed = |action| {
        let path = path.clone();
        move |cause| DaemonError::File { path, action, cause }
    };
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(&path).map_err(failed("made"))?,
        read => read.map_err(failed("read"))?,
    };
    let key = Secret::new(text.trim().to_owned());
    let is_key = Fingerprint::try_from(key.reveal().to_owned()).is_ok();
    let damaged = || std::io::Error::other("it is damaged: remove it, and what was approved is asked about again");
    if is_key { Ok(key) } else { Err(failed("used")(damaged())) }
}

/// Whole or not at all.
fn make(path: &Path) -> std::io::Result<String> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| std::io::Error::other("the system has no randomness"))?;
    let text = Fingerprint(bytes).to_string();
    let unfinished = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_once_and_for_its_owner_alone() {
        let home = tempfile::TempDir::new().unwrap();
        let path = home.path().join(FILE_NAME);
        let key = read_or_make(home.path()).unwrap();
        assert_eq!(read_or_make(home.path()).unwrap(), key);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, FILE_MODE);
        let other = tempfile::TempDir::new().unwrap();
        assert!(read_or_make(other.path()).unwrap() != key);
        fs::write(&path, "").unwrap();
        let error = crate::domain::with_causes(&read_or_make(home.path()).unwrap_err());
        assert!(error.contains("approvals.key") && error.contains("remove it"), "{error}");
    }
}
