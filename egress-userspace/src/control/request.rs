//! A request of the control API, parsed once from method, path, query and body.

use hyper::Method;
use serde::de::DeserializeOwned;

use crate::domain::{BottleName, Stop};

use super::PROTOCOL;
use super::message::{ApiError, BudgetChangeRequest, ErrorCode, ResumeRequest, RunRequest, SignalRequest};

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
    /// `POST bottles/{name}/wait`: the events of a run that another connection started.
    Wait(BottleName),
    /// `POST bottles/{name}/signal`
    Signal(BottleName, SignalRequest),
    /// `POST bottles/{name}/cut`
    Cut(BottleName),
    /// `POST bottles/{name}/restore`
    Restore(BottleName),
    /// `GET bottles/{name}/budget`
    Explain(BottleName),
    /// `GET budgets`
    Budgets,
    /// `POST budgets`
    ChangeBudget(BudgetChangeRequest),
    /// `GET usage`
    Usage(RowFilter),
    /// `GET audit`
    Audit(RowFilter),
}

/// Which rows to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowFilter {
    /// `bottle=`: of this one only.
    pub bottle: Option<BottleName>,
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
            ["budgets"] if get => Ok(Self::Budgets),
            ["budgets"] if post => Ok(Self::ChangeBudget(json(body)?)),
            ["usage"] if get => Ok(Self::Usage(filter(query)?)),
            ["audit"] if get => Ok(Self::Audit(filter(query)?)),
            ["bottles", name, action] if post => {
                let name = name.parse().map_err(usage)?;
                match *action {
                    "run" => Ok(Self::Run(name, json(body)?)),
                    "resume" => Ok(Self::Resume(name, json(body)?)),
                    "freeze" => Ok(Self::Stop(name, Stop::Freeze)),
                    "kill" => Ok(Self::Stop(name, Stop::Kill)),
                    "wait" => Ok(Self::Wait(name)),
                    "signal" => Ok(Self::Signal(name, json(body)?)),
                    "cut" => Ok(Self::Cut(name)),
                    "restore" => Ok(Self::Restore(name)),
                    other => Err(not_found(format!("there is no action {other:?} on bottles"))),
                }
            }
            _ => Err(not_found(format!("there is no {method} {path}"))),
        }
    }
}

fn filter(query: &str) -> Result<RowFilter, ApiError> {
    let mut filter = RowFilter::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("bottle", name)) => filter.bottle = Some(name.parse().map_err(usage)?),
            Some(("last", count)) => filter.last = Some(count.parse().map_err(usage)?),
            _ => return Err(usage(format!("unknown parameter {pair:?}: there are bottle= and last="))),
        }
    }
    Ok(filter)
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| usage(format!("the body is not what this call takes: {error}")))
}

fn usage(message: impl std::fmt::Display) -> ApiError {
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
        let filter = RowFilter { bottle: Some(web.clone()), last: Some(5) };
        assert_eq!(get("/v1/usage", "bottle=web&last=5"), ApiRequest::Usage(filter));
        assert_eq!(ApiRequest::parse(&Method::POST, "/v1/bottles/web/cut", "", b"").unwrap(), ApiRequest::Cut(web));
    }

    #[test]
    fn bad_requests_are_named() {
        assert_eq!(code(&Method::GET, "/status", "", b""), Some(ErrorCode::NotFound));
        assert_eq!(code(&Method::POST, "/v1/status", "", b""), Some(ErrorCode::NotFound));
        assert_eq!(code(&Method::POST, "/v1/bottles/../cut", "", b""), Some(ErrorCode::Usage));
        assert_eq!(code(&Method::POST, "/v1/bottles/web/dance", "", b""), Some(ErrorCode::NotFound));
        assert_eq!(code(&Method::POST, "/v1/bottles/web/signal", "", b"{"), Some(ErrorCode::Usage));
        assert_eq!(code(&Method::GET, "/v1/usage", "color=red", b""), Some(ErrorCode::Usage));
    }
}
