//! Which requests are git's: over smart HTTP, over plain files, over WebDAV, and those of Git LFS.
//!
//! <https://git-scm.com/docs/gitprotocol-http>, <https://github.com/git-lfs/git-lfs/tree/main/docs/api>. Any path may be a
//! repository's, so it is the end that tells, read as servers of all kinds read it.

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::super::percent;

/// How often a path may be encoded over itself.
const ENCODINGS_MAX: usize = 3;
/// Media types that only git uses, and what their requests are.
const PUSH_TYPE: &str = "application/x-git-receive-pack-request";
const FETCH_TYPE: &str = "application/x-git-upload-pack-request";
const LFS_TYPE: &str = "application/vnd.git-lfs+json";

/// What a request asks of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GitRequest {
    /// Its refs, or one of its files, to fetch.
    Look,
    /// Its objects.
    Fetch,
    /// Its refs, to push.
    LookToPush,
    /// That refs be moved: the body says which.
    Push,
    /// To be written to file by file, or in a way that can be read in two ways.
    Write,
    /// Where large files are to be had, or to be put: the body says which.
    LfsBatch,
    /// Locks of large files, to be read.
    LfsLook,
    /// Large files or locks, to be written.
    LfsWrite,
}

impl GitRequest {
    /// What a request is, if it is git's.
    #[must_use]
    pub fn of(method: &str, path: &str, query: Option<&str>, content_type: Option<&str>) -> Option<Self> {
        let pieces = pieces(path);
        let mut end: Vec<&str> = pieces.iter().rev().map(String::as_str).collect();
        end.extend([""; 3]);
        let is_read = matches!(method, "GET" | "HEAD");
        let content_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let is_type = |name: &str| content_type.eq_ignore_ascii_case(name);
        if let Some(lfs) = lfs(&pieces, is_read, is_type(LFS_TYPE)) {
            return Some(lfs);
        }
        match end.as_slice() {
            ["git-receive-pack", ..] => return Some(Self::Push),
            ["git-upload-pack" | "git-upload-archive", ..] => return Some(Self::Fetch),
            ["refs", "info", ..] if is_read => return Some(by_service(query)),
            _ if is_type(PUSH_TYPE) => return Some(Self::Push),
            _ if is_type(FETCH_TYPE) => return Some(Self::Fetch),
            _ => {}
        }
        is_file(&end).then_some(if is_read { Self::Look } else { Self::Write })
    }

    /// Does it change anything, should it be let through?
    #[must_use]
    pub fn is_push(self) -> bool {
        match self {
            Self::LookToPush | Self::Push | Self::Write | Self::LfsWrite => true,
            Self::Look | Self::Fetch | Self::LfsBatch | Self::LfsLook => false,
        }
    }

    /// Does only its body say whether it may pass?
    #[must_use]
    pub fn is_in_body(self) -> bool {
        matches!(self, Self::Push | Self::LfsBatch)
    }

    /// Is it about large files?
    #[must_use]
    pub fn is_lfs(self) -> bool {
        matches!(self, Self::LfsBatch | Self::LfsLook | Self::LfsWrite)
    }

    /// The same once all of the body of a batch is known, as it was sent.
    #[must_use]
    pub fn of_batch(body: &[u8]) -> Self {
        let operation: Option<Operations> = serde_json::from_slice(body).ok();
        match operation {
            Some(Operations { downloads: 1, others: 0 }) => Self::LfsLook,
            _ => Self::LfsWrite,
        }
    }
}

/// The pieces of a path as a server finds its files by it, in lower case.
fn pieces(path: &str) -> Vec<String> {
    let mut path = path.to_owned();
    for _ in 0..ENCODINGS_MAX {
        path = percent::decode(&path);
    }
    let mut pieces: Vec<String> = Vec::new();
    for piece in path.to_ascii_lowercase().split(['/', '\\']) {
        match piece.split(';').next().unwrap_or_default().trim() {
            "" | "." => {}
            ".." => drop(pieces.pop()),
            piece => pieces.push(piece.to_owned()),
        }
    }
    pieces
}

/// What the refs are asked for; that both are named at once is nobody's usual way.
fn by_service(query: Option<&str>) -> GitRequest {
    let is_service = |piece: &&str| {
        let name = piece.split_once('=').map_or(*piece, |(name, _)| name);
        percent::decode(name).trim().eq_ignore_ascii_case("service")
    };
    let services: Vec<&str> = query.unwrap_or_default().split(['&', ';']).filter(is_service).collect();
    let of = |service: &str| percent::decode(service).to_ascii_lowercase().contains("receive-pack");
    match (services.len(), services.into_iter().any(of)) {
        (_, false) => GitRequest::Look,
        (1, true) => GitRequest::LookToPush,
        _ => GitRequest::Write,
    }
}

fn lfs(pieces: &[String], is_read: bool, is_lfs_type: bool) -> Option<GitRequest> {
    let of_lfs = pieces.windows(2).rposition(|pair| pair == ["info", "lfs"]);
    let after = match of_lfs {
        Some(at) => pieces.get(at + 2..)?,
        None if is_lfs_type => {
            pieces.get(pieces.iter().rposition(|piece| piece == "objects" || piece == "locks")?..)?
        }
        None => return None,
    };
    let after: Vec<&str> = after.iter().map(String::as_str).collect();
    Some(match after.as_slice() {
        ["objects", "batch"] => GitRequest::LfsBatch,
        _ if is_read => GitRequest::LfsLook,
        _ => GitRequest::LfsWrite,
    })
}

/// Is it a file that a repository has, with its last piece first?
fn is_file(end: &[&str]) -> bool {
    let is_hex = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match end {
        ["refs", "info", ..] | ["packs" | "alternates" | "http-alternates", "info", "objects", ..] => true,
        ["head" | "packed-refs" | "config", repository, ..] => repository.ends_with(".git"),
        [pack, "pack", "objects", ..] => pack.starts_with("pack-"),
        [rest, first, "objects", ..] if is_hex(first, 2) => is_hex(rest, 38) || is_hex(rest, 62),
        // Files of refs, which only repositories that are called so are known to have.
        pieces => pieces.windows(2).any(|pair| matches!(pair, ["refs", repository] if repository.ends_with(".git"))),
    }
}

/// How often a batch says what it is; some servers tell no capitals from small letters.
#[derive(Default)]
struct Operations {
    downloads: usize,
    others: usize,
}

impl<'de> Deserialize<'de> for Operations {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self::default())
    }
}

impl<'de> Visitor<'de> for Operations {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a batch of Git LFS")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if !key.eq_ignore_ascii_case("operation") {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let is_download = map.next_value::<String>()? == "download";
            *(if is_download { &mut self.downloads } else { &mut self.others }) += 1;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::GitRequest::{Fetch, LfsBatch, LfsLook, LfsWrite, Look, LookToPush, Push, Write};
    use super::*;

    fn check(line: &str, expected: Option<GitRequest>) {
        let (method, target) = line.split_once(' ').unwrap();
        let (target, content_type) =
            target.split_once(' ').map_or((target, None), |(target, kind)| (target, Some(kind)));
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        assert_eq!(GitRequest::of(method, path, query, content_type), expected, "{line}");
    }

    #[test]
    fn the_smart_protocol_is_known_by_the_end_of_the_path() {
        check("GET /o/r.git/info/refs?service=git-upload-pack", Some(Look));
        check("GET /o/r/info/refs?service=git-receive-pack", Some(LookToPush));
        check("POST /o/r/git-upload-pack", Some(Fetch));
        check("POST /git-receive-pack", Some(Push));
        check("POST /r/git-upload-archive", Some(Fetch));
        check("POST /x application/x-git-receive-pack-request", Some(Push));
        check("POST /x application/x-git-upload-pack-request; charset=x", Some(Fetch));
    }

    #[test]
    fn however_it_is_written() {
        check("POST /r/git%2Dreceive-pack", Some(Push));
        check("POST /r/git%252dreceive-pack/", Some(Push));
        check("POST //r//x/..//GIT-Receive-Pack;a=b", Some(Push));
        check("PUT /r%2fgit-receive-pack", Some(Push));
        check("GET /r/info%2frefs?a&service=git%2Dreceive-pack", Some(LookToPush));
        check("GET /r/info/./refs?Service=git-receive-pack", Some(LookToPush));
        check("GET /r/info/refs?service=git-receive-pack&service=git-upload-pack", Some(Write));
        check("GET /r/info/refs?xservice=git-receive-pack", Some(Look));
    }

    #[test]
    fn so_are_plain_files_and_what_writes_them() {
        check("GET /r.git/info/refs", Some(Look));
        check("HEAD /r.git/HEAD", Some(Look));
        check("GET /r/objects/info/packs", Some(Look));
        check(&format!("GET /r/objects/pack/pack-{}.pack", "a".repeat(40)), Some(Look));
        check(&format!("GET /r/objects/ab/{}", "c".repeat(38)), Some(Look));
        check(&format!("PUT /r/objects/ab/{}", "c".repeat(38)), Some(Write));
        check("LOCK /r.git/refs/heads/main", Some(Write));
        check("PROPFIND /r/info/refs", Some(Write));
    }

    #[test]
    fn so_are_large_files() {
        check("POST /r.git/info/lfs/objects/batch", Some(LfsBatch));
        check("POST /lfs/objects/batch application/vnd.git-lfs+json", Some(LfsBatch));
        check("GET /r.git/info/lfs/locks", Some(LfsLook));
        check("POST /r.git/info/lfs/locks", Some(LfsWrite));
        check("POST /r.git/info/lfs/locks/verify", Some(LfsWrite));
        check("PUT /r.git/info/lfs/objects/0123", Some(LfsWrite));
        check("GET /r.git/info/lfs/objects/0123", Some(LfsLook));
        let batch = |body: &str, expected| assert_eq!(GitRequest::of_batch(body.as_bytes()), expected, "{body}");
        batch(r#"{"operation":"download","objects":[{"operation":"upload"}]}"#, LfsLook);
        batch(r#"{"operation":"upload"}"#, LfsWrite);
        batch(r#"{"operation":"download","Operation":"upload"}"#, LfsWrite);
        batch(r#"{"operation":"download","operation":"download"}"#, LfsWrite);
        batch(r#"{"operation":"download"#, LfsWrite);
        batch("[]", LfsWrite);
        batch("", LfsWrite);
    }

    #[test]
    fn other_requests_are_not_gits() {
        for line in [
            "GET /",
            "GET /repos/o/r/commits/HEAD",
            "GET /o/r/blob/HEAD/x.rs",
            "GET /repos/o/r/git/refs/heads/main",
            "GET /objects/1",
            "POST /graphql application/json",
            "GET /o/r/archive/refs/heads/main.zip",
            "POST /objects/batch application/json",
            "GET /info/refs-list",
            "GET /o/r/head",
        ] {
            check(line, None);
        }
    }
}
