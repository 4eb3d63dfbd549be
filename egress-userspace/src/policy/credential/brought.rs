//! Where requests carry credentials: headers, cookies, parameters of the query, and a WebSocket's list of protocols.
//!
//! The names are those of the providers in the table, and what servers of other kinds (package registries, GitLab, Azure's
//! gateways) take. A body is not looked into: no provider of the table takes a key there.

use http::header::{HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri};

/// Headers that are credentials, but for the proxy's own, which ends here; `_` stands for `-` too, as some servers read it.
const HEADERS: [&str; 16] = [
    "authorization",
    "cookie",
    // Anthropic, Azure, Google.
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "x-goog-iam-authorization-token",
    "x-amz-security-token",
    "ocp-apim-subscription-key",
    "subscription-key",
    "apikey",
    "x-auth-token",
    "x-access-token",
    "x-authorization",
    // GitLab.
    "private-token",
    "job-token",
    "deploy-token",
];
/// What belongs to a signature of AWS's: worthless alone, wrong beside another signature.
const SIGNATURE_HEADERS: [&str; 2] = ["x-amz-date", "x-amz-content-sha256"];
/// Parameters that are credentials, in lower case. `$httpHeaders` lets Google's servers read headers from the query.
const PARAMETERS: [&str; 17] = [
    "key",
    "$key",
    "api_key",
    "api-key",
    "apikey",
    "x-api-key",
    "access_token",
    "$access_token",
    "oauth_token",
    "bearer_token",
    "authorization",
    "$httpheaders",
    "subscription-key",
    "ocp-apim-subscription-key",
    "private_token",
    "job_token",
    "awsaccesskeyid",
];
/// Beginnings of the parameters of a signed address, of AWS and of Google.
const PARAMETER_BEGINNINGS: [&str; 2] = ["x-amz-", "x-goog-"];
/// What comes before a key in a WebSocket's list of protocols.
const PROTOCOL_BEGINNINGS: [&str; 3] =
    ["openai-insecure-api-key.", "xai-client-secret.", "base64url.bearer.authorization."];

/// What a request brings of its own, by name: the first that is found.
pub(super) fn found(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let header = headers.keys().find(|name| is_header(name)).map(|name| format!("the header {name}"));
    let parameter = || {
        let pieces = uri.query().unwrap_or_default().split('&');
        pieces.map(name_of).find(|name| is_parameter(name)).map(|name| format!("{name:?} in the query"))
    };
    let protocol = || {
        let is_key = |value: &HeaderValue| value.to_str().is_ok_and(|list| list.split(',').any(is_protocol));
        let is_found = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().any(is_key);
        is_found.then(|| format!("a key in {SEC_WEBSOCKET_PROTOCOL}"))
    };
    header.or_else(parameter).or_else(protocol)
}

/// Takes all of it out; what else there is stays as it was written.
pub(super) fn strip(uri: &mut Uri, headers: &mut HeaderMap) {
    let is_part = |name: &HeaderName| is_header(name) || SIGNATURE_HEADERS.contains(&name.as_str());
    let named: Vec<HeaderName> = headers.keys().filter(|name| is_part(name)).cloned().collect();
    for name in named {
        headers.remove(name);
    }
    strip_protocols(headers);
    strip_query(uri);
}

fn strip_protocols(headers: &mut HeaderMap) {
    let offered: Vec<&str> =
        headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|list| list.to_str().ok()).collect();
    let offered = offered.join(",");
    if !offered.split(',').any(is_protocol) {
        return;
    }
    let kept: Vec<&str> = offered.split(',').map(str::trim).filter(|name| !is_protocol(name)).collect();
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Ok(kept) = HeaderValue::from_str(&kept.join(", "))
        && !kept.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, kept);
    }
}

fn strip_query(uri: &mut Uri) {
    let Some(query) = uri.query() else { return };
    let kept: Vec<&str> = query.split('&').filter(|piece| !is_parameter(&name_of(piece))).collect();
    if kept.len() == query.split('&').count() {
        return;
    }
    let question = if kept.is_empty() { "" } else { "?" };
    let target = format!("{}{question}{}", uri.path(), kept.join("&"));
    let mut parts = uri.clone().into_parts();
    // What is left of a valid target is one.
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    if let Ok(stripped) = Uri::from_parts(parts) {
        *uri = stripped;
    }
}

fn is_header(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    HEADERS.contains(&name.as_str())
}

fn is_parameter(name: &str) -> bool {
    PARAMETERS.contains(&name) || PARAMETER_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

fn is_protocol(name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase();
    PROTOCOL_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// The name of a parameter, decoded and in lower case.
fn name_of(piece: &str) -> String {
    let name = piece.split_once('=').map_or(piece, |(name, _)| name);
    super::super::percent::decode(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, lines: &[(&str, &str)], expected: Option<&str>, left: (&str, &[(&str, &str)])) {
        let make = |lines: &[(&str, &str)]| -> HeaderMap {
            let line = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            lines.iter().map(line).collect()
        };
        let (mut uri, mut headers): (Uri, _) = (target.parse().unwrap(), make(lines));
        assert_eq!(found(&uri, &headers).as_deref(), expected, "{target} {lines:?}");
        strip(&mut uri, &mut headers);
        assert_eq!(uri.to_string(), left.0, "{target}");
        assert_eq!(headers, make(left.1), "{lines:?}");
        assert_eq!(found(&uri, &headers), None);
    }

    #[test]
    fn headers_and_cookies_are_found_and_taken_out() {
        let other = ("anthropic-version", "2023-06-01");
        check("/v1/messages", &[other], None, ("/v1/messages", &[other]));
        for name in HEADERS {
            check("/", &[other, (name, "k")], Some(&format!("the header {name}")), ("/", &[other]));
        }
        check("/", &[("x_api_key", "k")], Some("the header x_api_key"), ("/", &[]));
        check("/", &[("cookie", "a=b"), ("cookie", "c=d"), other], Some("the header cookie"), ("/", &[other]));
        let signed = [("authorization", "AWS4-HMAC-SHA256 …"), ("x-amz-date", "20260101T000000Z"), other];
        let signed: Vec<_> = signed.iter().map(|(name, value)| (*name, value.trim_end_matches('…'))).collect();
        check("/", &signed, Some("the header authorization"), ("/", &[other]));
        check("/", &[("x-amz-date", "20260101T000000Z")], None, ("/", &[]));
    }

    #[test]
    fn of_a_query_the_rest_stays_as_it_was() {
        let check = |target, name: Option<&str>, left| {
            let expected = name.map(|name| format!("{name:?} in the query"));
            check(target, &[], expected.as_deref(), (left, &[]));
        };
        check("/v1beta/models/x:generateContent?key=AIza", Some("key"), "/v1beta/models/x:generateContent");
        check("/a?alt=sse&key=AIza&x=%20", Some("key"), "/a?alt=sse&x=%20");
        check("/a?KEY=1&Api%5FKey=2&b", Some("key"), "/a?b");
        check("/a?%24httpHeaders=Authorization:x", Some("$httpheaders"), "/a");
        check("/a?X-Amz-Signature=1&X-Amz-Credential=2&c=3", Some("x-amz-signature"), "/a?c=3");
        check("/a?monkey=1&keys=2&beta=true", None, "/a?monkey=1&keys=2&beta=true");
        check("/a?", None, "/a?");
    }

    #[test]
    fn keys_among_protocols_are_found_and_taken_out() {
        let name = "sec-websocket-protocol";
        let found = Some("a key in sec-websocket-protocol");
        let offer = "realtime, openai-insecure-api-key.sk-1, openai-beta.realtime-v1";
        check("/", &[(name, offer)], found, ("/", &[(name, "realtime, openai-beta.realtime-v1")]));
        check("/", &[(name, "a"), (name, "OpenAI-Insecure-Api-Key.sk-1")], found, ("/", &[(name, "a")]));
        check("/", &[(name, "openai-insecure-api-key.sk-1")], found, ("/", &[]));
        check("/", &[(name, "realtime")], None, ("/", &[(name, "realtime")]));
    }
}
