//! Replies as people read them, or as JSON.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what this file is for")]

use std::io::Write;

use anyhow::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::control::{AttachReply, BottleInfo, BottlesReply, CutAllReply, GateReply, StatusReply, StopReply};
use crate::domain::{BudgetView, CutCause, GateView, Stop, UnixMillis, printable};

use super::{approvals, budget};

pub(super) fn error(error: &anyhow::Error) {
    eprintln!("egress: {error:#}");
}

pub(super) fn note(text: &str) {
    eprintln!("egress: {text}");
}

pub(super) fn lines(lines: &[String]) {
    for line in lines {
        println!("{line}");
    }
}

pub(super) fn json(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

pub(super) fn status(reply: &StatusReply, as_json: bool) -> Result<()> {
    if as_json {
        return json(reply);
    }
    let proxy = reply.proxy_pid.map_or_else(|| "not running".to_owned(), |pid| format!("process {pid}"));
    println!("egress {} (process {}), gates by {} in {}", reply.version, reply.pid, reply.enforcer, reply.pins);
    println!("gateway {}, proxy {proxy}", reply.gateway);
    println!("{}", enforcing(reply.not_enforcing.as_deref()));
    open_approvals(reply.open_approvals);
    settings_problem(reply.settings_problem.as_deref());
    Ok(())
}

/// A text as it is. Whoever reads may have had enough of it.
pub(super) fn whole(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn enforcing(problem: Option<&str>) -> String {
    problem.map_or_else(|| "enforcing".to_owned(), |problem| format!("NOT ENFORCING: {problem}"))
}

pub(super) fn gate(reply: &GateReply, as_json: bool) -> Result<()> {
    if as_json {
        return json(reply);
    }
    let already = if reply.was_already { "already " } else { "" };
    println!("{} is {already}{}", reply.name, gate_text(reply.gate));
    if let Some(text) = &reply.note {
        note(text);
    }
    Ok(())
}

pub(super) fn cut_all(reply: &CutAllReply, as_json: bool) -> Result<()> {
    if as_json {
        return json(reply);
    }
    if reply.cut.is_empty() {
        println!("no bottle runs that is not cut already");
    }
    for name in &reply.cut {
        println!("{name} is {}", gate_text(GateView::Cut(CutCause::Operator)));
    }
    Ok(())
}

pub(super) fn attached(reply: &AttachReply, as_json: bool) -> Result<()> {
    if as_json {
        return json(reply);
    }
    let name = &reply.name;
    match reply.address {
        Some(address) => println!("{name} is behind a gate, at {address}: `egress detach {name}` gives it back"),
        None => println!("{name} is detached: its container is on its networks again, behind no gate"),
    }
    Ok(())
}

pub(super) fn stop(reply: &StopReply, as_json: bool) -> Result<()> {
    if as_json {
        return json(reply);
    }
    let already = if reply.was_already { "already " } else { "" };
    let name = &reply.name;
    match reply.stop {
        Stop::Freeze => println!("{name} is {already}frozen: `egress resume {name}` continues it"),
        Stop::Kill => println!("{name} is {already}gone: nothing of it runs, its files are removed"),
    }
    if let Some(text) = &reply.note {
        note(text);
    }
    Ok(())
}

pub(super) fn bottles(reply: &BottlesReply, as_json: bool) -> Result<()> {
    if as_json {
        return json(reply);
    }
    let enforcing = enforcing(reply.not_enforcing.as_deref());
    if reply.bottles.is_empty() {
        println!("no bottles: start one with `egress run NAME -- COMMAND`");
        println!("{enforcing}");
        open_approvals(reply.open_approvals);
        settings_problem(reply.settings_problem.as_deref());
        return Ok(());
    }
    let mut table =
        Table::new(&["BOTTLE", "RUNTIME", "AGENT", "STATE", "GATE", "SHUTDOWN", "ADDRESS", "USED / BUDGET", "DROPPED"]);
    for bottle in &reply.bottles {
        table.row(vec![
            bottle.name.to_string(),
            bottle.runtime.as_str().to_owned(),
            text(bottle.agent.as_ref()),
            bottle.state.as_str().to_owned(),
            gate_text(bottle.gate),
            bottle.policy.as_str().to_owned(),
            text(bottle.address),
            budgets(bottle),
            bottle.dropped_packets.to_string(),
        ]);
    }
    table.print();
    println!("{enforcing}, gates by {}", reply.enforcer);
    open_approvals(reply.open_approvals);
    settings_problem(reply.settings_problem.as_deref());
    Ok(())
}

fn open_approvals(open: u64) {
    if let Some(text) = approvals::waiting(open) {
        println!("{text}");
    }
}

fn settings_problem(problem: Option<&str>) {
    if let Some(problem) = problem {
        note(problem);
    }
}

fn budgets(bottle: &BottleInfo) -> String {
    let of = |view: &BudgetView| {
        let binding: Vec<String> = view.chain.iter().filter(|state| state.binds).map(budget::of_scope).collect();
        if binding.is_empty() {
            format!("{} {} / no budget", view.provider, view.own)
        } else {
            format!("{} {}", view.provider, binding.join(" and "))
        }
    };
    if bottle.budgets.is_empty() {
        "-".to_owned()
    } else {
        bottle.budgets.iter().map(of).collect::<Vec<_>>().join(", ")
    }
}

pub(super) fn gate_text(gate: GateView) -> String {
    match gate {
        GateView::Open => "open".to_owned(),
        GateView::Cut(CutCause::Budget) => "cut (budget)".to_owned(),
        GateView::Cut(CutCause::Operator) => "cut (operator)".to_owned(),
    }
}

pub(super) fn text(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

pub(super) fn time(at: UnixMillis) -> String {
    Timestamp::from_millisecond(at.0)
        .map(|at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string())
        .unwrap_or_else(|_| at.0.to_string())
}

/// Columns as wide as their widest cell.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    /// What comes from bottles and providers does nothing to the terminal.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    pub(super) fn print(&self) {
        lines(&self.lines());
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}
