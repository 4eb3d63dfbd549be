//! `egress meter`: a saved response through the proxy's own meter. Asks no daemon.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::domain::{Ending, Known, Tokens};
use crate::meter::{Ask, Dialect, Reading, ResponseHead, ResponseMeter, dialect_of_path, guess};

use super::arguments::MeterArguments;
use super::show;

/// Bytes read at a time; the first so many tell the dialect where nobody has.
const PIECE_BYTES: u64 = 64 * 1024;
/// The status of a saved response, which nobody has kept.
const STATUS_ASSUMED: u16 = 200;

/// What a response used. `input_total` is the sum of uncached, read and written input; `output_total` includes reasoning.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Record {
    input_total: Tokens,
    input_uncached: Tokens,
    cache_read: Tokens,
    cache_write: Tokens,
    cache_write_1h: Tokens,
    output_total: Tokens,
    reasoning: Tokens,
    known: Known,
    model: Option<String>,
    service_tier: Option<String>,
    dialect: &'static str,
}

/// Prints what the response used as JSON, or `null` when it does not say.
pub(super) fn meter(arguments: &MeterArguments) -> Result<()> {
    let record = if arguments.file.as_os_str() == "-" {
        read(arguments, std::io::stdin().lock())
    } else {
        let file = File::open(&arguments.file).with_context(|| cannot_read(&arguments.file))?;
        read(arguments, file)
    };
    let record = record.with_context(|| cannot_read(&arguments.file))?;
    if record.is_none() {
        show::note("the response reports no usage; if it should, say what it is with --dialect");
    }
    show::json(&record)
}

fn cannot_read(file: &Path) -> String {
    format!("cannot read {}", file.display())
}

fn read(arguments: &MeterArguments, mut source: impl Read) -> std::io::Result<Option<Record>> {
    let mut piece = Vec::new();
    source.by_ref().take(PIECE_BYTES).read_to_end(&mut piece)?;
    let encoding = arguments.content_encoding.as_deref();
    let Some(dialect) = dialect(arguments, &piece) else { return Ok(None) };
    let head = ResponseHead {
        status: STATUS_ASSUMED,
        content_type: arguments.content_type.as_deref(),
        content_encoding: encoding,
        ..ResponseHead::default()
    };
    let mut meter = ResponseMeter::new(&Ask::unseen(dialect), &head);
    while !piece.is_empty() {
        meter.push(&piece);
        piece.clear();
        source.by_ref().take(PIECE_BYTES).read_to_end(&mut piece)?;
    }
    Ok(record(dialect, meter.finish(Ending::Complete)))
}

/// As said, else as the path says, else as it looks. A path that carries no usage is believed too.
fn dialect(arguments: &MeterArguments, first: &[u8]) -> Option<Dialect> {
    match (arguments.dialect, &arguments.path) {
        (Some(dialect), _) => Some(dialect),
        (None, Some(target)) => {
            let after_host = target.split_once("://").map(|(_, rest)| rest.find('/').and_then(|at| rest.get(at..)));
            dialect_of_path(after_host.map_or(target.as_str(), Option::unwrap_or_default))
        }
        (None, None) => guess(arguments.content_encoding.as_deref(), first),
    }
}

fn record(dialect: Dialect, reading: Reading) -> Option<Record> {
    let Reading { usage, details, known, has_report, model, service_tier, .. } = reading;
    has_report.then(|| Record {
        input_total: usage.input_total(),
        input_uncached: usage.input,
        cache_read: usage.cache_read,
        cache_write: usage.cache_write,
        cache_write_1h: details.cache_write_1h,
        output_total: usage.output,
        reasoning: details.reasoning,
        known,
        model,
        service_tier,
        dialect: dialect.as_str(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Arguments, Command};

    use super::*;

    const CHAT: &str = include_str!("../meter/testdata/chat-usage-chunk.sse");

    fn check(line: &str, body: &[u8], expected: Option<(u64, u64, &str)>) {
        let words = ["egress", "meter"].into_iter().chain(line.split_whitespace()).chain(["-"]);
        let Command::Meter(arguments) = Arguments::try_parse_from(words).unwrap().command else { panic!("not meter") };
        let found = read(&arguments, body).unwrap();
        let totals = found.as_ref().map(|found| (found.input_total.0, found.output_total.0, found.dialect));
        assert_eq!(totals, expected, "{line}");
    }

    #[test]
    fn a_saved_response_is_metered_by_what_is_said_of_it() {
        let chat = Some((100, 40, "openai_chat"));
        check("", CHAT.as_bytes(), chat);
        check("--dialect openai-chat --content-type text/event-stream", CHAT.as_bytes(), chat);
        check("--path /v1/chat/completions", CHAT.as_bytes(), chat);
        check("--path https://api.openai.com/v1/chat/completions?x=1", CHAT.as_bytes(), chat);
        check("--path /v1/messages/count_tokens", CHAT.as_bytes(), None);
        check("--dialect gemini", CHAT.as_bytes(), None);
        check("", b"<html>", None);
        check("", b"", None);
        let packed = zstd::bulk::compress(CHAT.as_bytes(), 1).unwrap();
        check("--content-encoding zstd", &packed, chat);
        let unknown = Arguments::try_parse_from(["egress", "meter", "--content-encoding", "gzip, compress", "-"]);
        assert!(unknown.unwrap_err().to_string().contains("\"compress\" is none of gzip, deflate, br, zstd"));
    }

    #[test]
    fn a_long_response_is_metered_to_its_end() {
        let filler = "x".repeat(100);
        let mut body = CHAT.lines().next().unwrap().to_owned();
        for _ in 0..2000 {
            body.push_str("\n\n: ");
            body.push_str(&filler);
        }
        body.push_str("\n\n");
        body.push_str(CHAT);
        check("", body.as_bytes(), Some((100, 40, "openai_chat")));
    }
}
