//! `egress budget`: what is allowed, used and left, and why.
#![expect(clippy::print_stdout, reason = "printing is what this file is for")]

use anyhow::Result;

use crate::control::{BudgetChangeRequest, BudgetsReply, Client, ExplainReply};
use crate::domain::{BudgetView, Limit, LimitSource, Precedence, ProviderName, ScopeState, ScopeView, Tokens};

use super::arguments::{Amount, BudgetCommand};
use super::show::{Table, json, text, time};

pub(super) async fn run(client: &Client, command: BudgetCommand) -> Result<()> {
    match command {
        BudgetCommand::Show { output } => {
            let reply: BudgetsReply = client.get("budgets").await?;
            show_all(&reply.scopes, output.json.then_some(&reply))
        }
        BudgetCommand::Explain { bottle, output } => {
            let reply: ExplainReply = client.get(&format!("bottles/{bottle}/budget")).await?;
            if output.json { json(&reply) } else { explain(&reply) }
        }
        BudgetCommand::Set { amount: Amount { provider, limit }, whose, output } => {
            let request = BudgetChangeRequest::Set { scope: whose.scope(), provider, limit };
            change(client, &request, output.json).await
        }
        BudgetCommand::Grant { amount: Amount { provider, limit }, ttl, whose, output } => {
            let Limit { tokens, window: None } = limit else {
                anyhow::bail!("a grant is an amount without a window: write {provider}={}", limit.tokens.0)
            };
            let ttl_seconds = ttl.map(|ttl| ttl.0.as_secs());
            let request = BudgetChangeRequest::Grant { scope: whose.scope(), provider, tokens, ttl_seconds };
            change(client, &request, output.json).await
        }
        BudgetCommand::Clear { provider, whose, output } => {
            let request = BudgetChangeRequest::Clear { scope: whose.scope(), provider };
            change(client, &request, output.json).await
        }
    }
}

async fn change(client: &Client, request: &BudgetChangeRequest, as_json: bool) -> Result<()> {
    let reply: BudgetsReply = client.post("budgets", request).await?;
    show_all(&reply.scopes, as_json.then_some(&reply))
}

fn show_all(scopes: &[ScopeView], as_json: Option<&BudgetsReply>) -> Result<()> {
    if let Some(reply) = as_json {
        return json(reply);
    }
    if scopes.is_empty() {
        println!(
            "no budgets, and nothing used: name some under `budget:` in settings.yml, or `egress budget set claude=5M`"
        );
        return Ok(());
    }
    let mut table = Table::new(&["SCOPE", "PROVIDER", "USED", "BUDGET", "LEFT", "HELD", "SAID BY", "TURNS"]);
    for ScopeView { provider, state } in scopes {
        table.row(row(provider, state));
    }
    table.print();
    Ok(())
}

fn row(provider: &ProviderName, state: &ScopeState) -> Vec<String> {
    vec![
        state.scope.to_string(),
        provider.to_string(),
        state.used.to_string(),
        text(allowed(state)),
        left(state),
        state.held.to_string(),
        text(state.source.map(source)),
        text(state.turns.map(time)),
    ]
}

/// A scope with a budget, in a word: `5,012 / 5,000 (host) 100 %`.
pub(super) fn of_scope(state: &ScopeState) -> String {
    let budget = text(allowed(state));
    let percent =
        state.limit.filter(|limit| limit.0 > 0).map_or(100, |limit| state.used.0.saturating_mul(100) / limit.0);
    format!("{} / {budget} ({}) {percent} %", state.used, state.scope)
}

fn allowed(state: &ScopeState) -> Option<String> {
    let limit = Limit { tokens: state.limit?, window: state.window };
    let granted = if state.granted > Tokens::ZERO { format!(" ({} granted)", state.granted) } else { String::new() };
    Some(format!("{limit}{granted}"))
}

fn left(state: &ScopeState) -> String {
    match state.limit {
        Some(limit) if state.used > limit => format!("over by {}", state.used.saturating_sub(limit)),
        Some(limit) => limit.saturating_sub(state.used).to_string(),
        None => "-".to_owned(),
    }
}

fn source(source: LimitSource) -> &'static str {
    match source {
        LimitSource::Settings => "settings.yml",
        LimitSource::Launch => "launch flag",
        LimitSource::Operator => "operator",
    }
}

fn explain(reply: &ExplainReply) -> Result<()> {
    let chain: Vec<String> = reply.chain.iter().map(ToString::to_string).collect();
    println!("{} counts for {}", reply.bottle, chain.join(" -> "));
    if reply.budgets.is_empty() {
        println!("no budget on the way says anything, and nothing was used");
    }
    for view in &reply.budgets {
        println!();
        println!("{}: {}", view.provider, verdict(view, reply.precedence));
        let mut table = Table::new(&["", "SCOPE", "USED", "BUDGET", "LEFT", "HELD", "SAID BY", "TURNS"]);
        for state in &view.chain {
            let mut cells = row(&view.provider, state);
            cells.remove(1);
            cells.insert(0, if state.binds { ">" } else { "" }.to_owned());
            table.row(cells);
        }
        table.print();
    }
    Ok(())
}

/// Which scope governs, and why.
fn verdict(view: &BudgetView, precedence: Precedence) -> String {
    let binding: Vec<&ScopeState> = view.chain.iter().filter(|state| state.binds).collect();
    let why = match (binding.as_slice(), precedence) {
        ([], _) => return "no budget binds, as no scope says anything".to_owned(),
        ([one], Precedence::Nearest) => format!("{} governs, the nearest scope that says something", one.scope),
        ([one], Precedence::Strict) => format!("{} governs, the only scope that says something", one.scope),
        (many, _) => {
            let names: Vec<String> = many.iter().map(|state| state.scope.to_string()).collect();
            format!("{} all bind (precedence: strict)", names.join(", "))
        }
    };
    let gone = binding.iter().find(|state| state.limit.is_some_and(|limit| state.used >= limit));
    match gone {
        Some(state) => format!("{why}; the budget of {} is used up", state.scope),
        None => why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Scope;

    fn state(scope: Scope, limit: Option<u64>, used: u64, binds: bool) -> ScopeState {
        ScopeState { limit: limit.map(Tokens), used: Tokens(used), binds, ..ScopeState::of(scope) }
    }

    fn check(chain: Vec<ScopeState>, precedence: Precedence, expected: &str) {
        let view = BudgetView { provider: "claude".parse().unwrap(), own: Tokens::ZERO, chain };
        assert_eq!(verdict(&view, precedence), expected);
    }

    #[test]
    fn the_verdict_names_who_governs_and_why() {
        let web = || Scope::Bottle("web".parse().unwrap());
        check(vec![state(web(), None, 5, false)], Precedence::Nearest, "no budget binds, as no scope says anything");
        check(
            vec![state(web(), Some(5), 5, true), state(Scope::Host, Some(9), 5, false)],
            Precedence::Nearest,
            "bottle web governs, the nearest scope that says something; the budget of bottle web is used up",
        );
        check(
            vec![state(web(), Some(9), 5, true), state(Scope::Host, Some(9), 5, true)],
            Precedence::Strict,
            "bottle web, host all bind (precedence: strict)",
        );
    }

    #[test]
    fn an_overshoot_is_said() {
        assert_eq!(left(&state(Scope::Host, Some(100), 112, true)), "over by 12");
        assert_eq!(left(&state(Scope::Host, Some(100), 88, true)), "12");
        assert_eq!(of_scope(&state(Scope::Host, Some(100), 112, true)), "112 / 100 (host) 112 %");
    }
}
