//! Every metric there is.
//!
//! Where OpenTelemetry's conventions for generative AI have a name of the same meaning, it is that one, its dots as
//! underscores; everything else begins with `egress_`.

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only rises, or begins anew.
    Counter,
    /// Rises and falls.
    Gauge,
    /// A distribution.
    Histogram,
}

/// A metric, for all its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Input of every kind.
    InputTokens,
    /// Output, reasoning included.
    OutputTokens,
    /// Part of the input.
    CacheReadTokens,
    /// Part of the input.
    CacheWriteTokens,
    /// Tokens of single requests.
    TokenUsage,
    /// Time of single requests at their providers.
    OperationDuration,
    /// Time until a streamed response begins.
    TimeToFirstChunk,
    /// Settled requests.
    Requests,
    /// What was refused.
    Refusals,
    /// What a budget allows.
    BudgetLimit,
    /// What of it is used.
    BudgetUsed,
    /// What of it is set aside.
    BudgetHeld,
    /// What of it is left.
    BudgetRemaining,
    /// Packets at a gate.
    GatePackets,
    /// Bytes at a gate.
    GateBytes,
    /// Is a running bottle's gate cut?
    GateCut,
    /// How many bottles there are.
    Bottles,
    /// From a cut that is due to one that the kernel holds.
    CutDuration,
    /// One transaction of the ledger.
    LedgerCommitDuration,
    /// A request's command to the ledger.
    LedgerCommandDuration,
    /// What the proxy adds.
    ProxyDuration,
    /// Proxies that were replaced.
    ProxyRestarts,
    /// Is there one?
    ProxyUp,
    /// Questions to operators.
    ApprovalsOpen,
    /// Do gates hold?
    Enforcing,
    /// When the daemon started.
    StartTime,
    /// What runs.
    Build,
}

/// What is said of a metric before its values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Description {
    /// Without unit and suffix.
    pub(super) name: &'static str,
    pub(super) unit: Option<&'static str>,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

/// All of them, in the order in which they are exported.
const TABLE: [(Family, Description); 27] = [
    (
        Family::InputTokens,
        counter("gen_ai_client_inference_usage_input_tokens", None, "Input tokens used, cached ones included"),
    ),
    (
        Family::OutputTokens,
        counter("gen_ai_client_inference_usage_output_tokens", None, "Output tokens used, reasoning included"),
    ),
    (
        Family::CacheReadTokens,
        counter(
            "gen_ai_client_inference_usage_cache_read_input_tokens",
            None,
            "Input tokens read from a cache, part of the input tokens",
        ),
    ),
    (
        Family::CacheWriteTokens,
        counter(
            "gen_ai_client_inference_usage_cache_write_input_tokens",
            None,
            "Input tokens written to a cache, part of the input tokens",
        ),
    ),
    (Family::TokenUsage, histogram("gen_ai_client_token_usage", None, "Tokens of single requests")),
    (
        Family::OperationDuration,
        histogram(
            "gen_ai_client_operation_duration",
            Some("seconds"),
            "From a request's leaving for its provider to the end of its response",
        ),
    ),
    (
        Family::TimeToFirstChunk,
        histogram(
            "gen_ai_client_operation_time_to_first_chunk",
            Some("seconds"),
            "From a request's leaving for its provider to the first bytes of its streamed response",
        ),
    ),
    (Family::Requests, counter("egress_requests", None, "Settled requests to metered hosts")),
    (Family::Refusals, counter("egress_refusals", None, "Requests, names and connections that were refused")),
    (Family::BudgetLimit, gauge("egress_budget_limit", Some("tokens"), "What a budget allows, grants included")),
    (
        Family::BudgetUsed,
        gauge("egress_budget_used", Some("tokens"), "What of a budget is used, in its window if it has one"),
    ),
    (
        Family::BudgetHeld,
        gauge("egress_budget_held", Some("tokens"), "What of a budget is set aside for requests in flight"),
    ),
    (
        Family::BudgetRemaining,
        gauge("egress_budget_remaining", Some("tokens"), "What of a budget is neither used nor set aside"),
    ),
    (Family::GatePackets, counter("egress_gate_packets", None, "Packets at a bottle's gate")),
    (Family::GateBytes, counter("egress_gate", Some("bytes"), "Bytes at a bottle's gate, Ethernet headers included")),
    (Family::GateCut, gauge("egress_gate_cut", None, "Whether the gate of a running bottle is cut")),
    (Family::Bottles, gauge("egress_bottles", None, "Bottles that run or are frozen")),
    (
        Family::CutDuration,
        histogram("egress_cut_duration", Some("seconds"), "From a cut that is due to one that the kernel holds"),
    ),
    (
        Family::LedgerCommitDuration,
        histogram(
            "egress_ledger_commit_duration",
            Some("seconds"),
            "Transactions of the ledger, from beginning to end",
        ),
    ),
    (
        Family::LedgerCommandDuration,
        histogram(
            "egress_ledger_command_duration",
            Some("seconds"),
            "Admissions and settlements, from the proxy's question to the committed answer",
        ),
    ),
    (
        Family::ProxyDuration,
        histogram("egress_proxy_duration", Some("seconds"), "What the proxy adds to requests, by stage"),
    ),
    (Family::ProxyRestarts, counter("egress_proxy_restarts", None, "Proxies that ended and were replaced")),
    (Family::ProxyUp, gauge("egress_proxy_up", None, "Whether there is a proxy")),
    (Family::ApprovalsOpen, gauge("egress_approvals_open", None, "Requests that wait for an operator")),
    (Family::Enforcing, gauge("egress_enforcing", None, "Whether gates hold, as tried when the daemon started")),
    (Family::StartTime, gauge("egress_start_time", Some("seconds"), "When the daemon started, in Unix time")),
    (Family::Build, gauge("egress_build_info", None, "What runs; always 1")),
];

const fn of(kind: Kind, name: &'static str, unit: Option<&'static str>, help: &'static str) -> Description {
    Description { name, unit, kind, help }
}

const fn counter(name: &'static str, unit: Option<&'static str>, help: &'static str) -> Description {
    of(Kind::Counter, name, unit, help)
}

const fn gauge(name: &'static str, unit: Option<&'static str>, help: &'static str) -> Description {
    of(Kind::Gauge, name, unit, help)
}

const fn histogram(name: &'static str, unit: Option<&'static str>, help: &'static str) -> Description {
    of(Kind::Histogram, name, unit, help)
}

impl Family {
    /// In the order in which they are exported.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|(family, _)| *family)
    }

    /// Its name as Prometheus stores it, but for the suffixes of a histogram's parts.
    #[must_use]
    pub fn name(self) -> String {
        let Description { name, unit, kind, .. } = self.description();
        let unit = unit.map(|unit| format!("_{unit}")).unwrap_or_default();
        let suffix = match kind {
            Kind::Counter => "_total",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{name}{unit}{suffix}")
    }

    /// As TYPE lines have it.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self.description().kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }

    pub(super) fn description(self) -> Description {
        let found = TABLE.iter().find(|(family, _)| *family == self);
        found.map_or(of(Kind::Gauge, "", None, ""), |(_, description)| *description)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DASHBOARD: &str = include_str!("../../../docs/grafana.json");
    const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

    /// Names of metrics in an expression: without the parts of histograms.
    fn names(expression: &str) -> Vec<String> {
        let words = expression.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
        let is_metric = |word: &&str| word.starts_with("egress_") || word.starts_with("gen_ai_client_");
        let whole = |word: &str| word.trim_end_matches("_bucket").to_owned();
        words.filter(is_metric).map(whole).collect()
    }

    fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
        if let Some(expression) = value.get("expr").and_then(|expression| expression.as_str()) {
            found.push(expression.to_owned());
        }
        let (objects, lists) = (value.as_object(), value.as_array());
        objects.into_iter().flat_map(|object| object.values()).for_each(|value| expressions(value, found));
        lists.into_iter().flatten().for_each(|value| expressions(value, found));
    }

    #[test]
    fn the_dashboard_asks_for_what_is_exported() {
        let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
        assert!(dashboard["__inputs"].is_array() && dashboard["panels"].is_array());
        let mut found = Vec::new();
        expressions(&dashboard, &mut found);
        let exported: Vec<String> = Family::all().map(Family::name).collect();
        assert!(found.len() > 10, "{found:?}");
        for expression in found {
            let names = names(&expression);
            assert!(!names.is_empty() && names.iter().all(|name| exported.contains(name)), "{expression}");
        }
    }

    #[test]
    fn the_document_tells_of_every_metric_and_its_type() {
        for family in Family::all() {
            let row = format!("| `{}` | {} |", family.name(), family.kind());
            assert!(DOCUMENT.contains(&row), "{row}");
        }
    }

    #[test]
    fn every_metric_is_described_once() {
        let names: std::collections::BTreeSet<String> = Family::all().map(Family::name).collect();
        assert_eq!(names.len(), TABLE.len());
        for name in &names {
            assert!(name.starts_with("gen_ai_client_") || name.starts_with("egress_"), "{name}");
        }
    }
}
