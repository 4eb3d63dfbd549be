//! Asks a provider's counting endpoint, with the credentials of the request it is about. The question is a request of its own in the ledger,
//! recorded and never counted as spent.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, StatusCode, Version};
use tokio::time::timeout;

use super::{NotCounted, Provider};
use crate::domain::{Api, BottleId, Ending, ProviderName, SpendRequest, Tokens};
use crate::meter::{self, Ask, CountQuestion, Counter};
use crate::proxy::account::Account;
use crate::proxy::allowed::Allowed;
use crate::proxy::exchange::Exchange;
use crate::proxy::headers::text;
use crate::proxy::limits::{COUNT_ANSWER_BYTES_MAX, COUNT_TIME_MAX};
use crate::proxy::outgoing::outgoing;
use crate::proxy::request_body::RequestBody;
use crate::proxy::stream_usage::is_sealed;
use crate::proxy::view::Passage;

/// Of the request's headers, those that speak of its own body and answer.
const OWN: [HeaderName; 4] =
    [CONTENT_LENGTH, CONTENT_ENCODING, ACCEPT_ENCODING, HeaderName::from_static("idempotency-key")];

/// A provider that counts, and what it is to count.
pub(in crate::proxy) struct Endpoint<'a> {
    pub(in crate::proxy) exchange: &'a Exchange,
    pub(in crate::proxy) passage: &'a Arc<Passage>,
    pub(in crate::proxy) bottle: BottleId,
    pub(in crate::proxy) provider: &'a ProviderName,
    pub(in crate::proxy) allowed: &'a Allowed,
    pub(in crate::proxy) api: Api,
    pub(in crate::proxy) version: Version,
    pub(in crate::proxy) model: Option<&'a str>,
    pub(in crate::proxy) asked: Asked,
}

/// A question that can be put.
pub(in crate::proxy) struct Asked {
    counter: Counter,
    question: CountQuestion,
    headers: HeaderMap,
}

impl Asked {
    /// The question about a request, if its provider counts and all of it is here to be read.
    pub(in crate::proxy) fn about(api: Api, head: &Parts, body: &RequestBody) -> Option<Self> {
        let target = head.uri.path_and_query()?.as_str();
        let counter = Counter::of(api, target)?;
        if !body.is_whole() || is_sealed(&head.headers) {
            return None;
        }
        let question = counter.question(target, text(&head.headers, &CONTENT_ENCODING), body.prefix())?;
        Some(Self { counter, question, headers: headers(&head.headers) })
    }

    /// Where it is put.
    pub(in crate::proxy) fn path(&self) -> &str {
        self.question.target.split('?').next().unwrap_or_default()
    }
}

impl Provider for Endpoint<'_> {
    async fn count_tokens(&self) -> Result<Tokens, NotCounted> {
        let path = self.asked.path();
        let ask = meter::ask(self.api, Method::POST.as_str(), path, &[], None);
        let request = self.spend_request(path, &ask);
        let permit = self.exchange.link.admit(request).await?.map_err(|_| NotCounted::NotAdmitted)?;
        let mut account = Account::new(permit, ask, (self.provider.clone(), Arc::clone(self.passage)));
        let counted = timeout(COUNT_TIME_MAX, self.ask(&mut account)).await.unwrap_or(Err(NotCounted::TimedOut));
        // Nothing is spent: nobody waits until that is written.
        drop(account.settle(if counted.is_ok() { Ending::Complete } else { Ending::Error }));
        counted
    }
}

impl Endpoint<'_> {
    fn spend_request(&self, path: &str, ask: &Ask) -> SpendRequest {
        SpendRequest {
            bottle: self.bottle,
            provider: self.provider.clone(),
            host: self.allowed.target.host.clone(),
            target: format!("{} {path}", Method::POST),
            is_metered: ask.is_metered,
            model: self.model.map(str::to_owned),
            input_estimate: ask.input_estimate,
            output_cap: ask.output_cap,
        }
    }

    async fn ask(&self, account: &mut Account) -> Result<Tokens, NotCounted> {
        let request = Request::post(&self.asked.question.target).body(())?;
        let (mut head, ()) = request.into_parts();
        head.headers = self.asked.headers.clone();
        let body = Bytes::from(self.asked.question.body.clone());
        let body = RequestBody::of(body, &self.passage.memory).map_err(|_| NotCounted::NotPut)?;
        account.set_sent(true);
        let request = outgoing(self.allowed, head, body).map_err(|_| NotCounted::NotPut)?;
        let lane = self.allowed.lane(self.passage);
        let response = self.exchange.upstream.request(request, self.version, lane).await?;
        let (head, body) = response.into_parts();
        account.take_head(&head);
        if head.status != StatusCode::OK {
            return Err(NotCounted::Status(head.status.as_u16()));
        }
        let body = Limited::new(body, COUNT_ANSWER_BYTES_MAX).collect().await.map_err(NotCounted::Broken)?;
        self.asked.counter.answer(&body.to_bytes()).ok_or(NotCounted::Unread)
    }
}

fn headers(of_request: &HeaderMap) -> HeaderMap {
    let mut headers = of_request.clone();
    for name in OWN {
        headers.remove(name);
    }
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers
}
