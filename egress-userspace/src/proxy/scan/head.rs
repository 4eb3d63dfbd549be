//! The head of a request: its URL and its headers.

use std::sync::Arc;

use hyper::Uri;
use hyper::http::header::{AUTHORIZATION, COOKIE, HOST, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;

use crate::domain::{Auth, OutboundOnMatch, Refusal};
use crate::policy::Way;
use crate::policy::dlp::{Detectors, Finding, Layers, Scan};

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
/// The same in queries.
const CREDENTIAL_PARAMETERS: [&str; 4] = ["key", "api_key", "api-key", "access_token"];

/// Looks at it; what is found is overwritten, refused or asked about.
pub(super) async fn screen(screening: &mut Screening, way: &Way, head: &mut Parts) -> Result<(), Refusal> {
    let detectors = Arc::clone(&screening.detectors);
    let text = path_and_query(&head.uri).to_owned();
    let brings_credentials = way.metered.is_some() || way.auth == Auth::Passthrough;
    let is_own = |finding: &Finding| brings_credentials && is_parameter(&text, finding);
    let found = Scan::all(&detectors, Layers::Url, text.as_bytes());
    let found: Vec<Finding> =
        found.into_iter().filter(|finding| detectors.is_exact(finding.detector) || !is_own(finding)).collect();
    if decide(screening, &found, "URL").await? {
        let path = overwritten(text.into_bytes(), &found, 0);
        let path = PathAndQuery::try_from(path).map_err(|_| super::unreadable("the URL"))?;
        let mut parts = head.uri.clone().into_parts();
        parts.path_and_query = Some(path);
        head.uri = Uri::from_parts(parts).map_err(|_| super::unreadable("the URL"))?;
    }
    for (name, value) in &mut head.headers {
        if *name == HOST {
            continue;
        }
        let front = format!("{name}: ");
        let line = [front.as_bytes(), value.as_bytes()].concat();
        let is_credential = CREDENTIALS.contains(name);
        let found = Scan::all(&detectors, Layers::Body, &line);
        let found: Vec<Finding> =
            found.into_iter().filter(|finding| detectors.is_exact(finding.detector) || !is_credential).collect();
        if decide(screening, &found, "headers").await? {
            let changed = overwritten(value.as_bytes().to_vec(), &found, front.len());
            *value = HeaderValue::from_bytes(&changed).map_err(|_| super::unreadable("a header"))?;
        }
    }
    Ok(())
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
    use crate::policy::dlp::Wanted;

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
