//! Usage as people read it.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::cli::plan;
use crate::cli::show::{Table, text, time};
use crate::control::UsageReply;
use crate::domain::{GroupBy, UnixMillis, UsageGroup};

/// Requests, what they sum up to, and what is left of plans.
pub(super) fn requests(reply: &UsageReply) -> Vec<String> {
    let mut table =
        Table::new(&["TIME", "BOTTLE", "MODEL", "STATUS", "INPUT", "CACHE W", "CACHE R", "OUTPUT", "KNOWN", "END"]);
    for row in &reply.rows {
        table.row(vec![
            time(row.settled),
            row.bottle.to_string(),
            text(row.model.as_ref()),
            text(row.status),
            row.usage.input.to_string(),
            row.usage.cache_write.to_string(),
            row.usage.cache_read.to_string(),
            row.usage.output.to_string(),
            row.known.as_str().to_owned(),
            row.ending.as_str().to_owned(),
        ]);
    }
    let mut lines = table.lines();
    for sum in &reply.sums {
        let held = if sum.held.0 > 0 { format!(", {} held for requests in flight", sum.held) } else { String::new() };
        let (tokens, requests) = (sum.usage.total(), sum.requests);
        lines.push(format!("{} {}: {tokens} tokens in {requests} requests{held}", sum.bottle, sum.provider));
    }
    let now = UnixMillis(Timestamp::now().as_millisecond());
    lines.extend(plan::lines(&reply.rows, now, &TimeZone::system()));
    lines
}

/// Requests added up.
pub(super) fn groups(groups: &[UsageGroup], by: &[GroupBy]) -> Vec<String> {
    let keys = by.iter().map(|by| by.as_str().to_uppercase());
    let sums = ["REQUESTS", "INPUT", "CACHE W", "CACHE R", "OUTPUT", "TOTAL"].map(str::to_owned);
    let head: Vec<String> = keys.chain(sums).collect();
    let mut table = Table::new(&head.iter().map(String::as_str).collect::<Vec<_>>());
    for group in groups {
        let usage = group.usage;
        let amounts = [usage.input, usage.cache_write, usage.cache_read, usage.output, usage.total()];
        let keys = by.iter().map(|by| super::shown(&group.key, *by));
        let sums = amounts.iter().map(ToString::to_string);
        table.row(keys.chain([group.requests.to_string()]).chain(sums).collect());
    }
    table.lines()
}
