//! Requests of git: held until what they ask for is known, and refused in words that git shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::Response;
use hyper::StatusCode;
use hyper::http::HeaderName;
use hyper::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use tokio::sync::OwnedSemaphorePermit;

use crate::domain::{Refusal, RefusalReason};
use crate::policy::git::{self, GitRefused, GitRequest, GitTerms, PUSH_BYTES_MAX, Sent, StillWanted};

use super::allowed::Allowed;
use super::exchange::Run;
use super::headers::text;
use super::limits::{REFUSED_PUSH_BYTES_MAX, REFUSED_PUSH_TIME_MAX};
use super::refusal::Answer;
use super::request_body::{RequestBody, discard_within};
use super::response_body::ResponseBody;

/// For machines.
const REASON: HeaderName = HeaderName::from_static("x-egress-reason");

/// What a request asks of git, if it does.
pub(super) fn asked(head: &Parts) -> Option<GitRequest> {
    let content_type = text(&head.headers, &CONTENT_TYPE);
    GitRequest::of(head.method.as_str(), head.uri.path(), head.uri.query(), content_type)
}

impl Run<'_> {
    /// The body of a request that is none of git's, or that its route allows; else the answer.
    pub(super) async fn check_git(
        &self,
        allowed: &Allowed,
        head: &Parts,
        body: RequestBody,
    ) -> Result<RequestBody, Response<ResponseBody>> {
        let Some(asked) = asked(head) else { return Ok(body) };
        let terms = GitTerms { fetch: allowed.way.git_fetch, push: &allowed.way.git_push };
        let place = format!("{}{}", allowed.target.host, repository(head.uri.path()));
        if let Err(refused) = git::head(asked, terms, &place) {
            return Err(self.refuse_git(allowed, refused, body).await);
        }
        if !asked.is_in_body() {
            return Ok(body);
        }
        let Some(seat) = self.origin.passage.place_for_long_prefix().await else {
            return Err(self.answer(&Answer::BodyBroken));
        };
        let body = match body.with_prefix(PUSH_BYTES_MAX).await {
            Ok(body) => body,
            Err(error) => {
                tracing::debug!(%error, bottle = %self.bottle.view.name, "request not read");
                return Err(self.answer(&error.into()));
            }
        };
        match judge(asked, allowed, head, place, (&body, seat)).await {
            Ok(seat) => Ok(body.in_place(seat)),
            Err(refused) => Err(self.refuse_git(allowed, refused, body).await),
        }
    }

    /// Git hears it when it has sent all that it wants to send.
    async fn refuse_git(&self, allowed: &Allowed, refused: GitRefused, body: RequestBody) -> Response<ResponseBody> {
        if let Some(rest) = body.into_rest() {
            discard_within(rest, REFUSED_PUSH_BYTES_MAX, REFUSED_PUSH_TIME_MAX).await;
        }
        let GitRefused { message, answer } = refused;
        let refusal = Refusal::of(RefusalReason::GitForbidden, message);
        self.tell(&Answer::Refused(Refusal { rule: allowed.way.rule.clone(), ..refusal }));
        let mut response = Response::new(ResponseBody::Answer { bytes: Some(answer.body.into()), delivery: None });
        *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::FORBIDDEN);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        headers.insert(REASON, HeaderValue::from_static(RefusalReason::GitForbidden.as_str()));
        response
    }
}

/// A pack is unpacked where nobody else waits. The seat of whoever it is for comes back when it has been.
async fn judge(
    asked: GitRequest,
    allowed: &Allowed,
    head: &Parts,
    place: String,
    (body, seat): (&RequestBody, OwnedSemaphorePermit),
) -> Result<OwnedSemaphorePermit, GitRefused> {
    let (fetch, push) = (allowed.way.git_fetch, allowed.way.git_push.clone());
    let encodings: Vec<&str> =
        head.headers.get_all(CONTENT_ENCODING).iter().map(|value| value.to_str().unwrap_or("unknown")).collect();
    let encoding = (!encodings.is_empty()).then(|| encodings.join(","));
    let (prefix, is_whole) = (body.shared_prefix(), body.is_whole());
    let reading = aside(seat, move |is_waited_for| {
        let sent = Sent { encoding: encoding.as_deref(), bytes: &prefix, is_whole };
        git::body(asked, GitTerms { fetch, push: &push }, &place, sent, is_waited_for)
    });
    let (judged, seat) = reading.await.ok_or_else(|| git::unread(asked))?;
    judged.map(|()| seat)
}

/// Works where nobody else waits. When whoever asked is gone, the work is told, and has its seat until it ends all the same.
async fn aside<T: Send + 'static>(
    seat: OwnedSemaphorePermit,
    work: impl FnOnce(StillWanted<'_>) -> T + Send + 'static,
) -> Option<(T, OwnedSemaphorePermit)> {
    let waiting = Waiting(Arc::new(AtomicBool::new(true)));
    let waits = Arc::clone(&waiting.0);
    tokio::task::spawn_blocking(move || (work(&|| waits.load(Ordering::Relaxed)), seat)).await.ok()
}

/// Someone is there for an answer, until this is dropped.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The repository's path, as far as it can be told.
fn repository(path: &str) -> &str {
    let ends = ["/info/refs", "/info/lfs", "/git-receive-pack", "/git-upload-pack", "/objects/", "/HEAD"];
    let end = ends.iter().filter_map(|end| path.find(end)).min();
    end.and_then(|end| path.get(..end)).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn work_for_nobody_is_told_and_keeps_its_seat_until_it_ends() {
        let seats = Arc::new(Semaphore::new(1));
        let seat = || Arc::clone(&seats).try_acquire_owned().unwrap();
        let (done, seat_back) = aside(seat(), |is_waited_for| is_waited_for()).await.unwrap();
        assert!(done && seats.available_permits() == 0);
        drop(seat_back);

        let ((say, told), (end, ended)) = (mpsc::channel(), mpsc::channel());
        let work = aside(seat(), move |is_waited_for| {
            while is_waited_for() {
                std::thread::sleep(Duration::from_millis(1));
            }
            say.send(()).unwrap();
            ended.recv_timeout(PATIENCE).unwrap();
        });
        assert!(timeout(Duration::from_millis(20), work).await.is_err());
        told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(seats.available_permits(), 0);
        end.send(()).unwrap();
        timeout(PATIENCE, seats.acquire()).await.unwrap().unwrap().forget();
    }
}
