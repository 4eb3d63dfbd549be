//! What the audit holds, in words.

use super::{ApprovalId, AuditKind, Host, RefusalReason, UnixMillis, Verdict};

/// What happened, in words, given how to write a time. Targets and detectors stand in it as they came: whoever shows it sees
/// to it that nothing in it does anything to a terminal.
#[must_use]
pub fn happened(kind: &AuditKind, time: &dyn Fn(UnixMillis) -> String) -> String {
    match kind {
        AuditKind::DaemonStarted { version } => format!("daemon {version} started"),
        AuditKind::BottleStarted { agent: Some(agent) } => format!("started as {agent}"),
        AuditKind::BottleStarted { agent: None } => "started".to_owned(),
        AuditKind::BottleEnded { exit_code } => format!("ended with exit code {exit_code}"),
        AuditKind::BudgetCrossed { scope, provider, budget, used, held, request } => {
            let request = request.as_ref().map(|request| format!(", by request {request}")).unwrap_or_default();
            let held = if held.0 > 0 { format!(", {held} more in flight") } else { String::new() };
            format!("{provider} budget of {scope} crossed: {used} of {budget} tokens used{held}{request}")
        }
        AuditKind::BudgetOvershot { scope, provider, budget, used } => {
            format!("{provider} budget of {scope} overshot by what was in flight: {used} of {budget} tokens used")
        }
        AuditKind::BudgetUsed { scope, provider, percent, budget, used } => {
            format!("{percent} % of the {provider} budget of {scope} used: {used} of {budget} tokens")
        }
        AuditKind::BudgetSet { scope, provider, limit, by } => {
            format!("{provider} budget of {scope} set to {limit} by user {by}")
        }
        AuditKind::BudgetGranted { scope, provider, tokens, until, by } => {
            let until = until.map(|until| format!(" until {}", time(until))).unwrap_or_default();
            format!("{tokens} tokens added to the {provider} budget of {scope}{until} by user {by}")
        }
        AuditKind::BudgetCleared { scope, provider, by } => {
            let provider = provider.as_ref().map(|provider| format!("{provider} ")).unwrap_or_default();
            format!("{provider}budget of {scope} as settings and flags say again, by user {by}")
        }
        AuditKind::GrantEnded { scope, provider, tokens } => {
            format!("{tokens} tokens added to the {provider} budget of {scope} for a time are gone")
        }
        AuditKind::SettingsReloaded => "settings read anew".to_owned(),
        AuditKind::RoutesReloaded => "routes read anew".to_owned(),
        AuditKind::DataRedacted { detector, host, target, is_outbound, count } => {
            let sent = if *is_outbound {
                format!("{target} to {host}")
            } else {
                format!("the response of {host} to {target}")
            };
            format!("{sent} went without what {detector} found in it, {count} times")
        }
        AuditKind::RequestRefused { reason, host, target, rule, count } => {
            refused(*reason, host.as_ref(), target, rule.as_deref(), *count)
        }
        AuditKind::CutLifted => "open again: the budget it was cut for allows more".to_owned(),
        AuditKind::GateCut { cause } => format!("cut ({})", cause.as_str()),
        AuditKind::GateRestored => "restored".to_owned(),
        AuditKind::BottleFrozen { cause } => format!("frozen ({})", cause.as_str()),
        AuditKind::BottleResumed => "resumed".to_owned(),
        AuditKind::BottleKilled { cause } => format!("killed ({})", cause.as_str()),
        AuditKind::StopFailed { stop, what } => format!("{} failed: {what}", stop.as_str()),
        AuditKind::Repaired { what } => format!("repaired: {what}"),
        AuditKind::GateTampered { what } => format!("ALARM: its gate was tampered with: {what}"),
        AuditKind::TrafficUnaccounted { is_from_bottle, passed, accounted } => {
            unaccounted(*is_from_bottle, *passed, *accounted)
        }
        AuditKind::PathUnknown { host, target } => {
            format!("{target} at {host} is unknown: passed, tokens spent there are not counted")
        }
        AuditKind::ProxyRestarted { permits_settled } => {
            format!("proxy restarted, {permits_settled} open permits settled conservatively")
        }
        AuditKind::ApprovalAsked { id, detector, host, target } => {
            format!("approval {id} asked: {detector} found something in {target} to {host}")
        }
        AuditKind::ApprovalDecided { id, verdict, is_always, by } => decided(*id, *verdict, *is_always, *by),
        AuditKind::ApprovalForgotten { id, by } => format!("approval {id} forgotten by user {by}"),
    }
}

fn unaccounted(is_from_bottle: bool, passed: u64, accounted: u64) -> String {
    let direction = if is_from_bottle { "from the bottle" } else { "to the bottle" };
    format!(
        "ALARM: {passed} bytes passed its gate {direction}, of which the proxy knows {accounted}: does something on this host \
         redirect the gateway's ports, or listen there? (`nft list ruleset`, `ss -lntp`)"
    )
}

fn decided(id: ApprovalId, verdict: Verdict, is_always: bool, by: Option<u32>) -> String {
    let by = by.map(|by| format!(" by user {by}")).unwrap_or_default();
    let always = if is_always { ", and the same value from now on" } else { "" };
    format!("approval {id} {}{by}{always}", verdict.as_str())
}

fn refused(reason: RefusalReason, host: Option<&Host>, target: &str, rule: Option<&str>, count: u64) -> String {
    let at = host.map(|host| format!(" at {host}")).unwrap_or_default();
    let by = rule.map(|rule| format!(" by {rule}")).unwrap_or_default();
    let more = if count > 1 { format!(", {count} times, with others like it") } else { String::new() };
    format!("{target}{at} refused{by}: {}{more}", reason.as_str())
}
