//! Does a ref only move forward? The commits of a pack say it: from the new one there is a way over parents to the old one.
//!
//! A commit's name is the hash of what it holds, its parents among it, so no pack can lie. Commits come first in what git
//! packs; what comes after them is skipped. Where a pack is broken or too long, what was read before counts: a server refuses
//! the broken one, and a way that was found is one.
//!
//! <https://git-scm.com/docs/gitformat-pack>

use std::collections::{HashMap, HashSet};

use flate2::{Decompress, FlushDecompress, Status};

use super::StillWanted;
use super::delta;
use super::object::{Naming, ObjectName};

/// Bytes of the beginning: `PACK`, version, number of objects.
const HEADER_BYTES: usize = 12;
/// Longest commit, or change of one, that is looked at, in bytes.
pub(super) const COMMIT_BYTES_MAX: usize = 1 << 20;
/// What all objects that are looked at or skipped may hold, in bytes.
pub(super) const OBJECTS_BYTES_MAX: usize = 64 << 20;
/// Objects that are looked at or skipped.
pub(super) const OBJECTS_MAX: u32 = 250_000;
/// Changes of objects that stand later in the pack, or not in it, that are kept.
const UNRESOLVED_MAX: usize = 4_096;
/// What is unpacked at once, in bytes.
const UNPACKED_BYTES: usize = 32 << 10;

/// What the first digits of an entry say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Commit,
    /// A tree, a blob or a tag.
    Other,
    /// A change of the entry so many bytes before.
    ChangeBefore(usize),
    /// A change of an object by its name.
    ChangeOf(ObjectName),
}

/// The commits of a pack.
#[derive(Debug, Default)]
pub(super) struct Commits {
    parents: HashMap<ObjectName, Vec<ObjectName>>,
}

impl Commits {
    /// Reads those of a pack, or of the beginning of one, until they show what is `wanted`: ways from new commits to old ones.
    pub(super) fn of(
        pack: &[u8],
        naming: Naming,
        wanted: &[(ObjectName, ObjectName)],
        is_waited_for: StillWanted<'_>,
    ) -> Self {
        let mut reading = Reading::new(pack, naming, is_waited_for);
        reading.read(|commits| wanted.iter().all(|(new, old)| commits.lead(*new, *old, is_waited_for)));
        reading.resolve_later();
        reading.commits
    }

    /// Is there a way from `new` over its parents to `old`?
    pub(super) fn lead(&self, new: ObjectName, old: ObjectName, is_waited_for: StillWanted<'_>) -> bool {
        let (mut seen, mut next) = (HashSet::from([new]), vec![new]);
        while let Some(commit) = next.pop().filter(|_| is_waited_for()) {
            if commit == old {
                return true;
            }
            let parents = self.parents.get(&commit).into_iter().flatten();
            next.extend(parents.filter(|parent| seen.insert(**parent)));
        }
        false
    }
}

/// A pack while it is read.
struct Reading<'a> {
    pack: &'a [u8],
    is_waited_for: StillWanted<'a>,
    naming: Naming,
    /// Where the next entry begins.
    at: usize,
    /// Bytes that objects may still hold: those that stand in the pack, and those that are made of changes.
    left: usize,
    commits: Commits,
    /// What commits hold, for changes of them.
    contents: HashMap<ObjectName, Vec<u8>>,
    /// Which commit stands where.
    places: HashMap<usize, ObjectName>,
    /// Changes whose object has not been seen.
    unresolved: Vec<(ObjectName, Vec<u8>)>,
    decoder: Decompress,
    buffer: Vec<u8>,
}

impl<'a> Reading<'a> {
    fn new(pack: &'a [u8], naming: Naming, is_waited_for: StillWanted<'a>) -> Self {
        Self {
            pack,
            is_waited_for,
            naming,
            at: HEADER_BYTES,
            left: OBJECTS_BYTES_MAX,
            commits: Commits::default(),
            contents: HashMap::new(),
            places: HashMap::new(),
            unresolved: Vec::new(),
            decoder: Decompress::new(true),
            buffer: vec![0; UNPACKED_BYTES],
        }
    }

    fn read(&mut self, is_enough: impl Fn(&Commits) -> bool) {
        let header = self.pack.first_chunk::<HEADER_BYTES>();
        let Some([b'P', b'A', b'C', b'K', 0, 0, 0, 2 | 3, count @ ..]) = header else { return };
        let mut are_first = true;
        for _ in 0..u32::from_be_bytes(*count).min(OBJECTS_MAX) {
            let Some(kind) = self.read_entry() else { return };
            if are_first && kind == Kind::Other {
                // Where git has packed, no commit follows.
                are_first = false;
                if is_enough(&self.commits) {
                    return;
                }
            }
        }
    }

    /// Takes the next entry; `None` where nothing more can be read.
    fn read_entry(&mut self) -> Option<Kind> {
        let start = self.at;
        let (kind, length) = self.read_head()?;
        self.left = self.left.checked_sub(length)?;
        if kind == Kind::Other || length > COMMIT_BYTES_MAX {
            self.unpack(length, None)?;
            return Some(kind);
        }
        let content = self.inflate(length)?;
        match kind {
            Kind::Commit => self.commit(Some(start), content),
            Kind::ChangeBefore(before) => {
                // What is changed is no commit where there is none.
                let base = start.checked_sub(before).and_then(|place| self.places.get(&place)).copied();
                if let Some(base) = base {
                    self.change(Some(start), base, &content);
                }
            }
            Kind::ChangeOf(base) => {
                if !self.change(Some(start), base, &content) && self.unresolved.len() < UNRESOLVED_MAX {
                    self.unresolved.push((base, content));
                }
            }
            Kind::Other => {}
        }
        Some(kind)
    }

    /// Kind and length of the entry, and what it is a change of.
    fn read_head(&mut self) -> Option<(Kind, usize)> {
        let first = self.byte()?;
        let (mut length, mut shift, mut more) = (usize::from(first & 0x0f), 4, first & 0x80 != 0);
        while more {
            let byte = self.byte()?;
            length |= usize::from(byte & 0x7f).checked_shl(shift).filter(|_| shift < 32)?;
            (shift, more) = (shift + 7, byte & 0x80 != 0);
        }
        let kind = match first >> 4 & 7 {
            1 => Kind::Commit,
            2..=4 => Kind::Other,
            6 => Kind::ChangeBefore(self.read_distance()?),
            7 => {
                let name = self.pack.get(self.at..self.at + self.naming.bytes())?;
                self.at += name.len();
                Kind::ChangeOf(ObjectName::of_bytes(self.naming, name)?)
            }
            _ => return None,
        };
        Some((kind, length))
    }

    fn read_distance(&mut self) -> Option<usize> {
        let mut byte = self.byte()?;
        let mut distance = usize::from(byte & 0x7f);
        while byte & 0x80 != 0 {
            byte = self.byte()?;
            distance = distance.checked_add(1)?.checked_mul(128)? | usize::from(byte & 0x7f);
        }
        Some(distance)
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.pack.get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    /// What the entry holds: exactly so many bytes.
    fn inflate(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut content = Vec::with_capacity(length);
        self.unpack(length, Some(&mut content))?;
        Some(content)
    }

    fn unpack(&mut self, length: usize, mut into: Option<&mut Vec<u8>>) -> Option<()> {
        self.decoder.reset(true);
        while (self.is_waited_for)() {
            let packed = self.pack.get(self.at..)?;
            let (read_before, written_before) = (self.decoder.total_in(), self.decoder.total_out());
            let status = self.decoder.decompress(packed, &mut self.buffer, FlushDecompress::None).ok()?;
            let read = usize::try_from(self.decoder.total_in() - read_before).ok()?;
            let written = usize::try_from(self.decoder.total_out() - written_before).ok()?;
            self.at += read;
            if let Some(content) = &mut into {
                content.extend_from_slice(self.buffer.get(..written)?);
            }
            let total = usize::try_from(self.decoder.total_out()).ok()?;
            if status == Status::StreamEnd {
                return (total == length).then_some(());
            }
            if total > length || (read == 0 && written == 0) {
                return None;
            }
        }
        None
    }

    /// Takes what comes of changing a commit, if that is one. `false` where `base` is not known to be a commit.
    fn change(&mut self, place: Option<usize>, base: ObjectName, change: &[u8]) -> bool {
        let Some(content) = self.contents.get(&base) else { return false };
        // Making and hashing it is work, whatever it turns out to be.
        let bytes = delta::length(change).unwrap_or_default();
        let has_room = bytes <= self.left;
        self.left = self.left.saturating_sub(bytes);
        if has_room && let Some(changed) = delta::apply(content, change, COMMIT_BYTES_MAX) {
            self.commit(place, changed);
        }
        true
    }

    fn commit(&mut self, place: Option<usize>, content: Vec<u8>) {
        let Some(parents) = parents(&content) else { return };
        let Some(name) = ObjectName::of_commit(self.naming, &content) else { return };
        self.commits.parents.insert(name, parents);
        self.contents.insert(name, content);
        self.places.extend(place.map(|place| (place, name)));
    }

    /// Changes may stand before what they change.
    fn resolve_later(&mut self) {
        loop {
            let unresolved = std::mem::take(&mut self.unresolved);
            let before = unresolved.len();
            for (base, change) in unresolved {
                if !self.change(None, base, &change) {
                    self.unresolved.push((base, change));
                }
            }
            if self.unresolved.len() == before || !(self.is_waited_for)() {
                return;
            }
        }
    }
}

/// The parents that a commit names.
fn parents(commit: &[u8]) -> Option<Vec<ObjectName>> {
    let mut lines = commit.split(|byte| *byte == b'\n');
    ObjectName::of_digits(lines.next()?.strip_prefix(b"tree ")?)?;
    lines.map_while(|line| line.strip_prefix(b"parent ")).map(ObjectName::of_digits).collect()
}
