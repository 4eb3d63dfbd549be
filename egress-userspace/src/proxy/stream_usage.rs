//! Usage that is asked for in the client's place: the request is made to ask, the answer to look as if it had not.

use hyper::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue,
};
use hyper::http::response::Parts;
use hyper::{HeaderMap, StatusCode};

use crate::domain::StreamUsage;
use crate::meter::{self, Ask, UsageAsked, UsageWithheld};

use super::headers::text;
use super::request_body::RequestBody;

/// Headers that vouch for the body's bytes: with one of them it goes as it is.
const SEALS: [HeaderName; 6] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("signature"),
    HeaderName::from_static("x-amz-content-sha256"),
];
/// How the `authorization` of a signed request begins (AWS Signature Version 4).
const SIGNED: &str = "AWS4-";

/// Makes a request ask for the usage of its stream, if it must; did it change?
pub(super) fn ask_for(host: StreamUsage, ask: &Ask, headers: &mut HeaderMap, body: &mut RequestBody) -> bool {
    if ask.usage_asked == UsageAsked::Yes || host == StreamUsage::Told || is_sealed(headers) {
        return false;
    }
    let encoding = text(headers, &CONTENT_ENCODING);
    let Some(asking) = meter::ask_for_usage(ask.usage_asked, encoding, body.prefix(), body.is_whole()) else {
        tracing::debug!("a streamed request cannot be made to ask for its usage, which may have to be estimated");
        return false;
    };
    body.replace_prefix(asking.body.into());
    // Set anew from the body.
    headers.remove(CONTENT_LENGTH);
    if asking.is_decoded {
        headers.remove(CONTENT_ENCODING);
    }
    // What is to be changed on its way back had better not be compressed.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    true
}

/// What takes the usage out of the answer to a request that was made to ask; an answer that is no stream has nothing to take
/// out.
pub(super) fn withhold(head: &mut Parts) -> Option<UsageWithheld> {
    let media_type = text(&head.headers, &CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or("").trim();
    if head.status != StatusCode::OK || !media_type.eq_ignore_ascii_case("text/event-stream") {
        return None;
    }
    let withheld = UsageWithheld::new(text(&head.headers, &CONTENT_ENCODING))?;
    head.headers.remove(CONTENT_ENCODING);
    head.headers.remove(CONTENT_LENGTH);
    Some(withheld)
}

/// Do headers vouch for the body's bytes?
pub(super) fn is_sealed(headers: &HeaderMap) -> bool {
    SEALS.iter().any(|name| headers.contains_key(name))
        || text(headers, &AUTHORIZATION).is_some_and(|value| value.starts_with(SIGNED))
}
