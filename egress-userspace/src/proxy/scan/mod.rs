//! Detectors over what passes: heads before anything is sent, bodies as they come by.
//!
//! Nothing that is found leaves before it has been decided on: what may still turn out to be part of something is held. Where
//! nothing can be looked at, or nobody can be asked, nothing passes.

mod body;
mod frames;
mod head;
mod inbound;
mod sets;
mod supervisor;

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Uri};
use tokio::time::Instant;

use crate::broker::FromProxy;
use crate::domain::{BottleId, Host, InboundOnMatch, OutboundOnMatch, Refusal, RefusalReason};
use crate::policy::dlp::{Detectors, Finding, Wanted};

use super::allowed::Allowed;
use super::exchange::Run;
use super::limits::BODY_PREFIX_BYTES_MAX;
use super::link::Link;
use super::refusal::Answer;
use super::request_body::{BodyBroken, RequestBody};
use super::view::{Bottle, Passage, PolicyView};

pub(super) use body::{Screen, Verdict};
pub(super) use frames::{Found, FrameScreen, FrameScreens};
pub(super) use inbound::{InboundScreen, Screened};
pub(super) use sets::Sets;

use supervisor::Supervisor;

/// Most bytes that become of what comes at once.
const DECODED_BYTES_MAX: usize = 32 << 20;
/// Headers that vouch for bytes which may be changed.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// What one request is looked through for, and what becomes of what is found.
pub(super) struct Screening {
    detectors: Arc<Detectors>,
    on_match: OutboundOnMatch,
    supervisor: Supervisor,
    report: Report,
}

/// What went without what was found in it; told when it is over.
pub(super) struct Report {
    link: Arc<Link>,
    bottle: BottleId,
    host: Host,
    target: String,
    passage: Arc<Passage>,
    is_outbound: bool,
    counts: BTreeMap<String, u64>,
}

impl Report {
    /// Counts what was overwritten.
    fn count(&mut self, detectors: &Detectors, found: &[Finding]) {
        for finding in found.iter().filter(|finding| !finding.is_told) {
            *self.counts.entry(detectors.name(finding.detector).to_owned()).or_default() += 1;
        }
    }
}

impl Report {
    /// Tells of what ended because of what was found in it.
    fn refused(&self, detector: &str) {
        let Some(count) = self.passage.refusals.take(Instant::now()) else { return };
        self.link.say(FromProxy::Refused {
            bottle: self.bottle,
            reason: RefusalReason::SensitiveData,
            host: Some(self.host.clone()),
            target: self.target.clone(),
            rule: Some(detector.to_owned()),
            count,
        });
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        for (detector, count) in std::mem::take(&mut self.counts) {
            tracing::info!(host = %self.host, detector, count, self.is_outbound, "what a detector found was overwritten");
            let (host, target) = (self.host.clone(), self.target.clone());
            let (bottle, is_outbound) = (self.bottle, self.is_outbound);
            self.link.say(FromProxy::Redacted { bottle, detector, host, target, is_outbound, count });
        }
    }
}

/// Something was found that may not leave. Names the detector, and never what it found.
fn found_outbound(detector: &str, place: &str) -> Refusal {
    let message = format!(
        "the detector {detector} found something in the {place} of this request that may not leave: send it without that, or \
         have an operator change `outbound_on_match` of the route, or the detectors, in routes.yaml"
    );
    Refusal { rule: Some(detector.to_owned()), ..Refusal::of(RefusalReason::SensitiveData, message) }
}

/// An operator was asked whether it may leave, and has not said yes in time.
fn not_approved(detector: &str, place: &str) -> Refusal {
    let message = format!(
        "the detector {detector} found something in the {place} of this request, and no operator approved that it leaves \
         (`egress approvals list --all` says whether one denied it): send it without that"
    );
    Refusal { rule: Some(detector.to_owned()), ..Refusal::of(RefusalReason::SensitiveData, message) }
}

/// What cannot be looked at does not pass.
fn unreadable(what: &str) -> Refusal {
    Refusal::of(RefusalReason::SensitiveData, format!("{what} cannot be looked at for secrets, and so may not pass"))
}

impl Run<'_> {
    /// Looks at the head of a request, and makes its body be looked at as it comes. One that is not long is looked at before
    /// anything of the request leaves.
    pub(super) async fn screen(
        &self,
        allowed: &Allowed,
        head: &mut Parts,
        body: RequestBody,
    ) -> Result<RequestBody, Answer> {
        if allowed.way.inbound != InboundOnMatch::Off {
            // What is to be looked at had better not be compressed.
            head.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        let Some(mut screening) = self.screening(allowed).map_err(Answer::Refused)? else { return Ok(body) };
        head::screen(&mut screening, allowed, head).await.map_err(Answer::Refused)?;
        if body.is_empty() {
            return Ok(body);
        }
        let changes = screening.on_match == OutboundOnMatch::Redact;
        let screen = Screen::new(screening, &head.headers).map_err(Answer::Refused)?;
        if screen.is_decoded() {
            head.headers.remove(CONTENT_ENCODING);
            head.headers.remove(CONTENT_LENGTH);
        }
        if changes || screen.is_decoded() {
            for name in &DIGESTS {
                head.headers.remove(name);
            }
        }
        let is_short = body.bytes_total().is_some_and(|bytes| bytes <= BODY_PREFIX_BYTES_MAX as u64);
        let body = body.screened(screen).map_err(Answer::Refused)?;
        if is_short { body.with_prefix(usize::MAX).await.map_err(Answer::from) } else { Ok(body) }
    }

    /// What a request is looked through for; `None` where it is for nothing.
    pub(super) fn screening(&self, allowed: &Allowed) -> Result<Option<Screening>, Refusal> {
        let on_match = allowed.way.outbound;
        let lineage = &self.bottle.view.lineage;
        let wanted = Wanted::outbound(on_match, &self.policy.routes, lineage, &self.policy.secrets);
        let detectors = self.exchange.sets.of(wanted).map_err(|error| unreadable(&error.to_string()))?;
        if detectors.is_empty() {
            return Ok(None);
        }
        let report = self.report(&allowed.target.host, true);
        let supervisor = Supervisor {
            link: Arc::clone(&self.exchange.link),
            passage: Arc::clone(&self.origin.passage),
            bottle: self.bottle.view.id,
            host: allowed.target.host.clone(),
            target: report.target.clone(),
            patience: allowed.way.approval_timeout,
        };
        Ok(Some(Screening { detectors, on_match, supervisor, report }))
    }

    /// What is told of what is overwritten.
    pub(super) fn report(&self, host: &Host, is_outbound: bool) -> Report {
        Report {
            link: Arc::clone(&self.exchange.link),
            bottle: self.bottle.view.id,
            host: host.clone(),
            target: self.shown_target(),
            passage: Arc::clone(&self.origin.passage),
            is_outbound,
            counts: BTreeMap::new(),
        }
    }
}

/// The encoding that a head names for its body; `None` for one of `plain`, which leave a text as it is. Of several values
/// one reader takes the first and another the last, so that nobody can tell.
fn encoding<'a>(headers: &'a HeaderMap, plain: &[&str], what: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let (Some(value), several) = (values.next(), values.next()) else { return Ok(None) };
    if several.is_some() {
        return Err(unreadable(&format!("{what} in several encodings")));
    }
    let value = value.to_str().map_err(|_| unreadable(&format!("{what} in this encoding")))?.trim();
    let is_plain = value.is_empty() || plain.iter().any(|plain| value.eq_ignore_ascii_case(plain));
    Ok((!is_plain).then_some(value))
}

/// A media type without its parameters.
fn media_type(headers: &HeaderMap) -> &str {
    super::headers::text(headers, &CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or("").trim()
}

/// A request as it may be told of: without what detectors find in it.
pub(super) struct Shown {
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// Where it is to go, as far as that is said and may be.
    pub(super) host: Option<Host>,
}

impl Sets {
    /// What may be told of a request to `host`.
    pub(super) fn shown(&self, policy: &PolicyView, bottle: &Bottle, head: &Parts, host: Option<&Host>) -> Shown {
        let wanted = Wanted::outbound(OutboundOnMatch::Block, &policy.routes, &bottle.view.lineage, &policy.secrets);
        let (method, uri) = (head.method.clone(), head.uri.clone());
        let Ok(detectors) = self.of(wanted) else { return Shown { method, uri: Uri::from_static("/"), host: None } };
        let is_clean = |text: &str| head::finds(&detectors, text.as_bytes()).is_none();
        Shown {
            method: if is_clean(method.as_str()) { method } else { Method::from_bytes(b"*").unwrap_or_default() },
            uri: head::redacted_uri(&detectors, &uri).unwrap_or(uri),
            host: host.filter(|host| is_clean(host.as_str())).cloned(),
        }
    }

    /// May this name leave?
    pub(super) fn judge_host(
        &self,
        policy: &PolicyView,
        bottle: &Bottle,
        on_match: OutboundOnMatch,
        host: &Host,
    ) -> Result<(), Refusal> {
        let wanted = Wanted::outbound(on_match, &policy.routes, &bottle.view.lineage, &policy.secrets);
        let detectors = self.of(wanted).map_err(|error| unreadable(&error.to_string()))?;
        head::judge_fixed(&detectors, host.as_str().as_bytes(), "host name")
    }
}

impl From<BodyBroken> for Answer {
    fn from(broken: BodyBroken) -> Self {
        match broken {
            BodyBroken::Refused(refusal) => Self::Refused(*refusal),
            BodyBroken::TimedOut | BodyBroken::Client(_) => Self::BodyBroken,
        }
    }
}
