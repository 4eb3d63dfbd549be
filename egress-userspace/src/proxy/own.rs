//! What the proxy itself serves to bottles, under a name of its own, with and without TLS: where they
//! may go, what is left of their budgets, and that it is there.
//!
//! Nothing of it goes upstream or needs a permit, so it works while a budget is used up, too. A bottle reads of the scopes on
//! its own chain and of no other bottle.

use bytes::Bytes;
use hyper::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::domain::{BottleName, BudgetView, Host, ProviderName, ScopeState, Tokens};

use crate::policy::OWN_NAME;

use super::link::Link;
use super::view::{Bottle, PolicyView};

/// Where a bottle may go.
const ALLOWLIST: &str = "/allowlist";
/// What a bottle may use.
const BUDGET: &str = "/budget";
/// Says that whoever asks has come here.
const HEALTH: &str = "/healthz";

/// Is this the proxy itself?
pub(super) fn is_own(host: &Host) -> bool {
    host.as_str() == OWN_NAME
}

#[derive(Serialize)]
struct Budgets<'a> {
    bottle: &'a BottleName,
    budgets: Vec<Budget>,
}

/// What a bottle may use of one provider.
#[derive(Serialize)]
struct Budget {
    provider: ProviderName,
    /// What the bottle itself has used, and set aside.
    own: Tokens,
    /// Left in the tightest budget that binds, after what is held; `None` when none does.
    remaining: Option<Tokens>,
    /// Nearest scope first.
    chain: Vec<Allowed>,
}

/// One scope.
#[derive(Serialize)]
struct Allowed {
    #[serde(flatten)]
    state: ScopeState,
    /// What settled requests leave.
    left: Option<Tokens>,
}

/// Answers a request to the proxy itself.
pub(super) async fn answer(link: &Link, policy: &PolicyView, bottle: &Bottle, head: &Parts) -> Response<Bytes> {
    let path = head.uri.path();
    if ![ALLOWLIST, BUDGET, HEALTH].contains(&path) {
        let error = format!("there is nothing at {path}");
        return json_response(StatusCode::NOT_FOUND, &json!({ "error": error, "paths": [ALLOWLIST, BUDGET, HEALTH] }));
    }
    if head.method != Method::GET {
        let error = format!("{path} answers to GET only");
        let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": error }));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    if path == HEALTH {
        let mut response = respond(StatusCode::OK, Bytes::from_static(b"ok"));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        return response;
    }
    if path == ALLOWLIST {
        let allowlist = policy.routes.allowlist(&bottle.view.lineage, &policy.metered);
        return json_response(StatusCode::OK, &json!({ "bottle": bottle.view.name, "allowlist": allowlist }));
    }
    let ask = async || {
        let budgets = link.budgets(bottle.view.id).await.ok().flatten()?;
        let budgets = budgets.into_iter().map(budget).collect();
        serde_json::to_vec(&Budgets { bottle: &bottle.view.name, budgets }).ok().map(Bytes::from)
    };
    match bottle.passage.budgets(ask).await {
        Some(body) => respond(StatusCode::OK, body),
        None => {
            let error = "the ledger cannot be read; ask the operator of this host";
            json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": error }))
        }
    }
}

fn budget(view: BudgetView) -> Budget {
    let BudgetView { provider, own, chain } = view;
    let left = |state: &ScopeState| state.limit.map(|limit| limit.saturating_sub(state.used));
    let binding = chain.iter().filter(|state| state.binds);
    let remaining = binding.filter_map(|state| Some(left(state)?.saturating_sub(state.held))).min();
    let chain = chain.into_iter().map(|state| Allowed { left: left(&state), state }).collect();
    Budget { provider, own, remaining, chain }
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    respond(status, body.to_string().into())
}

fn respond(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Scope, UnixMillis, Window};

    fn check(chain: Vec<ScopeState>, remaining: Option<u64>, left: &[Option<u64>]) {
        let view = BudgetView { provider: "claude".parse().unwrap(), own: Tokens(3), chain };
        let found = serde_json::to_value(budget(view)).unwrap();
        assert_eq!(found["remaining"], json!(remaining), "{found}");
        let lefts: Vec<_> = found["chain"].as_array().unwrap().iter().map(|state| state["left"].as_u64()).collect();
        assert_eq!(lefts, left, "{found}");
    }

    fn state(scope: Scope, limit: Option<u64>, used: u64, held: u64, binds: bool) -> ScopeState {
        let (limit, used, held) = (limit.map(Tokens), Tokens(used), Tokens(held));
        ScopeState { limit, used, held, binds, ..ScopeState::of(scope) }
    }

    #[test]
    fn what_remains_is_what_the_tightest_binding_budget_leaves() {
        let web = || Scope::Bottle("web".parse().unwrap());
        check(
            vec![state(web(), None, 5, 1, false), state(Scope::Host, Some(100), 60, 30, true)],
            Some(10),
            &[None, Some(40)],
        );
        check(
            vec![state(web(), Some(50), 60, 0, true), state(Scope::Host, Some(100), 60, 0, true)],
            Some(0),
            &[Some(0), Some(40)],
        );
        check(vec![state(web(), None, 5, 1, false)], None, &[None]);
    }

    #[test]
    fn a_scope_says_all_that_an_operator_is_told() {
        let state = ScopeState {
            window: Some(Window::Day),
            turns: Some(UnixMillis(7)),
            ..state(Scope::Bottle("web".parse().unwrap()), Some(50), 20, 5, true)
        };
        let view = BudgetView { provider: "claude".parse().unwrap(), own: Tokens(3), chain: vec![state] };
        let found = serde_json::to_value(budget(view)).unwrap();
        let expected = json!({
            "scope": "bottle", "name": "web", "limit": 50, "window": "day", "turns": 7, "source": null, "granted": 0,
            "used": 20, "held": 5, "binds": true, "left": 30,
        });
        assert_eq!(found["chain"], json!([expected]));
    }
}
