//! Routes files → what is looked for in what a bottle sends and gets.

use std::collections::BTreeMap;

use crate::domain::{
    BottleName, DetectorRule, InboundOnMatch, LooksFor, OutboundOnMatch, RouteFile, Secret, SecretSource,
};

use super::detectors::{DetectorError, Detectors, Sought, Wanted};
use super::markers::markers;
use crate::policy::RouteFiles;

/// What a secret that routes inject is called: whence it comes is not for agents to know.
const INJECTED: &str = "injected-secret";

impl Wanted {
    /// In what a bottle of this lineage sends. `secrets` are those that routes name, by where they come from: each is looked
    /// for wherever it is not to be, whatever else is.
    #[must_use]
    pub fn outbound(
        on_match: OutboundOnMatch,
        files: &RouteFiles,
        lineage: &[BottleName],
        secrets: &BTreeMap<SecretSource, Secret>,
    ) -> Self {
        if on_match == OutboundOnMatch::Off {
            return Self { sought: injected(secrets).collect(), ..Self::default() };
        }
        Self::of_files(files, lineage, secrets)
    }

    /// In what it gets.
    #[must_use]
    pub fn inbound(
        on_match: InboundOnMatch,
        files: &RouteFiles,
        lineage: &[BottleName],
        secrets: &BTreeMap<SecretSource, Secret>,
    ) -> Self {
        if on_match == InboundOnMatch::Off {
            return Self::default();
        }
        let mut wanted = Self::of_files(files, lineage, secrets);
        wanted.sought.extend(markers());
        wanted.sought.extend(files.chain(lineage).flat_map(|file| sought(&file.markers, secrets)));
        wanted
    }

    fn of_files(files: &RouteFiles, lineage: &[BottleName], secrets: &BTreeMap<SecretSource, Secret>) -> Self {
        let chain = || files.chain(lineage);
        let named = chain().flat_map(|file| sought(&file.detectors, secrets));
        Self {
            has_built_in: true,
            without: chain().flat_map(|file| file.without.iter().cloned()).collect(),
            sought: named.chain(injected(secrets)).collect(),
        }
    }
}

/// Can everything be looked for that a file names?
///
/// # Errors
///
/// Says what cannot, and why.
pub fn check(file: &RouteFile) -> Result<(), DetectorError> {
    let nothing = BTreeMap::new();
    let sought = sought(&file.detectors, &nothing).chain(sought(&file.markers, &nothing)).collect();
    Detectors::new(&Wanted { has_built_in: false, without: file.without.clone(), sought }).map(drop)
}

fn sought<'a>(
    rules: &'a [DetectorRule],
    secrets: &'a BTreeMap<SecretSource, Secret>,
) -> impl Iterator<Item = (String, Sought)> + 'a {
    rules.iter().filter_map(|rule| {
        let sought = match &rule.looks_for {
            LooksFor::Pattern(pattern) => Sought::Pattern(pattern.clone()),
            LooksFor::Secret(source) => Sought::Secret(secrets.get(source)?.clone()),
        };
        Some((rule.name.clone(), sought))
    })
}

/// A pair of a name and a secret is known by each of its parts, too: `USER:PASSWORD`, `KEY_ID:SECRET:TOKEN`.
fn injected(secrets: &BTreeMap<SecretSource, Secret>) -> impl Iterator<Item = (String, Sought)> {
    let parts = |secret: &Secret| -> Vec<Secret> {
        let parts = secret.reveal().trim().split(':').skip(1).map(|part| Secret::new(part.to_owned()));
        std::iter::once(secret.clone()).chain(parts).collect()
    };
    let all =
        secrets.values().flat_map(parts).filter(|part| part.reveal().trim().len() >= super::exact::SECRET_BYTES_MIN);
    all.map(|part| (INJECTED.to_owned(), Sought::Secret(part)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Layers, tests::names};
    use super::*;

    fn rule(name: &str, looks_for: LooksFor) -> DetectorRule {
        DetectorRule { name: name.to_owned(), looks_for, line: 1 }
    }

    #[test]
    fn files_of_a_chain_add_up_and_secrets_are_looked_for_even_where_nothing_else_is() {
        let source = SecretSource::Env("DEPLOY".to_owned());
        let secrets = BTreeMap::from([
            (source.clone(), Secret::new("deploy:hunter2hunter2".to_owned())),
            (SecretSource::Env("SHORT".to_owned()), Secret::new("x".to_owned())),
        ]);
        let ticket = rule("ticket", LooksFor::Pattern("PROJ-[0-9]{4}".to_owned()));
        let host = RouteFile { detectors: vec![ticket], without: vec!["jwt".to_owned()], ..RouteFile::default() };
        let named = rule("deploy", LooksFor::Secret(source));
        let own = RouteFile {
            markers: vec![rule("ours", LooksFor::Pattern("zzz".to_owned()))],
            detectors: vec![named],
            ..RouteFile::default()
        };
        let lineage: [BottleName; 1] = ["web".parse().unwrap()];
        let files = RouteFiles { host, bottles: BTreeMap::from([(lineage[0].clone(), own)]) };
        let check = |wanted: &Wanted, expected: &[&str]| {
            let detectors = Arc::new(Detectors::new(wanted).unwrap());
            let text = "PROJ-1234 hunter2hunter2 zzz deploy:hunter2hunter2 4111111111111111 AKIAIOSFODNN7EXAMPLE";
            assert_eq!(names(&detectors, Layers::Body, text.as_bytes()), expected);
        };
        let outbound = |on_match| Wanted::outbound(on_match, &files, &lineage, &secrets);
        check(&outbound(OutboundOnMatch::Off), &["injected-secret", "injected-secret"]);
        let all = ["ticket", "injected-secret", "deploy", "credit-card", "aws-access-key"];
        check(&outbound(OutboundOnMatch::Block), &all);
        let all = ["ticket", "injected-secret", "ours", "deploy", "credit-card", "aws-access-key"];
        check(&Wanted::inbound(InboundOnMatch::Redact, &files, &lineage, &secrets), &all);
        assert_eq!(Wanted::inbound(InboundOnMatch::Off, &files, &lineage, &secrets), Wanted::default());
        assert_eq!(outbound(OutboundOnMatch::Redact).without, ["jwt"]);
    }

    #[test]
    fn a_file_whose_detectors_cannot_be_used_is_an_error() {
        let file = |pattern: &str, without: &str| RouteFile {
            markers: vec![rule("mine", LooksFor::Pattern(pattern.to_owned()))],
            without: vec![without.to_owned()],
            ..RouteFile::default()
        };
        assert_eq!(check(&file("a{1,9}", "jwt")), Ok(()));
        assert!(matches!(check(&file("a*", "jwt")), Err(DetectorError::Pattern { name, .. }) if name == "mine"));
        assert!(matches!(check(&file("a", "jwtt")), Err(DetectorError::Unknown { name, .. }) if name == "jwtt"));
    }
}
