//! What must hold for any bytes, as functions of bytes: fuzzers look for some that break it (`cargo xtask fuzz git`), and a test
//! runs what they found before (`tests/fuzz/corpus`).

use super::object::{Naming, ObjectName};
use super::pack::Commits;
use super::pkt_line::{Packet, packet};
use super::push::push;
use super::*;

/// A target's name, which is that of its corpus, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 3] = [("git_push", git_push), ("git_pack", git_pack), ("git_request", git_request)];

/// A push passes only when every server that reads it finds in it nothing but refs of the pattern; one that is refused is
/// answered in lines that git can read. The first byte says how the rest is encoded.
pub fn git_push(data: &[u8]) {
    let Some((first, sent)) = data.split_first() else { return };
    let patterns: Vec<RefPattern> = ["refs/heads/bottle/*"].iter().filter_map(|pattern| pattern.parse().ok()).collect();
    let terms = GitTerms { fetch: false, push: &patterns };
    let encoding = (first & 1 != 0).then_some("gzip");
    let sent = Sent { encoding, bytes: sent, is_whole: first & 2 == 0 };
    match body(GitRequest::Push, terms, "example.com/r", sent, &|| true) {
        Ok(()) => {
            let bytes = unpacked(encoding, sent.bytes).unwrap_or_default();
            let Ok(push) = push(&bytes) else { panic!("what passes can be read") };
            for command in &push.commands {
                assert!(command.name.starts_with("refs/heads/bottle/") && !command.name.contains(".."));
                assert!(!command.new.is_none());
            }
        }
        Err(refused) if refused.answer.status == 200 => assert!(ends_with_flush(&refused.answer.body)),
        Err(refused) => assert_eq!(refused.answer.status, 403),
    }
}

fn ends_with_flush(mut bytes: &[u8]) -> bool {
    loop {
        match packet(bytes) {
            Ok((Packet::Flush, rest)) => return rest.is_empty(),
            Ok((Packet::Line(_), rest)) => bytes = rest,
            Err(_) => return false,
        }
    }
}

/// No pack makes its reader fail, and none leads anywhere but along its commits: an object nobody sent is reached from itself
/// alone.
pub fn git_pack(data: &[u8]) {
    for naming in [Naming::Sha1, Naming::Sha256] {
        let commits = Commits::of(data, naming, &[], &|| true);
        let nobody = ObjectName::of_bytes(naming, &vec![0xab; naming.bytes()]);
        if let Some((nobody, other)) = nobody.zip(ObjectName::of_commit(naming, data)) {
            assert!(commits.lead(nobody, nobody, &|| true) && !commits.lead(nobody, other, &|| true));
        }
    }
}

/// What a request is does not depend on how its path is written.
pub fn git_request(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (path, query) = text.split_once('?').map_or((&*text, None), |(path, query)| (path, Some(query)));
    if path.contains('%') {
        return;
    }
    for method in ["GET", "POST", "PROPFIND"] {
        let plain = GitRequest::of(method, path, query, None);
        let encoded: String = path.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(plain, GitRequest::of(method, &encoded, query, None));
        assert_eq!(plain, GitRequest::of(method, &format!("/x/..//{path}/"), query, None));
    }
    assert!(GitRequest::of_batch(data).is_lfs());
}
