//! What a client hears instead of a response: a status that it does not retry and a body that people and machines read.
//!
//! Each hears it in the shape of its provider's own errors, of which SDKs make exceptions and agents show the message. Beside
//! that stand `egress_reason` and the budget, the same for all. On an open WebSocket of OpenAI's Responses it is the event of
//! a failed response, with the same beside it.

use bytes::Bytes;
use hyper::http::HeaderName;
use hyper::http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::domain::{Api, BottleName, Host, Refusal, RefusalReason, Scope, Tokens};
use crate::meter::{self, Dialect};
use crate::policy::{Destination, Forbidden};

/// Tells the SDKs not to try again, whatever the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// Names the kind of an error of Amazon's.
const AMAZON_ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

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

/// Who hears it: in what shape, and whether with another status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Audience {
    /// Whoever speaks Anthropic's Messages, and who asked for a host that nobody knows.
    #[default]
    Anthropic,
    /// Whoever speaks one of OpenAI's dialects but Responses.
    OpenAi,
    /// Whoever speaks OpenAI's Responses, as Codex does, which tries again for a quarter of a minute on the statuses that say
    /// it best.
    Responses,
    /// Whoever speaks Gemini's.
    Google,
    /// Whoever speaks Bedrock's own.
    Amazon,
    /// Whoever speaks Ollama's own.
    Ollama,
}

impl Audience {
    /// Who asks for this.
    pub(super) fn of(api: Api, path: &str) -> Self {
        match meter::dialect(api, path) {
            Some(Dialect::AnthropicMessages) => Self::Anthropic,
            Some(Dialect::OpenAiChat | Dialect::OpenAiEmbeddings) => Self::OpenAi,
            Some(Dialect::OpenAiResponses) => Self::Responses,
            Some(Dialect::Gemini) => Self::Google,
            Some(Dialect::Bedrock) => Self::Amazon,
            Some(Dialect::Ollama) => Self::Ollama,
            None => Self::beside(api),
        }
    }

    /// Who asks there for what is no work.
    fn beside(api: Api) -> Self {
        match api {
            Api::Anthropic => Self::Anthropic,
            Api::OpenAi | Api::ChatGpt | Api::Azure | Api::OpenRouter | Api::OpenAiCompatible => Self::OpenAi,
            Api::Gemini | Api::CodeAssist | Api::Vertex => Self::Google,
            Api::Bedrock => Self::Amazon,
            Api::Ollama => Self::Ollama,
        }
    }
}

/// A provider's own shape, and beside it why.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    shape: Shape<'a>,
    #[serde(flatten)]
    why: Why<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Shape<'a> {
    Anthropic { r#type: &'static str, error: AnthropicError<'a> },
    OpenAi { error: OpenAiError<'a> },
    Google { error: GoogleError<'a> },
    Amazon { message: &'a str },
    Ollama { error: &'a str },
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'static str,
    message: &'a str,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<()>,
    code: Reason,
    /// Their SDKs keep nothing that is not in here.
    #[serde(flatten)]
    why: Why<'a>,
}

#[derive(Serialize)]
struct GoogleError<'a> {
    code: u16,
    message: &'a str,
    status: &'static str,
}

/// For machines.
#[derive(Clone, Copy, Serialize)]
struct Why<'a> {
    egress_reason: Reason,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    scope: Option<&'a Scope>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<Tokens>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<Tokens>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(untagged)]
enum Reason {
    Policy(RefusalReason),
    Transport(&'static str),
}

/// A refusal without a budget in it.
pub(super) fn plain(reason: RefusalReason, message: String) -> Answer {
    Answer::Refused(Refusal::of(reason, message))
}

/// Routes say no.
pub(super) fn forbidden(why: Forbidden, bottle: &BottleName, to: Destination<'_>) -> Answer {
    let Destination { host, port, method, path } = to;
    match why {
        Forbidden::Host => plain(
            RefusalReason::HostNotAllowed,
            format!(
                "{host} is not on the allowlist of bottle {bottle}: an operator can add a route to it, `- host: {host}` under \
                 `routes:` in routes.yaml or routes/{bottle}.yaml"
            ),
        ),
        Forbidden::Request => plain(
            RefusalReason::RouteForbids,
            format!(
                "the allowlist of bottle {bottle} has routes to {host}, but none for {method} {path} at port {port}: \
                 `egress routes check` says what they allow"
            ),
        ),
    }
}

/// A request that is another to servers that honour this header.
pub(super) fn overridden(by: &HeaderName, rule: Option<String>) -> Answer {
    let message = format!(
        "the route that allows this request is about some methods or paths only, and some servers take another one from its \
         header {by}: send it without that"
    );
    Answer::Refused(Refusal { rule, ..Refusal::of(RefusalReason::RouteForbids, message) })
}

/// A name that leads into this host or its network.
pub(super) fn not_public(host: &Host, rule: Option<String>) -> Answer {
    let message = format!(
        "{host} leads to no public address outside this host and its network: an operator can allow it with `private: true` \
         on a route, or name its address under upstream.resolve in settings.yml"
    );
    Answer::Refused(Refusal { rule, ..Refusal::of(RefusalReason::AddressNotPublic, message) })
}

/// Is it what routes say, or what follows from them?
pub(super) fn is_of_routes(reason: RefusalReason) -> bool {
    match reason {
        RefusalReason::HostNotAllowed
        | RefusalReason::RouteForbids
        | RefusalReason::AddressNotPublic
        | RefusalReason::GitForbidden
        | RefusalReason::SensitiveData
        | RefusalReason::CredentialMissing
        | RefusalReason::CredentialNotAllowed
        | RefusalReason::Misdirected
        | RefusalReason::NotMeterable => true,
        RefusalReason::BudgetExhausted
        | RefusalReason::BottleCut
        | RefusalReason::LedgerUnavailable
        | RefusalReason::ControllerUnavailable
        | RefusalReason::TooMuchAtOnce => false,
    }
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
    let why = why(answer);
    let body = Body { shape: shape(audience, status, message(answer), why), why };
    let mut response = Response::new(serde_json::to_vec(&body).unwrap_or_default().into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if !passes_by_itself(why.egress_reason) {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if audience == Audience::Amazon {
        headers.insert(AMAZON_ERROR_TYPE, HeaderValue::from_static("AccessDeniedException"));
    }
    if closes {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Would the same request be answered a moment later, with nobody doing anything?
fn passes_by_itself(reason: Reason) -> bool {
    use RefusalReason::{ControllerUnavailable, LedgerUnavailable, TooMuchAtOnce};
    matches!(reason, Reason::Policy(ControllerUnavailable | LedgerUnavailable | TooMuchAtOnce))
}

/// As each provider words an error.
fn shape<'a>(audience: Audience, status: StatusCode, message: &'a str, why: Why<'a>) -> Shape<'a> {
    let r#type = error_type(status);
    match audience {
        Audience::Anthropic => Shape::Anthropic { r#type: "error", error: AnthropicError { r#type, message } },
        Audience::OpenAi | Audience::Responses => {
            let code = why.egress_reason;
            Shape::OpenAi { error: OpenAiError { message, r#type, param: None, code, why } }
        }
        Audience::Google => {
            let (code, status) = (status.as_u16(), google_status(status));
            Shape::Google { error: GoogleError { code, message, status } }
        }
        Audience::Amazon => Shape::Amazon { message },
        Audience::Ollama => Shape::Ollama { error: message },
    }
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
        RefusalReason::BudgetExhausted
        | RefusalReason::BottleCut
        | RefusalReason::RouteForbids
        | RefusalReason::SensitiveData
        | RefusalReason::CredentialMissing
        | RefusalReason::CredentialNotAllowed
        | RefusalReason::NotMeterable
            if audience == Audience::Responses =>
        {
            StatusCode::BAD_REQUEST
        }
        RefusalReason::BudgetExhausted => StatusCode::PAYMENT_REQUIRED,
        RefusalReason::BottleCut
        | RefusalReason::HostNotAllowed
        | RefusalReason::RouteForbids
        | RefusalReason::AddressNotPublic
        | RefusalReason::GitForbidden
        | RefusalReason::SensitiveData
        | RefusalReason::CredentialMissing
        | RefusalReason::CredentialNotAllowed
        | RefusalReason::NotMeterable => StatusCode::FORBIDDEN,
        RefusalReason::LedgerUnavailable | RefusalReason::ControllerUnavailable | RefusalReason::TooMuchAtOnce => {
            StatusCode::SERVICE_UNAVAILABLE
        }
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

/// Google's name for what a status means. Never that of a quota: Gemini CLI waits for those to fill.
fn google_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYMENT_REQUIRED => "FAILED_PRECONDITION",
        StatusCode::FORBIDDEN => "PERMISSION_DENIED",
        status if status.is_server_error() => "UNAVAILABLE",
        _ => "INVALID_ARGUMENT",
    }
}

/// Anthropic's name for what a status means, which does for OpenAI's `type`, too.
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

    fn check(answer: &Answer, audience: Audience, status: u16, body: &Value) {
        let response = respond(answer, audience, true);
        assert_eq!(response.status(), status);
        assert_eq!(serde_json::from_slice::<Value>(response.body()).unwrap(), *body);
        let retry = response.headers().get("x-should-retry").map(HeaderValue::as_bytes);
        assert_eq!(retry, (status != 503).then_some(&b"false"[..]), "{body}");
        assert!(!response.headers().contains_key("retry-after"));
    }

    fn exhausted() -> Refusal {
        Refusal {
            reason: RefusalReason::BudgetExhausted,
            message: "used up".to_owned(),
            scope: Some(Scope::Bottle("web".parse().unwrap())),
            budget: Some(Tokens(5000)),
            used: Some(Tokens(5012)),
            rule: None,
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
        check(&Answer::Refused(exhausted()), Audience::Anthropic, 402, &body);
    }

    #[test]
    fn each_hears_it_as_its_provider_would_say_it() {
        let why = json!({"egress_reason": "budget_exhausted", "scope": "bottle", "name": "web", "budget": 5000, "used": 5012});
        let beside = |mut shape: Value| {
            shape.as_object_mut().unwrap().extend(why.as_object().unwrap().clone());
            shape
        };
        let error =
            |kind| beside(json!({"message": "used up", "type": kind, "param": null, "code": "budget_exhausted"}));
        let google = json!({"error": {"code": 402, "message": "used up", "status": "FAILED_PRECONDITION"}});
        let anthropic = json!({"type": "error", "error": {"type": "billing_error", "message": "used up"}});
        let cases = [
            (Api::OpenAi, "/v1/chat/completions", 402, json!({"error": error("billing_error")})),
            (Api::OpenAi, "/v1/models", 402, json!({"error": error("billing_error")})),
            (Api::OpenAi, "/v1/responses", 400, json!({"error": error("invalid_request_error")})),
            (Api::Gemini, "/v1beta/models/gemini-x:streamGenerateContent", 402, google.clone()),
            (Api::CodeAssist, "/v1internal:loadCodeAssist", 402, google),
            (
                Api::Vertex,
                "/v1/projects/p/locations/l/publishers/anthropic/models/c:rawPredict",
                402,
                anthropic.clone(),
            ),
            (Api::Anthropic, "/api/hello", 402, anthropic),
            (Api::Bedrock, "/model/m/converse", 402, json!({"message": "used up"})),
            (Api::Ollama, "/api/chat", 402, json!({"error": "used up"})),
        ];
        for (api, path, status, shape) in cases {
            check(&Answer::Refused(exhausted()), Audience::of(api, path), status, &beside(shape));
        }
        let amazons = respond(&Answer::Refused(exhausted()), Audience::Amazon, false);
        assert_eq!(amazons.headers()["x-amzn-errortype"], "AccessDeniedException");
    }

    #[test]
    fn codex_gets_the_status_that_it_does_not_try_again_on() {
        let audience = Audience::of(Api::OpenAi, "/v1/responses");
        assert_eq!(audience, Audience::of(Api::ChatGpt, "/backend-api/codex/responses"));
        assert_eq!(Audience::of(Api::OpenAi, "/v1/chat/completions"), Audience::OpenAi);
        let status = |answer: &Answer| respond(answer, audience, false).status().as_u16();
        assert_eq!(status(&Answer::Refused(exhausted())), 400);
        for reason in [RefusalReason::NotMeterable, RefusalReason::SensitiveData, RefusalReason::CredentialNotAllowed] {
            assert_eq!(status(&plain(reason, String::new())), 400, "{reason:?}");
        }
        for reason in [RefusalReason::LedgerUnavailable, RefusalReason::TooMuchAtOnce] {
            assert_eq!(status(&plain(reason, String::new())), 503, "{reason:?}");
        }
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
        check(&plain(RefusalReason::HostNotAllowed, "no".to_owned()), Audience::default(), 403, &body);
        let error = json!({ "type": "api_error", "message": "egress could not reach the provider" });
        let body = json!({ "type": "error", "error": error, "egress_reason": "upstream_failed" });
        check(&Answer::UpstreamFailed, Audience::default(), 502, &body);
    }
}
