//! What operators read of requests: one line of JSON each, on standard error, where the journal takes it. Never a query, a
//! header or a body.

use std::io::Write;

use serde::Serialize;

use crate::domain::{BottleName, Host, RefusalReason, RequestLog};

/// One request.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    event: Event,
    bottle: &'a BottleName,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a Host>,
    method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<RefusalReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
}

/// What became of it.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    EgressBlock,
    EgressRequest,
}

impl<'a> Line<'a> {
    /// About a request that is refused, or goes.
    pub(super) fn new(bottle: &'a BottleName, method: &'a str, path: &'a str, reason: Option<RefusalReason>) -> Self {
        let event = if reason.is_some() { Event::EgressBlock } else { Event::EgressRequest };
        Self { event, bottle, host: None, method, path, reason, rule: None }
    }

    /// Where it is to go, as far as that is said.
    pub(super) fn at(self, host: Option<&'a Host>) -> Self {
        Self { host, ..self }
    }

    /// What has decided.
    pub(super) fn by(self, rule: Option<&'a str>) -> Self {
        Self { rule, ..self }
    }

    /// Writes it, if that is wanted of requests like it.
    pub(super) fn write(&self, wanted: RequestLog) {
        let is_wanted = match (wanted, self.event) {
            (RequestLog::All, _) | (RequestLog::Blocks, Event::EgressBlock) => true,
            (RequestLog::Off, _) | (RequestLog::Blocks, Event::EgressRequest) => false,
        };
        if !is_wanted {
            return;
        }
        let Ok(mut line) = serde_json::to_vec(self) else { return };
        line.push(b'\n');
        // Whole lines: several threads write. A log that cannot be written holds up no request.
        let _ = std::io::stderr().lock().write_all(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_where_and_why() {
        let (bottle, host) = ("web".parse().unwrap(), "a.com".parse().unwrap());
        let line = Line::new(&bottle, "GET", "/x", Some(RefusalReason::RouteForbids));
        let line = line.at(Some(&host)).by(Some("routes.yaml:3"));
        let expected = r#"{"event":"egress_block","bottle":"web","host":"a.com","method":"GET","path":"/x","reason":"route_forbids","rule":"routes.yaml:3"}"#;
        assert_eq!(serde_json::to_string(&line).unwrap(), expected);
        let passed = serde_json::to_string(&Line::new(&bottle, "GET", "/x", None)).unwrap();
        assert_eq!(passed, r#"{"event":"egress_request","bottle":"web","method":"GET","path":"/x"}"#);
    }
}
