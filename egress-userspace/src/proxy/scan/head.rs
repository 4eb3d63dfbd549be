//! The head of a request: its URL and its headers.

use std::sync::Arc;

use hyper::http::header::{AUTHORIZATION, COOKIE, HOST, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Uri, Version};

use crate::domain::{Auth, OutboundOnMatch, Refusal};
use crate::policy::Way;
use crate::policy::dlp::{Detectors, Finding, Layers, Scan};

use super::super::allowed::Allowed;
use super::super::spelling::Names;
use super::{Screening, found_outbound, not_approved};

/// Headers in which a request brings a credential for where it goes: it belongs there, whatever its shape. A secret whose value
/// is known does not.
const CREDENTIALS: [HeaderName; 14] = [
    AUTHORIZATION,
    COOKIE,
    HeaderName::from_static("api-key"),
    HeaderName::from_static("deploy-token"),
    HeaderName::from_static("job-token"),
    HeaderName::from_static("private-token"),
    HeaderName::from_static("x-amz-security-token"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-csrf-token"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("x-shopify-access-token"),
    HeaderName::from_static("x-vault-token"),
    HeaderName::from_static("x-xsrf-token"),
];
/// Where something stands that is found in the name of a header.
const NAMES: &str = "names of headers";
/// The same in queries.
const CREDENTIAL_PARAMETERS: [&str; 4] = ["key", "api_key", "api-key", "access_token"];

/// Looks at it; what is found is overwritten, refused or asked about.
pub(super) async fn screen(screening: &mut Screening, allowed: &Allowed, head: &mut Parts) -> Result<(), Refusal> {
    let names = match head.extensions.get::<Names>() {
        Some(names) => names.clone(),
        // In small letters, all of them.
        None if head.version == Version::HTTP_2 => Names::default(),
        None => return Err(super::unreadable("a request whose headers are spelled in an unknown way")),
    };
    let detectors = &screening.detectors;
    judge_fixed(detectors, head.method.as_str().as_bytes(), "method")?;
    let spelled = head.headers.get(HOST).map(HeaderValue::as_bytes).into_iter();
    let spelled = spelled.chain(head.uri.host().map(str::as_bytes)).chain([allowed.target.host.as_str().as_bytes()]);
    spelled.into_iter().try_for_each(|host| judge_fixed(detectors, host, "host name"))?;
    screen_url(screening, &allowed.way, &mut head.uri).await?;
    screen_headers(screening, &names, &mut head.headers).await
}

async fn screen_url(screening: &mut Screening, way: &Way, uri: &mut Uri) -> Result<(), Refusal> {
    let detectors = Arc::clone(&screening.detectors);
    let text = path_and_query(uri).to_owned();
    let brings_credentials = way.metered.is_some() || way.auth == Auth::Passthrough;
    let is_own = |finding: &Finding| brings_credentials && is_parameter(&text, finding);
    let found = Scan::all(&detectors, Layers::Url, text.as_bytes());
    let found: Vec<Finding> =
        found.into_iter().filter(|finding| detectors.is_exact(finding.detector) || !is_own(finding)).collect();
    if decide(screening, &found, "URL").await? {
        let path = overwritten(text.into_bytes(), &found, 0);
        let path = PathAndQuery::try_from(path).map_err(|_| super::unreadable("the URL"))?;
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(path);
        *uri = Uri::from_parts(parts).map_err(|_| super::unreadable("the URL"))?;
    }
    Ok(())
}

async fn screen_headers(screening: &mut Screening, names: &Names, headers: &mut HeaderMap) -> Result<(), Refusal> {
    let detectors = Arc::clone(&screening.detectors);
    let (mut last, mut number) = (None, 0);
    for (name, value) in headers {
        number = if last.as_ref() == Some(name) { number + 1 } else { 0 };
        last = Some(name.clone());
        // The proxy's own are spelled in small letters.
        let spelled = names.spelling(name, number).unwrap_or(name.as_str().as_bytes());
        if let Some(detector) = detectors.secret_in_any_case(spelled) {
            return Err(found_outbound(detectors.name(detector), NAMES));
        }
        if *name == HOST {
            continue;
        }
        let line = [spelled, b": ", value.as_bytes()].concat();
        let is_credential = CREDENTIALS.contains(name);
        let found = Scan::all(&detectors, Layers::Body, &line);
        let found: Vec<Finding> =
            found.into_iter().filter(|finding| detectors.is_exact(finding.detector) || !is_credential).collect();
        if let Some(finding) = found.iter().find(|finding| finding.range().start < spelled.len()) {
            return Err(found_outbound(detectors.name(finding.detector), NAMES));
        }
        if decide(screening, &found, "headers").await? {
            let changed = overwritten(value.as_bytes().to_vec(), &found, spelled.len() + b": ".len());
            *value = HeaderValue::from_bytes(&changed).map_err(|_| super::unreadable("a header"))?;
        }
    }
    Ok(())
}

/// The detector that finds something in a text. Whoever wrote it may have made its letters small, as in names of hosts.
pub(super) fn finds(detectors: &Arc<Detectors>, text: &[u8]) -> Option<usize> {
    let found = Scan::all(detectors, Layers::Body, text).into_iter().map(|finding| finding.detector).min();
    found.or_else(|| detectors.secret_in_any_case(text))
}

/// What can be neither overwritten nor held may have nothing in it.
pub(super) fn judge_fixed(detectors: &Arc<Detectors>, text: &[u8], place: &str) -> Result<(), Refusal> {
    finds(detectors, text).map_or(Ok(()), |detector| Err(found_outbound(detectors.name(detector), place)))
}

/// A URI without what is found in it, if something is.
pub(super) fn redacted_uri(detectors: &Arc<Detectors>, uri: &Uri) -> Option<Uri> {
    let text = path_and_query(uri);
    let found = Scan::all(detectors, Layers::Url, text.as_bytes());
    if found.is_empty() {
        return None;
    }
    let path = PathAndQuery::try_from(overwritten(text.as_bytes().to_vec(), &found, 0)).ok();
    Some(path.map_or_else(|| Uri::from_static("/"), Uri::from))
}

/// Does what was found have to be overwritten? Refused, when it may not leave.
async fn decide(screening: &mut Screening, found: &[Finding], place: &str) -> Result<bool, Refusal> {
    let Some(first) = found.iter().min_by_key(|finding| finding.detector) else { return Ok(false) };
    match screening.on_match {
        OutboundOnMatch::Redact => {
            screening.report.count(&screening.detectors, found);
            Ok(true)
        }
        OutboundOnMatch::Off | OutboundOnMatch::Block => {
            Err(found_outbound(screening.detectors.name(first.detector), place))
        }
        OutboundOnMatch::Supervise => {
            for finding in askable(found) {
                let detector = screening.detectors.name(finding.detector).to_owned();
                if !screening.supervisor.clone().approves(detector.clone(), finding.value.clone()).await {
                    return Err(not_approved(&detector, place));
                }
            }
            Ok(false)
        }
    }
}

/// What is to be asked about: each value once. That something stands where something else was told of says nothing of its
/// value: the same letters may be one key as they are, and another decoded.
fn askable(found: &[Finding]) -> impl Iterator<Item = &Finding> {
    let is_one = |one: &Finding, other: &Finding| one.detector == other.detector && one.value == other.value;
    let before = move |at: usize| found.get(..at).unwrap_or_default();
    let is_first = move |(at, finding): &(usize, &Finding)| !before(*at).iter().any(|other| is_one(other, finding));
    found.iter().enumerate().filter(is_first).map(|(_, finding)| finding)
}

fn overwritten(mut bytes: Vec<u8>, found: &[Finding], from: usize) -> Vec<u8> {
    for finding in found {
        finding.overwrite(&mut bytes, from);
    }
    bytes
}

fn path_and_query(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

/// Is it all in the value of a parameter that brings a credential?
fn is_parameter(text: &str, finding: &Finding) -> bool {
    let range = finding.range();
    let Some(query) = text.find('?').filter(|query| *query < range.start) else { return false };
    let before = text.get(query + 1..range.start).unwrap_or_default();
    let parameter = before.rsplit('&').next().unwrap_or_default();
    let name = parameter.split('=').next().unwrap_or_default().to_ascii_lowercase();
    let value = text.get(range).unwrap_or_default();
    parameter.contains('=') && !value.contains('&') && CREDENTIAL_PARAMETERS.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Secret;
    use crate::policy::dlp::{Sought, Wanted};

    #[test]
    fn what_cannot_be_overwritten_may_hold_nothing_in_any_case() {
        let secret = Sought::Secret(Secret::new("hunter2-Hunter2".to_owned()));
        let sought = vec![("ours".to_owned(), secret)];
        let detectors = Arc::new(Detectors::new(&Wanted { has_built_in: true, sought, ..Wanted::default() }).unwrap());
        let check = |text: &str, expected: Option<&str>| {
            let found = finds(&detectors, text.as_bytes()).map(|detector| detectors.name(detector));
            assert_eq!(found, expected, "{text}");
            assert_eq!(judge_fixed(&detectors, text.as_bytes(), "method").is_err(), expected.is_some());
        };
        check("PROPFIND", None);
        check("tools.corp.example", None);
        check("hunter2-hunter2.corp.example", Some("ours"));
        check("x.HUNTER2-HUNTER2", Some("ours"));
        check("68756e746572322D48756e74657232.corp.example", Some("ours"));
        check(&format!("ghp_{}.corp.example", "a1b2c3".repeat(6)), Some("github-token"));
        check("AKIAIOSFODNN7EXAMPLE", Some("aws-access-key"));
    }

    #[test]
    fn a_parameter_that_brings_a_credential_is_told_from_others() {
        let detectors = Arc::new(Detectors::new(&Wanted { has_built_in: true, ..Wanted::default() }).unwrap());
        let check = |text: &str, expected| {
            let found = Scan::all(&detectors, Layers::Url, text.as_bytes());
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(is_parameter(text, &found[0]), expected, "{text}");
        };
        let key = format!("AIza{}", "k".repeat(35));
        check(&format!("/v1/models?alt=sse&key={key}"), true);
        check(&format!("/v1/models?KEY={key}&alt=sse"), true);
        check(&format!("/v1/models?q={key}"), false);
        check(&format!("/v1/key={key}"), false);
        check(&format!("/v1/{key}?key=x"), false);
    }

    #[test]
    fn each_value_is_asked_about_once_wherever_it_stands() {
        let detectors = Arc::new(Detectors::new(&Wanted { has_built_in: true, ..Wanted::default() }).unwrap());
        let check = |text: &str, expected: &[&str]| {
            let found = Scan::all(&detectors, Layers::Body, text.as_bytes());
            let asked: Vec<_> = askable(&found).map(|finding| str::from_utf8(&finding.value).unwrap()).collect();
            assert_eq!(asked, expected, "{text}");
        };
        let [decoy, hidden] = ["BBBBBBBBBBBBBBBB", "IOSFODNN7EXAMPLE"].map(|rest| format!("AKIA{rest}"));
        check(&format!("x-note: {decoy} {decoy} {hidden}"), &[&decoy, &hidden]);
        // From the fourth letter on it is base64 of the other.
        check(&format!("x-note: {decoy}iBBS0lBSU9TRk9ETk43RVhBTVBMRSAgIA"), &[&decoy, &hidden]);
    }

    #[test]
    fn a_uri_is_told_of_without_what_is_found_in_it() {
        let detectors = Arc::new(Detectors::new(&Wanted { has_built_in: true, ..Wanted::default() }).unwrap());
        let check = |uri: &str, expected: Option<&str>| {
            let redacted = redacted_uri(&detectors, &uri.parse().unwrap());
            assert_eq!(redacted.map(|uri| uri.to_string()).as_deref(), expected, "{uri}");
        };
        check("/a?b=c", None);
        check("https://a.com/AKIAIOSFODNN7EXAMPLE/x", Some("/********************/x"));
    }
}
