//! Usage as comma-separated values: cells quoted as RFC 4180 says, lines that end with a line feed.
//!
//! Models, targets and request ids come from bottles and providers. A cell that a spreadsheet would take for a formula gets an
//! apostrophe in front, which spreadsheets take for "this is text"; what a terminal would act on is shown by its number.
//!
//! Pure.

use jiff::Timestamp;

use crate::domain::{GroupBy, UnixMillis, UsageGroup, UsageRow, printable};

/// The header of requests one by one.
pub(super) const COLUMNS: [&str; 20] = [
    "settled",
    "admitted",
    "bottle",
    "agent",
    "provider",
    "host",
    "target",
    "model",
    "request_id",
    "status",
    "input",
    "cache_write",
    "cache_read",
    "output",
    "total",
    "cache_write_1h",
    "reasoning",
    "known",
    "ending",
    "service_tier",
];
/// What follows what groups are made by.
const SUMS: [&str; 6] = ["requests", "input", "cache_write", "cache_read", "output", "total"];

/// One request.
pub(super) fn row(row: &UsageRow) -> String {
    let UsageRow { usage, details, notes, .. } = row;
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let cells = [
        time(row.settled),
        time(row.admitted),
        row.bottle.to_string(),
        row.agent.as_ref().map(ToString::to_string).unwrap_or_default(),
        row.provider.to_string(),
        row.host.to_string(),
        row.target.clone(),
        text(row.model.as_ref()),
        text(row.request_id.as_ref()),
        row.status.map(|status| status.to_string()).unwrap_or_default(),
        usage.input.0.to_string(),
        usage.cache_write.0.to_string(),
        usage.cache_read.0.to_string(),
        usage.output.0.to_string(),
        usage.total().0.to_string(),
        details.cache_write_1h.0.to_string(),
        details.reasoning.0.to_string(),
        row.known.as_str().to_owned(),
        row.ending.as_str().to_owned(),
        text(notes.service_tier.as_ref()),
    ];
    line(&cells)
}

/// The header of requests that are added up.
pub(super) fn group_columns(by: &[GroupBy]) -> Vec<&'static str> {
    by.iter().map(|by| by.as_str()).chain(SUMS).collect()
}

/// Requests that are added up.
pub(super) fn group(group: &UsageGroup, by: &[GroupBy]) -> String {
    let usage = group.usage;
    let amounts = [usage.input, usage.cache_write, usage.cache_read, usage.output, usage.total()];
    let keys = by.iter().map(|by| super::key(&group.key, *by).unwrap_or_default());
    let cells: Vec<String> =
        keys.chain([group.requests.to_string()]).chain(amounts.map(|amount| amount.0.to_string())).collect();
    line(&cells)
}

/// A line of cells, without its end.
pub(super) fn line(cells: &[impl AsRef<str>]) -> String {
    cells.iter().map(|text| cell(text.as_ref())).collect::<Vec<_>>().join(",")
}

fn cell(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@']);
    let text = if is_formula { format!("'{}", printable(text)) } else { printable(text) };
    if text.contains(['"', ',']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn time(at: UnixMillis) -> String {
    Timestamp::from_millisecond(at.0).map_or_else(|_| at.0.to_string(), |at| format!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let check = |text: &str, expected: &str| assert_eq!(cell(text), expected);
        check("", "");
        check("claude-x 1.5", "claude-x 1.5");
        check("a,b", "\"a,b\"");
        check("say \"no\"", "\"say \"\"no\"\"\"");
        check("two\nlines", "two\\u{a}lines");
        check("\u{1b}]52;c;x\u{7}", "\\u{1b}]52;c;x\\u{7}");
    }

    #[test]
    fn nothing_is_a_formula() {
        for bad in ["=1+1", "+1", "-1", "@SUM(A1)"] {
            assert_eq!(cell(bad), format!("'{bad}"));
        }
        assert_eq!(cell("=HYPERLINK(\"http://x\",1)"), "\"'=HYPERLINK(\"\"http://x\"\",1)\"");
        assert_eq!(cell("\r=1"), "\\u{d}=1");
    }

    #[test]
    fn times_are_of_the_world() {
        assert_eq!(time(UnixMillis(1_700_000_000_050)), "2023-11-14T22:13:20.050Z");
    }
}
