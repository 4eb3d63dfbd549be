//! What a push asks for: its list of commands, and where the pack begins that comes with them.
//!
//! <https://git-scm.com/docs/gitprotocol-pack#_reference_update_request_and_packfile_transfer>. It is read as narrowly as git
//! writes it, so that no server reads anything else in it.

use thiserror::Error;

use super::object::ObjectName;
use super::pkt_line::{NoPacket, Packet, packet};

/// Refs that one push may be about.
pub(super) const COMMANDS_MAX: usize = 1_000;
/// Longest name of a ref, in bytes.
const REF_BYTES_MAX: usize = 1_024;
/// Characters that no ref has, beside spaces and control characters.
const NOT_IN_REFS: &[u8] = b"~^:?*[\\";

/// One ref that is to be made, moved or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) old: ObjectName,
    pub(super) new: ObjectName,
    pub(super) name: String,
}

/// What the client can read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// A line for each ref.
    pub(super) reports: bool,
    /// Progress beside it.
    pub(super) side_band: bool,
    /// Options follow the commands.
    pub(super) options: bool,
}

/// A push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Push<'a> {
    pub(super) commands: Vec<Command>,
    pub(super) capabilities: Capabilities,
    /// Options for the server.
    pub(super) options: usize,
    /// As far as it is there.
    pub(super) pack: &'a [u8],
}

/// Why a push is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum PushError {
    /// It ends before its commands do, or they are longer than what is looked at.
    #[error("its list of refs does not end")]
    Incomplete,
    /// Not as git writes it.
    #[error("its list of refs is malformed")]
    Malformed,
    /// More than [`COMMANDS_MAX`].
    #[error("it is about more than {COMMANDS_MAX} refs")]
    TooMany,
    /// The commands are inside a certificate.
    #[error("it is signed, which is not read: push without --signed")]
    Certificate,
    /// A ref has no proper name.
    #[error("it names a ref in a way that git does not")]
    Name,
    /// A ref has two commands.
    #[error("it is about one ref twice")]
    Twice,
}

impl From<NoPacket> for PushError {
    fn from(error: NoPacket) -> Self {
        match error {
            NoPacket::Incomplete => Self::Incomplete,
            NoPacket::Malformed => Self::Malformed,
        }
    }
}

/// Reads a push from its beginning.
pub(super) fn push(bytes: &[u8]) -> Result<Push<'_>, PushError> {
    let (mut push, mut rest) = (Push::default(), bytes);
    loop {
        let (packet, after) = packet(rest)?;
        rest = after;
        let Packet::Line(line) = packet else { break };
        push.read(line)?;
    }
    if push.capabilities.options {
        loop {
            let (packet, after) = packet(rest)?;
            rest = after;
            if packet == Packet::Flush {
                break;
            }
            push.options += 1;
        }
    }
    push.pack = rest;
    Ok(push)
}

impl Push<'_> {
    fn read(&mut self, line: &[u8]) -> Result<(), PushError> {
        let (line, words) = at_zero(line.strip_suffix(b"\n").unwrap_or(line));
        if line == b"push-cert" {
            return Err(PushError::Certificate);
        }
        if let Some(shallow) = line.strip_prefix(b"shallow ") {
            // It says what the client does not have. What the client can is said elsewhere, and not read here.
            let shallow = ObjectName::of_digits(shallow).filter(|_| words.is_none());
            return shallow.map(|_| ()).ok_or(PushError::Malformed);
        }
        self.capabilities.read(words.unwrap_or_default())?;
        let command = command(line)?;
        if self.commands.len() == COMMANDS_MAX {
            return Err(PushError::TooMany);
        }
        if self.commands.iter().any(|known| known.name == command.name) {
            return Err(PushError::Twice);
        }
        self.commands.push(command);
        Ok(())
    }
}

impl Capabilities {
    /// Servers differ in what ends a word, and a second zero ends all of them for git: nothing but words and spaces is read.
    fn read(&mut self, words: &[u8]) -> Result<(), PushError> {
        if !words.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            return Err(PushError::Malformed);
        }
        for word in words.split(|byte| *byte == b' ') {
            // A server takes a word with a value for the same word.
            match word.split(|byte| *byte == b'=').next().unwrap_or_default() {
                b"report-status" | b"report-status-v2" => self.reports = true,
                b"side-band-64k" => self.side_band = true,
                b"push-options" => self.options = true,
                _ => {}
            }
        }
        Ok(())
    }
}

fn command(line: &[u8]) -> Result<Command, PushError> {
    let mut pieces = line.splitn(3, |byte| *byte == b' ');
    let mut name = || pieces.next().and_then(ObjectName::of_digits).ok_or(PushError::Malformed);
    let (old, new) = (name()?, name()?);
    if old.naming() != new.naming() {
        return Err(PushError::Malformed);
    }
    let name = pieces.next().and_then(|name| std::str::from_utf8(name).ok()).filter(|name| is_ref(name));
    Ok(Command { old, new, name: name.ok_or(PushError::Name)?.to_owned() })
}

/// Git's own rules, so that a name is the same to whoever reads it.
fn is_ref(name: &str) -> bool {
    let is_piece = |piece: &str| !piece.is_empty() && !piece.starts_with('.') && !piece.ends_with(".lock");
    name.len() <= REF_BYTES_MAX
        && name.starts_with("refs/")
        && name.split('/').all(is_piece)
        && !name.ends_with('.')
        && !name.contains("..")
        && !name.contains("@{")
        && name.bytes().all(|byte| byte > b' ' && byte != 0x7f && !NOT_IN_REFS.contains(&byte))
}

/// What comes before the first zero, and what after it, if there is one.
fn at_zero(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut pieces = line.splitn(2, |byte| *byte == 0);
    (pieces.next().unwrap_or_default(), pieces.next())
}

#[cfg(test)]
mod tests {
    use super::super::pkt_line::{FLUSH, append};
    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    fn lines(lines: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        lines.iter().for_each(|line| append(&mut bytes, line.as_bytes()));
        bytes.extend_from_slice(FLUSH);
        bytes
    }

    fn check(bytes: &[u8], expected: Result<(&[&str], Capabilities, &[u8]), PushError>) {
        let found = push(bytes);
        let names = |push: &Push<'_>| push.commands.iter().map(|command| command.name.clone()).collect::<Vec<_>>();
        let found = found.as_ref().map(|push| (names(push), push.capabilities, push.pack));
        let expected = expected.map(|(names, capabilities, pack)| {
            (names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), capabilities, pack)
        });
        assert_eq!(found.map_err(|error| *error), expected, "{}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn commands_are_read_up_to_the_pack() {
        let usual = Capabilities { reports: true, side_band: true, options: false };
        let first = format!("{ONE} {TWO} refs/heads/a\0 report-status-v2 side-band-64k object-format=sha1 agent=git/2");
        let second = format!("{TWO} {ONE} refs/tags/\u{fc}\n");
        let shallow = format!("shallow {ONE}");
        let mut bytes = lines(&[&shallow, &first, &second]);
        bytes.extend_from_slice(b"PACK");
        check(&bytes, Ok((&["refs/heads/a", "refs/tags/\u{fc}"], usual, b"PACK")));
        check(b"0000", Ok((&[], Capabilities::default(), b"")));
        for end in 0..bytes.len() - 4 {
            check(&bytes[..end], Err(PushError::Incomplete));
        }
    }

    #[test]
    fn options_come_before_the_pack() {
        let first = format!("{ONE} {TWO} refs/heads/a\0push-options");
        let mut bytes = lines(&[&first]);
        check(&bytes, Err(PushError::Incomplete));
        bytes.extend(lines(&["ci.skip", "a=b"]));
        let capabilities = Capabilities { options: true, ..Capabilities::default() };
        check(&bytes, Ok((&["refs/heads/a"], capabilities, b"")));
        assert_eq!(push(&bytes).unwrap().options, 2);
    }

    #[test]
    fn a_word_with_a_value_is_the_same_word() {
        for word in ["push-options=1", "x push-options\n", "agent=x push-options="] {
            let mut bytes = lines(&[&format!("{ONE} {TWO} refs/heads/a\0{word}")]);
            bytes.extend(lines(&["merge_request.create"]));
            assert_eq!(push(&bytes).unwrap().options, 1, "{word}");
        }
    }

    #[test]
    fn what_git_does_not_write_is_not_read() {
        let long = "x".repeat(REF_BYTES_MAX);
        let sha256 = "3".repeat(64);
        for (line, expected) in [
            (format!("{ONE} {TWO}"), PushError::Name),
            (format!("{ONE} {sha256} refs/heads/a"), PushError::Malformed),
            (format!("{ONE}  {TWO} refs/heads/a"), PushError::Malformed),
            (format!("delete {TWO} refs/heads/a"), PushError::Malformed),
            ("shallow x".to_owned(), PushError::Malformed),
            (String::new(), PushError::Malformed),
            ("push-cert\0push-options".to_owned(), PushError::Certificate),
            (format!("{ONE} {TWO} refs/heads/a\n\0"), PushError::Name),
            (format!("shallow {ONE}\0push-options"), PushError::Malformed),
            (format!("{ONE} {TWO} refs/heads/{long}"), PushError::Name),
        ] {
            check(&lines(&[&line]), Err(expected));
        }
        // Words end at a second zero for git, and at white space of other kinds for some servers.
        for between in ["\0", "\t", "\n", "\r", "\u{b}", "\u{c}", "\u{7f}", "\u{a0}"] {
            let line = format!("{ONE} {TWO} refs/heads/a\0 report-status push-options{between} agent=x");
            check(&lines(&[&line]), Err(PushError::Malformed));
        }
        for name in [
            "HEAD",
            "heads/a",
            "refs/heads/../main",
            "refs/heads/a ",
            "refs//a",
            "refs/a/",
            "refs/heads/.a",
            "refs/a.lock",
            "refs/a@{1}",
            "refs/a\u{7f}",
        ] {
            check(&lines(&[&format!("{ONE} {TWO} {name}")]), Err(PushError::Name));
        }
        let twice = format!("{ONE} {TWO} refs/heads/a");
        check(&lines(&[&twice, &twice]), Err(PushError::Twice));
        check(b"0001", Err(PushError::Malformed));
    }

    #[test]
    fn so_many_refs_and_no_more() {
        let line = |number| format!("{ONE} {TWO} refs/heads/{number}");
        let mut all: Vec<String> = (0..COMMANDS_MAX).map(line).collect();
        let bytes = |all: &[String]| lines(&all.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(push(&bytes(&all)).unwrap().commands.len(), COMMANDS_MAX);
        all.push(line(COMMANDS_MAX));
        check(&bytes(&all), Err(PushError::TooMany));
    }
}
