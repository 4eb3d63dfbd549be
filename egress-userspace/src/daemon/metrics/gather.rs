//! From everyone who knows something to one text.

use std::collections::BTreeMap;

use crate::control::ApiError;
use crate::domain::{
    AgentName, BottleId, BottleName, BottleState, Ending, ProviderName, Scope, ScopeView, Tokens, Usage, UsageTally,
};
use crate::ledger::BottleRow;
use crate::metrics::{Exposition, Family};

use super::super::api::Desk;
use super::super::controller::View;
use super::super::cutting::Stage as CutStage;
use super::super::gate_counts::GateCounters;
use super::super::launch::refused;
use super::Counts;

impl Desk {
    /// Everything that is exported, as text.
    pub(in crate::daemon) async fn metrics(&self) -> Result<String, ApiError> {
        let ledger = &self.launcher.ledger;
        let tallies = ledger.usage_tallies().await.map_err(|error| refused(&error))?;
        let scopes = ledger.scopes().await.map_err(|error| refused(&error))?;
        let bottles = ledger.bottles().await.map_err(|error| refused(&error))?;
        let (view, approvals) = (self.look().await?, self.open_approvals().await?);
        let names: BTreeMap<BottleId, &BottleName> = bottles.iter().map(|row| (row.id, &row.name)).collect();
        let mut exposition = Exposition::default();
        add_usage(&mut exposition, &tallies);
        add_budgets(&mut exposition, &scopes);
        add_gates(&mut exposition, &view, &self.launcher.gate_counters(&view.running).await);
        add_bottles(&mut exposition, &bottles);
        add_counts(&mut exposition, self.metrics.counts(), &names);
        for (cause, times) in view.cut_times {
            exposition.add(Family::CutDuration, &[("cause", cause.as_str())], times);
        }
        exposition.add(Family::LedgerCommitDuration, &[], ledger.commit_times());
        exposition.add(Family::ProxyUp, &[], view.proxy_pid.is_some());
        exposition.add(Family::ApprovalsOpen, &[], approvals);
        let enforcer = self.launcher.enforcer.backend();
        let is_enforcing = self.launcher.not_enforcing.is_none();
        exposition.add(Family::Enforcing, &[("enforcer", enforcer)], is_enforcing);
        exposition.add(Family::StartTime, &[], self.started);
        exposition.add(Family::Build, &[("version", env!("CARGO_PKG_VERSION"))], true);
        Ok(exposition.text())
    }
}

fn add_gates(exposition: &mut Exposition, view: &View, gates: &GateCounters) {
    for running in &view.running {
        let bottle = running.name.as_str();
        let is_cut = matches!(running.stage, CutStage::Cut(_));
        exposition.add(Family::GateCut, &[("bottle", bottle)], is_cut);
        for counter in gates.of(running) {
            let (direction, outcome) = (snake(&counter.direction), snake(&counter.outcome));
            let labels = [("bottle", bottle), ("direction", &direction), ("outcome", &outcome)];
            exposition.add(Family::GatePackets, &labels, counter.packets);
            exposition.add(Family::GateBytes, &labels, counter.bytes);
        }
    }
}

fn add_usage(exposition: &mut Exposition, tallies: &[UsageTally]) {
    type Who<'a> = (&'a BottleName, Option<&'a AgentName>, &'a ProviderName);
    let mut sums: BTreeMap<Who<'_>, Usage> = BTreeMap::new();
    let mut requests: BTreeMap<(Who<'_>, &str, Ending), u64> = BTreeMap::new();
    for tally in tallies {
        let who = (&tally.bottle, tally.agent.as_ref(), &tally.provider);
        let sum = sums.entry(who).or_default();
        *sum = *sum + tally.usage;
        *requests.entry((who, tally.known.as_str(), tally.ending)).or_default() += tally.requests;
    }
    for ((bottle, agent, provider), usage) in sums {
        let agent = agent.map_or("", AgentName::as_str);
        let [own, conventional] = provider_labels(provider);
        let labels = [("bottle", bottle.as_str()), own, ("gen_ai_agent_name", agent), conventional];
        exposition.add(Family::InputTokens, &labels, usage.input_total().0);
        exposition.add(Family::OutputTokens, &labels, usage.output.0);
        exposition.add(Family::CacheReadTokens, &labels, usage.cache_read.0);
        exposition.add(Family::CacheWriteTokens, &labels, usage.cache_write.0);
    }
    for (((bottle, agent, provider), known, ending), count) in requests {
        let agent = agent.map_or("", AgentName::as_str);
        let labels = [
            ("bottle", bottle.as_str()),
            ("agent", agent),
            ("provider", provider.as_str()),
            ("known", known),
            ("outcome", ending.as_str()),
        ];
        exposition.add(Family::Requests, &labels, count);
    }
}

fn add_budgets(exposition: &mut Exposition, scopes: &[ScopeView]) {
    for ScopeView { provider, state } in scopes {
        let Some(limit) = state.limit else { continue };
        let (scope, name) = match &state.scope {
            Scope::Agent(name) => ("agent", name.as_str()),
            Scope::Bottle(name) => ("bottle", name.as_str()),
            Scope::Host => ("host", ""),
        };
        let window = state.window.map_or("", |window| window.as_str());
        let labels = [("scope", scope), ("name", name), ("provider", provider.as_str()), ("window", window)];
        let remaining = limit.saturating_sub(state.used).saturating_sub(state.held);
        let amounts = [
            (Family::BudgetLimit, limit),
            (Family::BudgetUsed, state.used),
            (Family::BudgetHeld, state.held),
            (Family::BudgetRemaining, remaining),
        ];
        for (family, Tokens(amount)) in amounts {
            exposition.add(family, &labels, amount);
        }
    }
}

fn add_bottles(exposition: &mut Exposition, bottles: &[BottleRow]) {
    for state in [BottleState::Running, BottleState::Frozen] {
        let count = bottles.iter().filter(|row| row.state() == state).count() as u64;
        exposition.add(Family::Bottles, &[("state", state.as_str())], count);
    }
}

fn add_counts(exposition: &mut Exposition, counts: Counts, names: &BTreeMap<BottleId, &BottleName>) {
    // The ledger knows every bottle that the proxy does.
    let name = |bottle: BottleId| names.get(&bottle).map_or("", |name| name.as_str());
    for ((bottle, reason), count) in counts.refused {
        exposition.add(Family::Refusals, &[("bottle", name(bottle)), ("reason", reason.as_str())], count);
    }
    for ((bottle, work, ending), times) in counts.operations {
        let error = if ending == Ending::Complete { "" } else { ending.as_str() };
        let [own, conventional] = provider_labels(&work.provider);
        let operation = ("gen_ai_operation_name", work.operation.as_str());
        let labels = [("bottle", name(bottle)), own, operation, conventional, ("error_type", error)];
        exposition.add(Family::OperationDuration, &labels, times);
    }
    for ((bottle, work), times) in counts.first_chunks {
        let [own, conventional] = provider_labels(&work.provider);
        let operation = ("gen_ai_operation_name", work.operation.as_str());
        exposition.add(Family::TimeToFirstChunk, &[("bottle", name(bottle)), own, operation, conventional], times);
    }
    for (stage, times) in counts.stages {
        exposition.add(Family::ProxyDuration, &[("stage", stage.as_str())], times);
    }
    for (command, times) in counts.commands {
        exposition.add(Family::LedgerCommandDuration, &[("command", command.as_str())], times);
    }
    for ((provider, kind), spread) in counts.tokens {
        let [own, conventional] = provider_labels(&provider);
        exposition.add(Family::TokenUsage, &[own, conventional, ("gen_ai_token_type", kind.as_str())], spread);
    }
    exposition.add(Family::ProxyRestarts, &[], counts.proxy_restarts);
}

/// A provider as budgets know it, and as the conventions call whoever that is.
fn provider_labels(provider: &ProviderName) -> [(&'static str, &str); 2] {
    let conventional = match provider.as_str() {
        "claude" => "anthropic",
        "codex" => "openai",
        "gemini" => "gcp.gemini",
        "vertex" => "gcp.vertex_ai",
        "bedrock" => "aws.bedrock",
        "azure" => "azure.ai.openai",
        "mistral" => "mistral_ai",
        "xai" => "x_ai",
        own => own,
    };
    [("provider", provider.as_str()), ("gen_ai_provider_name", conventional)]
}

/// A word of the kernel's as labels have it: `SourceMac` is `source_mac`.
fn snake(word: &impl std::fmt::Debug) -> String {
    let mut snake = String::new();
    for character in format!("{word:?}").chars() {
        if character.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use egress_common::{Direction, Outcome};

    use super::*;
    use crate::domain::Known;

    fn tally(agent: Option<&str>, known: Known, ending: Ending, tokens: u64) -> UsageTally {
        UsageTally {
            bottle: "web".parse().unwrap(),
            agent: agent.map(|agent| agent.parse().unwrap()),
            provider: "claude".parse().unwrap(),
            known,
            ending,
            requests: 2,
            usage: Usage { input: Tokens(tokens), cache_read: Tokens(5), output: Tokens(1), ..Usage::default() },
        }
    }

    #[test]
    fn tokens_are_added_up_and_requests_told_apart() {
        let mut exposition = Exposition::default();
        let tallies = [
            tally(Some("a"), Known::Reported, Ending::Complete, 100),
            tally(Some("a"), Known::Partial, Ending::Cut, 10),
            tally(None, Known::Reported, Ending::Complete, 7),
        ];
        add_usage(&mut exposition, &tallies);
        let text = exposition.text();
        let who = r#"{bottle="web",provider="claude",gen_ai_agent_name="a",gen_ai_provider_name="anthropic"}"#;
        for line in [
            format!("gen_ai_client_inference_usage_input_tokens_total{who} 120"),
            format!("gen_ai_client_inference_usage_cache_read_input_tokens_total{who} 10"),
            r#"egress_requests_total{bottle="web",agent="a",provider="claude",known="partial",outcome="cut"} 2"#.into(),
            r#"egress_requests_total{bottle="web",provider="claude",known="reported",outcome="complete"} 2"#.into(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }

    #[test]
    fn the_kernels_words_are_written_as_labels_are() {
        assert_eq!(snake(&Outcome::SourceMac), "source_mac");
        assert_eq!(snake(&Outcome::Ipv6), "ipv6");
        assert_eq!(snake(&Direction::FromBottle), "from_bottle");
    }
}
