//! Routes files → may a bottle send this request, and what happens to it on the way.
//!
//! A bottle's routes are those of its own file, then of its parents', nearest first, then the host's; a file that does not
//! inherit is the last. The first route that is about a request decides. A host that no route names is reached if it is
//! metered, and not at all otherwise.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{MeteredHost, MeteredTable};
use crate::domain::{
    Auth, BottleName, Host, InboundOnMatch, OutboundOnMatch, RefPattern, RequestLog, Route, RouteFile,
};

/// Where a metered host is reached without a route.
pub(super) const METERED_PORTS: [u16; 2] = [80, 443];
/// How long an operator may take when no file says it.
const APPROVAL_TIMEOUT: Duration = Duration::from_secs(300);

/// Every routes file in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFiles {
    /// `routes.yaml`
    pub host: RouteFile,
    /// `routes/<bottle>.yaml`
    pub bottles: BTreeMap<BottleName, RouteFile>,
}

/// What a request says of where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The host that all its names agree on.
    pub host: &'a Host,
    /// The port it means.
    pub port: u16,
    /// As it stands in the request.
    pub method: &'a str,
    /// The path without its query.
    pub path: &'a str,
}

/// How a request may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The place of the route that allows it; `None` for a metered host that no route names.
    pub rule: Option<String>,
    /// Its host's row in the table of metered hosts.
    pub metered: Option<MeteredHost>,
    /// Its route is about some methods only.
    pub restricts_methods: bool,
    /// Its route is about some paths only.
    pub restricts_paths: bool,
    /// The name may lead to an address of this network.
    pub private: bool,
    /// TLS is not ended here: nothing is known of what passes.
    pub is_spliced: bool,
    /// What becomes of credentials.
    pub auth: Auth,
    /// Whether what git fetches may pass.
    pub git_fetch: bool,
    /// Which refs git may push to.
    pub git_push: Vec<RefPattern>,
    /// What becomes of a request in which something is found.
    pub outbound: OutboundOnMatch,
    /// What becomes of a response in which something is found.
    pub inbound: InboundOnMatch,
    /// What is logged.
    pub log: RequestLog,
    /// How long an operator may take.
    pub approval_timeout: Duration,
}

/// Why a request may not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// No route names its host.
    Host,
    /// Routes name it, and none is about this port, method and path.
    Request,
}

/// May a request go?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This way.
    Allowed(Box<Way>),
    /// No.
    Refused(Forbidden),
}

impl RouteFiles {
    /// The files of a bottle whose `lineage` is itself and then its parents.
    pub fn chain<'a>(&'a self, lineage: &'a [BottleName]) -> impl Iterator<Item = &'a RouteFile> {
        let own = lineage.iter().filter_map(|name| self.bottles.get(name));
        own.chain([&self.host]).scan(true, |goes_on, file| {
            let is_reached = std::mem::replace(goes_on, file.inherit);
            is_reached.then_some(file)
        })
    }

    /// May a request of this bottle go?
    #[must_use]
    pub fn decide(&self, lineage: &[BottleName], table: &MeteredTable, to: Destination<'_>) -> Decision {
        let metered = table.find(to.host);
        let mut routes = self.routes(lineage, to.host).peekable();
        if routes.peek().is_none() {
            let metered = metered.filter(|row| self.is_open(lineage, row) && METERED_PORTS.contains(&to.port));
            let passes = self.chain(lineage).find_map(|file| file.passthrough).unwrap_or_default();
            let usual = Route { auth: if passes { Auth::Passthrough } else { Auth::Unsaid }, ..usual(to.host) };
            return metered.map_or(Decision::Refused(Forbidden::Host), |row| {
                Decision::Allowed(Box::new(Way { rule: None, ..self.way(lineage, Some(row), &usual) }))
            });
        }
        match routes.find(|route| is_about(route, to)) {
            Some(route) => Decision::Allowed(Box::new(self.way(lineage, metered, route))),
            None => Decision::Refused(Forbidden::Request),
        }
    }

    /// May this bottle reach the host at all, in one way or another?
    #[must_use]
    pub fn names(&self, lineage: &[BottleName], table: &MeteredTable, host: &Host) -> bool {
        let is_metered = || table.find(host).is_some_and(|row| self.is_open(lineage, row));
        self.routes(lineage, host).next().is_some() || is_metered()
    }

    /// Does a route lead to this port of the host?
    #[must_use]
    pub fn opens(&self, lineage: &[BottleName], host: &Host, port: u16) -> bool {
        self.routes(lineage, host).any(|route| route.ports.contains(&port))
    }

    /// The way of a connection whose TLS is not ended here; `None` where it is, or nothing leads there.
    #[must_use]
    pub fn splice(&self, lineage: &[BottleName], table: &MeteredTable, host: &Host, port: u16) -> Option<Way> {
        let metered = table.find(host);
        let route = self.routes(lineage, host).find(|route| route.ports.contains(&port))?;
        // Nothing leaves a metered host unmetered.
        (!route.intercept && metered.is_none()).then(|| self.way(lineage, None, route))
    }

    fn routes<'a>(&'a self, lineage: &'a [BottleName], host: &'a Host) -> impl Iterator<Item = &'a Route> {
        self.chain(lineage).flat_map(|file| &file.routes).filter(|route| route.host.matches(host))
    }

    /// Is a metered host reached without a route?
    pub(super) fn is_open(&self, lineage: &[BottleName], row: &MeteredHost) -> bool {
        let said = self.chain(lineage).find_map(|file| file.providers.as_ref());
        said.is_none_or(|providers| providers.contains(&row.provider))
    }

    fn way(&self, lineage: &[BottleName], metered: Option<&MeteredHost>, route: &Route) -> Way {
        let files = || self.chain(lineage);
        let outbound = route.outbound.or_else(|| files().find_map(|file| file.outbound));
        let inbound = route.inbound.or_else(|| files().find_map(|file| file.inbound));
        Way {
            rule: Some(route.place.clone()),
            restricts_methods: !route.methods.is_empty(),
            restricts_paths: !route.paths.is_empty(),
            private: route.private,
            is_spliced: !route.intercept && metered.is_none(),
            metered: metered.cloned(),
            auth: route.auth.clone(),
            git_fetch: route.git_fetch,
            git_push: route.git_push.clone(),
            outbound: outbound.unwrap_or(OutboundOnMatch::Off),
            inbound: inbound.unwrap_or(InboundOnMatch::Off),
            log: route.log.or_else(|| files().find_map(|file| file.log)).unwrap_or_default(),
            approval_timeout: files().find_map(|file| file.approval_timeout).unwrap_or(APPROVAL_TIMEOUT),
        }
    }

    /// What is logged of a bottle's requests that no route is about.
    #[must_use]
    pub fn log(&self, lineage: &[BottleName]) -> RequestLog {
        self.chain(lineage).find_map(|file| file.log).unwrap_or_default()
    }
}

fn usual(host: &Host) -> Route {
    Route::to(host.clone().into(), String::new())
}

fn is_about(route: &Route, to: Destination<'_>) -> bool {
    let is_method = route.methods.is_empty() || route.methods.iter().any(|method| method.as_str() == to.method);
    let is_path =
        route.paths.is_empty() || (is_plain(to.path) && route.paths.iter().any(|pattern| pattern.matches(to.path)));
    route.ports.contains(&to.port) && is_method && is_path
}

/// Does everybody read this path alike? What one server takes for `/../`, another takes for a name.
fn is_plain(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let hides = ["%2e", "%2f", "%5c", "%00", "%25"].iter().any(|hidden| lower.contains(hidden));
    let is_dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    !hides && !path.contains('\\') && !path.contains("//") && !path.split('/').any(is_dots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AuthScheme, ProviderName, SecretSource};

    fn route(host: &str, place: &str, change: impl FnOnce(&mut Route)) -> Route {
        let mut route = Route::to(host.parse().unwrap(), place.to_owned());
        change(&mut route);
        route
    }

    fn file(routes: Vec<Route>) -> RouteFile {
        RouteFile { routes, ..RouteFile::default() }
    }

    fn decide(files: &RouteFiles, lineage: &[&str], request: (&str, u16, &str, &str)) -> Decision {
        let lineage: Vec<BottleName> = lineage.iter().map(|name| name.parse().unwrap()).collect();
        let (host, port, method, path) = request;
        let host = host.parse().unwrap();
        files.decide(&lineage, &MeteredTable::built_in(&[]), Destination { host: &host, port, method, path })
    }

    /// The rule that allows it.
    fn check(
        files: &RouteFiles,
        lineage: &[&str],
        request: (&str, u16, &str, &str),
        expected: Result<&str, Forbidden>,
    ) {
        let found = match decide(files, lineage, request) {
            Decision::Allowed(way) => Ok(way.rule.unwrap_or_default()),
            Decision::Refused(forbidden) => Err(forbidden),
        };
        assert_eq!(found.as_deref().map_err(|forbidden| *forbidden), expected, "{lineage:?} {request:?}");
    }

    #[test]
    fn without_routes_nothing_but_metered_hosts_is_reached() {
        let files = RouteFiles::default();
        check(&files, &["web"], ("api.anthropic.com", 443, "POST", "/v1/messages"), Ok(""));
        check(&files, &["web"], ("api.anthropic.com", 8443, "POST", "/v1/messages"), Err(Forbidden::Host));
        check(&files, &["web"], ("example.com", 443, "GET", "/"), Err(Forbidden::Host));
        let only = |names: &[&str]| {
            let providers: Vec<ProviderName> = names.iter().map(|name| name.parse().unwrap()).collect();
            RouteFiles { host: RouteFile { providers: Some(providers), ..file(vec![]) }, ..RouteFiles::default() }
        };
        check(&only(&["claude"]), &["web"], ("api.anthropic.com", 443, "GET", "/"), Ok(""));
        check(&only(&["claude"]), &["web"], ("api.openai.com", 443, "GET", "/"), Err(Forbidden::Host));
        check(&only(&[]), &["web"], ("api.anthropic.com", 443, "GET", "/"), Err(Forbidden::Host));
    }

    #[test]
    fn the_first_route_about_a_request_decides() {
        let files = RouteFiles {
            host: file(vec![
                route("api.github.com", "1", |route| route.methods = vec!["GET".parse().unwrap()]),
                route("api.github.com", "2", |route| route.paths = vec!["/graphql".parse().unwrap()]),
                route("*.github.com", "3", |route| route.ports = vec![8443]),
            ]),
            ..RouteFiles::default()
        };
        check(&files, &["web"], ("api.github.com", 443, "GET", "/x"), Ok("1"));
        check(&files, &["web"], ("api.github.com", 443, "POST", "/graphql"), Ok("2"));
        check(&files, &["web"], ("api.github.com", 443, "POST", "/x"), Err(Forbidden::Request));
        check(&files, &["web"], ("api.github.com", 8443, "POST", "/x"), Ok("3"));
        check(&files, &["web"], ("gist.github.com", 443, "GET", "/"), Err(Forbidden::Request));
        check(&files, &["web"], ("github.com", 443, "GET", "/"), Err(Forbidden::Host));
    }

    #[test]
    fn the_nearest_file_wins_and_a_file_may_be_the_last() {
        let plain = |place: &str| route("a.com", place, |_| {});
        let mut files = RouteFiles {
            host: RouteFile {
                outbound: Some(OutboundOnMatch::Block),
                ..file(vec![plain("host"), route("b.com", "host", |_| {})])
            },
            bottles: BTreeMap::from([
                ("web".parse().unwrap(), file(vec![plain("web")])),
                (
                    "base".parse().unwrap(),
                    RouteFile { outbound: Some(OutboundOnMatch::Redact), ..file(vec![plain("base")]) },
                ),
            ]),
        };
        let get = |host| (host, 443, "GET", "/");
        check(&files, &["web", "base"], get("a.com"), Ok("web"));
        check(&files, &["other", "base"], get("a.com"), Ok("base"));
        check(&files, &["other"], get("a.com"), Ok("host"));
        check(&files, &["web"], get("b.com"), Ok("host"));
        let outbound = |files: &RouteFiles, lineage: &[&str]| match decide(files, lineage, get("b.com")) {
            Decision::Allowed(way) => Some(way.outbound),
            Decision::Refused(_) => None,
        };
        assert_eq!(outbound(&files, &["web", "base"]), Some(OutboundOnMatch::Redact));
        assert_eq!(outbound(&files, &["web"]), Some(OutboundOnMatch::Block));
        files.bottles.get_mut(&"base".parse().unwrap()).unwrap().inherit = false;
        check(&files, &["web", "base"], get("b.com"), Err(Forbidden::Host));
        check(&files, &["web"], get("b.com"), Ok("host"));
    }

    #[test]
    fn a_path_that_can_be_read_in_two_ways_is_about_nothing() {
        let files = RouteFiles {
            host: file(vec![route("a.com", "1", |route| route.paths = vec!["/ok/*".parse().unwrap()])]),
            ..RouteFiles::default()
        };
        check(&files, &[], ("a.com", 443, "GET", "/ok/x.y/..z"), Ok("1"));
        for path in ["/ok/../x", "/ok/%2e%2E/x", "/ok/%2Fx", "/ok//x", "/ok/.", "/ok/..;/x", "/ok\\..\\x", "/ok/%252e"]
        {
            check(&files, &[], ("a.com", 443, "GET", path), Err(Forbidden::Request));
        }
    }

    #[test]
    fn a_metered_host_is_metered_by_whatever_route() {
        let inject = Auth::Inject(AuthScheme::Bearer, SecretSource::Env("KEY".to_owned()));
        let spliced = route("*.anthropic.com", "1", |route| {
            route.intercept = false;
            route.auth = inject.clone();
        });
        let files = RouteFiles { host: file(vec![spliced]), ..RouteFiles::default() };
        let Decision::Allowed(way) = decide(&files, &[], ("api.anthropic.com", 443, "GET", "/")) else { panic!() };
        assert!(way.metered.is_some() && !way.is_spliced && way.auth == inject);
        let splice = |host: &str, port| files.splice(&[], &MeteredTable::built_in(&[]), &host.parse().unwrap(), port);
        assert_eq!(splice("api.anthropic.com", 443), None);
        assert!(splice("docs.anthropic.com", 443).is_some_and(|way| way.is_spliced));
        assert_eq!(splice("docs.anthropic.com", 22), None);
    }

    #[test]
    fn what_agents_bring_passes_to_metered_hosts_where_a_file_says_so() {
        let auth = |passthrough| {
            let host = RouteFile { passthrough, ..file(vec![]) };
            let files = RouteFiles { host, ..RouteFiles::default() };
            let Decision::Allowed(way) = decide(&files, &[], ("api.openai.com", 443, "GET", "/")) else { panic!() };
            way.auth
        };
        assert_eq!(auth(None), Auth::Unsaid);
        assert_eq!(auth(Some(true)), Auth::Passthrough);
    }
}
