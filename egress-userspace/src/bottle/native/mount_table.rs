//! `/proc/self/mountinfo`, parsed (proc_pid_mountinfo(5)). Pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is mounted.
    pub(super) point: PathBuf,
    /// What part of its filesystem is mounted there.
    pub(super) root: PathBuf,
    /// Type of its filesystem.
    pub(super) kind: String,
    /// Its own options, not those of its filesystem.
    pub(super) options: Vec<String>,
}

impl Mount {
    /// Whether it has this option.
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.iter().any(|found| found == option)
    }
}

/// Every mount of the table, in its order. Lines that are not understood are left out.
pub(super) fn parse(table: &str) -> Vec<Mount> {
    table.lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<Mount> {
    let (fixed, source) = line.split_once(" - ")?;
    let mut fields = fixed.split(' ').skip(3);
    let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
    let options = fields.next()?.split(',').map(str::to_owned).collect();
    let kind = source.split(' ').next()?.to_owned();
    Some(Mount { point, root, kind, options })
}

/// Blank, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(b'\\'));
        rest = if code.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    bytes.extend_from_slice(rest.as_bytes());
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let table = "41 31 0:31 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n\
                     nonsense\n\
                     50 27 254:0 /a\\134b /mnt/two\\040words ro - ext4 /dev/vda rw\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, PathBuf::from("/sys/fs/cgroup/unified"));
        assert_eq!(mounts[0].kind, "cgroup2");
        assert_eq!(mounts[1].point, PathBuf::from("/mnt/two words"));
        assert_eq!(mounts[1].root, PathBuf::from("/a\\b"));
        assert!(mounts[1].has("ro") && !mounts[0].has("ro") && mounts[0].has("relatime"));
    }
}
