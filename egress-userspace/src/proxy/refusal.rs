//! What a client hears instead of a response: a status that it does not retry and a body that people and machines read.
//!
//! One shape serves all: Anthropic's, with `egress_reason` and the budget beside it; OpenAI's clients find `error.message` in
//! the same place. On an open WebSocket of OpenAI's Responses it is the event of a failed response, with the same beside it.

use bytes::Bytes;
use hyper::http::HeaderName;
use hyper::http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::domain::{Api, Host, Refusal, RefusalReason, Scope, Tokens};
use crate::meter;

/// Tells the SDKs not to try again, whatever the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An answer that the proxy gives itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The policy or the ledger says no.
    Refused(Refusal),
    /// Another protocol was asked for, which cannot be metered, or not now.
    UpgradeRefused(Option<Refusal>),
    /// The provider could not be reached or did not answer.
    UpstreamFailed,
    /// The client did not send its body in time, or broke it off.
    BodyBroken,
}

/// Who hears it. Codex tries again for a quarter of a minute on the statuses that say it best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Audience {
    /// Anyone.
    #[default]
    Any,
    /// Whoever speaks OpenAI's Responses, as Codex does.
    Responses,
}

impl Audience {
    /// Who asks for this.
    pub(super) fn of(api: Api, path: &str) -> Self {
        if meter::speaks_responses(api, path) { Self::Responses } else { Self::Any }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    error: ErrorBody<'a>,
    #[serde(flatten)]
    why: Why<'a>,
}

/// For machines.
#[derive(Serialize)]
struct Why<'a> {
    egress_reason: Reason,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    scope: Option<&'a Scope>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<Tokens>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<Tokens>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    r#type: &'static str,
    message: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Reason {
    Policy(RefusalReason),
    Transport(&'static str),
}

/// A refusal without a budget in it.
pub(super) fn plain(reason: RefusalReason, message: String) -> Answer {
    Answer::Refused(Refusal::of(reason, message))
}

/// A host that is not in the table.
pub(super) fn no_route(host: &Host) -> Answer {
    plain(RefusalReason::HostNotAllowed, format!("no route allows {host}; an operator can add one"))
}

/// Work that would go on unseen.
pub(super) fn not_meterable(target: &str) -> Answer {
    plain(RefusalReason::NotMeterable, format!("no response would tell what {target} uses, so it is not sent"))
}

/// Does a bottle that hears this know that its budget is gone, or that it is cut?
pub(super) fn is_final(answer: &Answer, is_last_word: bool) -> bool {
    let Answer::Refused(refusal) = answer else { return false };
    is_last_word || matches!(refusal.reason, RefusalReason::BudgetExhausted | RefusalReason::BottleCut)
}

/// The response that says it. With `closes` the connection ends after it.
pub(super) fn respond(answer: &Answer, audience: Audience, closes: bool) -> Response<Bytes> {
    let status = status(answer, audience);
    let error = ErrorBody { r#type: error_type(status), message: message(answer) };
    let body = Body { r#type: "error", error, why: why(answer) };
    let mut response = Response::new(serde_json::to_vec(&body).unwrap_or_default().into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    if closes {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn message(answer: &Answer) -> &str {
    match answer {
        Answer::Refused(refusal) | Answer::UpgradeRefused(Some(refusal)) => &refusal.message,
        Answer::UpgradeRefused(None) => "egress cannot meter this protocol; use plain HTTP requests",
        Answer::UpstreamFailed => "egress could not reach the provider",
        Answer::BodyBroken => "the request's body did not arrive",
    }
}

fn why(answer: &Answer) -> Why<'_> {
    let (egress_reason, refusal) = match answer {
        Answer::Refused(refusal) | Answer::UpgradeRefused(Some(refusal)) => {
            (Reason::Policy(refusal.reason), Some(refusal))
        }
        Answer::UpgradeRefused(None) => (Reason::Policy(RefusalReason::NotMeterable), None),
        Answer::UpstreamFailed => (Reason::Transport("upstream_failed"), None),
        Answer::BodyBroken => (Reason::Transport("request_body_broken"), None),
    };
    Why {
        egress_reason,
        scope: refusal.and_then(|refusal| refusal.scope.as_ref()),
        budget: refusal.and_then(|refusal| refusal.budget),
        used: refusal.and_then(|refusal| refusal.used),
    }
}

fn status(answer: &Answer, audience: Audience) -> StatusCode {
    let reason = match answer {
        Answer::Refused(refusal) => refusal.reason,
        // Codex falls back to HTTP on this at once.
        Answer::UpgradeRefused(_) => return StatusCode::UPGRADE_REQUIRED,
        Answer::UpstreamFailed => return StatusCode::BAD_GATEWAY,
        Answer::BodyBroken => return StatusCode::REQUEST_TIMEOUT,
    };
    match reason {
        RefusalReason::BudgetExhausted | RefusalReason::BottleCut | RefusalReason::NotMeterable
            if audience == Audience::Responses =>
        {
            StatusCode::BAD_REQUEST
        }
        RefusalReason::BudgetExhausted => StatusCode::PAYMENT_REQUIRED,
        RefusalReason::BottleCut | RefusalReason::HostNotAllowed | RefusalReason::NotMeterable => StatusCode::FORBIDDEN,
        RefusalReason::LedgerUnavailable | RefusalReason::ControllerUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        RefusalReason::Misdirected => StatusCode::MISDIRECTED_REQUEST,
    }
}

/// A response that there will not be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unborn<'a> {
    pub(super) id: &'a str,
    pub(super) created_unix_s: u64,
    /// As the request names them.
    pub(super) stream_id: Option<&'a str>,
    pub(super) model: Option<&'a str>,
}

/// The same on an open WebSocket: the event of a response that failed.
pub(super) fn failed_response(answer: &Answer, unborn: Unborn<'_>) -> Vec<u8> {
    let code = match status(answer, Audience::Responses) {
        // Clients try again on this one.
        status if status.is_server_error() => "server_error",
        // And not on this one, of which Codex shows the message as it is.
        _ => "invalid_prompt",
    };
    let response = FailedResponse {
        id: unborn.id,
        object: "response",
        created_at: unborn.created_unix_s,
        status: "failed",
        error: FailedResponseError { code, message: message(answer) },
        incomplete_details: None,
        model: unborn.model.unwrap_or_default(),
        output: [],
        parallel_tool_calls: false,
        tool_choice: "auto",
        tools: [],
        usage: None,
    };
    let Unborn { stream_id, .. } = unborn;
    let event = FailedEvent { r#type: "response.failed", sequence_number: 0, stream_id, response, why: why(answer) };
    serde_json::to_vec(&event).unwrap_or_default()
}

#[derive(Serialize)]
struct FailedEvent<'a> {
    r#type: &'static str,
    sequence_number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<&'a str>,
    response: FailedResponse<'a>,
    #[serde(flatten)]
    why: Why<'a>,
}

/// What SDKs expect of any response.
#[derive(Serialize)]
struct FailedResponse<'a> {
    id: &'a str,
    object: &'static str,
    created_at: u64,
    status: &'static str,
    error: FailedResponseError<'a>,
    incomplete_details: Option<()>,
    model: &'a str,
    output: [(); 0],
    parallel_tool_calls: bool,
    tool_choice: &'static str,
    tools: [(); 0],
    usage: Option<()>,
}

#[derive(Serialize)]
struct FailedResponseError<'a> {
    code: &'static str,
    message: &'a str,
}

/// Anthropic's name for what a status means.
fn error_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYMENT_REQUIRED => "billing_error",
        StatusCode::FORBIDDEN => "permission_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(answer: &Answer, status: u16, body: &Value) {
        let response = respond(answer, Audience::Any, true);
        assert_eq!(response.status(), status);
        assert_eq!(serde_json::from_slice::<Value>(response.body()).unwrap(), *body);
        assert_eq!(response.headers()["x-should-retry"], "false");
        assert!(!response.headers().contains_key("retry-after"));
    }

    fn exhausted() -> Refusal {
        Refusal {
            reason: RefusalReason::BudgetExhausted,
            message: "used up".to_owned(),
            scope: Some(Scope::Bottle("web".parse().unwrap())),
            budget: Some(Tokens(5000)),
            used: Some(Tokens(5012)),
        }
    }

    #[test]
    fn a_refusal_says_who_how_much_and_why() {
        let body = json!({
            "type": "error",
            "error": { "type": "billing_error", "message": "used up" },
            "egress_reason": "budget_exhausted",
            "scope": "bottle", "name": "web", "budget": 5000, "used": 5012,
        });
        check(&Answer::Refused(exhausted()), 402, &body);
    }

    #[test]
    fn codex_gets_the_status_that_it_does_not_try_again_on() {
        let audience = Audience::of(Api::OpenAi, "/v1/responses");
        assert_eq!(audience, Audience::of(Api::ChatGpt, "/backend-api/codex/responses"));
        assert_eq!(Audience::of(Api::OpenAi, "/v1/chat/completions"), Audience::Any);
        let status = |answer: &Answer| respond(answer, audience, false).status().as_u16();
        assert_eq!(status(&Answer::Refused(exhausted())), 400);
        assert_eq!(status(&plain(RefusalReason::NotMeterable, String::new())), 400);
        assert_eq!(status(&plain(RefusalReason::LedgerUnavailable, String::new())), 503);
        assert_eq!(status(&Answer::UpgradeRefused(Some(exhausted()))), 426);
    }

    #[test]
    fn on_a_socket_a_refusal_is_a_response_that_failed() {
        let event = |answer: &Answer| -> Value {
            let unborn =
                Unborn { id: "resp_1", created_unix_s: 1_790_000_000, stream_id: Some("s1"), model: Some("gpt-x") };
            serde_json::from_slice(&failed_response(answer, unborn)).unwrap()
        };
        let expected = json!({
            "type": "response.failed", "sequence_number": 0, "stream_id": "s1",
            "response": {
                "id": "resp_1", "object": "response", "created_at": 1_790_000_000, "status": "failed", "model": "gpt-x",
                "error": { "code": "invalid_prompt", "message": "used up" }, "incomplete_details": null,
                "output": [], "tools": [], "tool_choice": "auto", "parallel_tool_calls": false, "usage": null,
            },
            "egress_reason": "budget_exhausted",
            "scope": "bottle", "name": "web", "budget": 5000, "used": 5012,
        });
        assert_eq!(event(&Answer::Refused(exhausted())), expected);
        let unavailable = event(&plain(RefusalReason::ControllerUnavailable, "later".to_owned()));
        assert_eq!(unavailable["response"]["error"]["code"], "server_error");
    }

    #[test]
    fn what_has_no_budget_does_not_speak_of_one() {
        let error = json!({ "type": "permission_error", "message": "no" });
        let body = json!({ "type": "error", "error": error, "egress_reason": "host_not_allowed" });
        check(&plain(RefusalReason::HostNotAllowed, "no".to_owned()), 403, &body);
        let error = json!({ "type": "api_error", "message": "egress could not reach the provider" });
        let body = json!({ "type": "error", "error": error, "egress_reason": "upstream_failed" });
        check(&Answer::UpstreamFailed, 502, &body);
    }
}
