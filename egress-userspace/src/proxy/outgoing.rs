//! A request as it leaves: the same, but for what belongs to the connection, and for the credential that a route puts in.

use std::time::SystemTime;

use hyper::http::request::Parts;
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{Request, Uri, Version};

use crate::domain::{Refusal, RefusalReason};
use crate::policy::Unsigned;

use super::allowed::Allowed;
use super::exchange::Run;
use super::headers;
use super::limits::SIGNED_BODY_BYTES_MAX;
use super::refusal::{self, Answer};
use super::request_body::{RequestBody, discard};
use super::target::{PLAIN_PORT, TLS_PORT};

impl Run<'_> {
    /// The body, all of it here if a signature is to cover it.
    pub(super) async fn signable(&self, allowed: &Allowed, body: RequestBody) -> Result<RequestBody, Answer> {
        if !allowed.credential.signs_body() || body.is_whole() {
            return Ok(body);
        }
        let place = self.origin.passage.place_for_long_prefix().await.ok_or(Answer::BodyBroken)?;
        let body = body.with_prefix(SIGNED_BODY_BYTES_MAX).await?;
        if body.is_whole() {
            return Ok(body.in_place(place));
        }
        if let Some(rest) = body.into_rest() {
            discard(rest).await;
        }
        let message =
            format!("a body longer than {SIGNED_BODY_BYTES_MAX} bytes is not signed for AWS, and not sent unsigned");
        let refusal = Refusal::of(RefusalReason::RouteForbids, message);
        Err(Answer::Refused(Refusal { rule: allowed.way.rule.clone(), ..refusal }))
    }
}

/// The request as the provider gets it.
pub(super) fn outgoing(allowed: &Allowed, mut head: Parts, body: RequestBody) -> Result<Request<RequestBody>, Answer> {
    head.uri = address(allowed, &head.uri)
        .map_err(|_| refusal::plain(RefusalReason::Misdirected, "the path is malformed".to_owned()))?;
    headers::strip_request(&mut head.headers);
    head.version = Version::HTTP_11;
    head.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let unsigned = Unsigned { method: &head.method, host: &allowed.target.host, uri: &head.uri, body: body.prefix() };
    let presented = allowed.credential.present(unsigned, &mut head.headers, SystemTime::now());
    presented.map_err(|refusal| Answer::Refused(Refusal { rule: allowed.way.rule.clone(), ..refusal }))?;
    Ok(Request::from_parts(head, body))
}

fn address(allowed: &Allowed, asked: &Uri) -> Result<Uri, http::Error> {
    let target = &allowed.target;
    let path = asked.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let (scheme, usual_port) = if target.is_tls { (Scheme::HTTPS, TLS_PORT) } else { (Scheme::HTTP, PLAIN_PORT) };
    let port = if target.port == usual_port { String::new() } else { format!(":{}", target.port) };
    Uri::builder().scheme(scheme).authority(format!("{}{port}", target.host)).path_and_query(path).build()
}
