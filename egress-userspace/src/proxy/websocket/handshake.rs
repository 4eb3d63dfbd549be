//! The request that becomes a WebSocket: an exchange of its own, which spends nothing.

use std::sync::Arc;

use hyper::body::{Body, Incoming};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode, Version};

use crate::domain::{Ending, RefusalReason};
use crate::meter;

use super::super::account::Account;
use super::super::allowed::Allowed;
use super::super::exchange::{Run, Severed};
use super::super::headers;
use super::super::outgoing::outgoing;
use super::super::refusal::Answer;
use super::super::request_body::{RequestBody, discard};
use super::super::response_body::ResponseBody;
use super::talk::Talk;
use super::{Relay, What};

impl Run<'_> {
    /// Asks the provider for a WebSocket, and turns the client's connection into its other end.
    pub(in super::super) async fn upgrade(
        &self,
        allowed: Allowed,
        mut head: Parts,
        body: Incoming,
    ) -> Result<Response<ResponseBody>, Severed> {
        let client = head.extensions.remove::<OnUpgrade>().filter(|_| body.is_end_stream());
        let Some((client, place)) = client.zip(self.origin.passage.admit_websocket()) else {
            discard(body).await;
            return Ok(self.answer(&Answer::UpgradeRefused(None)));
        };
        let body = match self.screen(&allowed, &mut head, RequestBody::unread(body, &self.origin.passage.memory)).await
        {
            Ok(body) => body,
            Err(answer) => return Ok(self.answer(&answer)),
        };
        let screens = match self.frame_screens(&allowed) {
            Ok(screens) => screens,
            Err(refusal) => return Ok(self.answer(&Answer::Refused(refusal))),
        };
        let path = head.uri.path().to_owned();
        let mut account = match &allowed.way.metered {
            None => Account::of_nobody(Arc::clone(&self.origin.passage)),
            Some(metered) => {
                let ask = meter::ask(metered.api, head.method.as_str(), &path, &[], None);
                let target = self.shown_target();
                match self.admit(metered, &allowed.target.host, &target, &ask).await {
                    Ok(permit) => {
                        let provider = metered.provider.clone();
                        Account::new(permit, ask, (provider, Arc::clone(&self.origin.passage)))
                    }
                    Err(answer) => return Ok(self.answer(&for_later(answer))),
                }
            }
        };
        let mut request = match outgoing(&allowed, head, body) {
            Ok(request) => request,
            Err(answer) => return Ok(self.answer(&answer)),
        };
        headers::open_websocket(request.headers_mut());
        let response = match self.send(&allowed, request, &mut account).await? {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => response,
            Ok(response) => return Ok(self.respond(&allowed, response, account, false).await),
            Err(answer) => return Ok(self.answer(&answer)),
        };
        if !headers::opens_plain_websocket(response.headers()) {
            tracing::warn!(host = %allowed.target.host, "the provider speaks a WebSocket that it was not asked for");
            drop(account.settle(Ending::Error));
            return Ok(self.answer(&Answer::UpstreamFailed));
        }
        let (link, bottle) = (Arc::clone(&self.exchange.link), self.bottle.view.id);
        let (socket, passage) = (Arc::clone(&self.origin.socket), Arc::clone(&self.origin.passage));
        let what = match allowed.way.metered {
            None => What::Messages(passage),
            Some(metered) => {
                What::Work(Arc::new(Talk::new(link, socket, passage, bottle, (allowed.target, metered), path)))
            }
        };
        Ok(self.switch(response, account, |provider| Relay { client, provider, what, screens, _place: place }))
    }

    /// Passes the provider's word on; the socket begins when it has left.
    fn switch(
        &self,
        mut response: Response<Incoming>,
        mut account: Account,
        relay: impl FnOnce(OnUpgrade) -> Relay,
    ) -> Response<ResponseBody> {
        let provider = hyper::upgrade::on(&mut response);
        let (mut head, _) = response.into_parts();
        account.take_head(&head);
        drop(account.settle(Ending::Complete));
        headers::strip_response(&mut head.headers);
        headers::open_websocket(&mut head.headers);
        head.version = Version::HTTP_11;
        self.origin.turn_into(relay(provider));
        Response::from_parts(head, ResponseBody::Empty)
    }
}

/// What a budget refuses is said to the request that follows over HTTP: clients hide what answers an upgrade.
fn for_later(answer: Answer) -> Answer {
    match answer {
        Answer::Refused(refusal)
            if matches!(refusal.reason, RefusalReason::BudgetExhausted | RefusalReason::BottleCut) =>
        {
            Answer::UpgradeRefused(Some(refusal))
        }
        answer @ (Answer::Refused(_) | Answer::UpgradeRefused(_) | Answer::UpstreamFailed | Answer::BodyBroken) => {
            answer
        }
    }
}
