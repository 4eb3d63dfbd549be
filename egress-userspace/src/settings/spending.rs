//! `budget:`, `agents:` and `bottles:` — who may spend what, and whom it counts for.

use std::collections::BTreeMap;

use super::error::Problem;
use super::keys::{AGENT, BOTTLE};
use super::parse::{entries, known, preflight, read, shutdown, unknown};
use super::yaml::{Misplaced, Node, Place, Text};
use crate::domain::{AgentName, BottleName, BottleRules, Budget, Limit, ProviderName};

/// Names that stand for something elsewhere in the file, to be checked when all of it has been read.
#[derive(Default)]
pub(super) struct Mentions {
    providers: Vec<(ProviderName, Place)>,
    parents: Vec<(BottleName, BottleName, Place)>,
}

impl Mentions {
    /// Amounts by provider.
    pub(super) fn budget(&mut self, node: Node) -> Result<Budget, Misplaced> {
        let mut budget = Budget::new();
        for (key, value) in entries(node)? {
            let provider: ProviderName = key.text.parse().map_err(|error| (key.place, Problem::Name(error)))?;
            self.providers.push((provider.clone(), key.place));
            budget.push((provider, read(&key, value, limit)?));
        }
        Ok(budget)
    }

    pub(super) fn agents(&mut self, node: Node) -> Result<BTreeMap<AgentName, Budget>, Misplaced> {
        let mut agents = BTreeMap::new();
        for (key, value) in entries(node)? {
            let name: AgentName = key.text.parse().map_err(|error| (key.place, Problem::Name(error)))?;
            let mut budget = Budget::new();
            for (key, value) in known(value, &AGENT)? {
                match key.text.as_str() {
                    "budget" => budget = self.budget(value)?,
                    _ => return Err(unknown(key, &AGENT)),
                }
            }
            agents.insert(name, budget);
        }
        Ok(agents)
    }

    pub(super) fn bottles(&mut self, node: Node) -> Result<BTreeMap<BottleName, BottleRules>, Misplaced> {
        let mut bottles = BTreeMap::new();
        for (key, value) in entries(node)? {
            let name: BottleName = bottle(&key)?;
            let rules = self.bottle(&name, value)?;
            bottles.insert(name, rules);
        }
        Ok(bottles)
    }

    fn bottle(&mut self, name: &BottleName, node: Node) -> Result<BottleRules, Misplaced> {
        let mut rules = BottleRules::default();
        for (key, value) in known(node, &BOTTLE)? {
            match key.text.as_str() {
                "extends" => {
                    let place = value.place();
                    let parent = read(&key, value, |text| Ok(text.parse()?))?;
                    self.parents.push((name.clone(), BottleName::clone(&parent), place));
                    rules.extends = Some(parent);
                }
                "budget" => rules.budget = self.budget(value)?,
                "preflight" => rules.preflight = Some(read(&key, value, preflight)?),
                "shutdown" => rules.shutdown = Some(read(&key, value, shutdown)?),
                _ => return Err(unknown(key, &BOTTLE)),
            }
        }
        Ok(rules)
    }

    /// A provider that nothing counts for and a parent that is not there would be budgets that never bind.
    pub(super) fn check(
        &self,
        providers: &[&ProviderName],
        bottles: &BTreeMap<BottleName, BottleRules>,
    ) -> Result<(), Misplaced> {
        if let Some((name, place)) = self.providers.iter().find(|(name, _)| !providers.contains(&name)) {
            let known: Vec<&str> = providers.iter().map(|name| name.as_str()).collect();
            return Err((*place, Problem::unknown_name("provider", name.as_str(), &known)));
        }
        for (child, parent, place) in &self.parents {
            if !bottles.contains_key(parent) {
                let known: Vec<&str> = bottles.keys().filter(|name| *name != child).map(BottleName::as_str).collect();
                return Err((*place, Problem::unknown_name("bottle", parent.as_str(), &known)));
            }
            if let Some(circle) = circle(child, bottles) {
                return Err((*place, Problem::Circle(circle)));
            }
        }
        Ok(())
    }
}

/// The way from a bottle by its ancestors back to itself.
fn circle(start: &BottleName, bottles: &BTreeMap<BottleName, BottleRules>) -> Option<String> {
    let mut way = vec![start.as_str()];
    let mut name = start;
    while let Some(parent) = bottles.get(name).and_then(|rules| rules.extends.as_ref()) {
        let is_known = way.contains(&parent.as_str());
        way.push(parent.as_str());
        if is_known {
            return (parent == start).then(|| way.join(" -> "));
        }
        name = parent;
    }
    None
}

fn bottle(key: &Text) -> Result<BottleName, Misplaced> {
    key.text.parse().map_err(|error| (key.place, Problem::Name(error)))
}

fn limit(text: &str) -> Result<Limit, Problem> {
    Ok(text.parse()?)
}
