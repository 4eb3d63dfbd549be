//! A request of the control API, parsed once from method, path, query and body.

use hyper::Method;
use serde::de::DeserializeOwned;

use crate::domain::{ApprovalId, AuditHash, BottleName, Stop, UnixMillis};

use super::PROTOCOL;
use super::approvals::{ApprovalAction, ApprovalQuery, DecideRequest};
use super::message::{
    ApiError, AttachRequest, BudgetChangeRequest, ErrorCode, ResumeRequest, RunRequest, SignalRequest, WaitRequest,
};
use super::usage::{SumsQuery, UsageQuery, rows, sums};

/// Everything a front-end can ask.
#[derive(Debug, PartialEq, Eq)]
pub enum ApiRequest {
    /// `GET status`
    Status,
    /// `GET bottles`
    Bottles,
    /// `POST bottles/{name}/run`
    Run(BottleName, RunRequest),
    /// `POST bottles/{name}/resume`
    Resume(BottleName, ResumeRequest),
    /// `POST bottles/{name}/freeze` and `/kill`
    Stop(BottleName, Stop),
    /// `GET bottles/{name}/stopping`: how far that is.
    FollowStop(BottleName),
    /// `POST bottles/{name}/attach`
    Attach(BottleName, AttachRequest),
    /// `POST bottles/{name}/detach`
    Detach(BottleName),
    /// `POST bottles/{name}/wait`: the events of a run that another connection started.
    Wait(BottleName, WaitRequest),
    /// `POST bottles/{name}/signal`
    Signal(BottleName, SignalRequest),
    /// `POST bottles/{name}/cut`
    Cut(BottleName),
    /// `POST bottles/cut`
    CutAll,
    /// `POST bottles/{name}/restore`
    Restore(BottleName),
    /// `GET bottles/{name}/budget`
    Explain(BottleName),
    /// `GET bottles/{name}/routes`
    BottleRoutes(BottleName),
    /// `GET live`: how everything stands, and every change of it.
    Live,
    /// `GET budgets`
    Budgets,
    /// `POST budgets`
    ChangeBudget(BudgetChangeRequest),
    /// `GET metrics`: everything that is exported, as OpenMetrics text.
    Metrics,
    /// `GET usage`
    Usage(RowFilter),
    /// `GET usage/rows`: a page of requests.
    UsageRows(UsageQuery),
    /// `GET usage/sums`: a page of requests, added up.
    UsageSums(SumsQuery),
    /// `GET audit`
    Audit(AuditQuery),
    /// `GET audit/events`: every row after the one of `after=`, of `bottle=` only, as it is committed.
    FollowAudit(Option<BottleName>, i64),
    /// `GET audit/verify`: is the hash of `tip=` in the chain?
    VerifyAudit(Option<AuditHash>),
    /// `GET approvals`
    Approvals(ApprovalQuery),
    /// `GET approvals/events`: what waits, and every change of it, of `bottle=` only.
    FollowApprovals(Option<BottleName>),
    /// `POST approvals/{id}/approve` and `/deny`
    Decide(ApprovalId, ApprovalAction, DecideRequest),
    /// `POST bottles/{name}/forget`: every decision for good on it is taken back.
    ForgetApprovals(BottleName),
    /// `GET audit/kernel`: gates as the kernel holds them, of `bottle=` only.
    Kernel(Option<BottleName>),
}

/// Which rows to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowFilter {
    /// `bottle=`: of this one only.
    pub bottle: Option<BottleName>,
    /// `last=`: the newest so many.
    pub last: Option<u32>,
}

/// Which rows of the audit to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// `bottle=`: of this one only.
    pub bottle: Option<BottleName>,
    /// `since=`, in Unix milliseconds: what happened then or later.
    pub since: Option<UnixMillis>,
    /// `before=`: rows with a lower number.
    pub before: Option<i64>,
    /// `last=`: the newest so many.
    pub last: Option<u32>,
}

impl ApiRequest {
    /// Parses one.
    pub(super) fn parse(method: &Method, path: &str, query: &str, body: &[u8]) -> Result<Self, ApiError> {
        let mut parts = path.trim_start_matches('/').split('/');
        if parts.next() != Some(PROTOCOL) {
            return Err(not_found(format!("this controller speaks {PROTOCOL}: the path is /{PROTOCOL}/…")));
        }
        let parts: Vec<&str> = parts.collect();
        let get = method == Method::GET;
        let post = method == Method::POST;
        match parts.as_slice() {
            ["status"] if get => Ok(Self::Status),
            ["bottles"] if get => Ok(Self::Bottles),
            ["bottles", name, "budget"] if get => Ok(Self::Explain(name.parse().map_err(usage)?)),
            ["bottles", name, "routes"] if get => Ok(Self::BottleRoutes(name.parse().map_err(usage)?)),
            ["bottles", name, "stopping"] if get => Ok(Self::FollowStop(name.parse().map_err(usage)?)),
            ["live"] if get => Ok(Self::Live),
            ["budgets"] if get => Ok(Self::Budgets),
            ["budgets"] if post => Ok(Self::ChangeBudget(json(body)?)),
            ["metrics"] if get => Ok(Self::Metrics),
            ["usage"] if get => Ok(Self::Usage(filter(query)?)),
            ["usage", "rows"] if get => rows(query),
            ["usage", "sums"] if get => sums(query),
            ["audit"] if get => Ok(Self::Audit(audit(query)?)),
            ["audit", "events"] if get => follow_audit(query),
            ["audit", "verify"] if get => verify_audit(query),
            ["audit", "kernel"] if get => Ok(Self::Kernel(of_bottle(query)?)),
            ["approvals"] if get => Ok(Self::Approvals(approvals(query)?)),
            ["approvals", "events"] if get => Ok(Self::FollowApprovals(of_bottle(query)?)),
            ["approvals", id, action] if post => decide(id.parse().map_err(usage)?, action, body),
            ["bottles", "cut"] if post => Ok(Self::CutAll),
            ["bottles", name, action] if post => {
                let name = name.parse().map_err(usage)?;
                match *action {
                    "run" => Ok(Self::Run(name, json(body)?)),
                    "attach" => Ok(Self::Attach(name, json(body)?)),
                    "detach" => Ok(Self::Detach(name)),
                    "resume" => Ok(Self::Resume(name, json(body)?)),
                    "freeze" => Ok(Self::Stop(name, Stop::Freeze)),
                    "kill" => Ok(Self::Stop(name, Stop::Kill)),
                    "wait" => Ok(Self::Wait(name, json(body)?)),
                    "signal" => Ok(Self::Signal(name, json(body)?)),
                    "cut" => Ok(Self::Cut(name)),
                    "restore" => Ok(Self::Restore(name)),
                    "forget" => Ok(Self::ForgetApprovals(name)),
                    other => Err(not_found(format!("there is no action {other:?} on bottles"))),
                }
            }
            _ => Err(not_found(format!("there is no {method} {path}"))),
        }
    }
}

fn filter(query: &str) -> Result<RowFilter, ApiError> {
    let mut filter = RowFilter::default();
    each(query, "bottle= and last=", |key, value| {
        match key {
            "bottle" => filter.bottle = Some(value.parse().map_err(usage)?),
            "last" => filter.last = Some(value.parse().map_err(usage)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(filter)
}

fn audit(query: &str) -> Result<AuditQuery, ApiError> {
    let mut filter = AuditQuery::default();
    each(query, "bottle=, since=, before= and last=", |key, value| {
        match key {
            "bottle" => filter.bottle = Some(value.parse().map_err(usage)?),
            "since" => filter.since = Some(UnixMillis(value.parse().map_err(usage)?)),
            "before" => filter.before = Some(value.parse().map_err(usage)?),
            "last" => filter.last = Some(value.parse().map_err(usage)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(filter)
}

fn follow_audit(query: &str) -> Result<ApiRequest, ApiError> {
    let (mut bottle, mut after) = (None, 0);
    each(query, "bottle= and after=", |key, value| {
        match key {
            "bottle" => bottle = Some(value.parse().map_err(usage)?),
            "after" => after = value.parse().map_err(usage)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(ApiRequest::FollowAudit(bottle, after))
}

fn verify_audit(query: &str) -> Result<ApiRequest, ApiError> {
    let mut tip = None;
    each(query, "tip=", |key, value| {
        let is_known = key == "tip";
        if is_known {
            tip = Some(value.parse().map_err(usage)?);
        }
        Ok(is_known)
    })?;
    Ok(ApiRequest::VerifyAudit(tip))
}

fn decide(id: ApprovalId, action: &str, body: &[u8]) -> Result<ApiRequest, ApiError> {
    match action {
        "approve" => Ok(ApiRequest::Decide(id, ApprovalAction::Approve, json(body)?)),
        "deny" => Ok(ApiRequest::Decide(id, ApprovalAction::Deny, json(body)?)),
        "forget" => Ok(ApiRequest::Decide(id, ApprovalAction::Forget, DecideRequest::default())),
        other => Err(not_found(format!("there is no action {other:?} on approvals"))),
    }
}

fn approvals(query: &str) -> Result<ApprovalQuery, ApiError> {
    let RowFilter { bottle, last } = filter(query)?;
    Ok(ApprovalQuery { bottle, last })
}

fn of_bottle(query: &str) -> Result<Option<BottleName>, ApiError> {
    let mut bottle = None;
    each(query, "bottle=", |key, value| {
        let is_known = key == "bottle";
        if is_known {
            bottle = Some(value.parse().map_err(usage)?);
        }
        Ok(is_known)
    })?;
    Ok(bottle)
}

/// Takes the parameters one by one; `take` tells whether it knows one. `known` names those that there are.
pub(super) fn each(
    query: &str,
    known: &str,
    mut take: impl FnMut(&str, &str) -> Result<bool, ApiError>,
) -> Result<(), ApiError> {
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let is_known = pair.split_once('=').map_or(Ok(false), |(key, value)| take(key, value))?;
        if !is_known {
            return Err(usage(format!("unknown parameter {pair:?}: there are {known}")));
        }
    }
    Ok(())
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| usage(format!("the body is not what this call takes: {error}")))
}

pub(super) fn usage(message: impl std::fmt::Display) -> ApiError {
    ApiError { code: ErrorCode::Usage, message: message.to_string() }
}

fn not_found(message: String) -> ApiError {
    ApiError { code: ErrorCode::NotFound, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(method: &Method, path: &str, query: &str, body: &[u8]) -> Option<ErrorCode> {
        ApiRequest::parse(method, path, query, body).err().map(|error| error.code)
    }

    #[test]
    fn requests_are_parsed_once() {
        let web: BottleName = "web".parse().unwrap();
        let get = |path, query| ApiRequest::parse(&Method::GET, path, query, b"").unwrap();
        assert_eq!(get("/v1/status", ""), ApiRequest::Status);
        assert_eq!(get("/v1/live", ""), ApiRequest::Live);
        assert_eq!(get("/v1/bottles/web/routes", ""), ApiRequest::BottleRoutes(web.clone()));
        assert_eq!(get("/v1/bottles/web/stopping", ""), ApiRequest::FollowStop(web.clone()));
        let filter = RowFilter { bottle: Some(web.clone()), last: Some(5) };
        assert_eq!(get("/v1/usage", "bottle=web&last=5"), ApiRequest::Usage(filter));
        let query =
            AuditQuery { bottle: Some(web.clone()), since: Some(UnixMillis(7)), before: Some(9), last: Some(5) };
        assert_eq!(get("/v1/audit", "bottle=web&since=7&before=9&last=5"), ApiRequest::Audit(query));
        let follow = ApiRequest::FollowAudit(Some(web.clone()), 3);
        assert_eq!(get("/v1/audit/events", "bottle=web&after=3"), follow);
        let query = ApprovalQuery { bottle: Some(web.clone()), last: Some(5) };
        assert_eq!(get("/v1/approvals", "bottle=web&last=5"), ApiRequest::Approvals(query));
        assert_eq!(get("/v1/approvals/events", "bottle=web"), ApiRequest::FollowApprovals(Some(web.clone())));
        let tip = "0".repeat(64);
        assert_eq!(get("/v1/audit/verify", &format!("tip={tip}")), ApiRequest::VerifyAudit(Some(AuditHash::NONE)));
        let approve = ApiRequest::Decide(ApprovalId(7), ApprovalAction::Approve, DecideRequest { always: true });
        let body = br#"{"always":true}"#;
        assert_eq!(ApiRequest::parse(&Method::POST, "/v1/approvals/7/approve", "", body).unwrap(), approve);
        assert_eq!(ApiRequest::parse(&Method::POST, "/v1/bottles/web/cut", "", b"").unwrap(), ApiRequest::Cut(web));
    }

    #[test]
    fn bad_requests_are_named() {
        assert_eq!(code(&Method::GET, "/status", "", b""), Some(ErrorCode::NotFound));
        assert_eq!(code(&Method::POST, "/v1/status", "", b""), Some(ErrorCode::NotFound));
        assert_eq!(code(&Method::POST, "/v1/live", "", b""), Some(ErrorCode::NotFound));
        assert_eq!(code(&Method::GET, "/v1/bottles/../routes", "", b""), Some(ErrorCode::Usage));
        assert_eq!(code(&Method::POST, "/v1/bottles/../cut", "", b""), Some(ErrorCode::Usage));
        assert_eq!(code(&Method::POST, "/v1/bottles/web/dance", "", b""), Some(ErrorCode::NotFound));
        assert_eq!(code(&Method::POST, "/v1/bottles/web/signal", "", b"{"), Some(ErrorCode::Usage));
        assert_eq!(code(&Method::POST, "/v1/approvals/x/approve", "", b"{}"), Some(ErrorCode::Usage));
        assert_eq!(code(&Method::POST, "/v1/approvals/7/approve", "", b""), Some(ErrorCode::Usage));
        assert_eq!(code(&Method::POST, "/v1/approvals/7/dance", "", b"{}"), Some(ErrorCode::NotFound));
        for (path, query) in [
            ("/v1/approvals", "since=7"),
            ("/v1/approvals/events", "last=5"),
            ("/v1/usage", "color=red"),
            ("/v1/usage", "since=7"),
            ("/v1/usage", "last"),
            ("/v1/audit", "since=today"),
            ("/v1/audit/events", "last=5"),
            ("/v1/audit/verify", "tip=abc"),
            ("/v1/audit/kernel", "last=5"),
        ] {
            assert_eq!(code(&Method::GET, path, query, b""), Some(ErrorCode::Usage), "{path}?{query}");
        }
    }
}
