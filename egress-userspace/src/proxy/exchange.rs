//! The request handler. HTTP/1 and HTTP/2, with TLS and without, through CONNECT and not: every request comes through here.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::client::legacy::ResponseFuture;
use thiserror::Error;
use tokio::time::{Instant, timeout};

use crate::broker::{FromProxy, Phase, Stage};
use crate::domain::{
    Api, Ending, Host, Preflight, Refusal, RefusalReason, RequestLog, SpendRequest, Tokens, with_causes,
};
use crate::meter;
use crate::policy::{self, Credential, Decision, Destination, Forbidden, MeteredHost, Way};

use super::account::Account;
use super::allowed::Allowed;
use super::count::{self, Asked, Endpoint};
use super::delivery::Delivery;
use super::git;
use super::headers;
use super::limits::{BODY_PREFIX_BYTES_MAX, REFUSAL_DELIVERY_TIME_MAX, RESPONSE_HEAD_TIME_MAX};
use super::link::{Link, LivePermit};
use super::outgoing::outgoing;
use super::own;
use super::refusal::{self, Answer, Audience};
use super::request_body::{BodyBroken, RequestBody, discard};
use super::request_log::Line;
use super::response_body::ResponseBody;
use super::scan::{Sets, Shown};
use super::socket::ClientSocket;
use super::spelling::Heads;
use super::stream_usage;
use super::strict::StrictStream;
use super::target::{Leads, PLAIN_PORT, TLS_PORT, Target, TargetError, agree};
use super::tee::{Tee, Terms};
use super::unknown_paths::UnknownPaths;
use super::upstream::{DialError, Upstream};
use super::view::{Bottle, Passage, PolicyView};
use super::websocket::Relay;

/// Longest method and path that is recorded, in characters.
const TARGET_CHARACTERS_MAX: usize = 512;

/// The bottle was cut while its request was handled: the connection ends without an answer.
#[derive(Debug, Error)]
#[error("the bottle is cut")]
pub(super) struct Severed;

/// Where a request comes from.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) socket: Arc<ClientSocket>,
    pub(super) passage: Arc<Passage>,
    /// Names that the connection has been given: CONNECT target, SNI.
    pub(super) expected: Vec<Host>,
    /// Where it leads, unless each request says so.
    pub(super) leads: Option<Leads>,
    /// What the connection has become, if its last request turned it into a WebSocket.
    relay: Mutex<Option<Relay>>,
    /// It has.
    is_upgraded: Arc<AtomicBool>,
    /// How its requests spell their headers, over HTTP/1.
    pub(super) heads: Arc<Heads>,
}

impl Origin {
    /// A connection that has named no host.
    pub(super) fn new(socket: Arc<ClientSocket>, passage: Arc<Passage>, leads: Option<Leads>) -> Self {
        let (relay, is_upgraded, heads) = (Mutex::default(), Arc::default(), Arc::default());
        Self { socket, passage, expected: Vec::new(), leads, relay, is_upgraded, heads }
    }

    /// The connection becomes a WebSocket when its answer has been sent.
    pub(super) fn turn_into(&self, relay: Relay) {
        *self.relay.lock().unwrap_or_else(PoisonError::into_inner) = Some(relay);
        self.is_upgraded.store(true, Ordering::Release);
    }

    /// A connection whose requests are looked at as long as it is one of HTTP/1.
    pub(super) fn strict<S>(&self, stream: S) -> StrictStream<S> {
        StrictStream::new(stream, Arc::clone(&self.is_upgraded), Arc::clone(&self.heads))
    }

    /// What it has become.
    pub(super) fn into_relay(self) -> Option<Relay> {
        self.relay.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handles requests.
pub(super) struct Exchange {
    pub(super) link: Arc<Link>,
    pub(super) upstream: Upstream,
    pub(super) unknown_paths: UnknownPaths,
    pub(super) sets: Sets,
}

/// One request on its way.
pub(super) struct Run<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) origin: &'a Origin,
    pub(super) policy: &'a PolicyView,
    pub(super) bottle: &'a Bottle,
    version: Version,
    /// What the host speaks, if it is metered.
    api: Option<Api>,
    shown: Shown,
    begun: Instant,
    /// How long the body's beginning took to arrive, in microseconds.
    waited_us: AtomicU64,
}

impl Exchange {
    /// Answers one request.
    pub(super) async fn handle(
        &self,
        origin: &Origin,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Severed> {
        let begun = Instant::now();
        let policy = self.link.policy();
        let bottle = policy.bottle(origin.socket.peer());
        let bottle = bottle.filter(|bottle| Arc::ptr_eq(&bottle.passage, &origin.passage)).ok_or(Severed)?;
        let (mut head, body) = request.into_parts();
        let target = agree(&head, &origin.expected, origin.leads);
        if target.as_ref().is_ok_and(|target| own::is_own(&target.host)) {
            discard(body).await;
            let answer = own::answer(&self.link, &policy, bottle, &head).await;
            return Ok(answer.map(|bytes| ResponseBody::Answer { bytes: Some(bytes), delivery: None }));
        }
        let host = target.as_ref().ok().map(|target| &target.host);
        let api = host.and_then(|host| policy.metered.find(host)).map(|row| row.api);
        let (version, shown) = (head.version, self.sets.shown(&policy, bottle, &head, host));
        let (policy, waited_us) = (&*policy, AtomicU64::new(0));
        let run = Run { exchange: self, origin, policy, bottle, version, api, shown, begun, waited_us };
        match run.allow(&head, target) {
            Ok(allowed) => {
                run.log(None, allowed.way.rule.as_deref(), allowed.way.log);
                allowed.credential.strip(&mut head.uri, &mut head.headers);
                if headers::asks_for_websocket(&head.headers) && git::asked(&head).is_none() {
                    run.upgrade(allowed, head, body).await
                } else {
                    run.carry(allowed, head, body).await
                }
            }
            Err(answer) => {
                discard(body).await;
                Ok(run.answer(&answer))
            }
        }
    }

    /// Why no tunnel leads there, if none does.
    pub(super) fn refuses_tunnel(&self, origin: &Origin, host: &Host, port: u16) -> Result<Option<Answer>, Severed> {
        if matches!(port, PLAIN_PORT | TLS_PORT) {
            return Ok(None);
        }
        let policy = self.link.policy();
        let bottle = policy.bottle(origin.socket.peer()).ok_or(Severed)?;
        if policy.routes.opens(&bottle.view.lineage, host, port) {
            return Ok(None);
        }
        let (method, path) = (Method::CONNECT, "");
        let to = Destination { host, port, method: method.as_str(), path };
        let why = if policy.names(bottle, host) { Forbidden::Request } else { Forbidden::Host };
        let reason = if why == Forbidden::Host { RefusalReason::HostNotAllowed } else { RefusalReason::RouteForbids };
        let log = policy.routes.log(&bottle.view.lineage);
        Line::new(&bottle.view.name, method.as_str(), path, Some(reason)).at(Some(host)).write(log);
        self.link.tell_refused(bottle, reason, Some(host), &format!("{method} port {port}"), None);
        Ok(Some(refusal::forbidden(why, &bottle.view.name, to)))
    }
}

impl Run<'_> {
    /// What is decided without asking anyone.
    fn allow(&self, head: &Parts, target: Result<Target, TargetError>) -> Result<Allowed, Answer> {
        let is_upgrade = headers::asks_for_websocket(&head.headers);
        if let Phase::LastWord(refusal) = &self.bottle.view.phase {
            let refusal = refusal.clone();
            // Codex hides what answers an upgrade, falls back to HTTP, and shows what it hears there.
            return Err(if is_upgrade { Answer::UpgradeRefused(Some(refusal)) } else { Answer::Refused(refusal) });
        }
        let target = target.map_err(|error| refusal::plain(error.reason(), error.to_string()))?;
        let (method, path) = (head.method.as_str(), head.uri.path());
        let to = Destination { host: &target.host, port: target.port, method, path };
        let way = match self.policy.decide(self.bottle, to) {
            Decision::Allowed(way) => *way,
            Decision::Refused(why) => return Err(refusal::forbidden(why, &self.bottle.view.name, to)),
        };
        if let Some(name) = headers::overriding(&head.headers, &way) {
            return Err(refusal::overridden(name, way.rule.clone()));
        }
        let has_socket = way.metered.as_ref().is_none_or(|row| meter::has_responses_socket(row.api, path));
        let is_carried = head.version == Version::HTTP_11 && head.method == Method::GET && has_socket;
        if head.method == Method::CONNECT || (is_upgrade && !is_carried) {
            return Err(Answer::UpgradeRefused(None));
        }
        let credential =
            self.credential(&target.host, &way, head).map_err(|refusal| match is_upgrade && way.metered.is_some() {
                true => Answer::UpgradeRefused(Some(refusal)),
                false => Answer::Refused(refusal),
            })?;
        Ok(Allowed::new(target, way, credential))
    }

    /// What operators read of it.
    fn log(&self, reason: Option<RefusalReason>, rule: Option<&str>, wanted: RequestLog) {
        let Shown { method, uri, host } = &self.shown;
        let name = &self.bottle.view.name;
        Line::new(name, method.as_str(), uri.path(), reason).at(host.as_ref()).by(rule).write(wanted);
    }

    fn credential(&self, host: &Host, way: &Way, head: &Parts) -> Result<Credential, Refusal> {
        let brought = (&head.uri, &head.headers);
        let found = policy::credential(&way.auth, way.metered.is_some(), host, brought, &self.policy.secrets);
        found.map_err(|refusal| Refusal { rule: way.rule.clone(), ..refusal })
    }

    /// What operators hear of a request that routes, detectors or a name in two versions refuse; of budgets they hear
    /// otherwise.
    pub(super) fn tell(&self, answer: &Answer) {
        let (Answer::Refused(refused) | Answer::UpgradeRefused(Some(refused))) = answer else { return };
        let reason = refused.reason;
        if reason == RefusalReason::TooMuchAtOnce {
            tracing::warn!(bottle = %self.bottle.view.name, "refused: as much is held for it at once as may be");
        }
        if !refusal::is_of_routes(reason) {
            return self.bottle.passage.measures.refused(reason);
        }
        self.log(Some(reason), refused.rule.as_deref(), self.policy.routes.log(&self.bottle.view.lineage));
        let host = self.shown.host.as_ref();
        self.exchange.link.tell_refused(self.bottle, reason, host, &self.shown_target(), refused.rule.clone());
    }

    /// Method and path, as they may be told of.
    pub(super) fn shown_target(&self) -> String {
        shortened(&format!("{} {}", self.shown.method, self.shown.uri.path()))
    }

    /// Admit, forward, respond.
    async fn carry(
        &self,
        allowed: Allowed,
        mut head: Parts,
        body: Incoming,
    ) -> Result<Response<ResponseBody>, Severed> {
        let body = match self.check_git(&allowed, &head, RequestBody::unread(body, &self.origin.passage.memory)).await {
            Ok(body) => body,
            Err(refused) => return Ok(refused),
        };
        let body = match self.screen(&allowed, &mut head, body).await {
            Ok(body) => body,
            Err(answer) => return Ok(self.answer(&answer)),
        };
        let Some(metered) = &allowed.way.metered else { return self.pass(&allowed, head, body).await };
        let reading = Instant::now();
        let asked = read_ask(metered.api, &head, body).await;
        let waited_us = u64::try_from(reading.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.waited_us.store(waited_us, Ordering::Relaxed);
        let (mut ask, mut body) = match asked {
            Ok(asked) => asked,
            Err(error) => {
                tracing::debug!(%error, bottle = %self.bottle.view.name, "request not read");
                return Ok(self.answer(&error.into()));
            }
        };
        let target = self.shown_target();
        if !ask.is_meterable() {
            return Ok(self.refuse_unsent(refusal::not_meterable(&target), body).await);
        }
        let preflight = self.policy.preflight.of(self.bottle.view.preflight, &metered.provider);
        if ask.is_metered && preflight == Preflight::Exact {
            ask.input_estimate = self.count(&allowed, metered, &head, &body, &ask).await;
        }
        let permit = match self.admit(metered, &allowed.target.host, &target, &ask).await {
            Ok(permit) => permit,
            Err(answer) => return Ok(self.refuse_unsent(answer, body).await),
        };
        if ask.is_unknown {
            self.tell_unknown(&allowed.target.host, &head);
        }
        if permit.ends_with_budget() && !stream_usage::is_sealed(&head.headers) {
            // What is compressed cannot be ended but by breaking it off.
            head.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        let withholds_usage = stream_usage::ask_for(metered.stream_usage, &ask, &mut head.headers, &mut body);
        let provider = metered.provider.clone();
        let mut account = Account::new(permit, ask, (provider, Arc::clone(&self.origin.passage)));
        Ok(match self.forward(&allowed, head, body, &mut account).await? {
            Ok(response) => self.respond(&allowed, response, account, withholds_usage).await,
            Err(answer) => self.answer(&answer),
        })
    }

    /// A request to a host that spends no tokens: forward, respond.
    async fn pass(&self, allowed: &Allowed, head: Parts, body: RequestBody) -> Result<Response<ResponseBody>, Severed> {
        let mut account = Account::of_nobody(Arc::clone(&self.origin.passage));
        Ok(match self.forward(allowed, head, body, &mut account).await? {
            Ok(response) => self.respond(allowed, response, account, false).await,
            Err(answer) => self.answer(&answer),
        })
    }

    /// How many tokens of input the request is, by whoever says it best.
    async fn count(
        &self,
        allowed: &Allowed,
        metered: &MeteredHost,
        head: &Parts,
        body: &RequestBody,
        ask: &meter::Ask,
    ) -> Tokens {
        let asked = Asked::about(metered.api, head, body).filter(|asked| self.may_ask(allowed, asked.path()));
        let endpoint = asked.map(|asked| Endpoint {
            exchange: self.exchange,
            passage: &self.origin.passage,
            bottle: self.bottle.view.id,
            provider: &metered.provider,
            api: metered.api,
            allowed,
            version: self.version,
            model: ask.model.as_deref(),
            asked,
        });
        count::input(endpoint, ask).await
    }

    /// Does the same route lead to the question? What it says of credentials holds for its own paths.
    fn may_ask(&self, allowed: &Allowed, path: &str) -> bool {
        let Target { host, port, .. } = &allowed.target;
        let to = Destination { host, port: *port, method: Method::POST.as_str(), path };
        matches!(self.policy.decide(self.bottle, to), Decision::Allowed(way) if way.rule == allowed.way.rule)
    }

    /// The operator hears of what is passed without being counted.
    fn tell_unknown(&self, host: &Host, head: &Parts) {
        let Some(news) = self.exchange.unknown_paths.note(host, head.uri.path()) else { return };
        let bottle = &self.bottle.view;
        tracing::warn!(
            bottle = %bottle.name, %host, method = %head.method, path = news.shape,
            "a path that egress does not know is passed: tokens spent there are not counted; if it spends any, report it"
        );
        if news.is_last {
            tracing::warn!("no further unknown paths are told of until the proxy starts again");
        }
        let target = format!("{} {}", head.method, news.shape);
        self.exchange.link.say(FromProxy::PathUnknown { bottle: bottle.id, host: host.clone(), target });
    }

    /// Answers a request of which some may still be on its way.
    async fn refuse_unsent(&self, answer: Answer, body: RequestBody) -> Response<ResponseBody> {
        if let Some(rest) = body.into_rest() {
            discard(rest).await;
        }
        self.answer(&answer)
    }

    pub(super) async fn admit(
        &self,
        metered: &MeteredHost,
        host: &Host,
        target: &str,
        ask: &meter::Ask,
    ) -> Result<LivePermit, Answer> {
        admit(&self.exchange.link, self.bottle, (metered, host), target, ask).await
    }

    async fn forward(
        &self,
        allowed: &Allowed,
        head: Parts,
        body: RequestBody,
        account: &mut Account,
    ) -> Result<Result<Response<Incoming>, Answer>, Severed> {
        let host = &allowed.target.host;
        let request = match self.signable(allowed, body).await.and_then(|body| outgoing(allowed, head, body)) {
            Ok(request) => request,
            Err(answer) => return Ok(Err(answer)),
        };
        let response = self.send(allowed, request, account).await?;
        if response.as_ref().is_ok_and(|response| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
            tracing::warn!(%host, "the provider switches protocols unasked");
            drop(account.settle(Ending::Error));
            return Ok(Err(Answer::UpstreamFailed));
        }
        Ok(response)
    }

    /// Sends what has been admitted.
    pub(super) async fn send(
        &self,
        allowed: &Allowed,
        request: Request<RequestBody>,
        account: &mut Account,
    ) -> Result<Result<Response<Incoming>, Answer>, Severed> {
        let host = &allowed.target.host;
        let waited = Duration::from_micros(self.waited_us.load(Ordering::Relaxed));
        self.bottle.passage.measures.passed(Stage::Forward, self.begun.elapsed().saturating_sub(waited));
        account.set_sent(true);
        let verdict = request.body().verdict();
        let sending: ResponseFuture =
            self.exchange.upstream.request(request, self.version, allowed.lane(&self.origin.passage));
        let response = tokio::select! {
            biased;
            () = self.origin.passage.severed() => return Err(Severed),
            response = timeout(RESPONSE_HEAD_TIME_MAX, sending) => response,
        };
        let ending = match response {
            Ok(Ok(response)) => return Ok(Ok(response)),
            Ok(Err(_)) if let Some(refusal) = verdict.as_ref().and_then(|verdict| verdict.get()) => {
                drop(account.settle(Ending::Error));
                return Ok(Err(Answer::Refused(refusal.clone())));
            }
            Ok(Err(error)) => {
                account.set_sent(!error.is_connect());
                if DialError::of(&error).is_some_and(|dialled| matches!(dialled, DialError::NotPublic)) {
                    drop(account.settle(Ending::Error));
                    return Ok(Err(refusal::not_public(host, allowed.way.rule.clone())));
                }
                tracing::warn!(%host, error = with_causes(&error), "the provider did not answer");
                if error.is_connect() { Ending::Error } else { Ending::HungUp }
            }
            Err(_) => {
                tracing::warn!(%host, "the provider did not answer in time");
                Ending::TimedOut
            }
        };
        drop(account.settle(ending));
        Ok(Err(Answer::UpstreamFailed))
    }

    pub(super) async fn respond(
        &self,
        allowed: &Allowed,
        response: Response<Incoming>,
        mut account: Account,
        withholds_usage: bool,
    ) -> Response<ResponseBody> {
        let (mut head, body) = response.into_parts();
        account.take_head(&head);
        headers::strip_response(&mut head.headers);
        headers::tell_remaining(&mut head.headers, account.remaining());
        head.version = Version::HTTP_11;
        if body.is_end_stream() {
            let settled = account.settle(Ending::Complete);
            if let Some(settled) = settled.filter(|_| account.is_metered())
                && let Err(error) = settled.await
            {
                return self.answer(&refusal::plain(RefusalReason::ControllerUnavailable, error.to_string()));
            }
            return Response::from_parts(head, ResponseBody::Empty);
        }
        let delivery = self.delivery(FromProxy::Delivered { bottle: self.bottle.view.id }, self.policy.drain);
        let withheld = if withholds_usage { stream_usage::withhold(&mut head) } else { None };
        if account.may_end_early() {
            head.headers.remove(CONTENT_LENGTH);
        }
        let screen = match self.inbound(allowed, &mut head) {
            Ok(screen) => screen,
            Err(refusal) => {
                drop(account.settle(Ending::Error));
                return self.answer(&Answer::Refused(refusal));
            }
        };
        let terms = Terms { passage: &self.origin.passage, idle_max: self.policy.idle, delivery, withheld, screen };
        let tee = Tee::new(body, account, terms);
        Response::from_parts(head, ResponseBody::Tee(Box::new(tee)))
    }

    /// An answer of the proxy's own. Word that a bottle is at its end is followed until it has arrived.
    pub(super) fn answer(&self, answer: &Answer) -> Response<ResponseBody> {
        self.tell(answer);
        let is_last_word = matches!(self.bottle.view.phase, Phase::LastWord(_));
        let is_final = refusal::is_final(answer, is_last_word) && self.is_heard();
        // HTTP/2 has no such header; its streams end one by one.
        // What follows a CONNECT is no request, even if there is no tunnel.
        let closes = is_last_word || *answer == Answer::BodyBroken || self.shown.method == Method::CONNECT;
        let closes = closes && self.version < Version::HTTP_2;
        let report = FromProxy::RefusalDelivered { bottle: self.bottle.view.id };
        let delivery = is_final.then(|| self.delivery(report, REFUSAL_DELIVERY_TIME_MAX));
        let audience = self.api.map_or_else(Audience::default, |api| Audience::of(api, self.shown.uri.path()));
        let response = refusal::respond(answer, audience, closes);
        let (bottle, target) = (&self.bottle.view.name, self.shown_target());
        tracing::debug!(%bottle, target, status = response.status().as_u16(), is_final, "refused");
        response.map(|bytes| ResponseBody::Answer { bytes: Some(bytes), delivery })
    }

    /// Is the answer read by whoever works here? What agents ask beside their work, telemetry for one, they drop unread.
    fn is_heard(&self) -> bool {
        let Shown { method, uri, .. } = &self.shown;
        self.api.is_some_and(|api| meter::ask(api, method.as_str(), uri.path(), &[], None).is_metered)
    }

    fn delivery(&self, report: FromProxy, patience: Duration) -> Delivery {
        let link = Arc::clone(&self.exchange.link);
        Delivery { socket: Arc::clone(&self.origin.socket), link, patience, report }
    }
}

/// Asks the ledger whether work may be sent.
pub(super) async fn admit(
    link: &Arc<Link>,
    bottle: &Bottle,
    (metered, host): (&MeteredHost, &Host),
    target: &str,
    ask: &meter::Ask,
) -> Result<LivePermit, Answer> {
    let request = SpendRequest {
        bottle: bottle.view.id,
        provider: metered.provider.clone(),
        host: host.clone(),
        target: shortened(target),
        is_metered: ask.is_metered,
        model: ask.model.clone(),
        input_estimate: ask.input_estimate,
        output_cap: ask.output_cap,
    };
    let asking = Instant::now();
    let admitted = link.admit(request).await;
    bottle.passage.measures.passed(Stage::Admit, asking.elapsed());
    match admitted {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(refusal)) => Err(Answer::Refused(refusal)),
        Err(error) => Err(refusal::plain(RefusalReason::ControllerUnavailable, error.to_string())),
    }
}

fn shortened(target: &str) -> String {
    target.chars().take(TARGET_CHARACTERS_MAX).collect()
}

/// What the request asks for. Only a metered one is read before it goes.
async fn read_ask(api: Api, head: &Parts, body: RequestBody) -> Result<(meter::Ask, RequestBody), BodyBroken> {
    let (method, path) = (head.method.as_str(), head.uri.path());
    let body = if meter::ask(api, method, path, &[], None).is_metered {
        body.with_prefix(BODY_PREFIX_BYTES_MAX).await?
    } else {
        body
    };
    let ask = meter::ask(api, method, path, body.prefix(), body.bytes_total());
    Ok((ask, body))
}
