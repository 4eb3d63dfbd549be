//! What a client hears instead of a response: a status that it does not retry and a body that people and machines read.
//!
//! One shape serves all: Anthropic's, with `egress_reason` and the budget beside it; OpenAI's clients find `error.message` in
//! the same place.

use bytes::Bytes;
use hyper::http::HeaderName;
use hyper::http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::domain::{Refusal, RefusalReason, Scope, Tokens};

/// Tells the SDKs not to try again, whatever the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An answer that the proxy gives itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The policy or the ledger says no.
    Refused(Refusal),
    /// Another protocol was asked for, which cannot be metered.
    UpgradeRefused,
    /// The provider could not be reached or did not answer.
    UpstreamFailed,
    /// The client did not send its body in time, or broke it off.
    BodyBroken,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    error: ErrorBody<'a>,
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

/// The response that says it. With `closes` the connection ends after it.
pub(super) fn respond(answer: &Answer, closes: bool) -> Response<Bytes> {
    let status = status(answer);
    let (message, refusal) = match answer {
        Answer::Refused(refusal) => (refusal.message.as_str(), Some(refusal)),
        Answer::UpgradeRefused => ("egress cannot meter this protocol; use plain HTTP requests", None),
        Answer::UpstreamFailed => ("egress could not reach the provider", None),
        Answer::BodyBroken => ("the request's body did not arrive", None),
    };
    let body = Body {
        r#type: "error",
        error: ErrorBody { r#type: error_type(status), message },
        egress_reason: match answer {
            Answer::Refused(refusal) => Reason::Policy(refusal.reason),
            Answer::UpgradeRefused => Reason::Policy(RefusalReason::NotMeterable),
            Answer::UpstreamFailed => Reason::Transport("upstream_failed"),
            Answer::BodyBroken => Reason::Transport("request_body_broken"),
        },
        scope: refusal.and_then(|refusal| refusal.scope.as_ref()),
        budget: refusal.and_then(|refusal| refusal.budget),
        used: refusal.and_then(|refusal| refusal.used),
    };
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

fn status(answer: &Answer) -> StatusCode {
    let reason = match answer {
        Answer::Refused(refusal) => refusal.reason,
        // Codex falls back to HTTP on this at once.
        Answer::UpgradeRefused => return StatusCode::UPGRADE_REQUIRED,
        Answer::UpstreamFailed => return StatusCode::BAD_GATEWAY,
        Answer::BodyBroken => return StatusCode::REQUEST_TIMEOUT,
    };
    match reason {
        RefusalReason::BudgetExhausted => StatusCode::PAYMENT_REQUIRED,
        RefusalReason::BottleCut | RefusalReason::HostNotAllowed | RefusalReason::NotMeterable => StatusCode::FORBIDDEN,
        RefusalReason::LedgerUnavailable | RefusalReason::ControllerUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        RefusalReason::Misdirected => StatusCode::MISDIRECTED_REQUEST,
    }
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
        let response = respond(answer, true);
        assert_eq!(response.status(), status);
        assert_eq!(serde_json::from_slice::<Value>(response.body()).unwrap(), *body);
        assert_eq!(response.headers()["x-should-retry"], "false");
        assert!(!response.headers().contains_key("retry-after"));
    }

    #[test]
    fn a_refusal_says_who_how_much_and_why() {
        let refusal = Refusal {
            reason: RefusalReason::BudgetExhausted,
            message: "used up".to_owned(),
            scope: Some(Scope::Bottle("web".parse().unwrap())),
            budget: Some(Tokens(5000)),
            used: Some(Tokens(5012)),
        };
        let body = json!({
            "type": "error",
            "error": { "type": "billing_error", "message": "used up" },
            "egress_reason": "budget_exhausted",
            "scope": "bottle", "name": "web", "budget": 5000, "used": 5012,
        });
        check(&Answer::Refused(refusal), 402, &body);
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
