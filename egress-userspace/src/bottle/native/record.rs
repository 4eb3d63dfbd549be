//! What the supervisor of a bottle leaves on disk: its process id first, the command's exit code last. By it a daemon that
//! did not start the command finds it, and learns how it ended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// An open record.
pub(in crate::bottle) struct Record(File);

impl Record {
    /// Begins one with this process.
    pub(in crate::bottle) fn begin(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self(file))
    }

    /// The command has ended.
    pub(in crate::bottle) fn end(&mut self, exit_code: i32) -> io::Result<()> {
        writeln!(self.0, "{exit_code}")
    }
}

/// The supervisor's process id, and the exit code when there is one. `None` when no command was started.
pub(in crate::bottle) fn read(path: &Path) -> io::Result<Option<(u32, Option<i32>)>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let mut lines = text.lines();
    let supervisor = lines.next().and_then(|line| line.parse().ok());
    Ok(supervisor.map(|supervisor| (supervisor, lines.next().and_then(|line| line.parse().ok()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_who_and_then_how_it_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        assert_eq!(read(&path).unwrap(), None);
        let mut record = Record::begin(&path).unwrap();
        assert_eq!(read(&path).unwrap(), Some((std::process::id(), None)));
        record.end(3).unwrap();
        assert_eq!(read(&path).unwrap(), Some((std::process::id(), Some(3))));
    }
}
