//! Which scopes count what a bottle spends.

use thiserror::Error;

use crate::domain::{AgentName, BottleName, Scope};

/// A bottle that is its own ancestor.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("bottles extend each other in a circle: {}", path(.0))]
pub struct Cycle(pub Vec<BottleName>);

fn path(names: &[BottleName]) -> String {
    let names: Vec<&str> = names.iter().map(BottleName::as_str).collect();
    names.join(" -> ")
}

/// A bottle and its ancestors, nearest first. `parent_of` says whom a bottle extends.
///
/// # Errors
/// A circle, from a bottle back to itself.
pub fn lineage(
    bottle: &BottleName,
    mut parent_of: impl FnMut(&BottleName) -> Option<BottleName>,
) -> Result<Vec<BottleName>, Cycle> {
    let mut line = vec![bottle.clone()];
    let mut youngest = bottle.clone();
    while let Some(parent) = parent_of(&youngest) {
        if let Some(start) = line.iter().position(|name| *name == parent) {
            let mut circle = line.split_off(start);
            circle.push(parent);
            return Err(Cycle(circle));
        }
        line.push(parent.clone());
        youngest = parent;
    }
    Ok(line)
}

/// The scopes, nearest first: the agent, the bottle and its ancestors, the host.
#[must_use]
pub fn scopes(agent: Option<&AgentName>, lineage: Vec<BottleName>) -> Vec<Scope> {
    let agent = agent.cloned().map(Scope::Agent);
    agent.into_iter().chain(lineage.into_iter().map(Scope::Bottle)).chain([Scope::Host]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> BottleName {
        text.parse().unwrap()
    }

    fn check(bottle: &str, parents: &[(&str, &str)], expected: Result<&[&str], &str>) {
        let parent_of = |child: &BottleName| {
            parents.iter().find(|(known, _)| *known == child.as_str()).map(|(_, parent)| name(parent))
        };
        let found = lineage(&name(bottle), parent_of);
        let expected = expected.map(|names| names.iter().map(|text| name(text)).collect());
        assert_eq!(found.map_err(|cycle| cycle.to_string()), expected.map_err(str::to_owned), "{bottle} {parents:?}");
    }

    #[test]
    fn a_bottles_line_goes_to_the_root() {
        check("web", &[], Ok(&["web"]));
        check("web", &[("web", "base"), ("base", "root"), ("other", "web")], Ok(&["web", "base", "root"]));
    }

    #[test]
    fn a_circle_is_named() {
        let circle = |names: &str| format!("bottles extend each other in a circle: {names}");
        check("a", &[("a", "a")], Err(&circle("a -> a")));
        check("a", &[("a", "b"), ("b", "c"), ("c", "b")], Err(&circle("b -> c -> b")));
    }

    #[test]
    fn agents_are_nearest_and_the_host_is_last() {
        let agent: AgentName = "reviewer".parse().unwrap();
        let expected = [Scope::Agent(agent.clone()), Scope::Bottle(name("web")), Scope::Host];
        assert_eq!(scopes(Some(&agent), vec![name("web")]), expected);
        assert_eq!(scopes(None, vec![name("web")]), expected[1..]);
    }
}
