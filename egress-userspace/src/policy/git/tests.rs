//! Pushes as git writes them, and as those would write them who want more than they may have.

use std::cell::Cell;
use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use proptest::prelude::*;

use super::object::{Naming, ObjectName};
use super::pack::{COMMIT_BYTES_MAX, OBJECTS_BYTES_MAX, OBJECTS_MAX};
use super::pkt_line::{FLUSH, append};
use super::*;

const PLACE: &str = "git.example.com/r.git";
const REF: &str = "refs/heads/bottle/x";
const NONE: &str = "0000000000000000000000000000000000000000";

/// A commit and what it is called.
#[derive(Clone, Debug)]
struct Commit {
    content: Vec<u8>,
    name: String,
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn commit(parents: &[&Commit], message: &str) -> Commit {
    let parents: String = parents.iter().map(|parent| format!("parent {}\n", parent.name)).collect();
    let tree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
    let content = format!("tree {tree}\n{parents}author A <a@b> 0 +0000\ncommitter A <a@b> 0 +0000\n\n{message}\n");
    let hashed = format!("commit {}\0{content}", content.len());
    let name = digits(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, hashed.as_bytes()).as_ref());
    Commit { content: content.into_bytes(), name }
}

/// An entry of a pack: its kind, what comes between head and content, and the content.
type Entry = (u8, Vec<u8>, Vec<u8>);

fn whole(commit: &Commit) -> Entry {
    (1, Vec::new(), commit.content.clone())
}

fn blob(bytes: usize) -> Entry {
    (3, Vec::new(), vec![b'x'; bytes])
}

/// Seven bits a byte, the lowest first.
fn size(mut size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while size > 0x7f {
        bytes.push(u8::try_from(size & 0x7f).unwrap() | 0x80);
        size >>= 7;
    }
    bytes.push(u8::try_from(size).unwrap());
    bytes
}

/// A change that inserts all that it makes.
fn change(base: &Commit, to: &Commit) -> Vec<u8> {
    let pieces = to.content.chunks(0x7f).flat_map(|piece| [&[u8::try_from(piece.len()).unwrap()], piece].concat());
    [size(base.content.len()), size(to.content.len()), pieces.collect()].concat()
}

fn change_of(base: &Commit, to: &Commit) -> Entry {
    (7, name_bytes(base), change(base, to))
}

/// All of a commit behind a letter with which none begins, in few bytes.
fn spoilt(base: &Commit) -> Entry {
    let bytes = base.content.len();
    let [low, middle, high, ..] = bytes.to_le_bytes();
    let copy_all = [1, b'x', 0xff, 0, 0, 0, 0, low, middle, high];
    (7, name_bytes(base), [size(bytes).as_slice(), &size(bytes + 1), &copy_all].concat())
}

fn name_bytes(commit: &Commit) -> Vec<u8> {
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    commit.name.as_bytes().chunks(2).map(byte).collect()
}

fn head(kind: u8, mut length: usize) -> Vec<u8> {
    let mut bytes = vec![kind << 4 | u8::try_from(length & 0x0f).unwrap()];
    length >>= 4;
    while length > 0 {
        *bytes.last_mut().unwrap() |= 0x80;
        bytes.push(u8::try_from(length & 0x7f).unwrap());
        length >>= 7;
    }
    bytes
}

fn entry((kind, between, content): &Entry) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    packed.write_all(content).unwrap();
    [head(*kind, content.len()), between.clone(), packed.finish().unwrap()].concat()
}

fn pack(entries: &[Entry]) -> Vec<u8> {
    let count = u32::try_from(entries.len()).unwrap().to_be_bytes();
    let entries: Vec<u8> = entries.iter().flat_map(entry).collect();
    // A server looks at the hash at the end.
    [b"PACK\0\0\0\x02".as_slice(), &count, &entries, &[0; 20]].concat()
}

fn request(commands: &[(&str, &str, &str)], pack: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, (old, new, name)) in commands.iter().enumerate() {
        let words = if number == 0 { "\0 report-status side-band-64k" } else { "" };
        append(&mut bytes, format!("{old} {new} {name}{words}").as_bytes());
    }
    bytes.extend_from_slice(FLUSH);
    bytes.extend_from_slice(pack);
    bytes
}

fn judged(encoding: Option<&str>, sent: &[u8]) -> Result<(), String> {
    let patterns = ["refs/heads/bottle/*".parse().unwrap()];
    let terms = GitTerms { fetch: false, push: &patterns };
    let refused = body(GitRequest::Push, terms, PLACE, Sent { encoding, bytes: sent, is_whole: true }, &|| true);
    refused.map_err(|refused| String::from_utf8_lossy(&refused.answer.body).into_owned())
}

/// Part of what git is told of each ref, or `None` where the push passes.
fn check(sent: &[u8], expected: Option<&[&str]>) {
    let found = judged(None, sent);
    let Some(parts) = expected else { return assert_eq!(found, Ok(())) };
    let answer = found.unwrap_err();
    for part in parts {
        assert!(answer.contains(part), "{part:?} is not in {answer:?}");
    }
}

#[test]
fn refs_of_the_pattern_may_be_made() {
    let first = commit(&[], "first");
    let packed = pack(&[whole(&first)]);
    check(&request(&[(NONE, &first.name, REF)], &packed), None);
    // What the server has already need not be sent.
    check(&request(&[(NONE, &first.name, REF)], &pack(&[])), None);
    check(b"0000", None);
    for name in ["refs/heads/main", "refs/tags/bottle/x", "refs/heads/bottle", "refs/heads/Bottle/x"] {
        let why = format!("ng {name} egress: only refs/heads/bottle/* may be pushed to");
        check(&request(&[(NONE, &first.name, name)], &packed), Some(&[&why]));
    }
}

#[test]
fn one_ref_that_may_not_be_pushed_stops_all() {
    let first = commit(&[], "first");
    let sent = request(&[(NONE, &first.name, REF), (NONE, &first.name, "refs/heads/main")], &pack(&[whole(&first)]));
    check(
        &sent,
        Some(&[
            "this push to git.example.com/r.git is refused: refs/heads/main: only",
            "ng refs/heads/bottle/x egress: not pushed, because refs/heads/main is refused\n",
            "ng refs/heads/main egress: only refs/heads/bottle/* may be pushed to\n",
        ]),
    );
}

#[test]
fn nothing_is_deleted_and_nothing_but_a_push_is_read() {
    let first = commit(&[], "first");
    check(&request(&[(&first.name, NONE, REF)], b""), Some(&["ng refs/heads/bottle/x egress: refs are not deleted"]));
    check(&request(&[], b"PACK"), Some(&["it says of no ref"]));
    check(b"zzzz", Some(&["its list of refs is malformed"]));
    check(b"", Some(&["its list of refs does not end"]));
    let mut options = Vec::new();
    append(&mut options, format!("{NONE} {} {REF}\0report-status push-options", first.name).as_bytes());
    options.extend_from_slice(b"0000000bci.skip0000");
    check(&options, Some(&["it has options"]));
    // Git reads words up to a second zero, and options after them.
    let mut hidden = Vec::new();
    append(&mut hidden, format!("{NONE} {} {REF}\0 report-status push-options\0", first.name).as_bytes());
    hidden.extend_from_slice(b"0000");
    append(&mut hidden, b"merge_request.create");
    hidden.extend_from_slice(&[FLUSH, &pack(&[whole(&first)])].concat());
    check(&hidden, Some(&["its list of refs is malformed"]));
}

#[test]
fn a_ref_moves_forward_only() {
    let old = commit(&[], "old");
    let next = commit(&[&old], "next");
    let side = commit(&[], "side");
    let merge = commit(&[&side, &next], "merge");
    let last = commit(&[&merge], "last");
    let moves = |old: &Commit, new: &Commit, entries: &[Entry]| request(&[(&old.name, &new.name, REF)], &pack(entries));
    let refused = Some(["ng refs/heads/bottle/x egress: the push does not show that no commit is lost"].as_slice());
    check(&moves(&old, &next, &[whole(&next)]), None);
    check(&moves(&old, &last, &[whole(&last), whole(&merge), blob(9), whole(&side), whole(&next)]), None);
    check(&moves(&old, &old, &[]), None);
    check(&moves(&next, &old, &[whole(&old)]), refused);
    check(&moves(&old, &side, &[whole(&side), whole(&next)]), refused);
    check(&moves(&old, &last, &[whole(&last), whole(&merge), whole(&side)]), refused);
    check(&moves(&old, &next, &[]), refused);
    // One that calls itself a parent's child only in its message is none.
    let liar = commit(&[], &format!("parent {}", old.name));
    check(&moves(&old, &liar, &[whole(&liar)]), refused);
    // A blob with a commit's content is none, either.
    check(&moves(&old, &next, &[(3, Vec::new(), next.content.clone())]), refused);
}

#[test]
fn commits_may_be_changes_of_others() {
    let old = commit(&[], "old");
    let long: Vec<String> = (0..60).map(|number| (number * number).to_string()).collect();
    let next = commit(&[&old], &long.join(" "));
    let last = commit(&[&next], &"last ".repeat(60));
    let moves = |entries: &[Entry]| request(&[(&old.name, &last.name, REF)], &pack(entries));
    let refused = Some(["the push does not show that no commit is lost"].as_slice());
    check(&moves(&[whole(&next), change_of(&next, &last)]), None);
    check(&moves(&[change_of(&next, &last), whole(&next)]), None);
    let first = whole(&next);
    let distance = entry(&first).len();
    assert!((0x80..0x4000).contains(&distance));
    let far = distance - 0x80;
    let before = vec![u8::try_from(far >> 7).unwrap() | 0x80, u8::try_from(far & 0x7f).unwrap()];
    check(&moves(&[first.clone(), (6, before.clone(), change(&next, &last))]), None);
    check(&moves(&[first, blob(3), (6, before, change(&next, &last))]), refused);
    // Of what is not there nothing can be said.
    check(&moves(&[change_of(&old, &next), whole(&last)]), refused);
}

#[test]
fn commits_that_follow_what_is_too_long_are_not_seen() {
    let old = commit(&[], "old");
    let next = commit(&[&old], "next");
    let moves = |entries: &[Entry]| request(&[(&old.name, &next.name, REF)], &pack(entries));
    check(&moves(&[blob(OBJECTS_BYTES_MAX - next.content.len() * 2), whole(&next)]), None);
    check(&moves(&[blob(OBJECTS_BYTES_MAX), whole(&next)]), Some(&["does not show"]));
    let longest = commit(&[&old], &"x".repeat(COMMIT_BYTES_MAX - next.content.len() + "next".len()));
    assert_eq!(longest.content.len(), COMMIT_BYTES_MAX);
    let longer = commit(&[&old], &"x".repeat(COMMIT_BYTES_MAX));
    check(&request(&[(&old.name, &longest.name, REF)], &pack(&[whole(&longest)])), None);
    check(&request(&[(&old.name, &longer.name, REF)], &pack(&[whole(&longer)])), Some(&["does not show"]));
}

#[test]
fn what_is_made_of_changes_is_as_much_work_be_it_a_commit_or_not() {
    let old = commit(&[], "old");
    let long = commit(&[&old], &"x".repeat(COMMIT_BYTES_MAX - 1024));
    let next = commit(&[&old], "next");
    let packed_change = entry(&spoilt(&long));
    let after = |changes: usize| {
        let count = u32::try_from(changes + 2).unwrap().to_be_bytes();
        let entries = [entry(&whole(&long)), packed_change.repeat(changes), entry(&whole(&next))].concat();
        request(&[(&old.name, &next.name, REF)], &[b"PACK\0\0\0\x02".as_slice(), &count, &entries].concat())
    };
    check(&after(8), None);
    check(&after(OBJECTS_BYTES_MAX / long.content.len()), Some(&["does not show"]));
}

#[test]
fn nothing_is_looked_at_for_nobody_and_nothing_is_allowed_so() {
    let old = commit(&[], "old");
    let next = commit(&[&old], "next");
    let looked_at = |moves: &[(&str, &str, &str)], packed: &[u8], patience: usize| {
        let (sent, asked) = (request(moves, packed), Cell::new(0));
        let is_waited_for = || asked.replace(asked.get() + 1) < patience;
        let patterns = ["refs/heads/bottle/*".parse().unwrap()];
        let terms = GitTerms { fetch: false, push: &patterns };
        let sent = Sent { encoding: None, bytes: &sent, is_whole: true };
        let passes = body(GitRequest::Push, terms, PLACE, sent, &is_waited_for).is_ok();
        (passes, asked.get())
    };
    let moves = [(old.name.as_str(), next.name.as_str(), REF)];
    let entries = [vec![whole(&next)], vec![blob(3); 10_000]].concat();
    assert!(looked_at(&moves, &pack(&entries), usize::MAX).0);
    for patience in [0, 1, 2] {
        let (passes, asked) = looked_at(&moves, &pack(&entries), patience);
        assert!(!passes && asked < patience + 5, "{asked}");
    }
    // Ways are as long as histories.
    let mut history = vec![old.clone()];
    (0..2_000).for_each(|number| history.push(commit(&[&history[number]], "next")));
    let last = history.last().unwrap();
    let packed = pack(&history.iter().skip(1).map(whole).collect::<Vec<_>>());
    let (passes, all) = looked_at(&[(&old.name, &last.name, REF)], &packed, usize::MAX);
    assert!(passes && all > 4_000, "{all}");
    let (passes, asked) = looked_at(&[(&old.name, &last.name, REF)], &packed, 3_000);
    assert!(!passes && asked < 3_005, "{asked}");
}

#[test]
fn so_many_refs_move_in_one_push_and_so_many_objects_are_looked_at() {
    let old = commit(&[], "old");
    let next = commit(&[&old], "next");
    let names: Vec<String> = (0..=MOVES_MAX).map(|number| format!("refs/heads/bottle/{number}")).collect();
    let moves: Vec<_> = names.iter().map(|name| (old.name.as_str(), next.name.as_str(), name.as_str())).collect();
    let packed = pack(&[whole(&next)]);
    check(&request(&moves[..MOVES_MAX], &packed), None);
    check(&request(&moves, &packed), Some(&["it moves more than 50 refs"]));
    let small = entry(&blob(0));
    let long = |before: u32| {
        let count = (before + 1).to_be_bytes();
        let before = small.repeat(usize::try_from(before).unwrap());
        [b"PACK\0\0\0\x02".as_slice(), &count, &before, &entry(&whole(&next))].concat()
    };
    check(&request(&moves[..1], &long(OBJECTS_MAX - 1)), None);
    check(&request(&moves[..1], &long(OBJECTS_MAX)), Some(&["does not show"]));
}

#[test]
fn repositories_named_by_sha_256_are_read_alike() {
    let old = "1".repeat(64);
    let content = format!("tree {old}\nparent {old}\nauthor A <a@b> 0 +0000\ncommitter A <a@b> 0 +0000\n\nx\n");
    assert!(ObjectName::of_commit(Naming::Sha256, content.as_bytes()).is_some());
    let hashed = format!("commit {}\0{content}", content.len());
    let new = digits(ring::digest::digest(&ring::digest::SHA256, hashed.as_bytes()).as_ref());
    let packed = pack(&[(1, Vec::new(), content.into_bytes())]);
    check(&request(&[(&old, &new, REF)], &packed), None);
    check(&request(&[(&"2".repeat(64), &new, REF)], &packed), Some(&["does not show"]));
}

#[test]
fn what_is_compressed_is_read_as_git_reads_it() {
    let gzip = |bytes: &[u8]| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    };
    let first = commit(&[], "first");
    let (mine, main) = ([(NONE, first.name.as_str(), REF)], [(NONE, first.name.as_str(), "refs/heads/main")]);
    for encoding in ["gzip", "x-gzip", "GZip"] {
        assert_eq!(judged(Some(encoding), &gzip(&request(&mine, b""))), Ok(()));
        assert!(judged(Some(encoding), &gzip(&request(&main, b""))).is_err());
    }
    // What follows the first piece is read by some servers, and not by git.
    let both = request(&[mine[0], main[0]], b"");
    let (early, late) = both.split_at(120);
    assert!(judged(Some("gzip"), &[gzip(early), gzip(late)].concat()).is_err());
    for encoding in ["deflate", "br", "gzip, gzip"] {
        assert!(judged(Some(encoding), &request(&mine, b"")).unwrap_err().contains("encoded in a way"), "{encoding}");
    }
    assert_eq!(judged(Some("identity"), &request(&mine, b"")), Ok(()));
}

#[test]
fn routes_say_what_may_be_done_at_all() {
    let patterns = ["refs/heads/bottle/*".parse().unwrap()];
    let all = [
        GitRequest::Look,
        GitRequest::Fetch,
        GitRequest::LfsLook,
        GitRequest::LookToPush,
        GitRequest::Push,
        GitRequest::LfsWrite,
        GitRequest::LfsBatch,
        GitRequest::Write,
    ];
    let check = |fetch, push: &[RefPattern], expected: &[GitRequest]| {
        let passes = |request: &GitRequest| super::head(*request, GitTerms { fetch, push }, PLACE).is_ok();
        assert_eq!(all.into_iter().filter(passes).collect::<Vec<_>>(), expected);
    };
    check(false, &[], &[]);
    check(true, &[], &[GitRequest::Look, GitRequest::Fetch, GitRequest::LfsLook, GitRequest::LfsBatch]);
    check(false, &patterns, &[GitRequest::LookToPush, GitRequest::Push, GitRequest::LfsWrite, GitRequest::LfsBatch]);
    let batch = |fetch, push, operation: &str, is_whole| {
        let sent = format!("{{\"operation\":\"{operation}\"}}");
        let sent = Sent { encoding: None, bytes: sent.as_bytes(), is_whole };
        body(GitRequest::LfsBatch, GitTerms { fetch, push }, PLACE, sent, &|| true).is_ok()
    };
    assert!(
        batch(true, &[], "download", true) && !batch(true, &[], "upload", true) && !batch(true, &[], "download", false)
    );
    assert!(batch(false, &patterns, "upload", true) && !batch(false, &patterns, "download", true));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A history in which each commit has parents among those before it: a ref moves to where there is a way, and nowhere else,
    /// in whatever order the commits come.
    #[test]
    fn a_way_is_found_where_there_is_one(
        history in prop::collection::vec(prop::collection::vec(0..64usize, 0..3), 2..12),
        (old, new) in (0..64usize, 0..64usize),
        order in any::<u64>(),
    ) {
        let (mut commits, mut below): (Vec<Commit>, Vec<u64>) = (Vec::new(), Vec::new());
        for (number, parents) in history.iter().enumerate() {
            let parents: Vec<usize> = parents.iter().filter(|_| number > 0).map(|parent| parent % number.max(1)).collect();
            let named: Vec<&Commit> = parents.iter().map(|parent| &commits[*parent]).collect();
            let made = commit(&named, &number.to_string());
            below.push(parents.iter().fold(1 << number, |all, parent| all | below[*parent]));
            commits.push(made);
        }
        let (old, new) = (old % commits.len(), new % commits.len());
        let mut entries: Vec<(u64, Entry)> =
            commits.iter().enumerate().map(|(number, commit)| (order.rotate_left(u32::try_from(number).unwrap() * 7), whole(commit))).collect();
        entries.sort();
        let entries: Vec<Entry> = entries.into_iter().map(|(_, entry)| entry).collect();
        let sent = request(&[(&commits[old].name, &commits[new].name, REF)], &pack(&entries));
        prop_assert_eq!(judged(None, &sent).is_ok(), below[new] & (1 << old) != 0);
    }

    #[test]
    fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for (_, target) in fuzz::TARGETS {
            target(&bytes);
        }
    }
}

#[test]
fn what_fuzzing_began_with_and_found_holds() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    for (name, target) in fuzz::TARGETS {
        let inputs: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(inputs.len() >= 5, "{name} has {} inputs", inputs.len());
        for input in inputs {
            target(&std::fs::read(&input).unwrap());
        }
    }
}
