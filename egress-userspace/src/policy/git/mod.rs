//! Git over HTTPS: what may be fetched and pushed, told from the bytes that git itself would read.
//!
//! Pure. A push passes when each of its refs matches a pattern of the route and none is deleted or loses commits; everything
//! that cannot be read does not pass.

mod answer;
mod delta;
mod object;
mod pack;
mod pkt_line;
mod push;
mod request;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

use std::io::Read;

use flate2::read::GzDecoder;

use crate::domain::RefPattern;

use pack::Commits;
use push::{Command, Push};

pub use answer::GitAnswer;
pub use request::GitRequest;

/// How much of a push is looked at, in bytes: its list of refs and the commits, which come first in its pack.
pub const PUSH_BYTES_MAX: usize = 32 << 20;
/// Refs that one push may move: each is looked for by itself.
const MOVES_MAX: usize = 50;
/// How much it may be when it is unpacked, in bytes.
const UNPACKED_BYTES_MAX: u64 = 64 << 20;

/// What a route says of git.
#[derive(Clone, Copy, Debug)]
pub struct GitTerms<'a> {
    /// `git_fetch:`
    pub fetch: bool,
    /// `git_push:`
    pub push: &'a [RefPattern],
}

/// Is the answer still waited for? Where it is not, no more is looked at, and what has not been seen by then is not allowed.
pub type StillWanted<'a> = &'a dyn Fn() -> bool;

/// A body, as far as it is here.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// Its `content-encoding`.
    pub encoding: Option<&'a str>,
    /// All of it, or its first [`PUSH_BYTES_MAX`] bytes.
    pub bytes: &'a [u8],
    /// It is all of it.
    pub is_whole: bool,
}

/// A refusal: for the record, and for git.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitRefused {
    /// One sentence or two.
    pub message: String,
    /// What the client gets.
    pub answer: GitAnswer,
}

/// What the head of a request says.
///
/// # Errors
///
/// It is refused, whatever its body says.
pub fn head(request: GitRequest, terms: GitTerms<'_>, place: &str) -> Result<(), GitRefused> {
    let may_push = !terms.push.is_empty();
    let is_allowed = match request {
        GitRequest::Look | GitRequest::Fetch | GitRequest::LfsLook => terms.fetch,
        GitRequest::LookToPush | GitRequest::Push | GitRequest::LfsWrite => may_push,
        GitRequest::LfsBatch => terms.fetch || may_push,
        // Which refs it is about cannot be told.
        GitRequest::Write => false,
    };
    if is_allowed {
        return Ok(());
    }
    let message = if request == GitRequest::Write {
        format!("writing to the repository at {place} in this way cannot be checked; git's smart protocol can")
    } else if request.is_push() {
        format!(
            "no route lets this bottle push to {place}; an operator can allow refs of it, with `git_push:` in routes.yaml"
        )
    } else {
        format!("no route lets this bottle fetch from {place}; an operator can, with `git_fetch: true` in routes.yaml")
    };
    Err(refused(request, message))
}

/// What the body of a request says.
///
/// # Errors
///
/// It is refused.
pub fn body(
    request: GitRequest,
    terms: GitTerms<'_>,
    place: &str,
    sent: Sent<'_>,
    is_waited_for: StillWanted<'_>,
) -> Result<(), GitRefused> {
    if !request.is_in_body() {
        return Ok(());
    }
    let unpacked = unpacked(sent.encoding, sent.bytes);
    if request == GitRequest::LfsBatch {
        let is_readable = sent.is_whole && unpacked.is_some();
        let batch = unpacked.filter(|_| is_readable).unwrap_or_default();
        return head(GitRequest::of_batch(&batch), terms, place);
    }
    let Some(bytes) = unpacked else {
        return Err(refused(request, format!("this push to {place} is encoded in a way that is not read")));
    };
    let push = match push::push(&bytes) {
        Ok(push) => push,
        Err(error) => return Err(refused(request, format!("this push to {place} is refused: {error}"))),
    };
    judge(&push, terms.push, sent.is_whole, is_waited_for).map_err(|(message, reasons)| {
        let message = format!("this push to {place} is refused: {message}");
        GitRefused { answer: GitAnswer::push(&push, &message, &reasons), message }
    })
}

/// The refusal of a request that could not be looked at.
#[must_use]
pub fn unread(request: GitRequest) -> GitRefused {
    refused(request, "what this request asks of git could not be read".to_owned())
}

fn refused(request: GitRequest, message: String) -> GitRefused {
    let answer = match request {
        GitRequest::Fetch => GitAnswer::fetch(&message),
        GitRequest::LfsBatch | GitRequest::LfsLook | GitRequest::LfsWrite => GitAnswer::lfs(&message),
        GitRequest::Look | GitRequest::LookToPush | GitRequest::Push | GitRequest::Write => GitAnswer::text(&message),
    };
    GitRefused { message, answer }
}

/// A body as git's server reads it; `None` where that is not known. What is compressed is read as far as it is there, and no
/// further than its first piece, which is all that git itself reads.
fn unpacked<'a>(encoding: Option<&str>, sent: &'a [u8]) -> Option<std::borrow::Cow<'a, [u8]>> {
    match encoding.map(|encoding| encoding.trim().to_ascii_lowercase()).as_deref() {
        None | Some("" | "identity") => Some(sent.into()),
        Some("gzip" | "x-gzip") => {
            let mut bytes = Vec::new();
            // Cut off or not: what came before counts.
            let _ = GzDecoder::new(sent).take(UNPACKED_BYTES_MAX).read_to_end(&mut bytes);
            Some(bytes.into())
        }
        Some(_) => None,
    }
}

/// Why a push is refused: in general, and for each of its refs.
type Reasons = (String, Vec<String>);

fn judge(
    push: &Push<'_>,
    patterns: &[RefPattern],
    is_whole: bool,
    is_waited_for: StillWanted<'_>,
) -> Result<(), Reasons> {
    let all = |reason: &str| (reason.to_owned(), vec![reason.to_owned(); push.commands.len()]);
    if push.commands.is_empty() {
        // Git asks so whether it may push, before it sends much.
        let is_probe = push.pack.is_empty() && is_whole;
        return if is_probe { Ok(()) } else { Err(all("it says of no ref what is to become of it")) };
    }
    if push.options > 0 {
        return Err(all("it has options, by which a server may do more than move refs; push without --push-option"));
    }
    let is_move = |command: &&Command| !command.old.is_none() && !command.new.is_none();
    let moves: Vec<_> = push.commands.iter().filter(is_move).map(|command| (command.new, command.old)).collect();
    if moves.len() > MOVES_MAX {
        return Err(all(&format!("it moves more than {MOVES_MAX} refs; push fewer at once")));
    }
    let first = moves.first();
    let commits = first.map(|(new, _)| Commits::of(push.pack, new.naming(), &moves, is_waited_for));
    let commits = commits.unwrap_or_default();
    let leads = |command: &Command| commits.lead(command.new, command.old, is_waited_for);
    let faults: Vec<Option<String>> = push.commands.iter().map(|command| fault(command, patterns, leads)).collect();
    let Some((worst, fault)) =
        push.commands.iter().zip(&faults).find_map(|(command, fault)| Some((command, fault.as_ref()?)))
    else {
        return Ok(());
    };
    let message = format!("{}: {fault}", worst.name);
    let beside = format!("not pushed, because {} is refused", worst.name);
    Err((message, faults.into_iter().map(|fault| fault.unwrap_or_else(|| beside.clone())).collect()))
}

/// What is wrong with one command.
fn fault(command: &Command, patterns: &[RefPattern], leads: impl Fn(&Command) -> bool) -> Option<String> {
    if !patterns.iter().any(|pattern| pattern.matches(&command.name)) {
        let allowed: Vec<&str> = patterns.iter().map(RefPattern::as_str).collect();
        return Some(format!("only {} may be pushed to", allowed.join(", ")));
    }
    if command.new.is_none() {
        return Some("refs are not deleted".to_owned());
    }
    // A server takes a ref for new only where it is.
    if command.old.is_none() || leads(command) {
        return None;
    }
    Some(
        "the push does not show that no commit is lost; push without force, with --no-thin, or to a ref that is not there yet"
            .to_owned(),
    )
}

#[cfg(test)]
mod tests;
