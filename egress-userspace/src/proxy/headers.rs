//! What is taken out of heads on their way, both ways. Nothing is added but what every connection says for itself: that it
//! becomes a WebSocket, and to a client how much of its budget is left.
//!
//! Pure.

use hyper::HeaderMap;
use hyper::http::header::{
    ALT_SVC, CONNECTION, EXPECT, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    SEC_WEBSOCKET_EXTENSIONS, TE, TRANSFER_ENCODING, UPGRADE,
};

use crate::domain::Tokens;
use crate::policy::Way;

/// Tokens left in the tightest budget that binds a request, after what is held for requests in flight, this one among them:
/// as it was when the request was admitted.
const BUDGET_REMAINING: HeaderName = HeaderName::from_static("x-egress-budget-remaining");
/// Headers that speak of one connection only (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Headers for which some servers take another method than the request's.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method", "x-http-method-override", "x-method-override"];
/// The same for another path.
const PATH_OVERRIDES: [&str; 2] = ["x-original-url", "x-rewrite-url"];

/// The header for which a server may take the request for another one than its route is about. Some servers read `_` for `-`.
pub(super) fn overriding<'a>(headers: &'a HeaderMap, way: &Way) -> Option<&'a HeaderName> {
    let methods = METHOD_OVERRIDES.iter().filter(|_| way.restricts_methods);
    let names: Vec<&str> = methods.chain(PATH_OVERRIDES.iter().filter(|_| way.restricts_paths)).copied().collect();
    headers.keys().find(|name| names.contains(&name.as_str().replace('_', "-").as_str()))
}

/// Makes a client's headers fit for the provider. `Host` is set anew from the target; a 100 has already been sent.
pub(super) fn strip_request(headers: &mut HeaderMap) {
    let accepts_trailers = headers.get_all(TE).iter().any(|value| has_token(value, "trailers"));
    strip_hop_by_hop(headers);
    headers.remove(HOST);
    headers.remove(EXPECT);
    if accepts_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Makes a provider's headers fit for the client; no hint leads past the proxy, and nobody else speaks of budgets.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(ALT_SVC);
    headers.remove(BUDGET_REMAINING);
}

/// Says how much is left.
pub(super) fn tell_remaining(headers: &mut HeaderMap, remaining: Option<Tokens>) {
    headers.extend(remaining.map(|remaining| (BUDGET_REMAINING, HeaderValue::from(remaining.0))));
}

/// A header's value, if it is text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Does the client want another protocol, named in `Upgrade`, on this connection?
pub(super) fn asks_for_websocket(headers: &HeaderMap) -> bool {
    headers.get_all(UPGRADE).iter().any(|value| has_token(value, "websocket"))
}

/// Makes stripped headers those of a WebSocket's handshake, either way. No extension is offered: frames are read as they are.
pub(super) fn open_websocket(headers: &mut HeaderMap) {
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Does the provider speak what it was asked to, without an extension that nobody offered?
pub(super) fn opens_plain_websocket(headers: &HeaderMap) -> bool {
    asks_for_websocket(headers) && !headers.contains_key(SEC_WEBSOCKET_EXTENSIONS)
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    value.to_str().is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Route, RouteFile};
    use crate::policy::{Decision, Destination, MeteredTable, RouteFiles};

    #[test]
    fn a_websocket_is_opened_without_extensions() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let offer = ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits");
        let mut request = headers(&[("connection", "Upgrade"), ("upgrade", "websocket"), key, offer]);
        strip_request(&mut request);
        open_websocket(&mut request);
        assert_eq!(request, headers(&[key, ("connection", "Upgrade"), ("upgrade", "websocket")]));
        assert!(opens_plain_websocket(&request));
        assert!(!opens_plain_websocket(&headers(&[("upgrade", "websocket"), offer])));
        assert!(!opens_plain_websocket(&headers(&[("upgrade", "h2c")])));
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_speaks_of_one_connection_stays_on_it() {
        let mut request = headers(&[
            ("x-api-key", "k"),
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("proxy-authorization", "Basic x"),
            ("te", "gzip, trailers"),
            ("host", "a.com"),
            ("expect", "100-continue"),
            ("accept-encoding", "gzip"),
        ]);
        strip_request(&mut request);
        assert_eq!(request, headers(&[("x-api-key", "k"), ("te", "trailers"), ("accept-encoding", "gzip")]));
    }

    #[test]
    fn a_header_that_makes_another_request_of_it_is_found_where_that_matters() {
        let way = |methods: &[&str], paths: &[&str]| {
            let mut route = Route::to("a.com".parse().unwrap(), String::new());
            route.methods = methods.iter().map(|method| method.parse().unwrap()).collect();
            route.paths = paths.iter().map(|path| path.parse().unwrap()).collect();
            let host = RouteFile { routes: vec![route], ..RouteFile::default() };
            let to = Destination { host: &"a.com".parse().unwrap(), port: 443, method: "GET", path: "/" };
            let decided = RouteFiles { host, ..RouteFiles::default() }.decide(&[], &MeteredTable::default(), to);
            let Decision::Allowed(way) = decided else { panic!("{decided:?}") };
            way
        };
        let check = |name: &str, way: &Way, expected: bool| {
            let request = headers(&[("x-own", "1"), (name, "DELETE")]);
            let found = overriding(&request, way).map(HeaderName::as_str);
            assert_eq!(found, expected.then_some(name), "{name}");
        };
        let (all, methods, paths) = (way(&[], &[]), way(&["GET"], &[]), way(&[], &["/"]));
        for name in ["x-http-method", "x-http-method-override", "x-method-override", "x_http-method_override"] {
            check(name, &all, false);
            check(name, &methods, true);
            check(name, &paths, false);
        }
        for name in ["x-original-url", "x-rewrite-url", "x_rewrite_url"] {
            check(name, &all, false);
            check(name, &methods, false);
            check(name, &paths, true);
        }
        check("x-http-methods", &methods, false);
    }

    #[test]
    fn no_hint_leads_past_the_proxy() {
        let mut response = headers(&[("alt-svc", "h3=\":443\""), ("keep-alive", "timeout=5"), ("server", "x")]);
        response.insert(BUDGET_REMAINING, HeaderValue::from_static("999"));
        strip_response(&mut response);
        assert_eq!(response, headers(&[("server", "x")]));
    }

    #[test]
    fn a_websocket_is_recognised_however_it_is_written() {
        assert!(asks_for_websocket(&headers(&[("upgrade", "WebSocket")])));
        assert!(asks_for_websocket(&headers(&[("upgrade", "h2c, websocket")])));
        assert!(!asks_for_websocket(&headers(&[("upgrade", "h2c")])));
    }
}
