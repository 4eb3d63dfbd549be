//! Refusals as git shows them to whoever pushes or fetches.

use super::pkt_line::{FLUSH, LINE_BYTES_MAX, append};
use super::push::Push;

/// Bytes of one band's line, beside its length and its number.
const BAND_BYTES_MAX: usize = LINE_BYTES_MAX - 5;
/// A report, or a part of one.
const REPORT_BAND: u8 = 1;
/// What git shows behind `remote:`.
const PROGRESS_BAND: u8 = 2;

/// An answer that git understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitAnswer {
    /// Of the response.
    pub status: u16,
    /// Its media type.
    pub content_type: &'static str,
    /// Its body.
    pub body: Vec<u8>,
}

impl GitAnswer {
    /// Lines that git shows before it says that it was refused.
    pub(super) fn text(message: &str) -> Self {
        Self {
            status: 403,
            content_type: "text/plain; charset=utf-8",
            body: format!("egress: {message}\n").into_bytes(),
        }
    }

    /// The same to a client that has begun to fetch.
    pub(super) fn fetch(message: &str) -> Self {
        let mut body = Vec::new();
        append(&mut body, format!("ERR egress: {message}").as_bytes());
        Self { status: 200, content_type: "application/x-git-upload-pack-result", body }
    }

    /// The same to Git LFS.
    pub(super) fn lfs(message: &str) -> Self {
        let body = serde_json::json!({ "message": format!("egress: {message}") });
        Self { status: 403, content_type: "application/vnd.git-lfs+json", body: body.to_string().into_bytes() }
    }

    /// The same to a client that has pushed: word of each ref, as a server's own.
    pub(super) fn push(push: &Push<'_>, message: &str, reasons: &[String]) -> Self {
        if !push.capabilities.reports {
            return Self::text(message);
        }
        let mut report = Vec::new();
        append(&mut report, b"unpack ok\n");
        for (command, reason) in push.commands.iter().zip(reasons) {
            append(&mut report, format!("ng {} egress: {reason}\n", command.name).as_bytes());
        }
        report.extend_from_slice(FLUSH);
        let body = if push.capabilities.side_band { in_bands(&report, message) } else { report };
        Self { status: 200, content_type: "application/x-git-receive-pack-result", body }
    }
}

fn in_bands(report: &[u8], message: &str) -> Vec<u8> {
    let mut body = Vec::new();
    let mut band = |number, part: &[u8]| append(&mut body, &[&[number], part].concat());
    band(PROGRESS_BAND, format!("egress: {message}\n").as_bytes());
    for part in report.chunks(BAND_BYTES_MAX) {
        band(REPORT_BAND, part);
    }
    body.extend_from_slice(FLUSH);
    body
}

#[cfg(test)]
mod tests {
    use super::super::push::push;
    use super::*;

    fn check(capabilities: &str, expected: &GitAnswer) {
        let mut request = Vec::new();
        append(&mut request, format!("{} {} refs/heads/a\0{capabilities}", "1".repeat(40), "2".repeat(40)).as_bytes());
        request.extend_from_slice(FLUSH);
        assert_eq!(
            GitAnswer::push(&push(&request).unwrap(), "no", &["not that".to_owned()]),
            *expected,
            "{capabilities}"
        );
    }

    #[test]
    fn a_push_is_refused_in_the_way_its_client_reads() {
        let result = |body: &[u8]| GitAnswer {
            status: 200,
            content_type: "application/x-git-receive-pack-result",
            body: body.to_vec(),
        };
        let report = b"000eunpack ok\n0025ng refs/heads/a egress: not that\n0000";
        check("report-status", &result(report));
        let banded = b"0010\x02egress: no\n003c\x01000eunpack ok\n0025ng refs/heads/a egress: not that\n00000000";
        check("report-status-v2 side-band-64k", &result(banded));
        check("side-band-64k", &GitAnswer::text("no"));
    }
}
