//! `egress routes check`, for people and machines.

use std::process::ExitCode;

use anyhow::Result;

use crate::domain::{CheckedFile, RouteAnswer, RouteCheck};

use super::show;

/// Prints what was found out. Ends with 1 when the request that was asked about would be refused.
///
/// # Errors
/// When it cannot be written.
pub fn show_route_check(check: &RouteCheck, is_json: bool) -> Result<ExitCode> {
    if is_json {
        show::json(check)?;
    } else {
        show::lines(&lines(check));
    }
    let is_refused = check.answer.as_ref().is_some_and(|answer| !answer.is_allowed);
    Ok(if is_refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn lines(check: &RouteCheck) -> Vec<String> {
    let mut lines: Vec<String> = check
        .files
        .iter()
        .map(|CheckedFile { path, routes }| {
            format!("{} is sound: {routes} {}", path.display(), if *routes == 1 { "route" } else { "routes" })
        })
        .collect();
    if lines.is_empty() {
        lines.push("there are no routes files: bottles reach metered hosts and nothing else".to_owned());
    }
    let Some(RouteAnswer { question, is_allowed, rule, says, .. }) = &check.answer else { return lines };
    let bottle = question.bottle.as_ref().map(|bottle| format!(" of bottle {bottle}")).unwrap_or_default();
    let verdict = match (is_allowed, rule) {
        (true, Some(rule)) => format!("allowed by {rule}"),
        (true, None) => "allowed without a route, as it is metered".to_owned(),
        (false, _) => "refused".to_owned(),
    };
    lines.push(format!("{} {}{bottle}: {verdict}", question.method.as_str(), question.url));
    lines.extend(says.iter().map(|line| format!("  {line}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RouteQuestion;

    #[test]
    fn a_verdict_names_its_route() {
        let question = RouteQuestion {
            url: "https://a.com:8443/x".parse().unwrap(),
            method: "POST".parse().unwrap(),
            bottle: Some("web".parse().unwrap()),
        };
        let answer = |is_allowed, rule: Option<&str>| RouteAnswer {
            question: question.clone(),
            is_allowed,
            rule: rule.map(str::to_owned),
            provider: None,
            says: vec!["so".to_owned()],
        };
        let check = |answer| {
            lines(&RouteCheck { files: vec![CheckedFile { path: "r.yaml".into(), routes: 1 }], answer: Some(answer) })
        };
        let expected =
            ["r.yaml is sound: 1 route", "POST https://a.com:8443/x of bottle web: allowed by r.yaml:3", "  so"];
        assert_eq!(check(answer(true, Some("r.yaml:3"))), expected);
        assert_eq!(check(answer(false, None))[1], "POST https://a.com:8443/x of bottle web: refused");
        let none = RouteCheck { files: Vec::new(), answer: None };
        assert_eq!(lines(&none), ["there are no routes files: bottles reach metered hosts and nothing else"]);
    }
}
