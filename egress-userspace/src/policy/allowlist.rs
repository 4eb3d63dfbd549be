//! What a bottle is told of its own routes: where it may go and what happens on the way, never whence a secret comes.

use super::{MeteredTable, RouteFiles};
use crate::domain::{Auth, BottleName, InboundOnMatch, ListedRoute, OutboundOnMatch, RefPattern, Route, RouteAuth};

impl RouteFiles {
    /// Everywhere a bottle may go; of two that are about a request the first decides.
    #[must_use]
    pub fn allowlist(&self, lineage: &[BottleName], table: &MeteredTable) -> Vec<ListedRoute> {
        let outbound = self.chain(lineage).find_map(|file| file.outbound).unwrap_or(OutboundOnMatch::Off);
        let inbound = self.chain(lineage).find_map(|file| file.inbound).unwrap_or(InboundOnMatch::Off);
        let passes = self.chain(lineage).find_map(|file| file.passthrough).unwrap_or_default();
        let listed = |route: &Route| ListedRoute {
            host: route.host.to_string(),
            provider: None,
            ports: route.ports.clone(),
            methods: route.methods.iter().map(|method| method.as_str().to_owned()).collect(),
            paths: route.paths.iter().map(|path| path.as_str().to_owned()).collect(),
            auth: auth(&route.auth),
            intercept: route.intercept,
            git_fetch: route.git_fetch,
            git_push: route.git_push.iter().map(RefPattern::as_str).map(str::to_owned).collect(),
            outbound_on_match: route.outbound.unwrap_or(outbound),
            inbound_on_match: route.inbound.unwrap_or(inbound),
        };
        let routes = self.chain(lineage).flat_map(|file| &file.routes).map(listed);
        let metered = table.rows().filter(|row| self.is_open(lineage, row)).map(|row| ListedRoute {
            host: row.host.as_str().to_owned(),
            provider: Some(row.provider.clone()),
            ports: super::allow::METERED_PORTS.to_vec(),
            methods: Vec::new(),
            paths: Vec::new(),
            auth: auth(if passes { &Auth::Passthrough } else { &Auth::Unsaid }),
            intercept: true,
            git_fetch: false,
            git_push: Vec::new(),
            outbound_on_match: outbound,
            inbound_on_match: inbound,
        });
        routes.chain(metered).collect()
    }
}

fn auth(auth: &Auth) -> RouteAuth {
    match auth {
        Auth::Unsaid => RouteAuth::Own,
        Auth::Passthrough => RouteAuth::Passthrough,
        Auth::Inject(..) => RouteAuth::Injected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AuthScheme, RouteFile, SecretSource};

    #[test]
    fn what_a_bottle_is_told_holds_no_secret_and_no_place() {
        let mut route = Route::to("*.corp.example".parse().unwrap(), "routes.yaml:3".to_owned());
        route.auth = Auth::Inject(AuthScheme::Bearer, SecretSource::Env("CORP_TOKEN".to_owned()));
        let providers = Some(vec!["claude".parse().unwrap()]);
        let host = RouteFile { routes: vec![route], providers, ..RouteFile::default() };
        let files = RouteFiles { host, ..RouteFiles::default() };
        let listed = files.allowlist(&[], &MeteredTable::built_in(&[]));
        let hosts: Vec<&str> = listed.iter().map(|listed| listed.host.as_str()).collect();
        let expected =
            ["*.corp.example", "api.anthropic.com", "claude.googleapis.com", "aws-external-anthropic.*.api.aws"];
        assert_eq!(hosts.iter().collect::<std::collections::BTreeSet<_>>(), expected.iter().collect());
        let text = serde_json::to_string(&listed).unwrap();
        assert!(text.contains("injected") && !text.contains("CORP_TOKEN") && !text.contains("routes.yaml"), "{text}");
    }
}
