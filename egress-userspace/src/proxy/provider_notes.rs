//! What the head of a provider's response tells of the request.
//!
//! Pure.

use hyper::HeaderMap;
use hyper::http::header::HeaderName;

use crate::domain::{ProviderNotes, RateLimits};

use super::headers::text;

/// Where providers put their id of a request, the one they ask for first: Anthropic; OpenAI and most others; Bedrock; Azure;
/// OpenRouter. What stands in front of a provider comes last.
const REQUEST_ID_HEADERS: [&str; 8] = [
    "request-id",
    "x-request-id",
    "x-oai-request-id",
    "x-amzn-requestid",
    "apim-request-id",
    "x-generation-id",
    "x-ds-trace-id",
    "cf-ray",
];
/// Longest id that is kept, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Where Bedrock and Gemini tell the class of service; others do in the body.
const SERVICE_TIER_HEADERS: [&str; 2] = ["x-amzn-bedrock-service-tier", "x-gemini-service-tier"];

/// The provider's id of the request.
pub(super) fn request_id(headers: &HeaderMap) -> Option<String> {
    let ids = REQUEST_ID_HEADERS.iter().filter_map(|name| text(headers, &HeaderName::from_static(name)));
    ids.filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())).map(str::to_owned).next()
}

/// The class of service, and what is left of rate limits and plans.
pub(super) fn notes(headers: &HeaderMap) -> ProviderNotes {
    let tiers = SERVICE_TIER_HEADERS.iter().filter_map(|name| text(headers, &HeaderName::from_static(name)));
    let limits = RateLimits::among(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    ProviderNotes { service_tier: tiers.filter_map(ProviderNotes::tier).next(), limits }
}

#[cfg(test)]
mod tests {
    use hyper::http::header::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap()))
            .collect()
    }

    fn check(lines: &[(&'static str, &[u8])], expected: Option<&str>) {
        assert_eq!(request_id(&headers(lines)).as_deref(), expected, "{lines:?}");
    }

    #[test]
    fn a_request_is_known_by_its_providers_id() {
        check(&[("cf-ray", b"972a33bb3977d246-FRA"), ("request-id", b"req_1")], Some("req_1"));
        check(&[("x-request-id", b"req_2"), ("apim-request-id", b"3")], Some("req_2"));
        check(&[("x-amzn-requestid", b"b2a5"), ("x-amzn-bedrock-service-tier", b"flex")], Some("b2a5"));
        check(&[("x-generation-id", b"gen-1"), ("cf-ray", b"972a")], Some("gen-1"));
        check(&[("cf-ray", b"972a")], Some("972a"));
        check(&[("request-id", b""), ("x-request-id", b"\xff"), ("cf-ray", b"972a")], Some("972a"));
        check(&[("request-id", &[b'1'; REQUEST_ID_BYTES_MAX])], Some(&"1".repeat(REQUEST_ID_BYTES_MAX)));
        check(&[("request-id", &[b'1'; REQUEST_ID_BYTES_MAX + 1])], None);
        check(&[("server", b"x")], None);
    }

    #[test]
    fn what_else_it_tells_is_kept_within_limits() {
        let told = notes(&headers(&[
            ("x-amzn-bedrock-service-tier", b"flex"),
            ("retry-after", b"7"),
            ("x-ratelimit-reset-tokens", &[b'1'; 5_000]),
            ("x-ratelimit-limit-tokens", b"\xff"),
            ("set-cookie", b"session=1"),
        ]));
        let limits = RateLimits::among([("retry-after", &b"7"[..])].into_iter());
        assert_eq!(told, ProviderNotes { service_tier: Some("flex".to_owned()), limits });
        let tier = |lines: &[(&'static str, &[u8])]| notes(&headers(lines)).service_tier;
        assert_eq!(tier(&[("x-gemini-service-tier", b"standard")]).as_deref(), Some("standard"));
        for bad in [&[b'x'; 65][..], b"", b"two words", b"\xff"] {
            assert_eq!(tier(&[("x-amzn-bedrock-service-tier", bad)]), None);
        }
    }
}
