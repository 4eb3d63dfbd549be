//! routes.yaml as text → [`RouteFile`]: keys, and what goes together.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::{Problem, SettingsError};
use super::keys::{DETECTOR, MARKER, ROUTE, ROUTES, Section};
use super::parse::{duration, known, read, unknown};
use super::yaml::{self, Misplaced, Node, Place, Text};
use crate::domain::{
    Auth, AuthScheme, DetectorRule, InboundOnMatch, LooksFor, OutboundOnMatch, ProviderName, RequestLog, Route,
    RouteFile, RouteHost, SecretSource,
};

/// What somebody hears who has a detector look for nothing.
const NO_DETECTOR: &str = "a detector looks for something: give it \"pattern\", \"token_env\" or \"token_file\"";
/// The same of a marker.
const NO_MARKER: &str = "a marker looks for something: give it \"pattern\"";
/// What needs to see requests.
const INSIDE_KEYS: &[&str] = &[
    "paths",
    "methods",
    "auth",
    "auth_scheme",
    "token_env",
    "token_file",
    "git_fetch",
    "git_push",
    "outbound_on_match",
    "inbound_on_match",
];
/// Headers that say how a request is read, not who sends it.
const FRAMING_HEADERS: [&str; 8] =
    ["connection", "content-encoding", "content-length", "content-type", "host", "te", "transfer-encoding", "upgrade"];

/// Reads the text of the routes file at `file`, which routes call `label`. An empty one says nothing. `providers` are the
/// names there are.
///
/// # Errors
/// The first thing that is not understood, with its place.
pub fn parse_routes(
    text: &str,
    file: &Path,
    label: &str,
    providers: &BTreeSet<ProviderName>,
) -> Result<RouteFile, SettingsError> {
    let reader = Reader { label, providers };
    reader.file(text).map_err(|(Place { line, column }, problem)| SettingsError {
        file: file.to_owned(),
        line,
        column,
        problem,
    })
}

struct Reader<'a> {
    label: &'a str,
    providers: &'a BTreeSet<ProviderName>,
}

impl Reader<'_> {
    fn file(&self, text: &str) -> Result<RouteFile, Misplaced> {
        let mut file = RouteFile::default();
        for (key, value) in known(yaml::read(text)?, &ROUTES)? {
            match key.text.as_str() {
                "inherit" => file.inherit = read(&key, value, |text| truth("inherit", text))?,
                "providers" => file.providers = Some(words(&key, value, |text| self.provider(text))?),
                "auth" => file.passthrough = Some(read(&key, value, passthrough)?),
                "outbound_on_match" => file.outbound = Some(read(&key, value, outbound)?),
                "inbound_on_match" => file.inbound = Some(read(&key, value, inbound)?),
                "log" => file.log = Some(read(&key, value, log)?),
                "approval_timeout" => file.approval_timeout = Some(read(&key, value, duration)?),
                "detectors" => file.detectors = detectors(&key, value, &DETECTOR, NO_DETECTOR)?,
                "without" => file.without = words(&key, value, |text| Ok(text.to_owned()))?,
                "markers" => file.markers = detectors(&key, value, &MARKER, NO_MARKER)?,
                "routes" => {
                    let routes = items(&key, value)?.into_iter().map(|node| self.route(node));
                    file.routes = routes.collect::<Result<_, _>>()?;
                }
                _ => return Err(unknown(key, &ROUTES)),
            }
        }
        Ok(file)
    }

    fn provider(&self, text: &str) -> Result<ProviderName, Problem> {
        let known: Vec<&str> = self.providers.iter().map(ProviderName::as_str).collect();
        let name: ProviderName = text.parse()?;
        if self.providers.contains(&name) { Ok(name) } else { Err(Problem::unknown_name("provider", text, &known)) }
    }

    fn route(&self, node: Node) -> Result<Route, Misplaced> {
        let place = node.place();
        let entries = known(node, &ROUTE)?;
        let host = entries.iter().find(|(key, _)| key.text == "host");
        let (key, value) = host.ok_or((place, Problem::Missing { what: "a route", key: "host" }))?;
        let host: RouteHost = read(key, value.clone(), |text| Ok(text.parse()?))?;
        let mut route = Route::to(host, format!("{}:{}", self.label, key.place.line));
        let mut credential = Credential::default();
        let inside = entries.iter().find(|(key, _)| INSIDE_KEYS.contains(&key.text.as_str()));
        let inside = inside.map(|(key, _)| key.place);
        for (key, value) in entries {
            match key.text.as_str() {
                "host" => {}
                "ports" => route.ports = at_least_one(&key, words(&key, value, port)?)?,
                "paths" => route.paths = texts(&key, value, |text| Ok(text.parse()?))?,
                "methods" => route.methods = words(&key, value, |text| Ok(text.parse()?))?,
                "intercept" => route.intercept = read(&key, value, |text| truth("intercept", text))?,
                "private" => route.private = read(&key, value, |text| truth("private", text))?,
                "auth" => {
                    if read(&key, value, passthrough)? {
                        credential.passthrough = Some(key.place);
                    }
                }
                "auth_scheme" => credential.scheme = Some((key.place, read(&key, value, scheme)?)),
                "token_env" | "token_file" => credential.take_source(&key, value)?,
                "git_fetch" => route.git_fetch = read(&key, value, |text| truth("git_fetch", text))?,
                "git_push" => route.git_push = texts(&key, value, |text| Ok(text.parse()?))?,
                "outbound_on_match" => route.outbound = Some(read(&key, value, outbound)?),
                "inbound_on_match" => route.inbound = Some(read(&key, value, inbound)?),
                "log" => route.log = Some(read(&key, value, log)?),
                _ => return Err(unknown(key, &ROUTE)),
            }
        }
        route.auth = credential.auth()?;
        match inside {
            Some(place) if !route.intercept => Err((
                place,
                Problem::Contradiction("with `intercept: false` nothing inside the connection is seen: leave this out"),
            )),
            _ => Ok(route),
        }
    }
}

/// What a route says of credentials, until it is known whether it fits together.
#[derive(Default)]
struct Credential {
    passthrough: Option<Place>,
    scheme: Option<(Place, AuthScheme)>,
    source: Option<(Place, SecretSource)>,
}

impl Credential {
    fn take_source(&mut self, key: &Text, value: Node) -> Result<(), Misplaced> {
        if self.source.is_some() {
            return Err((key.place, Problem::Contradiction("a token is read from one place: token_env or token_file")));
        }
        self.source = Some((key.place, source(key, value)?));
        Ok(())
    }

    fn auth(self) -> Result<Auth, Misplaced> {
        match (self.scheme, self.source, self.passthrough) {
            (None, None, None) => Ok(Auth::Unsaid),
            (None, None, Some(_)) => Ok(Auth::Passthrough),
            (Some((_, scheme)), Some((_, source)), None) => Ok(Auth::Inject(scheme, source)),
            (Some((place, _)), None, _) => {
                Err((place, Problem::Missing { what: "auth_scheme", key: "token_env or token_file" }))
            }
            (None, Some((place, _)), _) => Err((place, Problem::Missing { what: "a token", key: "auth_scheme" })),
            (Some(_), Some(_), Some(place)) => Err((
                place,
                Problem::Contradiction("either what the agent brings passes or a token is put in: leave one out"),
            )),
        }
    }
}

fn source(key: &Text, value: Node) -> Result<SecretSource, Misplaced> {
    let is_file = key.text == "token_file";
    read(key, value, |text| match text {
        "" => Err(Problem::NotAValue(key.text.clone())),
        path if is_file => Ok(SecretSource::File(path.into())),
        name => Ok(SecretSource::Env(name.to_owned())),
    })
}

/// The keys of `section` say whether a detector may look for a token's own value. One that looks for `nothing` hears what it may.
fn detectors(
    key: &Text,
    value: Node,
    section: &'static Section,
    nothing: &'static str,
) -> Result<Vec<DetectorRule>, Misplaced> {
    let mut rules: Vec<DetectorRule> = Vec::new();
    for node in items(key, value)? {
        let place = node.place();
        let (mut name, mut looks_for) = (None, None);
        for (key, value) in known(node, section)? {
            let found = match key.text.as_str() {
                "name" => {
                    name = Some((key.place, read(&key, value, detector_name)?));
                    continue;
                }
                "pattern" => LooksFor::Pattern(read(&key, value, |text| Ok(text.to_owned()))?),
                "token_env" | "token_file" => LooksFor::Secret(source(&key, value)?),
                _ => return Err(unknown(key, section)),
            };
            if looks_for.replace(found).is_some() {
                return Err((
                    key.place,
                    Problem::Contradiction("a detector looks for one thing: write another for this"),
                ));
            }
        }
        let (place, name) = name.ok_or((place, Problem::Missing { what: "a detector", key: "name" }))?;
        if let Some(first) = rules.iter().find(|rule| rule.name == name) {
            return Err((place, Problem::DuplicateKey { key: name, first_line: first.line }));
        }
        let looks_for = looks_for.ok_or((place, Problem::Contradiction(nothing)))?;
        rules.push(DetectorRule { name, looks_for, line: place.line });
    }
    Ok(rules)
}

fn detector_name(text: &str) -> Result<String, Problem> {
    let is_name = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte));
    if is_name {
        Ok(text.to_owned())
    } else {
        Err(Problem::Contradiction("a detector's name is written in a-z, 0-9, '-' and '_'"))
    }
}

/// The items of a list; none when there is nothing.
fn items(key: &Text, value: Node) -> Result<Vec<Node>, Misplaced> {
    match value {
        Node::Nothing(_) => Ok(Vec::new()),
        Node::List(items, _) => Ok(items),
        Node::Scalar(_) | Node::Mapping(..) => Err((value.place(), Problem::NotAList(key.text.clone()))),
    }
}

/// One value, or a list of them.
fn texts<T>(key: &Text, value: Node, value_of: impl Fn(&str) -> Result<T, Problem>) -> Result<Vec<T>, Misplaced> {
    match value {
        Node::List(items, _) => items.into_iter().map(|item| read(key, item, &value_of)).collect(),
        Node::Nothing(_) => Ok(Vec::new()),
        Node::Scalar(_) | Node::Mapping(..) => Ok(vec![read(key, value, value_of)?]),
    }
}

/// Words with commas between them, or a list.
fn words<T>(key: &Text, value: Node, value_of: impl Fn(&str) -> Result<T, Problem>) -> Result<Vec<T>, Misplaced> {
    match value {
        Node::Scalar(text) => {
            let words = text.text.split(',').map(|word| value_of(word.trim()));
            words.collect::<Result<_, _>>().map_err(|problem| (text.place, problem))
        }
        value @ (Node::List(..) | Node::Nothing(_) | Node::Mapping(..)) => texts(key, value, value_of),
    }
}

fn at_least_one<T>(key: &Text, values: Vec<T>) -> Result<Vec<T>, Misplaced> {
    if values.is_empty() { Err((key.place, Problem::NotAValue(key.text.clone()))) } else { Ok(values) }
}

fn port(text: &str) -> Result<u16, Problem> {
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| Problem::Port(text.to_owned()))
}

fn truth(key: &'static str, text: &str) -> Result<bool, Problem> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Problem::NotOneOf { key, text: text.to_owned(), known: vec!["true", "false"] }),
    }
}

fn passthrough(text: &str) -> Result<bool, Problem> {
    match text {
        "passthrough" => Ok(true),
        _ => Err(Problem::NotOneOf { key: "auth", text: text.to_owned(), known: vec!["passthrough"] }),
    }
}

fn scheme(text: &str) -> Result<AuthScheme, Problem> {
    match text.parse()? {
        AuthScheme::Header(name) if FRAMING_HEADERS.contains(&name.as_str()) => {
            Err(Problem::Contradiction("this header says how the request is read: a token is presented in another"))
        }
        scheme @ (AuthScheme::Bearer | AuthScheme::Basic | AuthScheme::Header(_) | AuthScheme::SigV4) => Ok(scheme),
    }
}

fn outbound(text: &str) -> Result<OutboundOnMatch, Problem> {
    let all = OutboundOnMatch::ALL;
    one_of("outbound_on_match", text, &all, OutboundOnMatch::as_str)
}

fn inbound(text: &str) -> Result<InboundOnMatch, Problem> {
    one_of("inbound_on_match", text, &InboundOnMatch::ALL, InboundOnMatch::as_str)
}

fn log(text: &str) -> Result<RequestLog, Problem> {
    one_of("log", text, &RequestLog::ALL, RequestLog::as_str)
}

fn one_of<T: Copy>(key: &'static str, text: &str, all: &[T], as_str: impl Fn(T) -> &'static str) -> Result<T, Problem> {
    let found = all.iter().copied().find(|value| as_str(*value) == text);
    let known = || all.iter().copied().map(&as_str).collect();
    found.ok_or_else(|| Problem::NotOneOf { key, text: text.to_owned(), known: known() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn parsed(text: &str) -> Result<RouteFile, SettingsError> {
        let providers = ["claude", "codex"].map(|name| name.parse().unwrap()).into();
        parse_routes(text, Path::new("routes.yaml"), "routes.yaml", &providers)
    }

    fn good(text: &str) -> RouteFile {
        parsed(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    fn bad(text: &str, expected: &str) {
        let error = parsed(text).expect_err(text).to_string();
        assert!(error.starts_with(&format!("routes.yaml:{expected}")), "{text:?}: {error}");
    }

    const EVERYTHING: &str = r#"
inherit: false
providers: claude, codex
auth: passthrough
outbound_on_match: redact
inbound_on_match: block
log: all
approval_timeout: 2m
without: [credit-card]
detectors:
  - name: customer
    pattern: 'CUST-[0-9]{8}'
  - name: deploy_key
    token_file: keys/deploy
markers:
  - name: please
    pattern: "(?i)ignore the above"
routes:
  - host: api.github.com
    methods: GET, POST
    paths:
      - /repos/*
      - /graphql
    auth_scheme: bearer
    token_env: GITHUB_TOKEN
    outbound_on_match: supervise
  - host: "*.corp.example"
    ports: [443, 8443]
    private: true
    git_fetch: true
    git_push: refs/heads/bottle/*
    inbound_on_match: redact
    log: "off"
  - host: pinned.example.com
    intercept: false
    ports: 443
"#;

    #[test]
    fn every_key_means_something() {
        let file = good(EVERYTHING);
        assert!(!file.inherit && file.passthrough == Some(true) && file.log == Some(RequestLog::All));
        assert_eq!(file.providers, Some(vec!["claude".parse().unwrap(), "codex".parse().unwrap()]));
        assert_eq!((file.outbound, file.inbound), (Some(OutboundOnMatch::Redact), Some(InboundOnMatch::Block)));
        assert_eq!(
            (file.approval_timeout, &file.without[..]),
            (Some(Duration::from_secs(120)), &["credit-card".to_owned()][..])
        );
        assert_eq!(file.detectors[1].looks_for, LooksFor::Secret(SecretSource::File("keys/deploy".into())));
        assert_eq!((file.detectors[0].name.as_str(), file.detectors[0].line), ("customer", 11));
        assert_eq!(file.markers[0].looks_for, LooksFor::Pattern("(?i)ignore the above".to_owned()));
        let [github, corp, pinned] = &file.routes[..] else { panic!("{:?}", file.routes) };
        assert_eq!(github.place, "routes.yaml:19");
        assert_eq!(github.auth, Auth::Inject(AuthScheme::Bearer, SecretSource::Env("GITHUB_TOKEN".to_owned())));
        assert_eq!((github.methods.len(), github.paths.len(), &github.ports[..]), (2, 2, &[80, 443][..]));
        assert_eq!(github.outbound, Some(OutboundOnMatch::Supervise));
        assert!(corp.private && corp.git_fetch && corp.git_push.len() == 1 && corp.ports == [443, 8443]);
        assert_eq!((corp.inbound, corp.log), (Some(InboundOnMatch::Redact), Some(RequestLog::Off)));
        assert!(!pinned.intercept && pinned.ports == [443]);
    }

    #[test]
    fn nothing_says_nothing() {
        for text in ["", "# nothing\n", "routes:\n", "routes: []\n"] {
            assert_eq!(good(text), RouteFile::default(), "{text:?}");
        }
        assert_eq!(good("providers: []").providers, Some(Vec::new()));
    }

    #[test]
    fn what_is_not_understood_is_said_with_its_place() {
        bad("hosts:\n", "1:1: unknown key \"hosts\": known here are");
        bad("route:\n", "1:1: unknown key \"route\": did you mean \"routes\"?");
        bad("routes:\n  - hots: a.com\n", "2:5: unknown key \"hots\": did you mean \"host\"?");
        bad("routes:\n  - ports: 443\n", "2:5: a route needs \"host\"");
        bad("routes:\n  - host: a.com\n    method: GET\n", "3:5: unknown key \"method\": did you mean \"methods\"?");
        bad("routes:\n  host: a.com\n", "2:3: \"routes\" needs a list");
        bad("routes:\n  - a.com\n", "2:5: expected `key: value` lines here");
        bad("routes:\n  - host: \"*.com\"\n", "2:11: \"*.com\" is not a host of a route");
        bad("routes:\n  - host: a.com\n    host: b.com\n", "3:5: \"host\" is there twice");
        bad("routes:\n  - host: a.com\n    ports: 0\n", "3:12: \"0\" is not a port");
        bad("routes:\n  - host: a.com\n    ports:\n", "3:5: \"ports\" needs one value");
        bad("routes:\n  - host: a.com\n    paths: v1\n", "3:12: \"v1\" is not a path");
        bad("routes:\n  - host: a.com\n    methods: [get]\n", "3:15: \"get\" is not an HTTP method");
        bad(
            "routes:\n  - host: a.com\n    private: yes\n",
            "3:14: \"yes\" is not a value of \"private\": write true or false",
        );
        bad("routes:\n  - host: a.com\n    git_push: main\n", "3:15: \"main\" is not a ref");
        bad(
            "routes:\n  - host: a.com\n    log: some\n",
            "3:10: \"some\" is not a value of \"log\": write off or blocks or all",
        );
        bad("providers: gemini\n", "1:12: there is no provider \"gemini\"");
        bad("auth: none\n", "1:7: \"none\" is not a value of \"auth\"");
        bad(
            "detectors:\n  - name: a\n",
            "2:5: a detector looks for something: give it \"pattern\", \"token_env\" or \"token_file\"",
        );
        bad("detectors:\n  - pattern: a\n", "2:5: a detector needs \"name\"");
        bad("detectors:\n  - name: A b\n    pattern: x\n", "2:11: a detector's name");
        bad("markers:\n  - name: a\n    token_env: X\n", "3:5: unknown key \"token_env\"");
        bad(
            "detectors:\n  - name: a\n    pattern: x\n  - name: a\n    pattern: y\n",
            "4:5: \"a\" is there twice, first in line 2",
        );
        bad("routes: &a\n  - host: a.com\n", "1:9: anchors are not supported");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let route = |rest: &str| format!("routes:\n  - host: a.com\n    {rest}\n");
        bad(&route("auth_scheme: bearer"), "3:5: auth_scheme needs \"token_env or token_file\"");
        bad(&route("token_env: A"), "3:5: a token needs \"auth_scheme\"");
        bad(&route("token_env: A\n    token_file: b"), "4:5: a token is read from one place");
        bad(&route("auth: passthrough\n    auth_scheme: basic\n    token_env: A"), "3:5: either what the agent brings");
        bad(&route("auth_scheme: header:Host\n    token_env: A"), "3:18: this header says how the request is read");
        bad(&route("intercept: false\n    methods: GET"), "4:5: with `intercept: false` nothing inside");
    }
}
